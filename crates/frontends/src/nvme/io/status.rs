//! The one table from what went wrong below to what a host is told.

use blk::{IoError, Op};
use wire::nvme::Status;

/// The status of a failed I/O. "Do not retry" is set where the same command would fail again.
pub(super) const fn of(op: Op, error: IoError) -> Status {
    match error {
        IoError::OutOfRange => Status::LBA_OUT_OF_RANGE.dnr(),
        IoError::Misaligned => Status::INVALID_FIELD.dnr(),
        IoError::Unsupported => Status::INVALID_OPCODE.dnr(),
        IoError::Medium => match op {
            Op::Read | Op::Compare => Status::UNRECOVERED_READ.dnr(),
            Op::Write | Op::Flush | Op::Unmap | Op::WriteZeroes => Status::WRITE_FAULT.dnr(),
        },
        IoError::NoSpace => Status::CAPACITY_EXCEEDED.dnr(),
        IoError::Miscompare => Status::COMPARE_FAILURE.dnr(),
        IoError::Denied => Status::ACCESS_DENIED.dnr(),
        // Path errors make a multipath host try another way; without one it tries this again.
        IoError::Transport => Status::INTERNAL_PATH_ERROR,
        IoError::Offline => Status::ANA_INACCESSIBLE,
        IoError::Aborted => Status::ABORT_REQUESTED,
        IoError::Busy => Status::COMMAND_INTERRUPTED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_work_later_is_left_to_the_host_to_retry() {
        for error in [
            IoError::Transport,
            IoError::Offline,
            IoError::Aborted,
            IoError::Busy,
        ] {
            assert!(!of(Op::Write, error).is_dnr(), "{error}");
        }
        for error in [
            IoError::OutOfRange,
            IoError::Misaligned,
            IoError::NoSpace,
            IoError::Denied,
        ] {
            assert!(of(Op::Write, error).is_dnr(), "{error}");
        }
    }

    #[test]
    fn a_broken_medium_is_told_apart_by_direction() {
        assert!(of(Op::Read, IoError::Medium).is(Status::UNRECOVERED_READ));
        assert!(of(Op::Flush, IoError::Medium).is(Status::WRITE_FAULT));
    }
}
