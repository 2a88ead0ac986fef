//! Remote namespaces: volumes of an array that is reached over NVMe/TCP, or of a local drive.

mod admin;
mod association;
mod discovery;
mod handlers;
mod link;
mod memory;
mod path;
mod path_actor;
mod pcie;
mod rail;
mod rail_actor;
mod remote;
mod routes;
mod session;
#[cfg(test)]
mod sim;
mod socket;
mod table;
mod volume;

use api::error::Result;
use api::handler::{Handlers, Install};
use discovery::Discovery;
use engine::World;
use handlers::{ControllerHandler, NamespaceHandler, PathHandler, Remotes};
use std::sync::Arc;

/// Installs the handlers.
pub(crate) struct Nvme;

impl Install<World> for Nvme {
    fn install(&self, world: &World, handlers: &mut Handlers) -> Result<()> {
        let remotes = Arc::new(Remotes::new(world));
        handlers.add(ControllerHandler(remotes.clone()))?;
        handlers.add(PathHandler(remotes.clone()))?;
        handlers.add_query(Discovery(remotes.clone()))?;
        handlers.add(NamespaceHandler(remotes))
    }
}
