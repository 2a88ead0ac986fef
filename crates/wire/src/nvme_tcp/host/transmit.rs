//! How a host writes the PDUs it sends.

use blk::{Gather, IoBuf};

use super::{Host, Phase};
use crate::nvme::sgl::DATA_BLOCK_OFFSET;
use crate::nvme_tcp::bits::{CapsuleCmd, DataPdu, IcReq, LAST_PDU};
use crate::nvme_tcp::digest::{self, Crc32c};
use crate::nvme_tcp::pdu::{Digests, PduType, Scratch, bare_header, data_header, data_offset};

/// Something to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outgoing {
    /// ICReq.
    Init,
    /// The command with this CID.
    Command(u16),
    /// Data that an R2T asked for.
    Data {
        /// CCCID.
        cid: u16,
        /// TTAG of the R2T.
        ttag: u16,
        /// R2TO, in bytes.
        offset: u32,
        /// R2TL, in bytes.
        len: u32,
    },
}

impl Host {
    #[inline]
    pub(super) fn send(&mut self, next: Outgoing, out: &mut Gather) {
        match next {
            Outgoing::Command(cid) => self.send_command(cid, out),
            Outgoing::Data {
                cid,
                ttag,
                offset,
                len,
            } => {
                self.send_data(cid, ttag, offset as usize, len as usize, out);
            }
            Outgoing::Init => {
                let pdu = IcReq {
                    common: bare_header(PduType::IcReq, Digests::default()),
                    hpda: self.config.hpda,
                    dgst: self.config.digests.bits(),
                    maxr2t: (self.config.r2t_max - 1).into(),
                    ..IcReq::default()
                };
                out.push_bytes(pdu.bytes());
            }
        }
    }

    #[inline]
    fn send_command(&mut self, cid: u16, out: &mut Gather) {
        let digests = self.negotiated.digests;
        let entry = &mut self.entries[usize::from(cid)];
        entry.phase = Phase::Sent;
        let sqe = entry.sqe;
        let mut head = Scratch::new();
        if sqe.sgl.identifier != DATA_BLOCK_OFFSET {
            let common = bare_header(PduType::CapsuleCmd, digests);
            head.push_header(CapsuleCmd { common, sqe }.bytes(), digests);
            out.push_bytes(head.filled());
            return;
        }
        let data = std::mem::take(&mut entry.outbound);
        // No R2T may ask for these data again.
        entry.outbound_len = 0;
        let alignment = self.negotiated.to_controller_alignment as usize;
        let pdo = data_offset(PduType::CapsuleCmd, digests, alignment);
        let common = data_header(PduType::CapsuleCmd, 0, pdo, data.len(), digests);
        head.push_header(CapsuleCmd { common, sqe }.bytes(), digests);
        head.pad_to(pdo);
        out.push_bytes(head.filled());
        push_data(data, digests, out);
    }

    /// Answers an R2T in as many H2CData as MAXH2CDATA demands (NVMe TCP 1.1, 3.6.2.7).
    fn send_data(&mut self, cid: u16, ttag: u16, offset: usize, len: usize, out: &mut Gather) {
        let digests = self.negotiated.digests;
        let alignment = self.negotiated.to_controller_alignment as usize;
        let most = self.negotiated.h2c_data_max as usize;
        let pdo = data_offset(PduType::H2cData, digests, alignment);
        let entry = &mut self.entries[usize::from(cid)];
        entry.r2ts -= 1;
        let (mut at, end) = (offset, offset + len);
        while at < end {
            let piece = (end - at).min(most);
            let flags = if at + piece == end { LAST_PDU } else { 0 };
            let pdu = DataPdu {
                common: data_header(PduType::H2cData, flags, pdo, piece, digests),
                cccid: cid.into(),
                ttag: ttag.into(),
                datao: (at as u32).into(),
                datal: (piece as u32).into(),
                ..DataPdu::default()
            };
            let mut head = Scratch::new();
            head.push_header(pdu.bytes(), digests);
            head.pad_to(pdo);
            out.push_bytes(head.filled());
            let data = match piece == entry.outbound.len() {
                true => std::mem::take(&mut entry.outbound),
                false => entry.outbound.slice(at..at + piece),
            };
            push_data(data, digests, out);
            at += piece;
        }
    }
}

#[inline]
fn push_data(data: IoBuf, digests: Digests, out: &mut Gather) {
    let mut crc = Crc32c::new();
    if digests.data {
        digest::of_range(&mut crc, &data, 0, data.len());
    }
    out.push_buf(data);
    if digests.data {
        out.push_bytes(&crc.finish().to_le_bytes());
    }
}
