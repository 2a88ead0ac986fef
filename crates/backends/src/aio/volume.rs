//! The volume in a file or on a block device.

use super::lane::{AioLane, FailedLane};
use super::open::{Alignment, Claim, Which};
use crate::shape::Shape;
use api::error::Result;
use blk::{Geometry, Home, Lane, Subscriber, Volume};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// What the lanes of one volume share.
pub(super) struct Shared {
    pub(super) shape: Shape,
    /// Present if the file is open for direct I/O.
    pub(super) alignment: Option<Alignment>,
    /// Set once the file system has said that it cannot punch holes.
    no_punch: AtomicBool,
    /// Set once the file system has said that it cannot zero ranges.
    no_zero: AtomicBool,
}

impl Shared {
    pub(super) fn can_punch(&self) -> bool {
        !self.no_punch.load(Relaxed)
    }
    pub(super) fn can_zero(&self) -> bool {
        !self.no_zero.load(Relaxed)
    }
    pub(super) fn never_punch(&self) {
        self.no_punch.store(true, Relaxed);
    }
    pub(super) fn never_zero(&self) {
        self.no_zero.store(true, Relaxed);
    }
}

/// A volume in a file or on a block device.
pub(crate) struct AioVolume {
    shared: Arc<Shared>,
    file: Arc<File>,
    which: Which,
    path: String,
    /// Keeps other volumes off the file.
    _claim: Claim,
}

impl AioVolume {
    /// A volume in an open file that holds at least the blocks of the geometry.
    pub(super) fn new(
        geometry: Geometry,
        file: File,
        alignment: Option<Alignment>,
        (which, path, claim): (Which, String, Claim),
    ) -> Self {
        let shared = Shared {
            shape: Shape::new(geometry),
            alignment,
            no_punch: AtomicBool::new(false),
            no_zero: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            file: Arc::new(file),
            which,
            path,
            _claim: claim,
        }
    }

    /// Makes it longer, and the file with it if need be.
    pub(super) fn grow(&self, blocks: u64) -> Result<()> {
        let geometry = self.geometry();
        if blocks > geometry.blocks {
            let bytes = blocks.saturating_mul(u64::from(geometry.block_bytes));
            super::open::grow(&self.file, self.which, &self.path, bytes)?;
            self.shared.shape.grow(blocks);
        }
        Ok(())
    }
}

impl Volume for AioVolume {
    fn geometry(&self) -> Geometry {
        self.shared.shape.geometry()
    }
    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane> {
        match home.open_file(self.file.clone()) {
            Ok(queue) => Box::new(AioLane::new(self.shared.clone(), queue)),
            Err(error) => {
                tracing::error!(path = self.path, %error, "no queue for the file of a volume");
                Box::new(FailedLane::default())
            }
        }
    }
    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.shared.shape.subscribe(subscriber);
    }
}
