//! The control side: handlers that make subsystems, namespaces and controllers of the API real.

mod controller;
mod namespace;
mod settings;
mod subsystem;

pub(crate) use controller::ControllerHandler;
pub(crate) use namespace::NamespaceHandler;
pub(crate) use subsystem::SubsystemHandler;

use super::target::{Subsystem, Target};
use api::error::{Code, Error};
use api::names::ResourceName;
use std::sync::Arc;

/// The subsystem that a controller or namespace belongs to.
///
/// # Errors
/// Unavailable while the subsystem is not there: its own create failed or is still to come.
fn parent(target: &Target, name: &ResourceName) -> Result<Arc<Subsystem>, Error> {
    let parent = name
        .parent()
        .map(|parent| parent.to_string())
        .unwrap_or_default();
    target.subsystem(&parent).ok_or_else(|| {
        Error::unavailable(format!("{parent} is not in service, so {name} cannot be")).about(parent)
    })
}

/// Something with this identifier exists, under another name.
fn exists(field: &str, what: impl std::fmt::Display, holder: &str) -> Error {
    let text = format!("{field}: {what} is used by {holder}; choose another");
    Error::new(Code::AlreadyExists, text)
        .at(field)
        .about(holder)
}

/// A field that cannot be changed while the resource exists.
fn fixed(field: &str, why: &str) -> Error {
    Error::precondition(format!("{field}: {why}")).at(field)
}
