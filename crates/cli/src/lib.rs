//! The client: `opi <verb> <resource> [name] [flags]`, with everything about resources taken from
//! the descriptors when it starts.

mod app;
mod client;
mod discovery;
mod failure;
mod flags;
mod output;
mod pages;
mod rewrite;
mod verbs;
mod words;

pub use app::{commands, run};
pub use failure::Failure;
pub use pages::usage_line;
pub use rewrite::rewrite;
