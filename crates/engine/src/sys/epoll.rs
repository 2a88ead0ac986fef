//! The epoll driver, for kernels and containers that forbid io_uring: descriptors by
//! edge-triggered epoll, file operations by a few threads.

use super::Event;
use super::files::Request;
use crate::actor::ActorId;
use blk::{FileOp, Nanos};
use rustix::event::epoll::{self as sys, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Threads for file operations of one reactor: enough to keep a local disk's queue from emptying.
const WORKERS: usize = 4;
/// Events taken by one call.
const BATCH: usize = 64;

const BELL: u64 = u64::MAX;
const FILES: u64 = u64::MAX - 1;

type Outcomes = Arc<Mutex<Vec<(usize, i32)>>>;

pub(crate) struct Epoll {
    epoll: OwnedFd,
    files_bell: Arc<OwnedFd>,
    outcomes: Outcomes,
    work: Option<Sender<Request>>,
    workers: Vec<JoinHandle<()>>,
    buffer: Vec<sys::Event>,
}

fn borrow(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: callers pass descriptors that are open for as long as they are watched.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}

impl Epoll {
    /// Also starts the workers, which go where the calling thread may go: it is pinned after.
    pub(crate) fn new(bell: RawFd) -> io::Result<Self> {
        let epoll = sys::create(CreateFlags::CLOEXEC)?;
        let files_bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let flags = EventFlags::IN | EventFlags::ET;
        sys::add(&epoll, borrow(&bell), EventData::new_u64(BELL), flags)?;
        sys::add(&epoll, &files_bell, EventData::new_u64(FILES), flags)?;
        let (work, jobs) = channel();
        let jobs = Arc::new(Mutex::new(jobs));
        let mut own = Self {
            epoll,
            files_bell: Arc::new(files_bell),
            outcomes: Outcomes::default(),
            work: Some(work),
            workers: Vec::new(),
            buffer: Vec::with_capacity(BATCH),
        };
        for number in 0..WORKERS {
            let (jobs, outcomes, bell) =
                (jobs.clone(), own.outcomes.clone(), own.files_bell.clone());
            let worker = std::thread::Builder::new()
                .name(format!("file-worker-{number}"))
                .spawn(move || self::work(&jobs, &outcomes, &bell))?;
            own.workers.push(worker);
        }
        Ok(own)
    }

    pub(crate) fn watch(&mut self, fd: RawFd, actor: ActorId) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(u64::from(actor.0));
        match sys::add(&self.epoll, borrow(&fd), data, flags) {
            Err(rustix::io::Errno::EXIST) => {
                sys::modify(&self.epoll, borrow(&fd), data, flags)?;
            }
            other => other?,
        }
        Ok(())
    }

    pub(crate) fn unwatch(&mut self, fd: RawFd) {
        // A descriptor that is closed already has left by itself.
        let _ = sys::delete(&self.epoll, borrow(&fd));
    }

    pub(crate) fn start_file(&mut self, request: Request) {
        let work = self.work.as_ref().expect("taken only by drop");
        work.send(request)
            .expect("the workers hold the receiver, and stay until drop");
    }

    pub(crate) fn poll(&mut self, wait: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        let span = wait.unwrap_or_default().duration();
        let span = Timespec {
            tv_sec: span.as_secs().cast_signed(),
            tv_nsec: span.subsec_nanos().into(),
        };
        self.buffer.clear();
        match sys::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(&mut self.buffer),
            Some(&span),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        for event in &self.buffer {
            match event.data.u64() {
                BELL => events.push(Event::Bell),
                FILES => {
                    let _ = rustix::io::read(&*self.files_bell, &mut [0; 8]);
                    let mut ended = self.outcomes.lock().expect("no worker panics");
                    events.extend(
                        ended
                            .drain(..)
                            .map(|(slot, result)| Event::File { slot, result }),
                    );
                }
                actor => events.push(Event::Fd(ActorId(actor as u32))),
            }
        }
        Ok(())
    }
}

/// A worker: one synchronous call per request.
fn work(jobs: &Mutex<Receiver<Request>>, outcomes: &Mutex<Vec<(usize, i32)>>, bell: &OwnedFd) {
    loop {
        let job = jobs.lock().expect("no worker panics").recv();
        let Ok(request) = job else { return };
        let result = perform(&request);
        outcomes
            .lock()
            .expect("no worker panics")
            .push((request.slot, result));
        let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
    }
}

fn perform(request: &Request) -> i32 {
    let Request { fd, pieces, .. } = *request;
    let (count, offset) = (request.count as i32, request.offset.cast_signed());
    let keep = libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: the pieces and the descriptor belong to a slot that stays until this outcome is
    // taken; only this thread touches the buffers meanwhile.
    let result = unsafe {
        match request.op {
            FileOp::Read => libc::preadv(fd, pieces, count, offset),
            FileOp::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                libc::pwritev2(fd, pieces, count, offset, flags)
            }
            FileOp::Sync => libc::fdatasync(fd) as isize,
            FileOp::Punch { len } => {
                let mode = libc::FALLOC_FL_PUNCH_HOLE | keep;
                libc::fallocate(fd, mode, offset, len.cast_signed()) as isize
            }
            FileOp::Zero { len } => {
                let mode = libc::FALLOC_FL_ZERO_RANGE | keep;
                libc::fallocate(fd, mode, offset, len.cast_signed()) as isize
            }
        }
    };
    if result < 0 {
        -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    } else {
        result as i32
    }
}

impl Drop for Epoll {
    /// Ends the workers once they have done what is queued.
    fn drop(&mut self) {
        self.work = None;
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
