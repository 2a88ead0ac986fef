//! What a reactor lends to a lane. The engine has the real one, the test kit a simulated one.

use crate::IoBuf;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::task::Waker;

/// What a reactor lends to a lane that opens on it.
pub trait Home {
    /// Wakes whoever polls the lane, from any thread.
    fn waker(&self) -> Waker;

    /// A private queue of asynchronous operations on an open file.
    fn open_file(&mut self, file: Arc<File>) -> io::Result<Box<dyn FileQueue>>;

    /// The same home as a value of its own, for a lane whose volume gets another file below while
    /// the lane is in use. It stays on this thread, and must not outlive whoever polls the lane.
    fn keep(&self) -> Box<dyn Home>;
}

/// What to do with a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FileOp {
    /// Fill the buffer from `offset`.
    Read,
    /// Store the buffer at `offset`; `durable` as by `RWF_DSYNC`.
    Write {
        /// Complete only once the data is on stable storage.
        durable: bool,
    },
    /// `fdatasync`.
    Sync,
    /// Make the range read as zeroes and give its space back (`FALLOC_FL_PUNCH_HOLE`).
    Punch {
        /// Length of the range in bytes.
        len: u64,
    },
    /// Make the range read as zeroes and keep its space (`FALLOC_FL_ZERO_RANGE`).
    Zero {
        /// Length of the range in bytes.
        len: u64,
    },
}

/// One operation on a file.
#[derive(Debug)]
pub struct FileIo {
    /// What to do.
    pub op: FileOp,
    /// Byte offset in the file.
    pub offset: u64,
    /// The data; a read fills it and needs it exclusive.
    pub buf: IoBuf,
    /// Given back untouched.
    pub token: u64,
}

/// The outcome of a [`FileIo`].
#[derive(Debug)]
pub struct FileDone {
    /// The request's token.
    pub token: u64,
    /// The request's buffer.
    pub buf: IoBuf,
    /// Bytes moved (fewer than asked only at the end of the file), or the `errno`.
    pub result: Result<usize, i32>,
}

/// A private queue of operations on one file. Dropping it while operations are under way is
/// allowed: their buffers stay alive until the kernel is done with them.
pub trait FileQueue {
    /// Starts an operation. It comes back from `poll` exactly once.
    fn submit(&mut self, io: FileIo);
    /// Moves what has finished into `done`.
    fn poll(&mut self, done: &mut Vec<FileDone>);
}
