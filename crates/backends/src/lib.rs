//! Back ends: the places where data lives, a folder for each.
//!
//! A new one is a folder with a `volumes::Kind` in it, and two lines here: its `mod`, and its
//! place in [`TYPES`].

mod checks;
mod shape;
#[cfg(test)]
mod testing;
mod volumes;

mod aio;
mod malloc;
mod null;
mod nvme;

/// The types of back end that the native data plane has.
pub static TYPES: &[&dyn api::handler::Install<engine::World>] = &[
    &aio::Aio, //
    &malloc::Malloc,
    &null::Null,
    &nvme::Nvme,
];
