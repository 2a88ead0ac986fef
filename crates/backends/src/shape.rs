//! [`Shape`]: the geometry of a volume whose size may grow while it is in use.

use blk::{Geometry, Subscriber, Subscribers};
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};

/// The geometry of a volume, of which only the size changes, and only upwards.
pub(crate) struct Shape {
    fixed: Geometry,
    blocks: AtomicU64,
    generation: AtomicU64,
    subscribers: Subscribers,
}

impl Shape {
    /// Starts with this geometry.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            fixed: geometry,
            blocks: AtomicU64::new(geometry.blocks),
            generation: AtomicU64::new(geometry.generation),
            subscribers: Subscribers::default(),
        }
    }

    /// The geometry as it is now.
    pub(crate) fn geometry(&self) -> Geometry {
        // The generation first: whoever sees a new one sees the blocks that came with it.
        let generation = self.generation.load(Ordering::Acquire);
        Geometry {
            blocks: self.blocks.load(Ordering::Acquire),
            generation,
            ..self.fixed
        }
    }

    /// Makes the volume `blocks` long, unless it is that long already, and tells its users.
    pub(crate) fn grow(&self, blocks: u64) {
        if self.blocks.fetch_max(blocks, Ordering::AcqRel) < blocks {
            self.generation.fetch_add(1, Ordering::AcqRel);
            self.subscribers.wake();
        }
    }

    /// Tells its users that something besides the size changed.
    pub(crate) fn changed(&self) {
        self.subscribers.wake();
    }

    /// Adds a user to tell.
    pub(crate) fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.subscribers.add(subscriber);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Default)]
    struct Seen(AtomicU64);

    impl Subscriber for Seen {
        fn changed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn growing_bumps_the_generation_and_tells_users_once() {
        let shape = Shape::new(Geometry::new(512, 10));
        let seen = Arc::new(Seen::default());
        let as_subscriber: Arc<dyn Subscriber> = seen.clone();
        shape.subscribe(Arc::downgrade(&as_subscriber));
        shape.grow(10);
        assert_eq!(
            (shape.geometry().generation, seen.0.load(Ordering::Relaxed)),
            (0, 0)
        );
        shape.grow(20);
        shape.grow(15);
        let now = shape.geometry();
        assert_eq!((now.blocks, now.generation, now.block_bytes), (20, 1, 512));
        assert_eq!(seen.0.load(Ordering::Relaxed), 1);
    }
}
