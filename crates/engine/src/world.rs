//! What installers of handlers are given to work on.

use crate::Reactors;
use std::sync::Arc;

/// Called, on any thread, when a change is durable or has failed.
pub type KeepDone = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Small values that survive a crash, for data-plane state that a specification wants durable
/// before a command completes (reservations). The program brings it.
pub trait Keep: Send + Sync + 'static {
    /// The value under a key, as last made durable.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Stores a value, or forgets the key with `None`. Never blocks; `done` tells when it is
    /// durable. Changes of one key happen in the order of the calls.
    fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone);
}

/// The world of a native data plane.
#[derive(Clone)]
pub struct World {
    /// The threads that do the I/O.
    pub reactors: Reactors,
    /// Durable small values.
    pub keep: Arc<dyn Keep>,
}
