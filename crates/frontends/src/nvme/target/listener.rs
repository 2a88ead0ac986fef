//! A listener: the TCP side of an `NvmeController` resource, one way into one subsystem.

use super::AnaStates;
use crate::nvme::tcp::Port;
use crate::nvme::users::Users;
use arc_swap::ArcSwap;
use blk::Stats;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use wire::nvme::CNTLID_MAX;

/// CNTLIDs of one listener, and so the hosts it can serve at once. Ranges of 1024 leave room for
/// 63 listeners in a subsystem.
pub(crate) const CNTLID_RANGE: u16 = 1024;
/// I/O queues of one host: hosts make one for each of their CPUs, and few have more.
pub(crate) const QUEUES_MAX: u16 = 64;

/// The CNTLIDs that a subsystem may give out here: other servers may have others of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CntlidRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl Default for CntlidRange {
    fn default() -> Self {
        Self {
            first: 0,
            last: CNTLID_MAX,
        }
    }
}

impl CntlidRange {
    /// Whether a CNTLID is in it.
    pub(crate) fn holds(&self, cntlid: u16) -> bool {
        (self.first..=self.last).contains(&cntlid)
    }
}

impl std::fmt::Display for CntlidRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// What hosts get that connect from now on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Limits {
    /// I/O queues, 1 to [`QUEUES_MAX`].
    pub(crate) queues: u16,
    /// Namespaces shown, those with the lowest NSIDs; 0 for all.
    pub(crate) namespaces: u32,
}

/// See the file's head.
pub(crate) struct Listener {
    /// The resource name.
    pub(crate) name: String,
    /// The socket, which other subsystems may share.
    pub(crate) port: Arc<Port>,
    /// PORTID in the discovery log.
    pub(crate) cntlid_first: u16,
    pub(crate) limits: ArcSwap<Limits>,
    /// Hosts learn of a change by [`Subsystem::namespaces_changed`](super::Subsystem).
    pub(crate) ana: ArcSwap<AnaStates>,
    pub(crate) stats: Arc<Stats>,
    /// Connections of hosts that came this way.
    pub(crate) users: Arc<Users>,
    closing: AtomicBool,
    /// Where the search for a free CNTLID goes on, so that one just freed is not used at once.
    next: AtomicU16,
}

impl Listener {
    pub(crate) fn new(
        name: String,
        port: Arc<Port>,
        cntlid_first: u16,
        limits: Limits,
        ana: AnaStates,
    ) -> Self {
        Self {
            name,
            port,
            cntlid_first,
            limits: ArcSwap::from_pointee(limits),
            ana: ArcSwap::from_pointee(ana),
            stats: Arc::default(),
            users: Arc::default(),
            closing: AtomicBool::new(false),
            next: AtomicU16::new(0),
        }
    }

    /// The CNTLIDs to try, each once, beginning after the one given out last; those of the
    /// subsystem end with `last`, which is not below the first of the listener.
    pub(crate) fn cntlids(&self, last: u16) -> impl Iterator<Item = u16> + '_ {
        let last = self.cntlid_first.saturating_add(CNTLID_RANGE - 1).min(last);
        let count = last.saturating_sub(self.cntlid_first) + 1;
        let start = self.next.load(SeqCst);
        (0..count).map(move |step| {
            let place = (u32::from(start) + u32::from(step)) % u32::from(count);
            self.cntlid_first + place as u16
        })
    }

    /// Notes which CNTLID was given out.
    pub(crate) fn gave(&self, cntlid: u16) {
        self.next.store(cntlid - self.cntlid_first + 1, SeqCst);
    }

    /// Sends its hosts away, for good.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
        self.users.wake();
    }

    /// Whether its hosts have to go.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }
}
