//! How a controller writes the PDUs it sends.

use blk::{Gather, IoBuf};

use super::Controller;
use crate::nvme::Cqe;
use crate::nvme_tcp::bits::{CapsuleResp, DataPdu, IcResp, LAST_PDU, R2t, SUCCESS};
use crate::nvme_tcp::digest::{self, Crc32c};
use crate::nvme_tcp::pdu::{Digests, PduType, Scratch, bare_header, data_header, data_offset};

/// Something to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// ICResp.
    Init,
    /// A response capsule.
    Response(Cqe),
    /// The data of a read, and its completion.
    Data {
        /// The data.
        data: IoBuf,
        /// The completion, by the SUCCESS flag or in a capsule.
        cqe: Cqe,
    },
    /// A request for all data of a command.
    R2t {
        /// CCCID.
        cid: u16,
        /// TTAG: the command's slot.
        ttag: u16,
        /// R2TL, in bytes.
        len: u32,
    },
}

impl Controller {
    #[inline]
    pub(super) fn send(&self, next: Outgoing, out: &mut Gather) {
        let digests = self.negotiated.digests;
        match next {
            Outgoing::Response(cqe) => {
                let mut head = Scratch::new();
                push_response(&mut head, cqe, digests);
                out.push_bytes(head.filled());
            }
            Outgoing::Data { data, cqe } => self.send_data(data, cqe, out),
            Outgoing::R2t { cid, ttag, len } => {
                let pdu = R2t {
                    common: bare_header(PduType::R2t, digests),
                    cccid: cid.into(),
                    ttag: ttag.into(),
                    r2tl: len.into(),
                    ..R2t::default()
                };
                let mut head = Scratch::new();
                head.push_header(pdu.bytes(), digests);
                out.push_bytes(head.filled());
            }
            Outgoing::Init => {
                let pdu = IcResp {
                    common: bare_header(PduType::IcResp, Digests::default()),
                    cpda: self.limits.cpda,
                    dgst: digests.bits(),
                    maxh2cdata: self.limits.h2c_data_bytes.into(),
                    ..IcResp::default()
                };
                out.push_bytes(pdu.bytes());
            }
        }
    }

    /// Sends `data` in as many C2HData as their limit demands (NVMe TCP 1.1, 3.6.2.8).
    #[inline]
    fn send_data(&self, data: IoBuf, cqe: Cqe, out: &mut Gather) {
        let most = self.limits.c2h_data_bytes as usize;
        let by_flag = !self.sq_flow_control && cqe.result() == 0;
        if data.len() <= most {
            return self.send_last(data, 0, cqe, by_flag, out);
        }
        let mut at = 0;
        while data.len() - at > most {
            let piece = data.slice(at..at + most);
            self.send_piece(piece, at, 0, cqe, &mut Scratch::new(), out);
            at += most;
        }
        self.send_last(data.slice(at..data.len()), at, cqe, by_flag, out);
    }

    #[inline]
    fn send_last(&self, data: IoBuf, at: usize, cqe: Cqe, by_flag: bool, out: &mut Gather) {
        let flags = if by_flag {
            LAST_PDU | SUCCESS
        } else {
            LAST_PDU
        };
        let mut after = Scratch::new();
        self.send_piece(data, at, flags, cqe, &mut after, out);
        if !by_flag {
            push_response(&mut after, cqe, self.negotiated.digests);
        }
        out.push_bytes(after.filled());
    }

    /// Sends one C2HData. Its data digest goes into `after` when it is the last, because what
    /// follows it is added there; else it is sent as well.
    #[inline]
    fn send_piece(
        &self,
        data: IoBuf,
        at: usize,
        flags: u8,
        cqe: Cqe,
        after: &mut Scratch,
        out: &mut Gather,
    ) {
        let digests = self.negotiated.digests;
        let alignment = self.negotiated.to_host_alignment as usize;
        let pdo = data_offset(PduType::C2hData, digests, alignment);
        let pdu = DataPdu {
            common: data_header(PduType::C2hData, flags, pdo, data.len(), digests),
            cccid: cqe.cid,
            datao: (at as u32).into(),
            datal: (data.len() as u32).into(),
            ..DataPdu::default()
        };
        let mut head = Scratch::new();
        head.push_header(pdu.bytes(), digests);
        head.pad_to(pdo);
        out.push_bytes(head.filled());
        if digests.data {
            let mut crc = Crc32c::new();
            digest::of_range(&mut crc, &data, 0, data.len());
            after.push(&crc.finish().to_le_bytes());
        }
        out.push_buf(data);
        if flags & LAST_PDU == 0 {
            out.push_bytes(after.filled());
        }
    }
}

#[inline]
fn push_response(head: &mut Scratch, cqe: Cqe, digests: Digests) {
    let pdu = CapsuleResp {
        common: bare_header(PduType::CapsuleResp, digests),
        cqe,
    };
    head.push_header(pdu.bytes(), digests);
}
