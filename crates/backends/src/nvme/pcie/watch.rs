//! The actor that has a drive looked at again and again.
//!
//! The kernel announces drives that come and go, but not who has let go of one that could not be
//! had. A look costs some reads of sysfs, and finds all of it.

use super::drive::Drive;
use blk::{Home, Nanos};
use engine::{Actor, Cx, Errand, Next};
use std::sync::Arc;

/// Pause between two looks.
const PAUSE: Nanos = Nanos::from_secs(2);

/// See the file's head.
pub(super) struct Watch {
    drive: Arc<Drive>,
    look: Option<Errand<()>>,
    next: Nanos,
}

impl Watch {
    pub(super) fn new(drive: Arc<Drive>) -> Self {
        Self {
            drive,
            look: None,
            next: Nanos(0),
        }
    }
}

impl Actor for Watch {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.next = cx.now() + PAUSE;
        Next::Idle(Some(self.next))
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        if self.drive.has_ended() {
            return Next::Gone;
        }
        if let Some(look) = &mut self.look {
            if look.poll(&cx.waker()).is_none() {
                return Next::Idle(None);
            }
            self.look = None;
            self.next = cx.now() + PAUSE;
        }
        if self.next <= cx.now() {
            let drive = self.drive.clone();
            self.next = cx.now() + PAUSE;
            match Errand::start("drive", move || drive.look_again()) {
                // Looked at at once, which leaves a waker there.
                Ok(look) => {
                    self.look = Some(look);
                    return Next::Busy;
                }
                Err(error) => tracing::warn!(%error, "no thread to look at a drive"),
            }
        }
        Next::Idle(Some(self.next))
    }
}
