//! All that talks to the kernel by raw pointers: the two drivers and vectored socket calls.
//!
//! This folder is one of the few places where `unsafe` is allowed.
#![allow(unsafe_code)]

mod epoll;
mod files;
mod socket;
mod uring;

pub(crate) use files::{FileHub, Files};
pub(crate) use socket::{recv, send};

use crate::actor::ActorId;
use blk::Nanos;
use epoll::Epoll;
use std::io;
use std::os::fd::RawFd;
use uring::Uring;

/// Something that happened, as a driver reports it.
pub(crate) enum Event {
    /// A watched descriptor changed.
    Fd(ActorId),
    /// A file operation ended: bytes moved, or minus the `errno`.
    File { slot: usize, result: i32 },
    /// Another thread rang the bell.
    Bell,
}

/// How a reactor waits and does file I/O.
pub(crate) enum Driver {
    Uring(Box<Uring>),
    Epoll(Box<Epoll>),
}

impl Driver {
    pub(crate) fn uring(bell: RawFd) -> io::Result<Self> {
        Uring::new(bell).map(|ring| Self::Uring(Box::new(ring)))
    }

    pub(crate) fn epoll(bell: RawFd) -> io::Result<Self> {
        Epoll::new(bell).map(|epoll| Self::Epoll(Box::new(epoll)))
    }

    pub(crate) fn watch(&mut self, fd: RawFd, actor: ActorId) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.watch(fd, actor),
            Self::Epoll(epoll) => epoll.watch(fd, actor),
        }
    }

    pub(crate) fn unwatch(&mut self, fd: RawFd) {
        match self {
            Self::Uring(ring) => ring.unwatch(fd),
            Self::Epoll(epoll) => epoll.unwatch(fd),
        }
    }

    /// Starts a file operation whose parts stay in place until its event.
    pub(crate) fn start_file(&mut self, request: files::Request) {
        match self {
            Self::Uring(ring) => ring.start_file(&request),
            Self::Epoll(epoll) => epoll.start_file(request),
        }
    }

    /// Collects events; waits for the first one until `wait` has passed (`None` = not at all).
    pub(crate) fn poll(&mut self, wait: Option<Nanos>, events: &mut Vec<Event>) -> io::Result<()> {
        match self {
            Self::Uring(ring) => ring.poll(wait, events),
            Self::Epoll(epoll) => epoll.poll(wait, events),
        }
    }
}
