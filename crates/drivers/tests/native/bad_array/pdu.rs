//! PDUs as an array sends them, in pieces that a test can put together wrongly.

use wire::nvme::{Cqe, Status};
use wire::nvme_tcp::bits::{CommonHeader, DDGSTF, HDGSTF, IcResp, LAST_PDU};
use wire::nvme_tcp::digest::crc32c;
use wire::nvme_tcp::{Digests, PduType};

/// Bytes of every header that is used here.
const HEAD: usize = 24;

/// A PDU without digests: what follows its common header, and its data.
pub(super) fn pdu(kind: PduType, flags: u8, rest: &[u8], data: &[u8]) -> Vec<u8> {
    let common = CommonHeader {
        kind: kind as u8,
        flags,
        hlen: HEAD as u8,
        pdo: if data.is_empty() { 0 } else { HEAD as u8 },
        plen: ((HEAD + data.len()) as u32).into(),
    };
    let mut bytes = common.bytes().to_vec();
    bytes.extend_from_slice(rest);
    bytes.resize(HEAD, 0);
    bytes.extend_from_slice(data);
    bytes
}

/// ICResp that grants these digests.
pub(super) fn ic_resp(dgst: u8) -> Vec<u8> {
    let response = IcResp {
        common: CommonHeader {
            kind: PduType::IcResp as u8,
            flags: 0,
            hlen: 128,
            pdo: 0,
            plen: 128.into(),
        },
        dgst,
        maxh2cdata: 8192.into(),
        ..IcResp::default()
    };
    response.bytes().to_vec()
}

/// A response capsule.
pub(super) fn response(cqe: Cqe) -> Vec<u8> {
    pdu(PduType::CapsuleResp, 0, cqe.bytes(), &[])
}

/// A response capsule of a command that succeeded.
pub(super) fn success(cid: u16) -> Vec<u8> {
    response(Cqe::new(cid, 0, Status::SUCCESS))
}

/// The fields that R2T and data PDUs have.
fn transfer(cid: u16, offset: u32, len: u32) -> Vec<u8> {
    let mut rest = cid.to_le_bytes().to_vec();
    rest.extend([0, 0]);
    rest.extend(offset.to_le_bytes());
    rest.extend(len.to_le_bytes());
    rest
}

/// Data to the host, the last of their command.
pub(super) fn data(cid: u16, offset: u32, bytes: &[u8]) -> Vec<u8> {
    data_flagged(cid, offset, bytes, LAST_PDU)
}

/// Data to the host.
pub(super) fn data_flagged(cid: u16, offset: u32, bytes: &[u8], flags: u8) -> Vec<u8> {
    let rest = transfer(cid, offset, bytes.len() as u32);
    pdu(PduType::C2hData, flags, &rest, bytes)
}

/// A request for data of the host.
pub(super) fn r2t(cid: u16, offset: u32, len: u32) -> Vec<u8> {
    pdu(PduType::R2t, 0, &transfer(cid, offset, len), &[])
}

/// A PDU as it is sent where digests were agreed on.
pub(super) fn with_digests(pdu: &[u8], digests: Digests) -> Vec<u8> {
    let (head, data) = pdu.split_at(HEAD);
    let mut head = head.to_vec();
    let has_data = digests.data && !data.is_empty();
    head[1] |= u8::from(digests.header) * HDGSTF;
    head[1] |= u8::from(has_data) * DDGSTF;
    let more = 4 * u8::from(digests.header);
    if !data.is_empty() {
        head[3] += more;
    }
    let len = pdu.len() as u32 + u32::from(more) + 4 * u32::from(has_data);
    head[4..8].copy_from_slice(&len.to_le_bytes());
    let mut bytes = head.clone();
    if digests.header {
        bytes.extend(crc32c(&head).to_le_bytes());
    }
    bytes.extend_from_slice(data);
    if has_data {
        bytes.extend(crc32c(data).to_le_bytes());
    }
    bytes
}
