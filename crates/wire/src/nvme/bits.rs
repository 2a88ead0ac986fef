//! The submission queue entry (64 bytes) and the completion queue entry (16 bytes).

use zerocopy::little_endian::{U16, U32, U64};

use super::sgl::SglDescriptor;
use super::status::Status;

layout! {
    /// Submission queue entry (NVMe Base 2.1, 3.3.3.1).
    pub struct Sqe: 64 {
        /// OPC.
        0: pub opcode: u8,
        /// FUSE in bits 1:0, PSDT in bits 7:6.
        1: pub flags: u8,
        /// CID: names the command among those in flight on its queue.
        2: pub cid: U16,
        /// NSID; in a Fabrics command the low byte is FCTYPE.
        4: pub nsid: U32,
        /// Command dword 2.
        8: pub cdw2: U32,
        /// Command dword 3.
        12: pub cdw3: U32,
        /// MPTR; unused over fabrics.
        16: pub mptr: U64,
        /// SGL1, the first data descriptor.
        24: pub sgl: SglDescriptor,
        /// Command dword 10.
        40: pub cdw10: U32,
        /// Command dword 11.
        44: pub cdw11: U32,
        /// Command dword 12.
        48: pub cdw12: U32,
        /// Command dword 13.
        52: pub cdw13: U32,
        /// Command dword 14.
        56: pub cdw14: U32,
        /// Command dword 15.
        60: pub cdw15: U32,
    }
}

/// Where a command stands in a fused pair (NVMe Base 2.1, 3.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Fuse {
    /// Not fused.
    #[default]
    Normal,
    /// The first command of a pair.
    First,
    /// The second command of a pair.
    Second,
}

impl Fuse {
    /// The value of the FUSE field.
    pub const fn bits(self) -> u8 {
        match self {
            Fuse::Normal => 0,
            Fuse::First => 1,
            Fuse::Second => 2,
        }
    }
}

/// PSDT value that every command over fabrics carries: SGLs (NVMe Base 2.1, 3.3.3.1).
pub const PSDT_SGL: u8 = 0x40;

impl Sqe {
    /// An entry with `opcode` and `nsid`, SGLs selected, the rest zero.
    pub fn new(opcode: u8, nsid: u32) -> Self {
        Sqe {
            opcode,
            flags: PSDT_SGL,
            nsid: nsid.into(),
            ..Sqe::default()
        }
    }

    /// The command identifier.
    #[inline]
    pub fn cid(&self) -> u16 {
        self.cid.get()
    }

    /// The FUSE field.
    ///
    /// # Errors
    /// Invalid Field in Command for the reserved value 11b.
    #[inline]
    pub fn fuse(&self) -> Result<Fuse, Status> {
        match self.flags & 3 {
            0 => Ok(Fuse::Normal),
            1 => Ok(Fuse::First),
            2 => Ok(Fuse::Second),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    /// FCTYPE, the low byte of the NSID field of a Fabrics command.
    #[inline]
    pub fn fctype(&self) -> u8 {
        self.nsid.as_ref_bytes()[0]
    }

    /// Command dwords 10 and 11 as one 64-bit value, as starting LBAs are.
    #[inline]
    pub fn cdw10_11(&self) -> u64 {
        u64::from(self.cdw11.get()) << 32 | u64::from(self.cdw10.get())
    }

    /// Sets command dwords 10 and 11 from one 64-bit value.
    pub fn set_cdw10_11(&mut self, value: u64) {
        self.cdw10 = U32::new(value as u32);
        self.cdw11 = U32::new((value >> 32) as u32);
    }

    /// Command dwords 12 and 13 as one 64-bit value.
    #[inline]
    pub fn cdw12_13(&self) -> u64 {
        u64::from(self.cdw13.get()) << 32 | u64::from(self.cdw12.get())
    }

    /// Sets command dwords 12 and 13 from one 64-bit value.
    pub fn set_cdw12_13(&mut self, value: u64) {
        self.cdw12 = U32::new(value as u32);
        self.cdw13 = U32::new((value >> 32) as u32);
    }
}

/// Access to the bytes of a little-endian integer without spelling out the trait each time.
trait RefBytes {
    fn as_ref_bytes(&self) -> &[u8; 4];
}

impl RefBytes for U32 {
    fn as_ref_bytes(&self) -> &[u8; 4] {
        self.as_ref()
    }
}

layout! {
    /// Completion queue entry (NVMe Base 2.1, 3.3.3.2).
    pub struct Cqe: 16 {
        /// DW0: the command's own result.
        0: pub dw0: U32,
        /// DW1: the command's own result, upper half.
        4: pub dw1: U32,
        /// SQHD: how far the controller has consumed the submission queue.
        8: pub sqhd: U16,
        /// SQID; reserved over fabrics.
        10: pub sqid: U16,
        /// CID of the command this completes.
        12: pub cid: U16,
        /// Phase tag in bit 0 (zero over fabrics), status in bits 15:1.
        14: pub status_field: U16,
    }
}

impl Cqe {
    /// A completion of command `cid` with `status`, results zero.
    #[inline]
    pub fn new(cid: u16, sqhd: u16, status: Status) -> Self {
        Cqe {
            sqhd: sqhd.into(),
            cid: cid.into(),
            status_field: status.field().into(),
            ..Cqe::default()
        }
    }

    /// The same with the 32-bit result DW0.
    #[must_use]
    pub fn with_dw0(mut self, dw0: u32) -> Self {
        self.dw0 = dw0.into();
        self
    }

    /// The same with the 64-bit result DW0 and DW1, as Property Get returns.
    #[must_use]
    pub fn with_result(mut self, value: u64) -> Self {
        self.dw0 = U32::new(value as u32);
        self.dw1 = U32::new((value >> 32) as u32);
        self
    }

    /// DW0 and DW1 as one value.
    pub fn result(&self) -> u64 {
        u64::from(self.dw1.get()) << 32 | u64::from(self.dw0.get())
    }

    /// The status, without the phase tag.
    #[inline]
    pub fn status(&self) -> Status {
        Status::from_field(self.status_field.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_an_sqe_lands_on_its_bytes() {
        let mut sqe = Sqe::new(0x01, 0x0807_0605);
        sqe.flags = 0x02;
        sqe.cid = 0x0403.into();
        sqe.cdw2 = 0x0c0b_0a09.into();
        sqe.cdw3 = 0x100f_0e0d.into();
        sqe.mptr = 0x1817_1615_1413_1211.into();
        sqe.sgl = SglDescriptor::from_prefix(&(25..41).collect::<Vec<u8>>()).unwrap();
        sqe.set_cdw10_11(0x302f_2e2d_2c2b_2a29);
        sqe.set_cdw12_13(0x3837_3635_3433_3231);
        sqe.cdw14 = 0x3c3b_3a39.into();
        sqe.cdw15 = 0x403f_3e3d.into();
        let expected: Vec<u8> = (1..=64).collect();
        assert_eq!(sqe.bytes(), expected);
        assert_eq!(Sqe::from_prefix(&expected).unwrap(), sqe);
        assert_eq!(sqe.fctype(), 0x05);
        assert_eq!(sqe.cdw10_11(), 0x302f_2e2d_2c2b_2a29);
        assert_eq!(sqe.cdw12_13(), 0x3837_3635_3433_3231);
    }

    #[test]
    fn every_field_of_a_cqe_lands_on_its_bytes() {
        let mut cqe = Cqe::new(0x0e0d, 0x0a09, Status::from_field(0x100f));
        cqe = cqe.with_result(0x0807_0605_0403_0201);
        cqe.sqid = 0x0c0b.into();
        cqe.status_field = 0x100f.into();
        let expected: Vec<u8> = (1..=16).collect();
        assert_eq!(cqe.bytes(), expected);
        assert_eq!(cqe.result(), 0x0807_0605_0403_0201);
    }

    #[test]
    fn the_reserved_fuse_value_is_an_invalid_field() {
        let mut sqe = Sqe::new(1, 1);
        sqe.flags |= 3;
        assert_eq!(sqe.fuse(), Err(Status::INVALID_FIELD.dnr()));
    }

    #[test]
    fn an_entry_cut_short_is_malformed() {
        assert!(Sqe::from_prefix(&[0; 63]).is_err());
        assert!(Cqe::from_prefix(&[0; 15]).is_err());
    }
}
