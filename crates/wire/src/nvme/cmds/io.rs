//! I/O commands: the NVM command set and reservations.

use crate::nvme::bits::{Fuse, Sqe};
use crate::nvme::opcode::IoOpcode;
use crate::nvme::reservation::{
    AcquireAction, PersistChange, RegisterAction, ReleaseAction, ReservationType,
};
use crate::nvme::status::Status;

/// The most blocks one command can name, since NLB is a zero-based 16-bit field.
pub const BLOCKS_MAX: u32 = 65_536;

/// The block range and the flags that Read, Write, Compare, Write Zeroes and Verify share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rw {
    /// SLBA: the first logical block.
    pub slba: u64,
    /// NLB as a count: 1 to [`BLOCKS_MAX`].
    pub blocks: u32,
    /// FUA: the data is to be on stable media before the command completes.
    pub fua: bool,
    /// LR: do not retry as hard as usual.
    pub limited_retry: bool,
    /// DEAC, Write Zeroes only: deallocate the blocks if that makes them read as zeroes.
    pub deallocate: bool,
    /// PRACT: the controller inserts or strips protection information.
    pub pract: bool,
    /// PRCHK, 3 bits: which protection fields are checked.
    pub prchk: u8,
    /// STC: check the storage tag.
    pub storage_tag_check: bool,
    /// DTYPE, Write only, 4 bits: directive type.
    pub dtype: u8,
    /// DSPEC: directive specific value.
    pub dspec: u16,
    /// DSM, 8 bits: hints on how the blocks will be used.
    pub dsm: u8,
    /// ILBRT or EILBRT: reference tag, lower 32 bits.
    pub reference_tag: u32,
    /// LBAT or ELBAT: application tag.
    pub application_tag: u16,
    /// LBATM or ELBATM: mask of the application tag.
    pub application_mask: u16,
}

impl Rw {
    /// A range of `blocks` blocks from `slba`, without flags.
    pub const fn new(slba: u64, blocks: u32) -> Rw {
        Rw {
            slba,
            blocks,
            fua: false,
            limited_retry: false,
            deallocate: false,
            pract: false,
            prchk: 0,
            storage_tag_check: false,
            dtype: 0,
            dspec: 0,
            dsm: 0,
            reference_tag: 0,
            application_tag: 0,
            application_mask: 0,
        }
    }
}

/// Dataset Management (NVM Command Set 1.1, 3.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dsm {
    /// NR as a count: 1 to 256 ranges.
    pub ranges: u16,
    /// AD: the ranges may be deallocated.
    pub deallocate: bool,
    /// IDR: hint that the ranges will be read as a whole.
    pub integral_read: bool,
    /// IDW: hint that the ranges will be written as a whole.
    pub integral_write: bool,
}

/// What an I/O command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOp {
    /// Flush.
    Flush,
    /// Write.
    Write(Rw),
    /// Read.
    Read(Rw),
    /// Compare.
    Compare(Rw),
    /// Write Zeroes.
    WriteZeroes(Rw),
    /// Verify: read and check, without moving data.
    Verify(Rw),
    /// Dataset Management.
    Dsm(Dsm),
    /// Reservation Register.
    ReservationRegister {
        /// RREGA.
        action: RegisterAction,
        /// IEKEY: the current key is not checked.
        ignore_key: bool,
        /// CPTPL.
        persist: PersistChange,
    },
    /// Reservation Acquire.
    ReservationAcquire {
        /// RACQA.
        action: AcquireAction,
        /// IEKEY; must be clear, which the command's handler checks.
        ignore_key: bool,
        /// RTYPE.
        rtype: ReservationType,
    },
    /// Reservation Release.
    ReservationRelease {
        /// RRELA.
        action: ReleaseAction,
        /// IEKEY; must be clear, which the command's handler checks.
        ignore_key: bool,
        /// RTYPE; `None` when the field holds no type, which Clear does not mind.
        rtype: Option<ReservationType>,
    },
    /// Reservation Report.
    ReservationReport {
        /// NUMD as a count: bytes wanted.
        len: u64,
        /// EDS: the extended form, with 128-bit host identifiers.
        extended: bool,
    },
}

/// An I/O command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoCmd {
    /// NSID.
    pub nsid: u32,
    /// Place in a fused pair.
    pub fuse: Fuse,
    /// What to do.
    pub op: IoOp,
}

impl IoCmd {
    /// Parses an entry of an I/O queue.
    ///
    /// # Errors
    /// The status to complete it with: Invalid Command Opcode, or Invalid Field in Command.
    #[inline]
    pub fn parse(sqe: &Sqe) -> Result<IoCmd, Status> {
        let opcode = IoOpcode::from_u8(sqe.opcode).ok_or(Status::INVALID_OPCODE.dnr())?;
        let op = match opcode {
            IoOpcode::Read => IoOp::Read(parse_rw(sqe)),
            IoOpcode::Write => IoOp::Write(parse_rw(sqe)),
            IoOpcode::Flush => IoOp::Flush,
            IoOpcode::Compare => IoOp::Compare(parse_rw(sqe)),
            IoOpcode::WriteZeroes => IoOp::WriteZeroes(parse_rw(sqe)),
            IoOpcode::Verify => IoOp::Verify(parse_rw(sqe)),
            IoOpcode::DatasetManagement => {
                let hints = sqe.cdw11.get();
                IoOp::Dsm(Dsm {
                    ranges: (sqe.cdw10.get() & 0xff) as u16 + 1,
                    integral_read: hints & 1 == 1,
                    integral_write: hints >> 1 & 1 == 1,
                    deallocate: hints >> 2 & 1 == 1,
                })
            }
            IoOpcode::ReservationRegister
            | IoOpcode::ReservationReport
            | IoOpcode::ReservationAcquire
            | IoOpcode::ReservationRelease => parse_reservation(opcode, sqe)?,
        };
        Ok(IoCmd {
            nsid: sqe.nsid.get(),
            fuse: sqe.fuse()?,
            op,
        })
    }

    /// The entry that says this; CID and SGL are for the transport to fill.
    pub fn to_sqe(&self) -> Sqe {
        let mut sqe = Sqe::new(self.op.opcode().opcode(), self.nsid);
        sqe.flags |= self.fuse.bits();
        match self.op {
            IoOp::Flush => {}
            IoOp::Write(rw)
            | IoOp::Read(rw)
            | IoOp::Compare(rw)
            | IoOp::WriteZeroes(rw)
            | IoOp::Verify(rw) => fill_rw(&mut sqe, &rw),
            IoOp::Dsm(dsm) => {
                sqe.cdw10 = u32::from(dsm.ranges.clamp(1, 256) - 1).into();
                let hints = u32::from(dsm.integral_read)
                    | u32::from(dsm.integral_write) << 1
                    | u32::from(dsm.deallocate) << 2;
                sqe.cdw11 = hints.into();
            }
            IoOp::ReservationRegister {
                action,
                ignore_key,
                persist,
            } => {
                let persist = match persist {
                    PersistChange::Unchanged => 0,
                    PersistChange::Clear => 2 << 30,
                    PersistChange::Persist => 3 << 30,
                };
                sqe.cdw10 = (action as u32 | u32::from(ignore_key) << 3 | persist).into();
            }
            IoOp::ReservationAcquire {
                action,
                ignore_key,
                rtype,
            } => {
                let kind = u32::from(rtype as u8) << 8;
                sqe.cdw10 = (action as u32 | u32::from(ignore_key) << 3 | kind).into();
            }
            IoOp::ReservationRelease {
                action,
                ignore_key,
                rtype,
            } => {
                let kind = rtype.map_or(0, |rtype| u32::from(rtype as u8) << 8);
                sqe.cdw10 = (action as u32 | u32::from(ignore_key) << 3 | kind).into();
            }
            IoOp::ReservationReport { len, extended } => {
                sqe.cdw10 = (((len / 4).clamp(1, 1 << 32) - 1) as u32).into();
                sqe.cdw11 = u32::from(extended).into();
            }
        }
        sqe
    }
}

impl IoOp {
    /// The row of the command table.
    pub const fn opcode(&self) -> IoOpcode {
        match self {
            IoOp::Flush => IoOpcode::Flush,
            IoOp::Write(_) => IoOpcode::Write,
            IoOp::Read(_) => IoOpcode::Read,
            IoOp::Compare(_) => IoOpcode::Compare,
            IoOp::WriteZeroes(_) => IoOpcode::WriteZeroes,
            IoOp::Verify(_) => IoOpcode::Verify,
            IoOp::Dsm(_) => IoOpcode::DatasetManagement,
            IoOp::ReservationRegister { .. } => IoOpcode::ReservationRegister,
            IoOp::ReservationAcquire { .. } => IoOpcode::ReservationAcquire,
            IoOp::ReservationRelease { .. } => IoOpcode::ReservationRelease,
            IoOp::ReservationReport { .. } => IoOpcode::ReservationReport,
        }
    }
}

#[inline]
fn parse_rw(sqe: &Sqe) -> Rw {
    let (cdw12, cdw13, cdw15) = (sqe.cdw12.get(), sqe.cdw13.get(), sqe.cdw15.get());
    Rw {
        slba: sqe.cdw10_11(),
        blocks: (cdw12 & 0xffff) + 1,
        fua: cdw12 >> 30 & 1 == 1,
        limited_retry: cdw12 >> 31 == 1,
        deallocate: sqe.opcode == IoOpcode::WriteZeroes as u8 && cdw12 >> 25 & 1 == 1,
        pract: cdw12 >> 29 & 1 == 1,
        prchk: (cdw12 >> 26 & 7) as u8,
        storage_tag_check: cdw12 >> 24 & 1 == 1,
        dtype: (cdw12 >> 20 & 15) as u8,
        dspec: (cdw13 >> 16) as u16,
        dsm: cdw13 as u8,
        reference_tag: sqe.cdw14.get(),
        application_tag: cdw15 as u16,
        application_mask: (cdw15 >> 16) as u16,
    }
}

fn fill_rw(sqe: &mut Sqe, rw: &Rw) {
    sqe.set_cdw10_11(rw.slba);
    let cdw12 = (rw.blocks.clamp(1, BLOCKS_MAX) - 1)
        | u32::from(rw.dtype & 15) << 20
        | u32::from(rw.storage_tag_check) << 24
        | u32::from(rw.deallocate) << 25
        | u32::from(rw.prchk & 7) << 26
        | u32::from(rw.pract) << 29
        | u32::from(rw.fua) << 30
        | u32::from(rw.limited_retry) << 31;
    sqe.cdw12 = cdw12.into();
    sqe.cdw13 = (u32::from(rw.dsm) | u32::from(rw.dspec) << 16).into();
    sqe.cdw14 = rw.reference_tag.into();
    sqe.cdw15 = (u32::from(rw.application_tag) | u32::from(rw.application_mask) << 16).into();
}

#[cold]
fn parse_reservation(opcode: IoOpcode, sqe: &Sqe) -> Result<IoOp, Status> {
    const BAD: Status = Status::INVALID_FIELD.dnr();
    let cdw10 = sqe.cdw10.get();
    let ignore_key = cdw10 >> 3 & 1 == 1;
    let rtype = ReservationType::from_u8((cdw10 >> 8) as u8);
    Ok(match opcode {
        IoOpcode::ReservationRegister => IoOp::ReservationRegister {
            action: match cdw10 & 7 {
                0 => RegisterAction::Register,
                1 => RegisterAction::Unregister,
                2 => RegisterAction::Replace,
                _ => return Err(BAD),
            },
            ignore_key,
            persist: match cdw10 >> 30 {
                0 => PersistChange::Unchanged,
                2 => PersistChange::Clear,
                3 => PersistChange::Persist,
                _ => return Err(BAD),
            },
        },
        IoOpcode::ReservationAcquire => IoOp::ReservationAcquire {
            action: match cdw10 & 7 {
                0 => AcquireAction::Acquire,
                1 => AcquireAction::Preempt,
                2 => AcquireAction::PreemptAndAbort,
                _ => return Err(BAD),
            },
            ignore_key,
            rtype: rtype.ok_or(BAD)?,
        },
        IoOpcode::ReservationRelease => IoOp::ReservationRelease {
            action: match cdw10 & 7 {
                0 => ReleaseAction::Release,
                1 => ReleaseAction::Clear,
                _ => return Err(BAD),
            },
            ignore_key,
            rtype,
        },
        _ => IoOp::ReservationReport {
            len: (u64::from(cdw10) + 1) * 4,
            extended: sqe.cdw11.get() & 1 == 1,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Rw {
        Rw {
            slba: 0x0807_0605_0403_0201,
            blocks: 0x0c0b,
            fua: true,
            limited_retry: true,
            deallocate: false,
            pract: true,
            prchk: 5,
            storage_tag_check: true,
            dtype: 9,
            dspec: 0x1110,
            dsm: 0x22,
            reference_tag: 0x3433_3231,
            application_tag: 0x4241,
            application_mask: 0x5251,
        }
    }

    fn operations() -> Vec<IoOp> {
        vec![
            IoOp::Flush,
            IoOp::Write(full()),
            IoOp::Read(full()),
            IoOp::Compare(full()),
            IoOp::WriteZeroes(Rw {
                deallocate: true,
                ..full()
            }),
            IoOp::Verify(full()),
            IoOp::Dsm(Dsm {
                ranges: 256,
                deallocate: true,
                integral_read: false,
                integral_write: true,
            }),
            IoOp::ReservationRegister {
                action: RegisterAction::Replace,
                ignore_key: true,
                persist: PersistChange::Persist,
            },
            IoOp::ReservationAcquire {
                action: AcquireAction::PreemptAndAbort,
                ignore_key: false,
                rtype: ReservationType::ExclusiveAccessAll,
            },
            IoOp::ReservationRelease {
                action: ReleaseAction::Clear,
                ignore_key: true,
                rtype: None,
            },
            IoOp::ReservationReport {
                len: 1 << 34,
                extended: true,
            },
        ]
    }

    #[test]
    fn every_command_survives_its_entry() {
        for (op, fuse) in operations()
            .into_iter()
            .zip([Fuse::First, Fuse::Second].iter().cycle())
        {
            let command = IoCmd {
                nsid: 0x0403_0201,
                fuse: *fuse,
                op,
            };
            assert_eq!(IoCmd::parse(&command.to_sqe()), Ok(command));
        }
    }

    #[test]
    fn every_row_of_the_command_table_is_parsed() {
        let parsed: Vec<IoOpcode> = operations().iter().map(IoOp::opcode).collect();
        for opcode in IoOpcode::ALL {
            assert!(parsed.contains(opcode), "{}", opcode.name());
        }
    }

    #[test]
    fn the_largest_and_smallest_block_counts_are_zero_based() {
        let mut sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op: IoOp::Read(Rw::new(0, 1)),
        }
        .to_sqe();
        assert_eq!(sqe.cdw12.get(), 0);
        sqe.cdw12 = 0xffff.into();
        let IoOp::Read(rw) = IoCmd::parse(&sqe).unwrap().op else {
            unreachable!()
        };
        assert_eq!(rw.blocks, BLOCKS_MAX);
    }

    #[test]
    fn a_recorded_write_is_read() {
        // Dwords of a 4 KiB write at block 3630h, as an SPDK host sent them.
        let mut sqe = Sqe::new(0x01, 1);
        sqe.cdw10 = 0x3650.into();
        sqe.cdw12 = 7.into();
        let command = IoCmd::parse(&sqe).unwrap();
        assert_eq!(command.op, IoOp::Write(Rw::new(0x3650, 8)));
    }

    #[test]
    fn reserved_actions_and_types_are_invalid_fields() {
        let bad = Err(Status::INVALID_FIELD.dnr());
        for (opcode, cdw10) in [
            (0x0d, 3),
            (0x0d, 1 << 30),
            (0x11, 3 | 1 << 8),
            (0x11, 0),
            (0x11, 7 << 8),
            (0x15, 2),
        ] {
            let mut sqe = Sqe::new(opcode, 1);
            sqe.cdw10 = cdw10.into();
            assert_eq!(IoCmd::parse(&sqe), bad, "{opcode:#x} {cdw10:#x}");
        }
    }
}
