//! [`Volume`] and [`Lane`], the two traits that everything in the data plane stacks on.

use crate::{Done, Geometry, Home, Io, Nanos, State};
use std::sync::{Arc, Mutex, Weak};

/// A block volume, shared by all threads.
pub trait Volume: Send + Sync + 'static {
    /// Size, identity and abilities as they are now.
    fn geometry(&self) -> Geometry;

    /// Whether it can be used now. A volume that is offline still has a geometry.
    fn state(&self) -> State {
        State::Online
    }

    /// Opens a thread's lane. A layer opens one lane on each of its bases.
    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane>;

    /// Who wants to know when geometry or state change. Volumes that never change keep the default.
    fn subscribe(&self, _: Weak<dyn Subscriber>) {}

    /// The volumes below this one, top first, for the picture of a chain.
    fn bases(&self) -> Vec<Arc<dyn Volume>> {
        Vec::new()
    }
}

/// One thread's private way into a volume. SPDK calls this an I/O channel.
///
/// A lane is born, used and dropped on one thread. It never blocks, spawns or reads a clock.
pub trait Lane {
    /// Accepts an I/O. It comes back from `poll` exactly once.
    fn submit(&mut self, now: Nanos, io: Io);

    /// Moves what has finished into `done`.
    fn poll(&mut self, now: Nanos, done: &mut Vec<Done>);

    /// When to poll again although nothing happened. `None` means only after a wake-up.
    fn deadline(&self) -> Option<Nanos> {
        None
    }
}

/// Told, on any thread, that a volume's geometry or state changed. Must not block.
pub trait Subscriber: Send + Sync {
    /// Something changed: look at `geometry` and `state` again.
    fn changed(&self);
}

/// The subscribers of one volume, for volumes that can change.
#[derive(Default)]
pub struct Subscribers(Mutex<Vec<Weak<dyn Subscriber>>>);

impl Subscribers {
    /// Adds one. It leaves by being dropped.
    pub fn add(&self, subscriber: Weak<dyn Subscriber>) {
        let mut all = self.0.lock().expect("no subscriber list holder panics");
        all.retain(|one| one.strong_count() > 0);
        all.push(subscriber);
    }

    /// Tells all that are still there.
    pub fn wake(&self) {
        let all = self
            .0
            .lock()
            .expect("no subscriber list holder panics")
            .clone();
        for one in all.iter().filter_map(Weak::upgrade) {
            one.changed();
        }
    }
}
