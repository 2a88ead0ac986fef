//! The volume in a file or on a block device.

use super::errno;
use super::fault::Faults;
use super::lane::{AioLane, FailedLane};
use super::open::{Alignment, Opened, Which};
use super::unflushed::Unflushed;
use crate::shape::Shape;
use api::error::Result;
use api::handler::Health;
use blk::{Geometry, Home, IoError, Lane, State, Subscriber, Volume};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// What the lanes of one volume share.
pub(super) struct Shared {
    pub(super) shape: Shape,
    /// Present if the file is open for direct I/O.
    pub(super) alignment: Option<Alignment>,
    pub(super) faults: Faults,
    pub(super) unflushed: Arc<Unflushed>,
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

    /// An operation that was to make data durable has failed.
    pub(super) fn sync_failed(&self, errno: i32) {
        if !errno::not_tried(errno) {
            self.faults
                .sync_failed(&io::Error::from_raw_os_error(errno));
        }
    }

    /// What an I/O that failed so tells its submitter.
    pub(super) fn judge(&self, error: IoError) -> IoError {
        let (error, changed) = self.faults.judge(error);
        if changed {
            self.shape.changed();
        }
        error
    }
}

/// A volume in a file or on a block device.
pub(crate) struct AioVolume {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Arc<File>,
    pub(super) which: Which,
    pub(super) path: String,
}

impl AioVolume {
    /// A volume in an open file that holds at least the blocks of the geometry. With an
    /// alignment, it is open for direct I/O.
    pub(super) fn new(
        geometry: Geometry,
        opened: Opened,
        alignment: Option<Alignment>,
        path: String,
    ) -> Self {
        let Opened {
            file,
            which,
            backing,
            ..
        } = opened;
        let shared = Shared {
            shape: Shape::new(geometry),
            alignment,
            faults: Faults::new(file.clone(), backing, path.clone()),
            unflushed: Arc::new(Unflushed::new()),
            no_punch: AtomicBool::new(false),
            no_zero: AtomicBool::new(false),
        };
        Self {
            shared: Arc::new(shared),
            file,
            which,
            path,
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

    /// Goes online again if it is lost and what it stands on is back.
    pub(crate) fn look_again(&self) {
        let shared = &self.shared;
        if shared.faults.look_again(self.geometry().block_bytes) {
            shared.shape.changed();
        }
    }

    /// How it is doing. After a failed sync hosts still reach it, and get an error from whatever
    /// has to be durable; whoever looks at the volume itself is told why.
    pub(crate) fn health(&self) -> Health {
        match (self.state(), self.shared.faults.unsynced()) {
            (State::Offline(why), _) => Health::Offline(why),
            (State::Online, Some(why)) => Health::Offline(why.to_owned()),
            (State::Online, None) => Health::Online,
        }
    }
}

impl Volume for AioVolume {
    fn geometry(&self) -> Geometry {
        self.shared.shape.geometry()
    }
    fn state(&self) -> State {
        self.shared.faults.state()
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
