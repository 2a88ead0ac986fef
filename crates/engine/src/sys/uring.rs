//! The io_uring driver: descriptors by multishot poll, file operations by their own opcodes.

use super::Event;
use super::files::Request;
use crate::actor::ActorId;
use blk::{FileOp, Nanos};
use io_uring::{IoUring, cqueue, opcode, squeue, types};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;

/// Submission places: a burst of file operations beyond them waits in a list of ours.
const ENTRIES: u32 = 256;
/// Completion places: many connections may wake at once; the kernel keeps what does not fit.
const COMPLETIONS: u32 = 4096;

const POLL_MASK: u32 = (libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP) as u32;

const KIND_SHIFT: u32 = 60;
const KIND_FD: u64 = 1 << KIND_SHIFT;
const KIND_FILE: u64 = 2 << KIND_SHIFT;
const KIND_BELL: u64 = 3 << KIND_SHIFT;
const KIND_IGNORED: u64 = 4 << KIND_SHIFT;

struct Watch {
    actor: ActorId,
    data: u64,
}

pub(crate) struct Uring {
    ring: IoUring,
    watches: HashMap<RawFd, Watch>,
    /// Which descriptor a watch number stands for.
    fds: HashMap<u64, RawFd>,
    next_watch: u64,
    bell: RawFd,
    /// Entries that found the submission queue full.
    backlog: VecDeque<squeue::Entry>,
    files: usize,
}

impl Uring {
    pub(crate) fn new(bell: RawFd) -> io::Result<Self> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        let mut own = Self {
            ring,
            watches: HashMap::new(),
            fds: HashMap::new(),
            next_watch: 0,
            bell,
            backlog: VecDeque::new(),
            files: 0,
        };
        own.push(poll_entry(bell, KIND_BELL));
        // A kernel that takes the set-up but not the operations shows it here, in time to fall
        // back to epoll.
        own.ring.submit()?;
        Ok(own)
    }

    fn push(&mut self, entry: squeue::Entry) {
        self.backlog.push_back(entry);
        self.flush_backlog();
    }

    fn flush_backlog(&mut self) {
        let mut queue = self.ring.submission();
        while let Some(entry) = self.backlog.front() {
            // SAFETY: what an entry points to (the pieces of a file operation) stays in its slot
            // until its completion has been taken.
            if unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }

    pub(crate) fn watch(&mut self, fd: RawFd, actor: ActorId) -> io::Result<()> {
        self.unwatch(fd);
        let data = KIND_FD | self.next_watch;
        self.next_watch += 1;
        self.watches.insert(fd, Watch { actor, data });
        self.fds.insert(data, fd);
        self.push(poll_entry(fd, data));
        Ok(())
    }

    pub(crate) fn unwatch(&mut self, fd: RawFd) {
        if let Some(watch) = self.watches.remove(&fd) {
            self.fds.remove(&watch.data);
            // A removal of the poll fails while an event of it is under way; a cancellation does
            // not, and a poll that stayed would hold the socket open behind its owner's back.
            let remove = opcode::AsyncCancel::new(watch.data)
                .build()
                .user_data(KIND_IGNORED);
            self.push(remove);
        }
    }

    pub(crate) fn start_file(&mut self, request: &Request) {
        let fd = types::Fd(request.fd);
        let Request {
            offset,
            pieces,
            count,
            ..
        } = *request;
        let entry = match request.op {
            FileOp::Read => opcode::Readv::new(fd, pieces, count).offset(offset).build(),
            FileOp::Write { durable } => {
                let flags = if durable { libc::RWF_DSYNC } else { 0 };
                opcode::Writev::new(fd, pieces, count)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
            }
            FileOp::Sync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            FileOp::Punch { len } => clear(fd, libc::FALLOC_FL_PUNCH_HOLE, offset, len),
            FileOp::Zero { len } => clear(fd, libc::FALLOC_FL_ZERO_RANGE, offset, len),
        };
        self.files += 1;
        self.push(entry.user_data(KIND_FILE | request.slot as u64));
    }

    pub(crate) fn poll(&mut self, wait: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        self.enter(wait)?;
        let mut rearm = Vec::new();
        for completion in self.ring.completion() {
            let data = completion.user_data();
            let ended = !cqueue::more(completion.flags());
            match data & (0xf << KIND_SHIFT) {
                KIND_FD => {
                    let Some(&fd) = self.fds.get(&data) else {
                        continue;
                    };
                    let watch = &self.watches[&fd];
                    // Told in any case: a broken descriptor is for its owner to find out.
                    events.push(Event::Fd(watch.actor));
                    if ended && may_watch_again(completion.result()) {
                        rearm.push((fd, data));
                    }
                }
                KIND_FILE => {
                    self.files -= 1;
                    let slot = (data & !(0xf << KIND_SHIFT)) as usize;
                    events.push(Event::File {
                        slot,
                        result: completion.result(),
                    });
                }
                KIND_BELL => {
                    events.push(Event::Bell);
                    if ended {
                        rearm.push((self.bell, data));
                    }
                }
                _ => {}
            }
        }
        for (fd, data) in rearm {
            self.push(poll_entry(fd, data));
        }
        Ok(())
    }

    /// Submits what is queued and runs deferred kernel work, without a system call when there is
    /// neither.
    fn enter(&mut self, wait: Option<Nanos>) -> io::Result<()> {
        self.flush_backlog();
        let (queued, pending) = {
            let queue = self.ring.submission();
            (queue.len(), queue.taskrun() || queue.cq_overflow())
        };
        let ready = !self.ring.completion().is_empty();
        if queued == 0 && !pending && (wait.is_none() || ready) {
            return Ok(());
        }
        // Whoever waits in the backlog must not wait for those before it to complete.
        let wanted = usize::from(wait.is_some() && !ready && self.backlog.is_empty());
        let span = types::Timespec::from(wait.unwrap_or_default().duration());
        let args = types::SubmitArgs::new().timespec(&span);
        let result = if wanted > 0 {
            self.ring.submitter().submit_with_args(wanted, &args)
        } else {
            let flags = 1; // IORING_ENTER_GETEVENTS runs the deferred work.
            // SAFETY: no argument structure is passed; `queued` entries were pushed above.
            unsafe {
                self.ring
                    .submitter()
                    .enter::<libc::sigset_t>(queued as u32, 0, flags, None)
            }
        };
        match result {
            Ok(_) => Ok(()),
            Err(e) => match e.raw_os_error() {
                // Time passed, a signal came, or the kernel wants completions taken first.
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(e),
            },
        }
    }
}

/// Whether a poll that ended with this result can be armed again: not where it would end the same
/// way at once, for ever.
fn may_watch_again(result: i32) -> bool {
    !matches!(
        -result,
        libc::EBADF | libc::EINVAL | libc::EPERM | libc::EOPNOTSUPP
    )
}

fn clear(fd: types::Fd, mode: i32, offset: u64, len: u64) -> squeue::Entry {
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    opcode::Fallocate::new(fd, len)
        .offset(offset)
        .mode(mode)
        .build()
}

fn poll_entry(fd: RawFd, data: u64) -> squeue::Entry {
    opcode::PollAdd::new(types::Fd(fd), POLL_MASK)
        .multi(true)
        .build()
        .user_data(data)
}

impl Drop for Uring {
    /// The kernel may still write into buffers of file operations: wait for it.
    fn drop(&mut self) {
        let mut events = Vec::new();
        while self.files > 0 {
            if self
                .poll(Some(Nanos::from_millis(100)), &mut events)
                .is_err()
            {
                // Without its completions the memory cannot be let go of; ending is safer.
                std::process::abort();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::{Duration, Instant};

    /// Longer than any of these tests may take: who waits for this long has slept.
    const LONG: Nanos = Nanos::from_secs(20);

    fn bell() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
    }

    /// Polls until there is an event besides the bell's, which has to come well before the time to
    /// sleep is over.
    fn next_events(ring: &mut Uring) -> Vec<Event> {
        let (began, mut events) = (Instant::now(), Vec::new());
        while events.is_empty() {
            ring.poll(Some(LONG), &mut events).unwrap();
            events.retain(|event| !matches!(event, Event::Bell));
            assert!(began.elapsed() < Duration::from_secs(15), "it slept");
        }
        events
    }

    #[test]
    fn a_ring_with_a_backlog_does_not_sleep() {
        let (bell, (quiet, _writer)) = (bell(), rustix::pipe::pipe().unwrap());
        let mut ring = Uring::new(bell.as_raw_fd()).unwrap();
        // More than there are places, and none of them ever completes.
        for number in 0..u64::from(4 * ENTRIES) {
            ring.push(poll_entry(quiet.as_raw_fd(), KIND_IGNORED | number));
        }
        let file = tempfile::tempfile().unwrap();
        ring.start_file(&Request {
            slot: 5,
            fd: file.as_raw_fd(),
            op: FileOp::Sync,
            offset: 0,
            pieces: std::ptr::null(),
            count: 0,
        });
        assert!(!ring.backlog.is_empty());
        let events = next_events(&mut ring);
        assert!(matches!(events[..], [Event::File { slot: 5, result: 0 }]));
    }

    #[test]
    fn a_poll_that_ends_with_an_error_is_told_and_armed_again() {
        let (bell, watched) = (bell(), bell());
        let mut ring = Uring::new(bell.as_raw_fd()).unwrap();
        ring.watch(watched.as_raw_fd(), ActorId(3)).unwrap();
        assert!(matches!(
            next_events(&mut ring)[..],
            [Event::Fd(ActorId(3))]
        ));
        // As if the kernel had ended it: the watch itself stays.
        let data = ring.watches[&watched.as_raw_fd()].data;
        let cancel = opcode::AsyncCancel::new(data).build();
        ring.push(cancel.user_data(KIND_IGNORED));
        assert!(matches!(
            next_events(&mut ring)[..],
            [Event::Fd(ActorId(3))]
        ));
        // Armed again it says at once that the descriptor can be written.
        assert!(matches!(
            next_events(&mut ring)[..],
            [Event::Fd(ActorId(3))]
        ));
        rustix::io::write(&watched, &1_u64.to_ne_bytes()).unwrap();
        assert!(matches!(
            next_events(&mut ring)[..],
            [Event::Fd(ActorId(3))]
        ));
    }

    #[test]
    fn a_descriptor_that_cannot_be_watched_is_told_once() {
        let bell = bell();
        let mut ring = Uring::new(bell.as_raw_fd()).unwrap();
        let closed = i32::MAX;
        ring.watch(closed, ActorId(4)).unwrap();
        assert!(matches!(
            next_events(&mut ring)[..],
            [Event::Fd(ActorId(4))]
        ));
        let mut more = Vec::new();
        for _ in 0..10 {
            ring.poll(Some(Nanos::from_micros(100)), &mut more).unwrap();
        }
        assert!(more.iter().all(|event| matches!(event, Event::Bell)));
    }
}
