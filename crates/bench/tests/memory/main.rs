//! The host and the load generator against a target in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod fake;
mod host;
mod load;
