//! The harness of the whole-system tests: the real program against software nobody here wrote.
//!
//! A test makes a [`Net`] (a private network), boots a [`Guest`] (a Linux machine under QEMU) on
//! it, starts a [`Server`] (the built `opi serve`) in it, and tells all of them what to do. All
//! three go away with their values. `cargo xtask lab` makes what this needs.

mod guest;
mod http;
mod lab;
mod net;
mod proxy;
pub mod scenario;
mod server;
mod setup;
mod shell;

pub use guest::{Guest, GuestOptions};
pub use http::Reply;
pub use lab::{go_client, opi_archive, opi_binary, python};
pub use net::{Family, Net};
pub use proxy::Proxy;
pub use server::{Server, ServerOptions};
pub use shell::{Output, run};
