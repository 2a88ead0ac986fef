//! [`Unflushed`]: whether completed writes may still be in the volatile cache of a device.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts syncs, and notes by that count when something was last written and last made durable. It
/// only says something about devices that are written to directly, and costs a write two loads.
pub(super) struct Unflushed {
    /// Syncs begun, and one.
    begun: AtomicU64,
    /// `begun` when a write last completed.
    written: AtomicU64,
    /// `begun` before the latest sync that succeeded.
    synced: AtomicU64,
}

impl Unflushed {
    /// Nothing was written yet.
    pub(super) fn new() -> Self {
        Self {
            begun: AtomicU64::new(1),
            written: AtomicU64::new(0),
            synced: AtomicU64::new(0),
        }
    }

    /// A write has completed that need not be durable.
    pub(super) fn written(&self) {
        let now = self.begun.load(SeqCst);
        if self.written.load(SeqCst) < now {
            self.written.fetch_max(now, SeqCst);
        }
    }

    /// A sync begins; what it returns is for [`Unflushed::synced`]. It covers the writes that have
    /// completed by now.
    pub(super) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, SeqCst)
    }

    /// A sync has succeeded.
    pub(super) fn synced(&self, begun: u64) {
        self.synced.fetch_max(begun, SeqCst);
    }

    /// Whether there is a completed write that no sync has covered.
    pub(super) fn any(&self) -> bool {
        self.written.load(SeqCst) > self.synced.load(SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_completed_before_a_sync_began_is_covered_by_it() {
        let state = Unflushed::new();
        assert!(!state.any());
        state.written();
        assert!(state.any());
        let failed = state.begin();
        let sync = state.begin();
        assert!(state.any() && failed < sync);
        state.synced(sync);
        assert!(!state.any());
        let sync = state.begin();
        state.written();
        state.synced(sync);
        assert!(state.any(), "it completed after the sync began");
        let sync = state.begin();
        state.synced(sync);
        assert!(!state.any());
    }
}
