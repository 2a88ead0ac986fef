//! The native platform as a whole: its back end on its own front end, over real sockets.
#![allow(clippy::unwrap_used)]

mod bad_array;
mod chain;
mod discovery;
mod drive;
mod site;
