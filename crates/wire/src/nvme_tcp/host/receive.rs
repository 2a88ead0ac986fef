//! What a host does with the PDUs it receives.

use blk::{IoBuf, Nanos};

use super::transmit::Outgoing;
use super::{Closed, Entry, Host, Phase};
use crate::nvme::{Cqe, Status};
use crate::nvme_tcp::alignment_bytes;
use crate::nvme_tcp::bits::{CapsuleResp, DataPdu, IcResp, LAST_PDU, R2t, SUCCESS, TermReq};
use crate::nvme_tcp::framer::Progress;
use crate::nvme_tcp::pdu::{
    ALIGNMENT_MAX, Digests, Fatal, FatalStatus, MAXH2CDATA_MIN, PduType, Shape,
};

impl Host {
    /// Takes `bytes` from the socket, all of them.
    ///
    /// # Errors
    /// [`Fatal`] when the controller broke the protocol; the connection is terminating then, its
    /// TermReq is in the next [`Host::transmit`], and further bytes are dropped.
    #[inline]
    pub fn receive(&mut self, mut bytes: &[u8], now: Nanos) -> Result<(), Fatal> {
        while !bytes.is_empty() {
            if self.life.is_ending() {
                return Ok(());
            }
            let stepped = if self.framer.in_header() {
                match self.framer.header(&mut bytes, &self.rules) {
                    Ok(None) => return Ok(()),
                    Ok(Some(shape)) => self.begin(&shape),
                    Err(fatal) => Err(fatal),
                }
            } else {
                let target = target(self.current, &mut self.entries);
                Ok(self.framer.body(&mut bytes, target))
            };
            match stepped {
                Ok(Progress::More) => {}
                Ok(Progress::Complete { intact }) => self.complete(intact),
                Err(fatal) => {
                    self.terminate(&fatal, now);
                    return Err(fatal);
                }
            }
        }
        Ok(())
    }

    /// Where the next bytes of the stream belong, when they are data: a buffer, the offset in it,
    /// and how many. They may be read straight into it and reported by
    /// [`Host::direct_received`]; passing them to [`Host::receive`] is as good.
    #[inline]
    pub fn direct(&mut self) -> Option<(&mut IoBuf, usize, usize)> {
        let (offset, len) = self.framer.wanted()?;
        Some((target(self.current, &mut self.entries)?, offset, len))
    }

    /// `n` bytes were read into the place that [`Host::direct`] named.
    ///
    /// # Panics
    /// If there was no such place, or `n` is more than it asked for.
    pub fn direct_received(&mut self, n: usize) {
        let at = self.current.expect("a place was asked for");
        let data = &self.entries[usize::from(at)].inbound;
        if let Progress::Complete { intact } = self.framer.placed(n, data) {
            self.complete(intact);
        }
    }

    /// Acts on a whole header.
    #[inline]
    fn begin(&mut self, shape: &Shape) -> Result<Progress, Fatal> {
        let offset = match shape.kind {
            PduType::C2hData => self.begin_data(shape)?,
            PduType::CapsuleResp => self.respond()?,
            PduType::R2t => self.ready_to_transfer()?,
            PduType::IcResp => self.initialised()?,
            _ => {
                let request =
                    TermReq::from_prefix(self.framer.head()).expect("the header is whole");
                let status = FatalStatus::from_value(request.fes.get());
                self.finish(Closed::ByPeer(status, request.fei.get()));
                0
            }
        };
        Ok(self.framer.begin_data(shape, offset))
    }

    /// Acts on ICResp (NVMe TCP 1.1, 3.6.2.3).
    fn initialised(&mut self) -> Result<usize, Fatal> {
        let response = IcResp::from_prefix(self.framer.head()).expect("the header is whole");
        if response.pfv.get() != 0 {
            let status = FatalStatus::UnsupportedParameter;
            return Err(Fatal {
                status,
                at: 8,
                why: "PFV is not 0",
            });
        }
        if response.cpda > ALIGNMENT_MAX {
            return Err(Fatal::field(10, "CPDA is more than 31"));
        }
        let digests = Digests::from_bits(response.dgst);
        if digests.and(self.config.digests) != digests {
            return Err(Fatal::field(11, "DGST switches on what was not asked for"));
        }
        if response.maxh2cdata.get() < MAXH2CDATA_MIN {
            return Err(Fatal::field(12, "MAXH2CDATA is less than 4096"));
        }
        self.negotiated.digests = digests;
        self.negotiated.to_controller_alignment = alignment_bytes(response.cpda);
        self.negotiated.h2c_data_max = response.maxh2cdata.get();
        self.rules.digests = digests;
        self.rules.ready = true;
        self.life.open();
        self.announce_ready = true;
        Ok(0)
    }

    /// The command in flight that `cid` names.
    #[inline]
    fn sent(&mut self, cid: u16) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(usize::from(cid))?;
        (entry.phase == Phase::Sent).then_some(entry)
    }

    /// Acts on a response capsule.
    #[inline]
    fn respond(&mut self) -> Result<usize, Fatal> {
        const CID: u32 = 20;
        let capsule = CapsuleResp::from_prefix(self.framer.head()).expect("the header is whole");
        let cid = capsule.cqe.cid.get();
        let entry = self
            .sent(cid)
            .ok_or(Fatal::field(CID, "CID names no command in flight"))?;
        // Its data are still here, all or in part, so it cannot have been carried out.
        let unsent = entry.asked < entry.outbound_len || entry.r2ts > 0;
        if unsent && capsule.cqe.status().is_success() {
            const WHY: &str = "a command succeeded without its data";
            return Err(Fatal::of(FatalStatus::Sequence, WHY));
        }
        self.finish_command(cid, capsule.cqe);
        Ok(0)
    }

    #[inline]
    fn finish_command(&mut self, cid: u16, cqe: Cqe) {
        let entry = &mut self.entries[usize::from(cid)];
        (entry.phase, entry.cqe) = (Phase::Done, cqe);
        if entry.r2ts > 0 {
            // Answered before its data were sent: the controller no longer wants them.
            self.pending
                .retain(|next| !matches!(next, Outgoing::Data { cid: of, .. } if *of == cid));
        }
        self.done.push_back(cid);
    }

    /// Acts on an R2T (NVMe TCP 1.1, 3.6.2.9).
    fn ready_to_transfer(&mut self) -> Result<usize, Fatal> {
        let pdu = R2t::from_prefix(self.framer.head()).expect("the header is whole");
        let (offset, len) = (pdu.r2to.get(), pdu.r2tl.get());
        let r2t_max = self.config.r2t_max;
        let cid = pdu.cccid.get();
        let entry = self
            .sent(cid)
            .filter(|entry| entry.outbound_len > 0)
            .ok_or(Fatal::field(8, "CCCID names no command with data to send"))?;
        if len == 0 {
            return Err(Fatal::field(16, "R2TL is 0"));
        }
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= entry.outbound_len);
        let Some(end) = end.filter(|_| offset == entry.asked) else {
            const WHY: &str = "the R2T does not ask for the next data of its command";
            return Err(Fatal::of(FatalStatus::DataOutOfRange, WHY));
        };
        if entry.r2ts >= r2t_max {
            const WHY: &str = "more R2Ts are outstanding than MAXR2T";
            return Err(Fatal::of(FatalStatus::LimitExceeded, WHY));
        }
        entry.asked = end;
        entry.r2ts += 1;
        self.pending.push_back(Outgoing::Data {
            cid,
            ttag: pdu.ttag.get(),
            offset,
            len,
        });
        Ok(0)
    }

    /// Acts on a C2HData header (NVMe TCP 1.1, 3.6.2.8).
    #[inline]
    fn begin_data(&mut self, shape: &Shape) -> Result<usize, Fatal> {
        let pdu = DataPdu::from_prefix(self.framer.head()).expect("the header is whole");
        let cid = pdu.cccid.get();
        let entry = self
            .sent(cid)
            .filter(|entry| !entry.inbound.is_empty())
            .ok_or(Fatal::field(8, "CCCID names no command that reads"))?;
        if pdu.datal.get() as usize != shape.data_len {
            return Err(Fatal::field(16, "DATAL does not fit PLEN"));
        }
        let start = pdu.datao.get() as usize;
        if start != entry.received as usize || start + shape.data_len > entry.inbound.len() {
            const WHY: &str = "the data are not the next of their command";
            return Err(Fatal::of(FatalStatus::DataOutOfRange, WHY));
        }
        if shape.flags & (SUCCESS | LAST_PDU) == SUCCESS {
            return Err(Fatal::field(1, "SUCCESS is set before the last PDU"));
        }
        self.current = Some(cid);
        Ok(start)
    }

    /// Acts on a PDU that has arrived to its last byte.
    #[inline]
    fn complete(&mut self, intact: bool) {
        let Some(cid) = self.current.take() else {
            return;
        };
        let entry = &mut self.entries[usize::from(cid)];
        entry.received = self.framer.offset_reached();
        entry.broken |= !intact;
        if self.framer.flags_seen() & SUCCESS != 0 {
            self.finish_command(cid, Cqe::new(cid, 0, Status::SUCCESS));
        }
    }
}

/// The buffer that the data being received belong to.
#[inline]
fn target(current: Option<u16>, entries: &mut [Entry]) -> Option<&mut IoBuf> {
    Some(&mut entries[usize::from(current?)].inbound)
}
