//! The PDU headers of NVMe/TCP, byte for byte (NVMe TCP 1.1, 3.6.2).

use zerocopy::little_endian::{U16, U32};

use crate::nvme::{Cqe, Sqe};

layout! {
    /// Common header: the first bytes of every PDU.
    pub struct CommonHeader: 8 {
        /// PDU-Type.
        0: pub kind: u8,
        /// FLAGS.
        1: pub flags: u8,
        /// HLEN: bytes of the header without digest.
        2: pub hlen: u8,
        /// PDO: offset of the data from the start of the PDU, 0 without data.
        3: pub pdo: u8,
        /// PLEN: bytes of the whole PDU, digests included.
        4: pub plen: U32,
    }
}

/// FLAGS bit 0: a header digest follows the header.
pub const HDGSTF: u8 = 1 << 0;
/// FLAGS bit 1: a data digest follows the data.
pub const DDGSTF: u8 = 1 << 1;
/// FLAGS bit 2 of data PDUs: the last of its R2T, or of its command.
pub const LAST_PDU: u8 = 1 << 2;
/// FLAGS bit 3 of C2HData: the command succeeded, and no response capsule follows.
pub const SUCCESS: u8 = 1 << 3;

layout! {
    /// Initialize Connection Request, from the host.
    pub struct IcReq: 128 {
        /// Common header.
        0: pub common: CommonHeader,
        /// PFV: 0 for the only known format.
        8: pub pfv: U16,
        /// HPDA: data alignment the host wants, dwords zero-based, 0 to 31.
        10: pub hpda: u8,
        /// DGST: bit 0 header digest, bit 1 data digest.
        11: pub dgst: u8,
        /// MAXR2T: R2Ts outstanding per command, zero-based.
        12: pub maxr2t: U32,
        /// Reserved: zero.
        16: pub _reserved: [u8; 112],
    }
}

layout! {
    /// Initialize Connection Response, from the controller.
    pub struct IcResp: 128 {
        /// Common header.
        0: pub common: CommonHeader,
        /// PFV: 0 for the only known format.
        8: pub pfv: U16,
        /// CPDA: data alignment the controller wants, dwords zero-based, 0 to 31.
        10: pub cpda: u8,
        /// DGST: bit 0 header digest, bit 1 data digest.
        11: pub dgst: u8,
        /// MAXH2CDATA: most data in one H2CData, in bytes, at least 4096.
        12: pub maxh2cdata: U32,
        /// Reserved: zero.
        16: pub _reserved: [u8; 112],
    }
}

layout! {
    /// H2CTermReq and C2HTermReq; up to 128 bytes of the offending PDU's header follow.
    pub struct TermReq: 24 {
        /// Common header.
        0: pub common: CommonHeader,
        /// FES: what was wrong.
        8: pub fes: U16,
        /// FEI: where; a byte offset into the header, or the digest received.
        10: pub fei: U32,
        /// Reserved: zero.
        14: pub _reserved: [u8; 10],
    }
}

layout! {
    /// Command capsule.
    pub struct CapsuleCmd: 72 {
        /// Common header.
        0: pub common: CommonHeader,
        /// The command.
        8: pub sqe: Sqe,
    }
}

layout! {
    /// Response capsule.
    pub struct CapsuleResp: 24 {
        /// Common header.
        0: pub common: CommonHeader,
        /// The completion.
        8: pub cqe: Cqe,
    }
}

layout! {
    /// H2CData and C2HData: a piece of a command's data.
    pub struct DataPdu: 24 {
        /// Common header.
        0: pub common: CommonHeader,
        /// CCCID: CID of the command.
        8: pub cccid: U16,
        /// TTAG of the R2T this answers; reserved in C2HData.
        10: pub ttag: U16,
        /// DATAO: where in the command's data this piece starts, in bytes.
        12: pub datao: U32,
        /// DATAL: bytes of this piece.
        16: pub datal: U32,
        /// Reserved: zero.
        20: pub _reserved: [u8; 4],
    }
}

layout! {
    /// Ready to Transfer: the controller asks for a part of a command's data.
    pub struct R2t: 24 {
        /// Common header.
        0: pub common: CommonHeader,
        /// CCCID: CID of the command.
        8: pub cccid: U16,
        /// TTAG: the controller's name for this request.
        10: pub ttag: U16,
        /// R2TO: where in the command's data the part starts, in bytes.
        12: pub r2to: U32,
        /// R2TL: bytes wanted.
        16: pub r2tl: U32,
        /// Reserved: zero.
        20: pub _reserved: [u8; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: CommonHeader = CommonHeader {
        kind: 1,
        flags: 2,
        hlen: 3,
        pdo: 4,
        plen: U32::new(0x0807_0605),
    };

    #[test]
    fn every_field_of_the_initialisation_lands_on_its_bytes() {
        let request = IcReq {
            common: COMMON,
            pfv: 0x0a09.into(),
            hpda: 0x0b,
            dgst: 0x0c,
            maxr2t: 0x100f_0e0d.into(),
            ..IcReq::default()
        };
        let mut expected: Vec<u8> = (1..=16).collect();
        expected.resize(128, 0);
        assert_eq!(request.bytes(), expected);
        let response = IcResp {
            common: COMMON,
            pfv: 0x0a09.into(),
            cpda: 0x0b,
            dgst: 0x0c,
            maxh2cdata: 0x100f_0e0d.into(),
            ..IcResp::default()
        };
        assert_eq!(response.bytes(), expected);
    }

    #[test]
    fn every_field_of_the_data_pdus_lands_on_its_bytes() {
        let data = DataPdu {
            common: COMMON,
            cccid: 0x0a09.into(),
            ttag: 0x0c0b.into(),
            datao: 0x100f_0e0d.into(),
            datal: 0x1413_1211.into(),
            ..DataPdu::default()
        };
        let mut expected: Vec<u8> = (1..=20).collect();
        expected.resize(24, 0);
        assert_eq!(data.bytes(), expected);
        let r2t = R2t {
            common: COMMON,
            cccid: 0x0a09.into(),
            ttag: 0x0c0b.into(),
            r2to: 0x100f_0e0d.into(),
            r2tl: 0x1413_1211.into(),
            ..R2t::default()
        };
        assert_eq!(r2t.bytes(), expected);
    }

    #[test]
    fn every_field_of_a_termination_lands_on_its_bytes() {
        let request = TermReq {
            common: COMMON,
            fes: 0x0a09.into(),
            fei: 0x0e0d_0c0b.into(),
            ..TermReq::default()
        };
        let mut expected: Vec<u8> = (1..=14).collect();
        expected.resize(24, 0);
        assert_eq!(request.bytes(), expected);
    }

    #[test]
    fn capsules_are_a_header_and_a_queue_entry() {
        let bytes: Vec<u8> = (1..=72).collect();
        let capsule = CapsuleCmd::from_prefix(&bytes).unwrap();
        assert_eq!((capsule.common, capsule.sqe.opcode), (COMMON, 9));
        let capsule = CapsuleResp::from_prefix(&bytes).unwrap();
        assert_eq!((capsule.common, capsule.cqe.cid.get()), (COMMON, 0x1615));
    }
}
