//! The front-ends: what hosts see. One folder per protocol.

mod nvme;

use api::handler::Install;
use engine::World;

/// Every front-end there is.
pub static TYPES: &[&dyn Install<World>] = &[&nvme::Type];
