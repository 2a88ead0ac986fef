//! What a controller does with the PDUs it receives.

use blk::{IoBuf, Nanos};

use super::transmit::Outgoing;
use super::{Closed, Controller, Entry, Pairing, Phase};
use crate::nvme::opcode::{Transfer, direction};
use crate::nvme::sgl::DataPointer;
use crate::nvme::{Fuse, Sqe, Status};
use crate::nvme_tcp::alignment_bytes;
use crate::nvme_tcp::bits::{CapsuleCmd, DataPdu, IcReq, LAST_PDU, TermReq};
use crate::nvme_tcp::framer::Progress;
use crate::nvme_tcp::pdu::{ALIGNMENT_MAX, Digests, Fatal, FatalStatus, PduType, Shape};

/// What half of a fused pair is told that the other does not follow or precede directly.
const MISSING_FUSED: Status = Status::ABORTED_MISSING_FUSED.dnr();

impl Controller {
    /// Takes `bytes` from the socket, all of them.
    ///
    /// # Errors
    /// [`Fatal`] when the host broke the protocol; the connection is terminating then, its TermReq
    /// is in the next [`Controller::transmit`], and further bytes are dropped.
    #[inline]
    pub fn receive(&mut self, mut bytes: &[u8], now: Nanos) -> Result<(), Fatal> {
        while !bytes.is_empty() {
            if self.life.is_ending() {
                return Ok(());
            }
            if self.framer.in_header() {
                match self.framer.header(&mut bytes, &self.rules) {
                    Ok(None) => return Ok(()),
                    Ok(Some(shape)) => match self.begin(&shape) {
                        Ok(Progress::More) => {}
                        Ok(Progress::Complete { intact }) => self.complete(intact),
                        Err(fatal) => return self.fail(fatal, now),
                    },
                    Err(fatal) => return self.fail(fatal, now),
                }
            } else {
                let target = target(self.current, &mut self.entries);
                if let Progress::Complete { intact } = self.framer.body(&mut bytes, target) {
                    self.complete(intact);
                }
            }
        }
        Ok(())
    }

    /// Where the next bytes of the stream belong, when they are data: a buffer, the offset in it,
    /// and how many. They may be read straight into it and reported by
    /// [`Controller::direct_received`]; passing them to [`Controller::receive`] is as good.
    #[inline]
    pub fn direct(&mut self) -> Option<(&mut IoBuf, usize, usize)> {
        let (offset, len) = self.framer.wanted()?;
        let data = target(self.current, &mut self.entries)?;
        Some((data, offset, len))
    }

    /// `n` bytes were read into the place that [`Controller::direct`] named.
    ///
    /// # Panics
    /// If there was no such place, or `n` is more than it asked for.
    pub fn direct_received(&mut self, n: usize) {
        let at = self.current.expect("a place was asked for");
        let data = &self.entries[usize::from(at)].data;
        if let Progress::Complete { intact } = self.framer.placed(n, data) {
            self.complete(intact);
        }
    }

    /// Acts on a whole header.
    #[inline]
    fn begin(&mut self, shape: &Shape) -> Result<Progress, Fatal> {
        let offset = match shape.kind {
            PduType::CapsuleCmd => self.begin_command(shape)?,
            PduType::H2cData => self.begin_data(shape)?,
            PduType::IcReq => self.initialise()?,
            _ => {
                self.current = None;
                self.end_by_host();
                0
            }
        };
        Ok(self.framer.begin_data(shape, offset))
    }

    /// Acts on ICReq (NVMe TCP 1.1, 3.6.2.2).
    fn initialise(&mut self) -> Result<usize, Fatal> {
        let request = IcReq::from_prefix(self.framer.head()).expect("the header is whole");
        if request.pfv.get() != 0 {
            let status = FatalStatus::UnsupportedParameter;
            return Err(Fatal {
                status,
                at: 8,
                why: "PFV is not 0",
            });
        }
        if request.hpda > ALIGNMENT_MAX {
            return Err(Fatal::field(10, "HPDA is more than 31"));
        }
        let digests = Digests::from_bits(request.dgst).and(self.limits.digests);
        self.negotiated.digests = digests;
        self.negotiated.to_host_alignment = alignment_bytes(request.hpda);
        self.negotiated.r2t_max = request.maxr2t.get().saturating_add(1);
        self.rules.digests = digests;
        self.rules.ready = true;
        self.life.open();
        self.announce_ready = true;
        self.current = None;
        self.pending.push_back(Outgoing::Init);
        Ok(0)
    }

    /// The host ends the connection (NVMe TCP 1.1, 3.5.2).
    fn end_by_host(&mut self) {
        let request = TermReq::from_prefix(self.framer.head()).expect("the header is whole");
        let status = FatalStatus::from_value(request.fes.get());
        self.finish(Closed::ByPeer(status, request.fei.get()));
    }

    /// Acts on a command capsule: where do its data come from?
    #[inline]
    fn begin_command(&mut self, shape: &Shape) -> Result<usize, Fatal> {
        let capsule = CapsuleCmd::from_prefix(self.framer.head()).expect("the header is whole");
        let index = self.claim()?;
        let sqe = capsule.sqe;
        let source = self.data_source(&sqe, shape.data_len);
        let entry = &mut self.entries[usize::from(index)];
        *entry = Entry {
            phase: Phase::Receiving,
            sqe,
            ..Entry::default()
        };
        self.current = Some(index);
        match source {
            Ok(Source::None { len }) => entry.len = len,
            Ok(Source::Capsule { len }) => {
                entry.len = len;
                entry.data = IoBuf::alloc(shape.data_len);
            }
            Ok(Source::Transport { len }) => {
                entry.len = len;
                entry.phase = Phase::Waiting;
            }
            Err(status) => entry.refusal = Some(status),
        }
        self.pair(index, &sqe);
        Ok(0)
    }

    /// Where the data of a command come from, by its direction and SGL (NVMe TCP 1.1, 3.3.2.1).
    #[inline]
    fn data_source(&self, sqe: &Sqe, in_capsule: usize) -> Result<Source, Status> {
        let way = direction(sqe.opcode, sqe.fctype()).ok_or(Status::INVALID_OPCODE.dnr())?;
        if way == Transfer::None {
            return Ok(Source::None { len: 0 });
        }
        match sqe.sgl.parse()? {
            DataPointer::Transport { length } | DataPointer::InCapsule { length, .. }
                if length > self.limits.mdts_bytes =>
            {
                Err(Status::INVALID_FIELD.dnr())
            }
            DataPointer::Transport { length } if way == Transfer::ToHost || length == 0 => {
                Ok(Source::None { len: length })
            }
            DataPointer::Transport { length } => Ok(Source::Transport { len: length }),
            DataPointer::InCapsule { .. } if way == Transfer::ToHost => {
                Err(Status::SGL_TYPE_INVALID.dnr())
            }
            DataPointer::InCapsule { offset, .. } if offset != 0 => {
                // ICDOFF is 0 and a command has one descriptor, so nothing can lie before it.
                Err(Status::SGL_OFFSET_INVALID.dnr())
            }
            DataPointer::InCapsule { length, .. } if length as usize > in_capsule => {
                Err(Status::SGL_LENGTH_INVALID.dnr())
            }
            DataPointer::InCapsule { length, .. } => Ok(Source::Capsule { len: length }),
        }
    }

    /// Finds the other half of a fused pair: it must be the next command, whichever has its data
    /// first (NVMe Base 2.1, 3.4.2). A half without the other is refused here, where the order in
    /// which commands came is known.
    #[inline]
    fn pair(&mut self, index: u16, sqe: &Sqe) {
        let fuse = sqe.fuse();
        match (self.last_first.take(), fuse) {
            (Some(first), Ok(Fuse::Second)) => {
                self.entries[usize::from(first)].pairing = Pairing::FirstOf(index);
                self.entries[usize::from(index)].pairing = Pairing::SecondOf(first);
            }
            (Some(first), _) => self.give_up(first),
            (None, Ok(Fuse::Second)) => {
                self.entries[usize::from(index)]
                    .refusal
                    .get_or_insert(MISSING_FUSED);
            }
            (None, _) => {}
        }
        if fuse == Ok(Fuse::First) {
            self.entries[usize::from(index)].pairing = Pairing::Expecting;
            self.last_first = Some(index);
        }
    }

    /// The first half of a pair whose second cannot come any more.
    #[cold]
    fn give_up(&mut self, first: u16) {
        let entry = &mut self.entries[usize::from(first)];
        entry.pairing = Pairing::Alone;
        entry.refusal.get_or_insert(MISSING_FUSED);
        if entry.phase == Phase::Waiting {
            self.waiting.retain(|&at| at != first);
        }
        if matches!(entry.phase, Phase::Waiting | Phase::Ready) {
            self.make_ready(first);
        }
    }

    /// Acts on an H2CData header (NVMe TCP 1.1, 3.6.2.7).
    fn begin_data(&mut self, shape: &Shape) -> Result<usize, Fatal> {
        let pdu = DataPdu::from_prefix(self.framer.head()).expect("the header is whole");
        let ttag = pdu.ttag.get();
        let entry = self.entries.get_mut(usize::from(ttag));
        let entry = entry
            .filter(|entry| entry.phase == Phase::Receiving && entry.charge > 0)
            .ok_or(Fatal::field(10, "TTAG names no R2T"))?;
        if pdu.cccid.get() != entry.sqe.cid() {
            return Err(Fatal::field(8, "CCCID is not that of the R2T"));
        }
        if pdu.datal.get() as usize != shape.data_len {
            return Err(Fatal::field(16, "DATAL does not fit PLEN"));
        }
        let (start, end) = (
            pdu.datao.get(),
            pdu.datao.get().checked_add(pdu.datal.get()),
        );
        if start != entry.received || end.is_none_or(|end| end > entry.len) {
            const WHY: &str = "the data are not the next of the R2T";
            return Err(Fatal::of(FatalStatus::DataOutOfRange, WHY));
        }
        let last = end == Some(entry.len);
        if (shape.flags & LAST_PDU != 0) != last {
            return Err(Fatal::field(1, "LAST_PDU is not where the R2T ends"));
        }
        self.current = Some(ttag);
        Ok(start as usize)
    }

    /// Acts on a PDU that has arrived to its last byte.
    #[inline]
    fn complete(&mut self, intact: bool) {
        let Some(index) = self.current.take() else {
            return;
        };
        let entry = &mut self.entries[usize::from(index)];
        if !intact {
            // A broken data digest costs the command, not the connection (NVMe TCP 1.1, 3.4.1.3).
            entry.refusal.get_or_insert(Status::TRANSIENT_TRANSPORT);
        }
        match entry.phase {
            Phase::Waiting if entry.refusal.is_none() => {
                self.waiting.push_back(index);
                self.grant_waiting();
            }
            Phase::Receiving if entry.charge > 0 => {
                entry.received = self.framer.offset_reached();
                if entry.received == entry.len {
                    self.make_ready(index);
                }
            }
            _ => self.make_ready(index),
        }
    }

    /// Sends R2Ts for waiting commands while there is room for their data.
    pub(super) fn grant_waiting(&mut self) {
        while let Some(&index) = self.waiting.front() {
            let len = self.entries[usize::from(index)].len;
            let fits = self.charged.saturating_add(len) <= self.limits.r2t_bytes;
            if self.charged > 0 && !fits && !self.completes_a_pair(index) {
                return;
            }
            self.waiting.pop_front();
            self.charged += len;
            let entry = &mut self.entries[usize::from(index)];
            entry.phase = Phase::Receiving;
            entry.charge = len;
            entry.data = IoBuf::alloc(len as usize);
            self.pending.push_back(Outgoing::R2t {
                cid: entry.sqe.cid(),
                ttag: index,
                len,
            });
        }
    }

    /// Whether the command is the second of a pair no longer than the first, which holds its room
    /// until this one has come: to wait for that room would be to wait for itself.
    fn completes_a_pair(&self, index: u16) -> bool {
        let entry = &self.entries[usize::from(index)];
        match entry.pairing {
            Pairing::SecondOf(first) => entry.len <= self.entries[usize::from(first)].len,
            _ => false,
        }
    }

    /// All of a command is here: hands it out, together with the other half of its pair.
    #[inline]
    fn make_ready(&mut self, index: u16) {
        let entry = &mut self.entries[usize::from(index)];
        entry.phase = Phase::Ready;
        match entry.pairing {
            Pairing::Alone => self.ready.push_back(index),
            Pairing::Expecting => {}
            Pairing::FirstOf(second) => self.hand_out_pair(index, second),
            Pairing::SecondOf(first) => self.hand_out_pair(first, index),
        }
    }

    fn hand_out_pair(&mut self, first: u16, second: u16) {
        let both = [first, second];
        if both
            .iter()
            .all(|&at| self.entries[usize::from(at)].phase == Phase::Ready)
        {
            self.ready.extend(both);
        }
    }
}

/// The buffer that the data being received belong to. `None` drops them: data in a capsule whose
/// SGL does not speak of them.
#[inline]
fn target(current: Option<u16>, entries: &mut [Entry]) -> Option<&mut IoBuf> {
    let data = &mut entries[usize::from(current?)].data;
    (!data.is_empty()).then_some(data)
}

/// Where a command's data come from.
enum Source {
    /// Nowhere: there are none, or they go to the host.
    None { len: u32 },
    /// The capsule.
    Capsule { len: u32 },
    /// H2CData, after an R2T.
    Transport { len: u32 },
}
