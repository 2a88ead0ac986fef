//! What can happen to an open file that no later I/O mends: its device is gone, or a sync failed.

use super::open::Backing;
use blk::{IoError, State};
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

/// The lasting faults of one open file.
pub(super) struct Faults {
    file: Arc<File>,
    backing: Backing,
    path: String,
    /// Whether `why_lost` has a text; saves the lock in the common case.
    lost: AtomicBool,
    why_lost: Mutex<Option<String>>,
    unsynced: OnceLock<String>,
}

impl Faults {
    /// None so far.
    pub(super) fn new(file: Arc<File>, backing: Backing, path: String) -> Self {
        Self {
            file,
            backing,
            path,
            lost: AtomicBool::new(false),
            why_lost: Mutex::new(None),
            unsynced: OnceLock::new(),
        }
    }

    /// Online, or why there is no I/O.
    pub(super) fn state(&self) -> State {
        let why = self.why_lost.lock().expect("no holder of the text panics");
        why.clone().map_or(State::Online, State::Offline)
    }

    /// Whether what the file stands on is gone.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Why nothing can be called durable any more, if so.
    pub(super) fn unsynced(&self) -> Option<&str> {
        self.unsynced.get().map(String::as_str)
    }

    /// A sync has failed. The kernel reports data that it could not write to one sync of an open
    /// file, and forgets it: the next sync succeeds and means nothing.
    pub(super) fn sync_failed(&self, error: &std::io::Error) {
        let text = format!(
            "a sync of {} failed ({error}), so completed writes may be lost; flushes and writes \
             with FUA fail until the file is opened again: check its disk and its data, then \
             restart the server, or delete the volume and create it anew on the same file",
            self.path
        );
        if self.unsynced.set(text).is_ok() {
            tracing::error!(path = self.path, %error, "a sync failed; the volume stays unsynced");
        }
    }

    /// What an I/O that failed so tells its submitter, and whether the state has changed with it.
    ///
    /// A device that was pulled out answers as an empty one on some ways, so most errors are a
    /// reason to look whether it is there.
    pub(super) fn judge(&self, error: IoError) -> (IoError, bool) {
        let lost = match error {
            IoError::Offline => true,
            IoError::Medium | IoError::NoSpace | IoError::Transport => {
                self.is_lost() || self.backing.is_gone(&self.file)
            }
            _ => false,
        };
        if !lost {
            return (error, false);
        }
        let mut why = self.why_lost.lock().expect("no holder of the text panics");
        let first = why.is_none();
        if first {
            tracing::error!(path = self.path, "what the file stands on is gone");
            *why = Some(format!(
                "what {} stands on is gone; once it is back, update the volume to have it looked \
                 at again, and restart the server if that does not help",
                self.path
            ));
            self.lost.store(true, Ordering::Release);
        }
        (IoError::Offline, first)
    }

    /// Looks whether a lost file answers again. True if so, and if it was lost before.
    ///
    /// This reads from the file, so it is for the control plane.
    pub(super) fn look_again(&self, block_bytes: u32) -> bool {
        let back = self.is_lost()
            && !self.backing.is_gone(&self.file)
            && super::open::reads(&self.file, block_bytes);
        if back {
            let mut why = self.why_lost.lock().expect("no holder of the text panics");
            *why = None;
            self.lost.store(false, Ordering::Release);
            tracing::info!(path = self.path, "what the file stands on is back");
        }
        back
    }
}
