//! An [`Actor`] lives on one reactor: a connection, a listener, later a virtqueue.

use crate::reactor::{Local, Reactor};
use crate::sys::Files;
use blk::{FileQueue, Home, Nanos};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::task::Waker;

/// The place of an actor on its reactor.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ActorId(pub u32);

/// What an actor wants after it ran.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// Run again in the next round, whether or not anything happens: it has I/O in flight that
    /// must be polled for, or stopped at its budget.
    Busy,
    /// Run again when a watched descriptor, a file operation or a waker says so, or at the latest
    /// at the time given.
    Idle(Option<Nanos>),
    /// It has ended; drop it.
    Gone,
}

/// Something that lives on one reactor. It is born, run and dropped on that thread.
pub trait Actor: 'static {
    /// Called once, when the actor is in its place: the time to watch descriptors and open lanes.
    fn start(&mut self, cx: &mut Cx<'_>) -> Next;

    /// Called whenever something may have happened for it. Must not block. Spurious calls happen.
    fn run(&mut self, cx: &mut Cx<'_>) -> Next;
}

/// What a running actor sees of its reactor. It is the [`Home`] of the lanes that the actor opens:
/// their completions and wake-ups run the actor.
pub struct Cx<'a> {
    pub(crate) local: &'a Local,
    pub(crate) id: ActorId,
    pub(crate) reactor: &'a Reactor,
}

impl Cx<'_> {
    /// The time now, read from the clock (about 20 ns).
    pub fn now(&self) -> Nanos {
        crate::now()
    }

    /// This actor's place.
    pub fn id(&self) -> ActorId {
        self.id
    }

    /// This reactor, to hand out or to start further actors on.
    pub fn reactor(&self) -> &Reactor {
        self.reactor
    }

    /// Runs this actor whenever `fd` becomes readable, writable or broken, until it is unwatched.
    /// Edge-triggered: after an event the actor reads or writes until it would block, or stays
    /// [`Next::Busy`].
    pub fn watch(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.local.watch(fd.as_raw_fd(), self.id)
    }

    /// Ends [`Cx::watch`]; to be called before the descriptor is closed.
    pub fn unwatch(&mut self, fd: BorrowedFd<'_>) {
        self.local.unwatch(fd.as_raw_fd(), self.id);
    }
}

impl Home for Cx<'_> {
    fn waker(&self) -> Waker {
        self.reactor.waker(self.id)
    }

    fn open_file(&mut self, file: Arc<File>) -> io::Result<Box<dyn FileQueue>> {
        Ok(self.local.files().open(file, self.id))
    }

    fn keep(&self) -> Box<dyn Home> {
        Box::new(Kept {
            files: self.local.files(),
            id: self.id,
            waker: self.waker(),
        })
    }
}

/// What an actor's lanes keep of their reactor.
struct Kept {
    files: Files,
    id: ActorId,
    waker: Waker,
}

impl Home for Kept {
    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn open_file(&mut self, file: Arc<File>) -> io::Result<Box<dyn FileQueue>> {
        Ok(self.files.open(file, self.id))
    }

    fn keep(&self) -> Box<dyn Home> {
        Box::new(Self {
            files: self.files.clone(),
            id: self.id,
            waker: self.waker.clone(),
        })
    }
}
