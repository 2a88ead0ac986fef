//! The lane of a file: each I/O becomes one file operation, or a few in a row.
//!
//! Reads and writes go in one piece and without a copy wherever the buffer allows. The rest goes
//! in bounded pieces: what is too long for one call, what direct I/O does not take as it is, and
//! what the file system cannot do by itself (compare, and zeroes where it has no holes).

use super::errno::reason;
use super::open::Alignment;
use super::volume::Shared;
use blk::{
    Done, FileDone, FileIo, FileOp, FileQueue, Io, IoBuf, IoError, Lane, Nanos, Op, PAGE_BYTES,
    PageRef,
};
use slab::Slab;
use std::sync::Arc;

/// Bytes of one file operation that moves data: `readv` takes 1,024 pages at a time.
const PIECE_BYTES: usize = 1024 * PAGE_BYTES;
/// The same for data that needs a buffer besides the submitter's own, so that a deep queue of
/// those does not hold much memory.
const COPIED_PIECE_BYTES: usize = 32 * PAGE_BYTES;

/// Bytes of one clearing operation. A file system or a disk may take long for one, during which
/// others of the same file wait; and disks give back space in units, so it is a large power of two
/// that no unit reaches across.
const CLEAR_PIECE_BYTES: u64 = 64 << 20;

/// How blocks come to read as zeroes, best first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Clearing {
    /// By giving their space back.
    Punch,
    /// By marking them unwritten.
    Zero,
    /// By writing zeroes.
    Write,
}

/// What the file operation under way does for its I/O.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Fills the submitter's buffer, or a new one, which is lent to the operation meanwhile.
    ReadAll,
    /// Reads a piece to copy into the submitter's buffer or append to the new one.
    ReadPiece,
    /// Writes a piece.
    Write,
    /// Reads a piece to compare.
    Compare,
    /// Makes a piece, or all of it, zeroes.
    Clear(Clearing),
    /// Makes all writes durable.
    Sync,
}

struct Pending {
    io: Io,
    step: Step,
    /// Bytes of the I/O that are done.
    at: u64,
    /// Bytes that the operation under way covers.
    len: u64,
    /// Data read so far for an I/O that brought no buffer.
    gathered: IoBuf,
    /// Which sync is under way.
    sync: u64,
}

/// One thread's way into the file.
pub(super) struct AioLane {
    shared: Arc<Shared>,
    queue: Box<dyn FileQueue>,
    pending: Slab<Pending>,
    done: Vec<Done>,
    file_done: Vec<FileDone>,
    /// A page of zeroes, aligned as direct I/O wants it; made when first needed.
    zeroes: Option<PageRef>,
}

/// What to do after an operation has ended.
enum Next {
    /// Another one.
    Go(Step),
    /// Nothing: the I/O has ended.
    End(Result<(), IoError>),
}

fn total(io: &Io, block_bytes: u32) -> u64 {
    u64::from(io.blocks) * u64::from(block_bytes)
}

/// Whether it completes only once data is durable.
fn durable(io: &Io) -> bool {
    io.op == Op::Flush || io.op.changes() && io.fua
}

fn is_aligned(buf: &IoBuf, alignment: Option<Alignment>) -> bool {
    let Some(Alignment { memory, offset }) = alignment else {
        return true;
    };
    let mut aligned = true;
    buf.pieces(0, |start, len| {
        aligned &= start.addr().is_multiple_of(memory) && len.is_multiple_of(offset);
    });
    aligned
}

impl AioLane {
    pub(super) fn new(shared: Arc<Shared>, queue: Box<dyn FileQueue>) -> Self {
        Self {
            shared,
            queue,
            pending: Slab::new(),
            done: Vec::new(),
            file_done: Vec::new(),
            zeroes: None,
        }
    }

    fn admit(&self, io: &Io) -> Result<(), IoError> {
        self.shared.shape.geometry().admit(io)?;
        if io.op == Op::Read && !io.buf.is_exclusive() {
            return Err(IoError::Misaligned);
        }
        if self.shared.faults.is_lost() {
            return Err(IoError::Offline);
        }
        // A sync that succeeds after one that failed would promise what is lost already.
        if durable(io) && self.shared.faults.unsynced().is_some() {
            return Err(IoError::Medium);
        }
        Ok(())
    }

    /// The first step of an admitted I/O.
    fn first(&self, io: &Io) -> Step {
        match io.op {
            Op::Flush => Step::Sync,
            Op::Write => Step::Write,
            Op::Compare => Step::Compare,
            Op::Read if io.buf.len() > PIECE_BYTES => Step::ReadPiece,
            Op::Read if !is_aligned(&io.buf, self.shared.alignment) => Step::ReadPiece,
            Op::Read if io.buf.is_empty() && self.bytes(io) > PIECE_BYTES as u64 => Step::ReadPiece,
            Op::Read => Step::ReadAll,
            Op::Unmap => self.clearing(Clearing::Punch),
            Op::WriteZeroes => self.clearing(Clearing::Zero),
        }
    }

    /// The best way to clear that is not known to be missing, from `wish` on.
    fn clearing(&self, wish: Clearing) -> Step {
        Step::Clear(match wish {
            Clearing::Punch if self.shared.can_punch() => Clearing::Punch,
            Clearing::Punch | Clearing::Zero if self.shared.can_zero() => Clearing::Zero,
            _ => Clearing::Write,
        })
    }

    fn bytes(&self, io: &Io) -> u64 {
        total(io, self.shared.shape.geometry().block_bytes)
    }

    /// Starts the file operation of the I/O's present step.
    fn start(&mut self, token: usize) {
        let block_bytes = self.shared.shape.geometry().block_bytes;
        let zeroes = &mut self.zeroes;
        let pending = &mut self.pending[token];
        let io = &mut pending.io;
        let left = total(io, block_bytes) - pending.at;
        let piece = |most: usize| left.min(most as u64) as usize;
        let at = pending.at as usize;
        let offset = io.lba.0 * u64::from(block_bytes) + pending.at;
        let clear = left.min(CLEAR_PIECE_BYTES - offset % CLEAR_PIECE_BYTES);
        let direct = self.shared.alignment.is_some();
        let (op, buf, len) = match pending.step {
            Step::ReadAll => {
                let given = std::mem::take(&mut io.buf);
                let buf = if given.is_empty() {
                    IoBuf::alloc(piece(PIECE_BYTES))
                } else {
                    given
                };
                (FileOp::Read, buf, left)
            }
            Step::ReadPiece | Step::Compare => {
                let len = piece(COPIED_PIECE_BYTES);
                (FileOp::Read, IoBuf::alloc(len), len as u64)
            }
            Step::Write => {
                let len = piece(PIECE_BYTES);
                let mut buf = io.buf.slice(at..at + len);
                if !is_aligned(&buf, self.shared.alignment) {
                    buf = copied(&io.buf.slice(at..at + piece(COPIED_PIECE_BYTES)));
                }
                let len = buf.len() as u64;
                // Through the page cache, the sync that makes a write durable also reports what
                // became of earlier ones; it is a step of its own then, so that it is known which
                // of them failed.
                let durable = io.fua && direct;
                (FileOp::Write { durable }, buf, len)
            }
            Step::Clear(Clearing::Punch) => (FileOp::Punch { len: clear }, IoBuf::empty(), clear),
            Step::Clear(Clearing::Zero) => (FileOp::Zero { len: clear }, IoBuf::empty(), clear),
            Step::Clear(Clearing::Write) => {
                let page = zeroes.get_or_insert_with(PageRef::zeroed);
                let buf = repeated(page, piece(PIECE_BYTES));
                let len = buf.len() as u64;
                (FileOp::Write { durable: false }, buf, len)
            }
            Step::Sync => {
                pending.sync = self.shared.unflushed.begin();
                (FileOp::Sync, IoBuf::empty(), 0)
            }
        };
        pending.len = len;
        self.queue.submit(FileIo {
            op,
            offset,
            buf,
            token: token as u64,
        });
    }

    /// Takes in what a file operation brought.
    fn finish_step(&mut self, token: usize, buf: IoBuf, result: Result<usize, i32>) {
        let pending = &mut self.pending[token];
        let next = match result {
            Ok(moved) => pending.advance(buf, moved, &self.shared),
            Err(errno) => {
                if pending.step == Step::ReadAll {
                    pending.io.buf = buf;
                }
                let (step, fua) = (pending.step, pending.io.fua);
                self.worse(step, fua, errno)
            }
        };
        match next {
            Next::Go(step) => {
                self.pending[token].step = step;
                self.start(token);
            }
            Next::End(result) => {
                let pending = self.pending.remove(token);
                let unsynced = self.shared.faults.unsynced().is_some();
                let result = match result {
                    // Another lane's sync was told meanwhile what this one was not.
                    Ok(()) if durable(&pending.io) && unsynced => Err(IoError::Medium),
                    result => result.map_err(|error| self.shared.judge(error)),
                };
                if result.is_ok() && pending.io.op.changes() && !pending.io.fua {
                    self.shared.unflushed.written();
                }
                self.done.push(pending.finish(result));
            }
        }
    }

    /// What to do about an error: clear in another way if that is what cannot be done, or give up.
    fn worse(&self, step: Step, fua: bool, errno: i32) -> Next {
        let never = matches!(errno, libc::EOPNOTSUPP | libc::ENOSYS);
        // A request may be odd in the eyes of a file system that does others of its kind.
        let cannot = never || errno == libc::EINVAL;
        match step {
            Step::Clear(Clearing::Punch) if cannot => {
                if never {
                    self.shared.never_punch();
                }
                return Next::Go(self.clearing(Clearing::Zero));
            }
            Step::Clear(Clearing::Zero) if cannot => {
                if never {
                    self.shared.never_zero();
                }
                return Next::Go(self.clearing(Clearing::Write));
            }
            _ => {}
        }
        let error = reason(errno);
        match step {
            Step::Sync => self.shared.sync_failed(errno),
            // A full disk or a read-only one refuses the write before it comes to the sync.
            Step::Write if fua && self.shared.alignment.is_some() => {
                if matches!(
                    error,
                    IoError::Medium | IoError::Offline | IoError::Transport
                ) {
                    self.shared.sync_failed(errno);
                }
            }
            _ => {}
        }
        Next::End(Err(error))
    }
}

/// A copy in pages of the pool, which are aligned.
fn copied(buf: &IoBuf) -> IoBuf {
    let mut copy = IoBuf::alloc(buf.len());
    let mut at = 0;
    for bytes in buf.slices() {
        copy.copy_from(at, bytes);
        at += bytes.len();
    }
    copy
}

/// `len` bytes of the same page over and over.
fn repeated(page: &PageRef, len: usize) -> IoBuf {
    let mut buf = IoBuf::empty();
    while buf.len() < len {
        buf.push_page(page.clone(), 0..PAGE_BYTES.min(len - buf.len()));
    }
    buf
}

impl Pending {
    /// The operation of the present step has moved so many bytes.
    fn advance(&mut self, buf: IoBuf, moved: usize, shared: &Shared) -> Next {
        let moves = matches!(self.step, Step::ReadAll | Step::ReadPiece | Step::Compare)
            || matches!(self.step, Step::Write | Step::Clear(Clearing::Write));
        if moves && moved as u64 != self.len {
            // The file has become shorter than the volume: somebody cut it.
            if self.step == Step::ReadAll {
                self.io.buf = buf;
            }
            return Next::End(Err(IoError::Medium));
        }
        match self.step {
            Step::Sync => {
                shared.unflushed.synced(self.sync);
                return Next::End(Ok(()));
            }
            Step::ReadAll => self.io.buf = buf,
            Step::ReadPiece if self.io.buf.is_empty() => self.gathered.append(buf),
            Step::ReadPiece => {
                let mut at = self.at as usize;
                for bytes in buf.slices() {
                    self.io.buf.copy_from(at, bytes);
                    at += bytes.len();
                }
            }
            Step::Compare => {
                let at = self.at as usize;
                if self.io.buf.slice(at..at + buf.len()) != buf {
                    return Next::End(Err(IoError::Miscompare));
                }
            }
            Step::Write | Step::Clear(_) => {}
        }
        self.at += self.len;
        let left = total(&self.io, shared.shape.geometry().block_bytes) - self.at;
        match self.step {
            step if left > 0 => Next::Go(step),
            // Holes and zeroes have no durable form of their own.
            Step::Clear(_) if self.io.fua => Next::Go(Step::Sync),
            Step::Write if self.io.fua && shared.alignment.is_none() => Next::Go(Step::Sync),
            _ => Next::End(Ok(())),
        }
    }

    fn finish(mut self, result: Result<(), IoError>) -> Done {
        if result.is_ok() && !self.gathered.is_empty() {
            self.io.buf = self.gathered;
        }
        self.io.finish(result)
    }
}

impl Lane for AioLane {
    fn submit(&mut self, _: Nanos, io: Io) {
        if let Err(error) = self.admit(&io) {
            self.done.push(io.finish(Err(error)));
            return;
        }
        if io.blocks == 0 && io.op != Op::Flush {
            self.done.push(io.finish(Ok(())));
            return;
        }
        let step = self.first(&io);
        let pending = Pending {
            io,
            step,
            at: 0,
            len: 0,
            gathered: IoBuf::empty(),
            sync: 0,
        };
        let token = self.pending.insert(pending);
        self.start(token);
    }

    fn poll(&mut self, _: Nanos, done: &mut Vec<Done>) {
        let mut ended = std::mem::take(&mut self.file_done);
        self.queue.poll(&mut ended);
        for FileDone { token, buf, result } in ended.drain(..) {
            self.finish_step(token as usize, buf, result);
        }
        self.file_done = ended;
        done.append(&mut self.done);
    }
}

impl Drop for AioLane {
    fn drop(&mut self) {
        // Whoever drops the lane no longer waits; the queue keeps buffers that the kernel uses.
        for pending in self.pending.drain() {
            drop(pending.io.finish(Err(IoError::Aborted)));
        }
    }
}

/// A lane onto a file for which the reactor has no queue: everything fails, and may be retried.
#[derive(Default)]
pub(super) struct FailedLane {
    done: Vec<Done>,
}

impl Lane for FailedLane {
    fn submit(&mut self, _: Nanos, io: Io) {
        self.done.push(io.finish(Err(IoError::Busy)));
    }
    fn poll(&mut self, _: Nanos, done: &mut Vec<Done>) {
        done.append(&mut self.done);
    }
}
