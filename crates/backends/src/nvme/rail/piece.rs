//! What one I/O becomes: pieces that fit a path, and the commands that they are sent as.

use super::Ticket;
use crate::nvme::association::{Abilities, Shape};
use blk::{Io, IoBuf, IoError, Nanos, Op};
use wire::nvme::cmds::{BLOCKS_MAX, Dsm, IoOp, Rw};
use wire::nvme::dsm::DsmRange;
use wire::nvme::{Fuse, IoCmd, Sqe, Status};
use wire::nvme_tcp::Payload;

/// Blocks of one Dataset Management, at most, so that an array is not busy with it for long.
const UNMAP_BLOCKS_MAX: u32 = 1 << 22;

/// An I/O that is under way, in one piece or more.
#[derive(Debug)]
pub(super) struct Parent {
    pub(super) io: Io,
    pub(super) ticket: Ticket,
    /// Pieces that have not ended.
    pub(super) pieces: u32,
    pub(super) error: Option<IoError>,
    /// Data of a read in several pieces: first block within the I/O, and what came.
    pub(super) parts: Vec<(u32, IoBuf)>,
    /// When it was submitted.
    pub(super) since: Nanos,
}

/// A part of an I/O that is one command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) parent: usize,
    /// First block, counted from the start of the I/O.
    pub(super) at: u32,
    pub(super) blocks: u32,
    /// Times it was sent.
    pub(super) tries: u8,
}

/// How a piece is carried out, given what the array can do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Means {
    /// The command of the same name.
    Plain,
    /// Zeroes by Write Zeroes; the blocks may be deallocated.
    Zeroes { deallocate: bool },
    /// Zeroes by writing them.
    WrittenZeroes,
    /// Dataset Management.
    Deallocate,
    /// Compare by reading.
    ReadAndCompare,
}

impl Means {
    /// The best way to do `op`.
    pub(super) fn of(op: Op, abilities: Abilities, shape: &Shape) -> Self {
        match op {
            Op::Read | Op::Write | Op::Flush => Self::Plain,
            Op::Compare if abilities.compare => Self::Plain,
            Op::Compare => Self::ReadAndCompare,
            Op::Unmap if abilities.dataset_management && shape.deallocated_zeroes => {
                Self::Deallocate
            }
            Op::Unmap if abilities.write_zeroes => Self::Zeroes { deallocate: true },
            Op::WriteZeroes if abilities.write_zeroes => Self::Zeroes { deallocate: false },
            Op::Unmap | Op::WriteZeroes => Self::WrittenZeroes,
        }
    }

    /// Blocks of one command from `lba` on, at most.
    pub(super) fn blocks_max(self, lba: u64, data_bytes_max: usize, shape: &Shape) -> u32 {
        if self == Self::Deallocate {
            return UNMAP_BLOCKS_MAX;
        }
        let stride = shape.geometry.stride() as usize;
        let most = (data_bytes_max / stride).clamp(1, BLOCKS_MAX as usize) as u32;
        match shape.boundary_blocks {
            0 => most,
            boundary => most.min(boundary - (lba % u64::from(boundary)) as u32),
        }
    }
}

impl Parent {
    /// Whether the I/O is one command so far.
    pub(super) fn is_whole(&self, piece: &Piece) -> bool {
        piece.at == 0 && piece.blocks == self.io.blocks
    }

    /// The command of a piece, with its data.
    pub(super) fn command(
        &mut self,
        piece: &Piece,
        means: Means,
        nsid: u32,
        shape: &Shape,
    ) -> (Sqe, Payload) {
        let geometry = &shape.geometry;
        let len = geometry.transfer_bytes(piece.blocks);
        let from = geometry.transfer_bytes(piece.at);
        let rw = Rw {
            fua: self.io.fua,
            ..Rw::new(self.io.lba.0 + u64::from(piece.at), piece.blocks)
        };
        let outbound = |io: &Io| Payload::ToController(io.buf.slice(from..from + len));
        let (op, payload) = match (means, self.io.op) {
            (Means::ReadAndCompare, _) => (IoOp::Read(rw), Payload::ToHost(IoBuf::alloc(len))),
            (Means::Zeroes { deallocate }, _) => {
                (IoOp::WriteZeroes(Rw { deallocate, ..rw }), Payload::None)
            }
            (Means::WrittenZeroes, _) => {
                (IoOp::Write(rw), Payload::ToController(IoBuf::zeroes(len)))
            }
            (Means::Deallocate, _) => {
                let dsm = Dsm {
                    ranges: 1,
                    deallocate: true,
                    integral_read: false,
                    integral_write: false,
                };
                let range = DsmRange {
                    blocks: piece.blocks.into(),
                    slba: rw.slba.into(),
                    ..DsmRange::default()
                };
                let data = IoBuf::from_slice(range.bytes());
                (IoOp::Dsm(dsm), Payload::ToController(data))
            }
            (Means::Plain, Op::Read) => {
                let given = match self.is_whole(piece) {
                    true => std::mem::take(&mut self.io.buf),
                    false => IoBuf::empty(),
                };
                let buf = if given.is_empty() {
                    IoBuf::alloc(len)
                } else {
                    given
                };
                (IoOp::Read(rw), Payload::ToHost(buf))
            }
            (Means::Plain, Op::Write) => (IoOp::Write(rw), outbound(&self.io)),
            (Means::Plain, Op::Compare) => (IoOp::Compare(rw), outbound(&self.io)),
            (Means::Plain, _) => (IoOp::Flush, Payload::None),
        };
        let fuse = Fuse::Normal;
        (IoCmd { nsid, fuse, op }.to_sqe(), payload)
    }

    /// Takes back the buffer of a command that failed with its path.
    pub(super) fn take_back(&mut self, piece: &Piece, means: Means, buf: IoBuf) {
        if means == Means::Plain && self.io.op == Op::Read && self.is_whole(piece) {
            self.io.buf = buf;
        }
    }

    /// Takes the data of a command that succeeded.
    ///
    /// # Errors
    /// `None` if the array sent less than was asked for; the blocks differ from those compared.
    pub(super) fn succeeded(
        &mut self,
        piece: &Piece,
        means: Means,
        data: IoBuf,
        shape: &Shape,
    ) -> Result<(), Option<IoError>> {
        let reads = means == Means::ReadAndCompare || self.io.op == Op::Read;
        let len = shape.geometry.transfer_bytes(piece.blocks);
        if reads && data.len() != len {
            return Err(None);
        }
        if means == Means::ReadAndCompare {
            let from = shape.geometry.transfer_bytes(piece.at);
            let same = self.io.buf.slice(from..from + len) == data;
            return if same {
                Ok(())
            } else {
                Err(Some(IoError::Miscompare))
            };
        }
        if self.io.op == Op::Read {
            if self.is_whole(piece) {
                self.io.buf = data;
            } else {
                self.parts.push((piece.at, data));
            }
        }
        Ok(())
    }

    /// Puts the parts of a read together.
    pub(super) fn gather(&mut self, shape: &Shape) {
        let mut parts = std::mem::take(&mut self.parts);
        parts.sort_by_key(|(at, _)| *at);
        let given = !self.io.buf.is_empty();
        for (at, data) in parts {
            if !given {
                self.io.buf.append(data);
                continue;
            }
            let mut to = shape.geometry.transfer_bytes(at);
            for bytes in data.slices() {
                self.io.buf.copy_from(to, bytes);
                to += bytes.len();
            }
        }
    }
}

/// What to do about a command that the array failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::nvme) enum Verdict {
    /// The I/O failed.
    Fails(IoError),
    /// Another path may do it; this one's ANA states are to be read again.
    Elsewhere,
    /// It may be done later, on any path.
    Again,
}

/// The meaning of a status that is not success (NVMe Base 2.1, 4.2.3).
pub(in crate::nvme) fn verdict(status: Status) -> Verdict {
    let elsewhere = [
        Status::ANA_INACCESSIBLE,
        Status::ANA_PERSISTENT_LOSS,
        Status::ANA_TRANSITION,
    ];
    if elsewhere.iter().any(|one| status.is(*one)) {
        return Verdict::Elsewhere;
    }
    let again = [
        Status::INTERNAL_PATH_ERROR,
        Status::CONTROLLER_PATHING_ERROR,
        Status::HOST_PATHING_ERROR,
        Status::TRANSIENT_TRANSPORT,
        Status::COMMAND_INTERRUPTED,
        Status::NAMESPACE_NOT_READY,
        Status::ABORTED_SQ_DELETION,
        Status::ABORT_REQUESTED,
        Status::ABORTED_POWER_LOSS,
    ];
    if !status.is_dnr() && again.iter().any(|one| status.is(*one)) {
        return Verdict::Again;
    }
    let errors = [
        (Status::LBA_OUT_OF_RANGE, IoError::OutOfRange),
        (Status::CAPACITY_EXCEEDED, IoError::NoSpace),
        (Status::COMPARE_FAILURE, IoError::Miscompare),
        (Status::RESERVATION_CONFLICT, IoError::Denied),
        (Status::ACCESS_DENIED, IoError::Denied),
        (Status::NAMESPACE_WRITE_PROTECTED, IoError::Denied),
        (Status::WRITE_TO_READ_ONLY_RANGE, IoError::Denied),
        (Status::OPERATION_DENIED, IoError::Denied),
        (Status::INVALID_OPCODE, IoError::Unsupported),
        (Status::INVALID_NAMESPACE, IoError::Offline),
        (Status::NAMESPACE_NOT_ATTACHED, IoError::Offline),
    ];
    let known = errors.iter().find(|(one, _)| status.is(*one));
    Verdict::Fails(known.map_or(IoError::Medium, |(_, error)| *error))
}

/// Whether a command that may still be executed by an array whose connection was lost can do no
/// harm: it changes nothing.
pub(super) const fn is_harmless(op: Op) -> bool {
    !op.changes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::Geometry;

    fn shape(boundary: u32) -> Shape {
        Shape {
            geometry: Geometry::new(4096, 1 << 20),
            boundary_blocks: boundary,
            deallocated_zeroes: true,
        }
    }

    #[test]
    fn a_command_ends_at_the_boundary_and_at_the_transfer_limit() {
        let most = |lba, bytes, boundary| Means::Plain.blocks_max(lba, bytes, &shape(boundary));
        assert_eq!(most(0, 128 << 10, 0), 32);
        assert_eq!(most(5, 128 << 10, 8), 3);
        assert_eq!(most(8, 16 << 10, 8), 4);
        assert_eq!(most(0, 100, 0), 1);
    }

    #[test]
    fn unmapped_blocks_must_read_as_zeroes_so_dataset_management_alone_is_not_enough() {
        let all = Abilities {
            compare: true,
            write_zeroes: true,
            dataset_management: true,
            write_cache: true,
        };
        let vague = Shape {
            deallocated_zeroes: false,
            ..shape(0)
        };
        assert_eq!(Means::of(Op::Unmap, all, &shape(0)), Means::Deallocate);
        let zeroes = Means::Zeroes { deallocate: true };
        assert_eq!(Means::of(Op::Unmap, all, &vague), zeroes);
        let none = Abilities::default();
        assert_eq!(Means::of(Op::Unmap, none, &vague), Means::WrittenZeroes);
        assert_eq!(Means::of(Op::Compare, none, &vague), Means::ReadAndCompare);
    }

    #[test]
    fn what_the_array_will_never_do_is_not_tried_again() {
        assert_eq!(verdict(Status::COMMAND_INTERRUPTED), Verdict::Again);
        let dnr = verdict(Status::COMMAND_INTERRUPTED.dnr());
        assert_eq!(dnr, Verdict::Fails(IoError::Medium));
        assert_eq!(verdict(Status::ANA_TRANSITION), Verdict::Elsewhere);
        let denied = Verdict::Fails(IoError::Denied);
        assert_eq!(verdict(Status::RESERVATION_CONFLICT), denied);
    }
}
