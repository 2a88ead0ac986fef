//! Typed commands: a submission queue entry parsed once, into values that cannot be misread.
//!
//! A parse error is the status to complete the command with. Each type also makes the entry that a
//! host would send, so the two directions are tested against each other.

mod admin;
mod fabrics;
mod io;

pub use admin::{AdminCmd, Features, GetLog, Identify};
pub use fabrics::{Connect, FabricsCmd, PropertySize};
pub use io::{BLOCKS_MAX, Dsm, IoCmd, IoOp, Rw};
