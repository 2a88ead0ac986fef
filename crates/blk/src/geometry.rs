//! The size, identity and abilities of a volume.

use crate::{Io, IoError, Op};

/// The three identifiers a namespace can carry (NVM Command Set 1.0, 4.1.5.2), in wire order.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// RFC 4122 UUID; all zeroes means none.
    pub uuid: [u8; 16],
    /// Namespace globally unique identifier; all zeroes means none.
    pub nguid: [u8; 16],
    /// IEEE extended unique identifier; all zeroes means none.
    pub eui64: [u8; 8],
}

/// Size, identity and abilities. A change of any of it bumps `generation` and wakes subscribers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Geometry {
    /// Bytes of data in a block: a power of two, 512 to 65,536.
    pub block_bytes: u32,
    /// Blocks in the volume.
    pub blocks: u64,
    /// Bytes of metadata that follow the data of each block in every buffer.
    pub metadata_bytes: u32,
    /// Who the volume is.
    pub identity: Identity,
    /// Blocks that are written together or not at all, also over a power failure; at least 1.
    pub atomic_blocks: u32,
    /// True if completed writes may be lost on power failure until a flush.
    pub write_cache: bool,
    /// True if unmapping frees something.
    pub thin: bool,
    /// True if others than this process may use it too, as with an array's namespace: what only
    /// we know of it, such as a reservation or a lock, does not bind them.
    pub shared: bool,
    /// The best I/O size in blocks; 0 means no preference.
    pub optimal_blocks: u32,
    /// Counts changes of everything above.
    pub generation: u64,
}

impl Geometry {
    /// A plain volume of so many blocks: durable at once, no metadata, no identity.
    pub const fn new(block_bytes: u32, blocks: u64) -> Self {
        Self {
            block_bytes,
            blocks,
            metadata_bytes: 0,
            identity: Identity {
                uuid: [0; 16],
                nguid: [0; 16],
                eui64: [0; 8],
            },
            atomic_blocks: 1,
            write_cache: false,
            thin: false,
            shared: false,
            optimal_blocks: 0,
            generation: 0,
        }
    }

    /// Bytes that one block takes in a buffer: data and metadata.
    pub const fn stride(&self) -> u32 {
        self.block_bytes + self.metadata_bytes
    }

    /// Bytes of data the volume holds.
    pub const fn data_bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_bytes as u64)
    }

    /// Bytes that `blocks` blocks take in a buffer.
    pub const fn transfer_bytes(&self, blocks: u32) -> usize {
        blocks as usize * self.stride() as usize
    }

    /// The one check of bounds and buffer length. The volume at the bottom of a stack makes it;
    /// layers and front-ends rely on that.
    pub fn admit(&self, io: &Io) -> Result<(), IoError> {
        if io.op == Op::Flush {
            return Ok(());
        }
        let end = io
            .lba
            .0
            .checked_add(u64::from(io.blocks))
            .ok_or(IoError::OutOfRange)?;
        if end > self.blocks {
            return Err(IoError::OutOfRange);
        }
        let wanted = self.transfer_bytes(io.blocks);
        let fits = match io.op {
            Op::Read => io.buf.is_empty() || io.buf.len() == wanted,
            Op::Write | Op::Compare => io.buf.len() == wanted,
            Op::Unmap | Op::WriteZeroes | Op::Flush => true,
        };
        if fits {
            Ok(())
        } else {
            Err(IoError::Misaligned)
        }
    }
}

/// Whether a volume can be used now.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum State {
    /// It serves I/O.
    Online,
    /// It does not, for the reason given, and is expected back: offline is not gone.
    Offline(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{IoBuf, Lba};

    fn check(op: Op, lba: u64, blocks: u32, bytes: usize) -> Result<(), IoError> {
        let io = Io::new(op, Lba(lba), blocks, IoBuf::zeroes(bytes), 0);
        let answer = Geometry::new(512, 100).admit(&io);
        let _ = io.finish(Ok(()));
        answer
    }

    #[test]
    fn the_last_block_is_inside_and_the_next_is_not() {
        assert_eq!(check(Op::Write, 99, 1, 512), Ok(()));
        assert_eq!(check(Op::Write, 100, 1, 512), Err(IoError::OutOfRange));
        assert_eq!(check(Op::Write, 99, 2, 1024), Err(IoError::OutOfRange));
        assert_eq!(check(Op::Unmap, u64::MAX, 2, 0), Err(IoError::OutOfRange));
    }

    #[test]
    fn the_buffer_must_fit_the_blocks() {
        assert_eq!(check(Op::Write, 0, 2, 512), Err(IoError::Misaligned));
        assert_eq!(check(Op::Read, 0, 2, 0), Ok(()));
        assert_eq!(check(Op::Read, 0, 2, 1000), Err(IoError::Misaligned));
        assert_eq!(check(Op::Compare, 0, 1, 0), Err(IoError::Misaligned));
    }
}
