//! What the tests of this crate share: waiting for a future, jobs, and a home with real files.

use api::handler::{Job, Settings};
use api::names::ResourceName;
use blk::{FileDone, FileIo, FileOp, FileQueue, Home};
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};
use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io::{IoSlice, IoSliceMut};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for a future on the calling thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A first-time job for the resource of this name.
pub(crate) fn job(name: &str) -> Job {
    let name = ResourceName::parse(name, "name").unwrap();
    Job {
        name,
        replay: false,
        volumes: BTreeMap::new(),
        settings: Settings::default(),
    }
}

/// The same job after a restart.
pub(crate) fn replay(name: &str) -> Job {
    Job {
        replay: true,
        ..job(name)
    }
}

/// A home whose files see the very buffers of a lane, so that direct I/O works, and whose
/// operations can be made to fail.
#[derive(Clone, Copy, Default)]
pub(crate) struct FileHome {
    /// What the kernel answers to `Punch`, if not the truth.
    pub(crate) punch: Option<i32>,
    /// What the kernel answers to `Zero`, if not the truth.
    pub(crate) zero: Option<i32>,
    /// What the kernel answers to `Sync`, if not the truth.
    pub(crate) sync: Option<i32>,
    /// What the kernel answers to everything else, if not the truth.
    pub(crate) rest: Option<i32>,
    /// True if nothing ever completes.
    pub(crate) hangs: bool,
    /// True if not even a queue can be had.
    pub(crate) refuses: bool,
}

impl Home for FileHome {
    fn waker(&self) -> Waker {
        Waker::noop().clone()
    }
    fn open_file(&mut self, file: Arc<File>) -> std::io::Result<Box<dyn FileQueue>> {
        if self.refuses {
            return Err(Errno::MFILE.into());
        }
        Ok(Box::new(Queue {
            file,
            home: *self,
            done: Vec::new(),
        }))
    }
    fn keep(&self) -> Box<dyn Home> {
        Box::new(*self)
    }
}

struct Queue {
    file: Arc<File>,
    home: FileHome,
    done: Vec<FileDone>,
}

impl Queue {
    fn act(&self, io: &mut FileIo) -> Result<usize, Errno> {
        let file = &self.file;
        let forced = match io.op {
            FileOp::Punch { .. } => self.home.punch,
            FileOp::Zero { .. } => self.home.zero,
            FileOp::Sync => self.home.sync,
            _ => self.home.rest,
        };
        if let Some(errno) = forced {
            return Err(Errno::from_raw_os_error(errno));
        }
        let keep = FallocateFlags::KEEP_SIZE;
        match io.op {
            FileOp::Read => {
                let slices = io
                    .buf
                    .slices_mut()
                    .map(|part| IoSliceMut::new(part.unwrap()));
                rustix::io::preadv(file, &mut slices.collect::<Vec<_>>(), io.offset)
            }
            FileOp::Write { durable } => {
                let slices: Vec<_> = io.buf.slices().map(IoSlice::new).collect();
                let sync = if durable {
                    ReadWriteFlags::DSYNC
                } else {
                    ReadWriteFlags::empty()
                };
                rustix::io::pwritev2(file, &slices, io.offset, sync)
            }
            FileOp::Sync => rustix::fs::fdatasync(file).map(|()| 0),
            FileOp::Punch { len } => {
                let flags = FallocateFlags::PUNCH_HOLE | keep;
                rustix::fs::fallocate(file, flags, io.offset, len).map(|()| 0)
            }
            FileOp::Zero { len } => {
                let flags = FallocateFlags::ZERO_RANGE | keep;
                rustix::fs::fallocate(file, flags, io.offset, len).map(|()| 0)
            }
        }
    }
}

impl FileQueue for Queue {
    fn submit(&mut self, mut io: FileIo) {
        if !self.home.hangs {
            let result = self.act(&mut io).map_err(Errno::raw_os_error);
            self.done.push(FileDone {
                token: io.token,
                buf: io.buf,
                result,
            });
        }
    }
    fn poll(&mut self, done: &mut Vec<FileDone>) {
        done.append(&mut self.done);
    }
}
