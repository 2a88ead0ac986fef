//! What the verbs do.

mod apply;
mod change;
mod describe;
mod documents;
mod observe;
mod show;
mod top;

pub(crate) use apply::{apply, delete_files};
pub(crate) use change::{create, custom, delete, update};
pub(crate) use describe::{describe, stats};
pub(crate) use show::{INVENTORY, all, get, inventory, list};
pub(crate) use top::top;

use crate::client::Target;
use crate::failure::Failure;
use crate::output::Format;

/// What all verbs get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cx<'a> {
    /// Where the server is.
    pub target: &'a Target,
    /// What `-o` said.
    pub format: Option<Format>,
}

/// Says on the standard error what failed, while the command goes on with the rest.
fn complain(failure: &Failure) {
    eprintln!("error: {failure}");
}
