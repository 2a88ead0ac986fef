//! Platforms: what makes resources real. A folder for each, and a place in [`platform`].

mod native;

use api::Error;
use api::handler::Handlers;
use engine::World;

/// The names of the platforms that are built in.
pub const PLATFORMS: &[&str] = &["native"];

/// The handlers of a platform.
///
/// # Errors
/// INVALID_ARGUMENT for a platform that is not built in; what its installers answer.
pub fn platform(name: &str, world: &World) -> Result<Handlers, Error> {
    let mut handlers = Handlers::default();
    match name {
        "native" => native::install(world, &mut handlers)?,
        other => {
            let text = format!(
                "{other:?} is not built in; use one of {}",
                PLATFORMS.join(", ")
            );
            return Err(Error::invalid("platform", text));
        }
    }
    Ok(handlers)
}
