//! What the verbs do.

mod apply;
mod change;
mod connect;
mod describe;
mod discover;
mod documents;
mod observe;
mod settings;
mod show;
mod top;

pub(crate) use apply::{apply, delete_files};
pub(crate) use change::{create, custom, delete, update};
pub(crate) use connect::{connect, disconnect};
pub(crate) use describe::{describe, stats};
pub(crate) use discover::{connect_all, discover};
pub(crate) use settings::settings;
pub(crate) use show::{INVENTORY, all, get, inventory, list};
pub(crate) use top::top;

use std::cell::RefCell;
use std::io::Write;

use crate::client::Target;
use crate::failure::{Failure, Result};
use crate::output::{self, Format};

/// What all verbs get.
#[derive(Clone, Copy)]
pub(crate) struct Cx<'a> {
    /// Where the server is.
    pub(crate) target: &'a Target,
    /// What `-o` said.
    pub(crate) format: Option<Format>,
    /// Where the result goes.
    pub(crate) out: &'a dyn Sink,
}

/// Where results go, shared by all that write some.
pub(crate) trait Sink {
    /// Writes a part of the result.
    fn print(&self, text: &str) -> Result<()>;
}

impl Sink for RefCell<&mut dyn Write> {
    fn print(&self, text: &str) -> Result<()> {
        output::print(&mut **self.borrow_mut(), text)
    }
}

impl Cx<'_> {
    /// Writes a part of the result.
    ///
    /// # Errors
    /// It cannot be written, as on a full disk.
    pub(crate) fn print(&self, text: &str) -> Result<()> {
        self.out.print(text)
    }
}

/// Says on the standard error what failed, while the command goes on with the rest.
fn complain(failure: &Failure) {
    eprintln!("error: {failure}");
}
