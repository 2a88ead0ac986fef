//! A blocking NVMe/TCP host: one controller with an admin queue and I/O queues.
//!
//! [`Session`] is for callers that want one command done after the other: the demo, tests, set-up.
//! The load generator drives the [`Link`]s below it itself.

mod error;
mod link;
mod session;

pub use error::HostError;
pub use link::Link;
pub use session::{Namespace, Options, Session, random_host};

pub(crate) use link::nanos;
pub(crate) use session::io_sqe;
