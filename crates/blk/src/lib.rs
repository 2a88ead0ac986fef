//! The seam of the data plane: an [`Io`] goes down a [`Lane`] and comes back up as a [`Done`].
//!
//! A [`Volume`] is shared by all threads; a [`Lane`] is one thread's private way into it. Lanes
//! never block, never spawn and never read the clock: time is an argument ([`Nanos`]).
//! This crate knows no protocol, no message and no operating system thread.

mod budget;
mod buf;
mod error;
mod geometry;
mod home;
mod io;
mod lane;
mod stats;
pub mod testkit;
mod time;

pub use budget::{Budget, Spent, VOLUME_MEMORY};
pub use buf::{Gather, IoBuf, PAGE_BYTES, PageRef, PageSlot, pool_bytes};
pub use error::IoError;
pub use geometry::{Geometry, Identity, State};
pub use home::{FileDone, FileIo, FileOp, FileQueue, Home};
pub use io::{Done, Io, Lba, Op};
pub use lane::{Lane, Subscriber, Subscribers, Volume};
pub use stats::{
    BUCKETS, Counted, Counters, Histogram, OpStats, Stats, Tally, bucket_of, bucket_upper_ns,
};
pub use time::Nanos;
