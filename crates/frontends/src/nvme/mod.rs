//! NVMe: subsystems, namespaces and controllers as hosts see them, over NVMe/TCP.
//!
//! `handlers` are the API's side and change the `target`, the model that everything shares.
//! `tcp` accepts connections; each connection is an actor that owns one queue: `controller` serves
//! admin queues, `io` serves I/O queues.

mod connect;
mod controller;
mod discovery;
mod fused;
mod handlers;
mod io;
mod queue;
mod reservation;
mod target;
mod tcp;
mod users;

use api::error::Result;
use api::handler::{Handlers, Install};
use api::storage::v1::{NvmeController, NvmeNamespace, NvmeSubsystem};
use engine::World;
use target::Target;

/// FR of Identify Controller, at most 8 characters: the version of this program.
pub(crate) const FIRMWARE: &str = env!("CARGO_PKG_VERSION");

/// Most data of one command, in bytes: what MDTS says. Large enough for full speed, small enough
/// that a deep queue of such commands fits in memory.
pub(crate) const DATA_MAX: usize = 1 << 20;

/// Installs the handlers of NVMe front-ends.
pub(crate) struct Type;

impl Install<World> for Type {
    fn install(&self, world: &World, handlers: &mut Handlers) -> Result<()> {
        let target = Target::new(world);
        handlers.add::<NvmeSubsystem>(handlers::SubsystemHandler(target.clone()))?;
        handlers.add::<NvmeNamespace>(handlers::NamespaceHandler::new(target.clone()))?;
        handlers.add::<NvmeController>(handlers::ControllerHandler(target))
    }
}
