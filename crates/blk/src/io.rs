//! One request on its way down ([`Io`]) and the same request on its way back up ([`Done`]).

use crate::{IoBuf, IoError};

/// The number of a block within a volume.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Lba(pub u64);

/// What to do with the blocks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Op {
    /// Bring the blocks. With an empty buffer the volume supplies one (and may share its own
    /// pages, which then never change); otherwise it fills the given one.
    Read,
    /// Store the buffer. Whole pages of it may be kept by the volume without a copy.
    Write,
    /// Make every completed write durable. Carries no blocks.
    Flush,
    /// The blocks hold nothing of worth any more; they read as zeroes afterwards.
    Unmap,
    /// The blocks read as zeroes afterwards, and stay allocated where that makes a difference.
    WriteZeroes,
    /// Succeed only if the blocks hold exactly the buffer.
    Compare,
}

impl Op {
    /// All of them, in the order that counters use.
    pub const ALL: [Self; 6] = [
        Self::Read,
        Self::Write,
        Self::Flush,
        Self::Unmap,
        Self::WriteZeroes,
        Self::Compare,
    ];

    /// The place of this operation in [`Op::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 2,
            Self::Unmap => 3,
            Self::WriteZeroes => 4,
            Self::Compare => 5,
        }
    }

    /// True if the operation changes what the volume holds.
    pub const fn changes(self) -> bool {
        matches!(self, Self::Write | Self::Unmap | Self::WriteZeroes)
    }
}

/// One I/O on its way down, owned by whoever has to act on it next.
///
/// It can only become a [`Done`]. Dropping it instead is a bug (a host would wait for ever), and
/// a loud one.
#[derive(Debug)]
#[must_use = "an Io must be submitted to a lane or finished"]
pub struct Io {
    /// What to do.
    pub op: Op,
    /// First block.
    pub lba: Lba,
    /// Number of blocks; zero for [`Op::Flush`].
    pub blocks: u32,
    /// Force unit access: a write completes only once it is durable.
    pub fua: bool,
    /// The data, interleaved with metadata where the volume has any.
    pub buf: IoBuf,
    /// Chosen by the submitter, given back untouched.
    pub tag: u64,
    bomb: Bomb,
}

/// One I/O on its way back up: the same request, with its outcome.
///
/// It repeats the request, so a layer that acts on completion keeps no table of what it sent down.
#[derive(Debug)]
pub struct Done {
    /// What was asked for.
    pub op: Op,
    /// First block.
    pub lba: Lba,
    /// Number of blocks.
    pub blocks: u32,
    /// Whether durability was asked for.
    pub fua: bool,
    /// The data read, or the buffer given to write.
    pub buf: IoBuf,
    /// The submitter's tag.
    pub tag: u64,
    /// How it went.
    pub result: Result<(), IoError>,
}

impl Io {
    /// A request for `blocks` blocks from `lba` on.
    pub fn new(op: Op, lba: Lba, blocks: u32, buf: IoBuf, tag: u64) -> Self {
        Self {
            op,
            lba,
            blocks,
            fua: false,
            buf,
            tag,
            bomb: Bomb,
        }
    }

    /// A request to make all completed writes durable.
    pub fn flush(tag: u64) -> Self {
        Self::new(Op::Flush, Lba(0), 0, IoBuf::empty(), tag)
    }

    /// The same request with force unit access.
    pub fn with_fua(mut self, fua: bool) -> Self {
        self.fua = fua;
        self
    }

    /// Turns the request into its outcome.
    pub fn finish(self, result: Result<(), IoError>) -> Done {
        let Self {
            op,
            lba,
            blocks,
            fua,
            buf,
            tag,
            bomb,
        } = self;
        std::mem::forget(bomb);
        Done {
            op,
            lba,
            blocks,
            fua,
            buf,
            tag,
            result,
        }
    }
}

impl Done {
    /// The same request again, for a second path.
    pub fn retry(self) -> Io {
        Io::new(self.op, self.lba, self.blocks, self.buf, self.tag).with_fua(self.fua)
    }
}

/// A field and not an `impl Drop for Io`, so that `finish` can move the other fields out.
#[derive(Debug)]
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("an Io was dropped before it was finished");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "dropped before it was finished")]
    fn dropping_an_io_is_loud() {
        drop(Io::flush(1));
    }

    #[test]
    fn a_retry_repeats_the_request() {
        let io = Io::new(Op::Write, Lba(7), 3, IoBuf::zeroes(1536), 9).with_fua(true);
        let again = io.finish(Err(IoError::Transport)).retry();
        assert_eq!((again.op, again.lba, again.blocks), (Op::Write, Lba(7), 3));
        assert_eq!((again.fua, again.buf.len(), again.tag), (true, 1536, 9));
        let _ = again.finish(Ok(()));
    }
}
