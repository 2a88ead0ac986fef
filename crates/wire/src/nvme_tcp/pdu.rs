//! PDUs as the two state machines see them: what a header may say, and how one is written.

use std::fmt;

use super::bits::{CommonHeader, DDGSTF, HDGSTF, TermReq};
use super::digest::crc32c;

/// PDU-Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PduType {
    /// Initialize Connection Request.
    IcReq = 0x00,
    /// Initialize Connection Response.
    IcResp = 0x01,
    /// Host to Controller Terminate Connection Request.
    H2cTermReq = 0x02,
    /// Controller to Host Terminate Connection Request.
    C2hTermReq = 0x03,
    /// Command capsule.
    CapsuleCmd = 0x04,
    /// Response capsule.
    CapsuleResp = 0x05,
    /// Host to Controller Data Transfer.
    H2cData = 0x06,
    /// Controller to Host Data Transfer.
    C2hData = 0x07,
    /// Ready to Transfer.
    R2t = 0x09,
}

impl PduType {
    /// The type with this value, if there is one.
    pub const fn from_u8(value: u8) -> Option<PduType> {
        match value {
            0x00 => Some(PduType::IcReq),
            0x01 => Some(PduType::IcResp),
            0x02 => Some(PduType::H2cTermReq),
            0x03 => Some(PduType::C2hTermReq),
            0x04 => Some(PduType::CapsuleCmd),
            0x05 => Some(PduType::CapsuleResp),
            0x06 => Some(PduType::H2cData),
            0x07 => Some(PduType::C2hData),
            0x09 => Some(PduType::R2t),
            _ => None,
        }
    }

    /// HLEN of the type, in bytes.
    pub const fn header_len(self) -> usize {
        match self {
            PduType::IcReq | PduType::IcResp => 128,
            PduType::CapsuleCmd => 72,
            _ => 24,
        }
    }

    /// Whether a controller receives it; a host receives the others.
    const fn is_to_controller(self) -> bool {
        matches!(
            self,
            PduType::IcReq | PduType::H2cTermReq | PduType::CapsuleCmd | PduType::H2cData
        )
    }
}

/// FES: why a connection has to end (NVMe TCP 1.1, 3.5.1 and 3.6.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FatalStatus {
    /// 01h: a field of the header is wrong; FEI is its offset.
    InvalidHeaderField,
    /// 02h: the PDU may not come now.
    Sequence,
    /// 03h: the header digest is wrong; FEI is the digest received.
    HeaderDigest,
    /// 04h: data lie outside what was asked for.
    DataOutOfRange,
    /// 05h: more data, or more R2Ts, than was agreed.
    LimitExceeded,
    /// 06h: a parameter is not supported; FEI is its offset.
    UnsupportedParameter,
    /// Any other value a peer sent.
    Other(u16),
}

impl FatalStatus {
    /// The value of the field.
    pub const fn value(self) -> u16 {
        match self {
            FatalStatus::InvalidHeaderField => 1,
            FatalStatus::Sequence => 2,
            FatalStatus::HeaderDigest => 3,
            FatalStatus::DataOutOfRange => 4,
            FatalStatus::LimitExceeded => 5,
            FatalStatus::UnsupportedParameter => 6,
            FatalStatus::Other(value) => value,
        }
    }

    /// The status with this value.
    pub const fn from_value(value: u16) -> Self {
        match value {
            1 => FatalStatus::InvalidHeaderField,
            2 => FatalStatus::Sequence,
            3 => FatalStatus::HeaderDigest,
            4 => FatalStatus::DataOutOfRange,
            5 => FatalStatus::LimitExceeded,
            6 => FatalStatus::UnsupportedParameter,
            other => FatalStatus::Other(other),
        }
    }
}

/// What the peer did that ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// FES.
    pub status: FatalStatus,
    /// FEI: a byte offset into the PDU's header, or the digest received.
    pub at: u32,
    /// What was wrong, in words for the log.
    pub why: &'static str,
}

impl Fatal {
    pub(super) const fn field(offset: u32, why: &'static str) -> Self {
        Fatal {
            status: FatalStatus::InvalidHeaderField,
            at: offset,
            why,
        }
    }

    pub(super) const fn of(status: FatalStatus, why: &'static str) -> Self {
        Fatal { status, at: 0, why }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fes, at) = (self.status.value(), self.at);
        write!(
            f,
            "NVMe/TCP protocol error: {} (FES {fes:#04x}, FEI {at:#x})",
            self.why
        )
    }
}

impl std::error::Error for Fatal {}

/// Which digests a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Digests {
    /// CRC-32C of each header.
    pub header: bool,
    /// CRC-32C of each PDU's data.
    pub data: bool,
}

impl Digests {
    /// The DGST field.
    pub const fn bits(self) -> u8 {
        self.header as u8 | (self.data as u8) << 1
    }

    /// The digests in a DGST field; reserved bits are ignored.
    pub const fn from_bits(bits: u8) -> Self {
        Digests {
            header: bits & 1 == 1,
            data: bits >> 1 & 1 == 1,
        }
    }

    pub(super) const fn and(self, other: Digests) -> Digests {
        Digests {
            header: self.header && other.header,
            data: self.data && other.data,
        }
    }
}

/// Largest value of HPDA and CPDA (NVMe TCP 1.1, 3.6.2.2).
pub const ALIGNMENT_MAX: u8 = 31;
/// Least MAXH2CDATA a controller may state, in bytes (NVMe TCP 1.1, 3.6.2.3).
pub const MAXH2CDATA_MIN: u32 = 4096;
/// Most bytes of an offending header in a TermReq (NVMe TCP 1.1, 3.6.2.4).
pub const TERM_DATA_MAX: usize = 128;
/// Bytes of a digest.
pub(super) const DIGEST_LEN: usize = 4;

/// Which end of the connection receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Controller,
    Host,
}

/// What a receiver holds the headers against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) role: Role,
    /// The connection is initialised.
    pub(super) ready: bool,
    pub(super) digests: Digests,
    /// Alignment this end asked for, in bytes.
    pub(super) alignment: usize,
    /// Most data in a command capsule, in bytes.
    pub(super) capsule_max: usize,
    /// Most data in a data PDU, in bytes.
    pub(super) data_max: usize,
}

/// The parts of a PDU, once its common header is found to be in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) kind: PduType,
    pub(super) flags: u8,
    /// Header with its digest, in bytes.
    pub(super) head_len: usize,
    pub(super) header_digest: bool,
    /// Padding between header and data, in bytes.
    pub(super) pad: usize,
    pub(super) data_len: usize,
    pub(super) data_digest: bool,
}

impl Rules {
    /// Checks a common header (NVMe TCP 1.1, 3.6.2.1, and the section of each PDU).
    #[inline]
    pub(super) fn check(&self, common: &CommonHeader) -> Result<Shape, Fatal> {
        let kind = PduType::from_u8(common.kind)
            .filter(|kind| kind.is_to_controller() == (self.role == Role::Controller))
            .ok_or(Fatal::field(0, "this type of PDU is not for this end"))?;
        let plen = common.plen.get() as usize;
        if usize::from(common.hlen) != kind.header_len() {
            return Err(Fatal::field(
                2,
                "HLEN is not the length of this type's header",
            ));
        }
        let bare = Shape {
            kind,
            flags: common.flags,
            head_len: kind.header_len(),
            header_digest: false,
            pad: 0,
            data_len: 0,
            data_digest: false,
        };
        match kind {
            PduType::IcReq | PduType::IcResp => self.check_init(bare, plen),
            PduType::H2cTermReq | PduType::C2hTermReq => {
                let data_len = plen.wrapping_sub(bare.head_len);
                if data_len > TERM_DATA_MAX {
                    return Err(Fatal::field(4, "PLEN of a TermReq must be 24 to 152"));
                }
                Ok(Shape { data_len, ..bare })
            }
            _ if !self.ready => Err(Fatal::of(
                FatalStatus::Sequence,
                "the connection is not initialised",
            )),
            _ => self.check_ready(bare, common, plen),
        }
    }

    fn check_init(&self, bare: Shape, plen: usize) -> Result<Shape, Fatal> {
        if self.ready {
            return Err(Fatal::of(
                FatalStatus::Sequence,
                "the connection is initialised already",
            ));
        }
        if plen != bare.head_len {
            return Err(Fatal::field(4, "PLEN must be 128"));
        }
        Ok(bare)
    }

    #[inline]
    fn check_ready(&self, bare: Shape, common: &CommonHeader, plen: usize) -> Result<Shape, Fatal> {
        if (common.flags & HDGSTF != 0) != self.digests.header {
            return Err(Fatal::field(1, "HDGSTF is not what was negotiated"));
        }
        let head_len = bare.head_len + usize::from(self.digests.header) * DIGEST_LEN;
        let shape = Shape {
            head_len,
            header_digest: self.digests.header,
            ..bare
        };
        let most = match bare.kind {
            PduType::CapsuleResp | PduType::R2t if plen == head_len => return Ok(shape),
            PduType::CapsuleResp | PduType::R2t => {
                return Err(Fatal::field(4, "PLEN does not fit a PDU without data"));
            }
            PduType::CapsuleCmd if plen == head_len => return Ok(shape),
            PduType::CapsuleCmd => self.capsule_max,
            _ => self.data_max,
        };
        if (common.flags & DDGSTF != 0) != self.digests.data {
            return Err(Fatal::field(1, "DDGSTF is not what was negotiated"));
        }
        let pdo = usize::from(common.pdo);
        if pdo < head_len || pdo % self.alignment != 0 {
            return Err(Fatal::field(
                3,
                "PDO lies in the header or is not aligned as agreed",
            ));
        }
        let trailer = usize::from(self.digests.data) * DIGEST_LEN;
        let data_len = match plen.checked_sub(pdo + trailer) {
            None | Some(0) => return Err(Fatal::field(4, "PLEN leaves no room for data")),
            Some(len) => len,
        };
        if data_len > most {
            return Err(if bare.kind == PduType::CapsuleCmd {
                Fatal::field(4, "PLEN is more than a command capsule may have")
            } else {
                Fatal::of(
                    FatalStatus::LimitExceeded,
                    "the data is more than was agreed",
                )
            });
        }
        Ok(Shape {
            pad: pdo - head_len,
            data_len,
            data_digest: self.digests.data,
            ..shape
        })
    }
}

/// Most bytes ahead of data: 72 of header, 4 of digest, padded to 128, rounded up for a response.
const SCRATCH: usize = 160;

/// Headers and digests on their way into a gather list, put together so that one copy moves them.
pub(super) struct Scratch {
    bytes: [u8; SCRATCH],
    len: usize,
}

impl Scratch {
    pub(super) const fn new() -> Self {
        Scratch {
            bytes: [0; SCRATCH],
            len: 0,
        }
    }

    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// Adds `header` and, where negotiated, its digest.
    #[inline]
    pub(super) fn push_header(&mut self, header: &[u8], digests: Digests) {
        self.push(header);
        if digests.header {
            self.push(&crc32c(header).to_le_bytes());
        }
    }

    /// Adds zeroes up to `len` bytes since the scratch was empty.
    #[inline]
    pub(super) fn pad_to(&mut self, len: usize) {
        debug_assert!(self.bytes[self.len..].iter().all(|&b| b == 0));
        self.len = self.len.max(len);
    }

    #[inline]
    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Common header of a PDU without data.
#[inline]
pub(super) fn bare_header(kind: PduType, digests: Digests) -> CommonHeader {
    let plen = kind.header_len() + usize::from(digests.header) * DIGEST_LEN;
    CommonHeader {
        kind: kind as u8,
        flags: u8::from(digests.header) * HDGSTF,
        hlen: kind.header_len() as u8,
        pdo: 0,
        plen: (plen as u32).into(),
    }
}

/// Offset at which data start behind a header of `kind`, for a receiver that wants `alignment`.
#[inline]
pub(super) fn data_offset(kind: PduType, digests: Digests, alignment: usize) -> usize {
    (kind.header_len() + usize::from(digests.header) * DIGEST_LEN).next_multiple_of(alignment)
}

/// Common header of a PDU with `len` bytes of data at `pdo`.
#[inline]
pub(super) fn data_header(
    kind: PduType,
    flags: u8,
    pdo: usize,
    len: usize,
    digests: Digests,
) -> CommonHeader {
    let plen = pdo + len + usize::from(digests.data) * DIGEST_LEN;
    CommonHeader {
        kind: kind as u8,
        flags: flags | digests.bits(),
        hlen: kind.header_len() as u8,
        pdo: pdo as u8,
        plen: (plen as u32).into(),
    }
}

/// A TermReq of `kind` about a PDU whose header so far is `header`.
pub(super) fn term_req(kind: PduType, fatal: &Fatal, header: &[u8]) -> Vec<u8> {
    let header = &header[..header.len().min(TERM_DATA_MAX)];
    let mut common = bare_header(kind, Digests::default());
    common.plen = ((TermReq::SIZE + header.len()) as u32).into();
    let request = TermReq {
        common,
        fes: fatal.status.value().into(),
        fei: fatal.at.into(),
        ..TermReq::default()
    };
    [request.bytes(), header].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules {
        role: Role::Controller,
        ready: true,
        digests: Digests {
            header: true,
            data: true,
        },
        alignment: 8,
        capsule_max: 8192,
        data_max: 4096,
    };

    fn check(
        rules: Rules,
        kind: u8,
        flags: u8,
        hlen: u8,
        pdo: u8,
        plen: u32,
    ) -> Result<Shape, (u16, u32)> {
        let common = CommonHeader {
            kind,
            flags,
            hlen,
            pdo,
            plen: plen.into(),
        };
        rules
            .check(&common)
            .map_err(|fatal| (fatal.status.value(), fatal.at))
    }

    #[test]
    fn a_command_with_data_has_its_parts_measured() {
        let shape = check(RULES, 4, 3, 72, 80, 80 + 512 + 4).unwrap();
        assert_eq!((shape.head_len, shape.pad, shape.data_len), (76, 4, 512));
        let shape = check(RULES, 4, 1, 72, 0, 76).unwrap();
        assert_eq!((shape.data_len, shape.data_digest), (0, false));
    }

    #[test]
    fn each_wrong_field_is_pointed_at() {
        assert_eq!(check(RULES, 8, 0, 24, 0, 24), Err((1, 0)));
        assert_eq!(check(RULES, 7, 3, 24, 32, 64), Err((1, 0)));
        assert_eq!(check(RULES, 4, 3, 71, 80, 100), Err((1, 2)));
        assert_eq!(check(RULES, 4, 2, 72, 80, 100), Err((1, 1)));
        assert_eq!(check(RULES, 4, 1, 72, 80, 100), Err((1, 1)));
        assert_eq!(check(RULES, 4, 3, 72, 76, 100), Err((1, 3)));
        assert_eq!(check(RULES, 4, 3, 72, 72, 100), Err((1, 3)));
        assert_eq!(check(RULES, 4, 3, 72, 80, 84), Err((1, 4)));
        assert_eq!(check(RULES, 4, 3, 72, 80, 0), Err((1, 4)));
        assert_eq!(check(RULES, 4, 3, 72, 80, 80 + 8193 + 4), Err((1, 4)));
        assert_eq!(check(RULES, 4, 3, 72, 80, u32::MAX), Err((1, 4)));
        assert_eq!(check(RULES, 6, 3, 24, 32, 32 + 4097 + 4), Err((5, 0)));
        assert_eq!(check(RULES, 0, 0, 128, 0, 128), Err((2, 0)));
        assert_eq!(check(RULES, 2, 0, 24, 0, 153), Err((1, 4)));
        assert_eq!(check(RULES, 2, 0, 24, 0, 23), Err((1, 4)));
        let early = Rules {
            ready: false,
            ..RULES
        };
        assert_eq!(check(early, 4, 0, 72, 0, 72), Err((2, 0)));
        assert_eq!(check(early, 0, 0, 128, 0, 129), Err((1, 4)));
        let host = Rules {
            role: Role::Host,
            ..RULES
        };
        assert_eq!(check(host, 9, 1, 24, 0, 29), Err((1, 4)));
    }

    #[test]
    fn a_termination_carries_the_header_it_is_about() {
        let fatal = Fatal::field(3, "PDO");
        let bytes = term_req(PduType::C2hTermReq, &fatal, &[7; 200]);
        assert_eq!(bytes[..14], [3, 0, 24, 0, 152, 0, 0, 0, 1, 0, 3, 0, 0, 0]);
        assert_eq!(bytes[24..], [7; 128]);
    }

    #[test]
    fn a_fatal_status_survives_its_value() {
        for value in 0..10 {
            assert_eq!(FatalStatus::from_value(value).value(), value);
        }
    }
}
