//! File operations under way: their buffers and gather lists stay here until the kernel is done.

use super::Driver;
use crate::actor::ActorId;
use blk::{FileDone, FileIo, FileOp, FileQueue};
use slab::Slab;
use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::sync::Arc;

/// Pieces of one vectored call; Linux allows 1024 (`UIO_MAXIOV`), the rest follows in a second.
const PIECES_MAX: usize = 256;

/// Times that a call which the kernel puts off is made again in a row before its submitter is told:
/// a device that stays busy must not keep a thread busy too.
const TRIES_MAX: u8 = 16;

/// What a driver is asked to do. The pointers belong to a slot and outlive the operation.
pub(crate) struct Request {
    pub(crate) slot: usize,
    pub(crate) fd: RawFd,
    pub(crate) op: FileOp,
    pub(crate) offset: u64,
    pub(crate) pieces: *const libc::iovec,
    pub(crate) count: u32,
}

// SAFETY: the pieces point into a slot of the hub, which is neither changed nor dropped before the
// event of this request has come back; the worker threads of the epoll driver only read the list
// and access buffers that nobody else touches meanwhile.
unsafe impl Send for Request {}

struct Slot {
    io: FileIo,
    file: Arc<File>,
    queue: Rc<RefCell<Vec<FileDone>>>,
    actor: ActorId,
    pieces: Vec<libc::iovec>,
    moved: usize,
    /// Calls put off since bytes last moved.
    tries: u8,
}

impl Slot {
    fn request(&mut self, slot: usize) -> Request {
        let Self {
            io, pieces, moved, ..
        } = self;
        pieces.clear();
        let mut add = |base: *mut u8, len: usize| {
            if pieces.len() < PIECES_MAX {
                pieces.push(libc::iovec {
                    iov_base: base.cast(),
                    iov_len: len,
                });
            }
        };
        match io.op {
            FileOp::Read => io.buf.pieces_mut(*moved, add),
            FileOp::Write { .. } => io.buf.pieces(*moved, |base, len| add(base.cast_mut(), len)),
            FileOp::Sync | FileOp::Punch { .. } | FileOp::Zero { .. } => {}
        }
        Request {
            slot,
            fd: self.file.as_raw_fd(),
            op: io.op,
            offset: io.offset + *moved as u64,
            pieces: self.pieces.as_ptr(),
            count: self.pieces.len() as u32,
        }
    }

    fn moves_bytes(&self) -> bool {
        matches!(self.io.op, FileOp::Read | FileOp::Write { .. })
    }
}

/// All file operations of one reactor.
#[derive(Default)]
pub(crate) struct FileHub {
    slots: Slab<Slot>,
}

impl FileHub {
    /// Operations under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.slots.len()
    }

    fn start(&mut self, driver: &mut Driver, slot: Slot) {
        let index = self.slots.insert(slot);
        driver.start_file(self.slots[index].request(index));
    }

    /// Takes the outcome of an operation. Returns the actor to run once it is complete; a call
    /// that moved only a part is continued.
    pub(crate) fn ended(
        &mut self,
        driver: &mut Driver,
        index: usize,
        result: i32,
    ) -> Option<ActorId> {
        let slot = &mut self.slots[index];
        let put_off = result == -libc::EINTR || result == -libc::EAGAIN;
        slot.tries = if put_off { slot.tries + 1 } else { 0 };
        let again = put_off && slot.tries < TRIES_MAX;
        if result > 0 && slot.moves_bytes() {
            slot.moved += result as usize;
        }
        let short = result > 0 && slot.moves_bytes() && slot.moved < slot.io.buf.len();
        if again || short {
            driver.start_file(slot.request(index));
            return None;
        }
        let Slot {
            io,
            queue,
            actor,
            moved,
            ..
        } = self.slots.remove(index);
        let result = if result < 0 { Err(-result) } else { Ok(moved) };
        queue.borrow_mut().push(FileDone {
            token: io.token,
            buf: io.buf,
            result,
        });
        Some(actor)
    }
}

/// Where the file operations of one reactor go. The driver comes before the hub: if this is the
/// last to hold them, the kernel is done with the buffers before they are let go of.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) driver: Rc<RefCell<Driver>>,
    pub(crate) hub: Rc<RefCell<FileHub>>,
}

impl Files {
    /// A queue of operations on `file`, whose completions run the actor.
    pub(crate) fn open(&self, file: Arc<File>, actor: ActorId) -> Box<dyn FileQueue> {
        Box::new(Queue {
            file,
            done: Rc::default(),
            actor,
            files: self.clone(),
        })
    }
}

/// The private queue that a lane gets from its home.
struct Queue {
    file: Arc<File>,
    done: Rc<RefCell<Vec<FileDone>>>,
    actor: ActorId,
    files: Files,
}

impl FileQueue for Queue {
    fn submit(&mut self, io: FileIo) {
        let slot = Slot {
            io,
            file: self.file.clone(),
            queue: self.done.clone(),
            actor: self.actor,
            pieces: Vec::new(),
            moved: 0,
            tries: 0,
        };
        let Files { driver, hub } = &self.files;
        hub.borrow_mut().start(&mut driver.borrow_mut(), slot);
    }

    fn poll(&mut self, done: &mut Vec<FileDone>) {
        done.append(&mut self.done.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::IoBuf;
    use rustix::event::{EventfdFlags, eventfd};

    #[test]
    fn a_call_that_is_put_off_again_and_again_comes_back() {
        let bell = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let driver = Driver::epoll(bell.as_raw_fd()).unwrap();
        let files = Files {
            driver: Rc::new(RefCell::new(driver)),
            hub: Rc::default(),
        };
        let mut queue = files.open(Arc::new(tempfile::tempfile().unwrap()), ActorId(1));
        // Without buffers, so that it is no matter when the calls of this test take place.
        queue.submit(FileIo {
            op: FileOp::Sync,
            offset: 0,
            buf: IoBuf::empty(),
            token: 9,
        });
        let Files { driver, hub } = files;
        let put_off = || {
            let (mut hub, mut driver) = (hub.borrow_mut(), driver.borrow_mut());
            hub.ended(&mut driver, 0, -libc::EAGAIN)
        };
        let tries = (1..=1000).find(|_| put_off().is_some());
        assert_eq!(tries, Some(usize::from(TRIES_MAX)));
        let mut done = Vec::new();
        queue.poll(&mut done);
        assert_eq!((done[0].token, done[0].result), (9, Err(libc::EAGAIN)));
    }
}
