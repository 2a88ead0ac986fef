//! The native platform: our own data plane, with every back-end and front-end there is.

use api::Error;
use api::handler::Handlers;
use engine::World;

/// Installs the handlers of all families.
pub(crate) fn install(world: &World, handlers: &mut Handlers) -> Result<(), Error> {
    for family in [backends::TYPES, frontends::TYPES] {
        for kind in family {
            kind.install(world, handlers)?;
        }
    }
    Ok(())
}
