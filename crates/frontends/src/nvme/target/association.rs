//! An association: one host's controller and its queues (NVMe Base 2.1, 1.5: association).
//!
//! The admin queue's connection owns the controller; this is what its I/O queues, on whatever
//! reactor they live, have to know of it.

use super::{Limits, Listener, Namespace, Subsystem};
use crate::nvme::controller::ErrorLog;
use crate::nvme::reservation::Notice;
use crate::nvme::users::{HostId, Users};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use wire::nvme::log::AnaState;
use wire::nvme::{Nqn, Status};

/// Reservation notices that wait to be read by a host; the oldest go first, as the log page says
/// how many there were.
const NOTICES_MAX: usize = 255;

/// See the file's head.
pub(crate) struct Association {
    pub(crate) cntlid: u16,
    pub(crate) host: HostId,
    pub(crate) hostnqn: Nqn,
    /// The subsystem and the way in; `None` for a discovery controller.
    pub(crate) way: Option<(Arc<Subsystem>, Arc<Listener>)>,
    pub(crate) limits: Limits,
    /// Its connections.
    pub(crate) users: Arc<Users>,
    pub(crate) errors: Mutex<ErrorLog>,
    enabled: AtomicBool,
    closing: AtomicBool,
    write_cache: AtomicBool,
    /// Counts controller resets: queues made before one have to go.
    resets: AtomicU64,
    queues: Mutex<Queues>,
    reservations: Mutex<Notifications>,
}

struct Queues {
    /// Set by the Number of Queues feature.
    limit: u16,
    open: BTreeSet<u16>,
}

#[derive(Default)]
struct Notifications {
    waiting: VecDeque<(u32, Notice)>,
    /// By NSID, the notifications that the host does not want.
    masks: HashMap<u32, u32>,
}

impl Association {
    pub(crate) fn new(
        cntlid: u16,
        host: HostId,
        hostnqn: Nqn,
        way: Option<(Arc<Subsystem>, Arc<Listener>)>,
        limits: Limits,
    ) -> Arc<Self> {
        Arc::new(Self {
            cntlid,
            host,
            hostnqn,
            way,
            limits,
            users: Arc::default(),
            errors: Mutex::default(),
            enabled: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            write_cache: AtomicBool::new(true),
            resets: AtomicU64::new(0),
            queues: Mutex::new(Queues {
                limit: limits.queues,
                open: BTreeSet::new(),
            }),
            reservations: Mutex::default(),
        })
    }

    /// The subsystem, unless this is a discovery controller.
    pub(crate) fn subsystem(&self) -> Option<&Arc<Subsystem>> {
        self.way.as_ref().map(|(subsystem, _)| subsystem)
    }

    /// The namespaces this host sees, by NSID.
    pub(crate) fn namespaces(&self) -> Vec<Arc<Namespace>> {
        let Some(subsystem) = self.subsystem() else {
            return Vec::new();
        };
        let shown = match self.limits.namespaces {
            0 => usize::MAX,
            limit => limit as usize,
        };
        subsystem
            .namespaces()
            .values()
            .take(shown)
            .cloned()
            .collect()
    }

    /// The namespace with an NSID, if this host sees it.
    pub(crate) fn namespace(&self, nsid: u32) -> Option<Arc<Namespace>> {
        let all = self.subsystem()?.namespaces();
        let found = all.get(&nsid)?;
        let limit = self.limits.namespaces as usize;
        if limit != 0 && all.range(..nsid).take(limit).count() >= limit {
            return None;
        }
        Some(found.clone())
    }

    /// How this host reaches a namespace. Without its volume nobody can, whatever is set.
    pub(crate) fn ana(&self, namespace: &Namespace) -> AnaState {
        match &self.way {
            _ if !namespace.is_online() => AnaState::Inaccessible,
            Some((_, listener)) => listener.ana.load().of(namespace.nsid),
            None => AnaState::Optimized,
        }
    }

    /// Ends it: all its connections close.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
        self.users.wake();
    }

    /// Whether its connections have to close.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst) || self.way.as_ref().is_some_and(|(_, l)| l.is_closing())
    }

    /// CC.EN and CSTS.RDY: commands are served.
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(SeqCst)
    }

    /// CC.EN became 1.
    pub(crate) fn enable(&self) {
        self.enabled.store(true, SeqCst);
    }

    /// Controller reset or shutdown: the I/O queues go, the features are as they were.
    pub(crate) fn reset(&self) {
        let mut queues = self.queues();
        self.enabled.store(false, SeqCst);
        self.resets.fetch_add(1, SeqCst);
        queues.limit = self.limits.queues;
        drop(queues);
        self.write_cache.store(true, SeqCst);
        *self.notifications() = Notifications::default();
        self.users.wake();
    }

    /// Counts resets.
    pub(crate) fn resets(&self) -> u64 {
        self.resets.load(SeqCst)
    }

    /// Whether all I/O queues are gone, with everything that was under way on them. The admin
    /// queue is woken when the last one goes.
    pub(crate) fn is_drained(&self) -> bool {
        self.queues().open.is_empty()
    }

    /// Feature Volatile Write Cache: without it every write is made durable.
    pub(crate) fn write_cache(&self) -> bool {
        self.write_cache.load(SeqCst)
    }

    /// Sets the feature.
    pub(crate) fn set_write_cache(&self, on: bool) {
        self.write_cache.store(on, SeqCst);
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().expect("no holder of the queues panics")
    }

    fn notifications(&self) -> MutexGuard<'_, Notifications> {
        self.reservations
            .lock()
            .expect("no holder of the notices panics")
    }

    /// The Number of Queues feature.
    pub(crate) fn queue_limit(&self) -> u16 {
        self.queues().limit
    }

    /// Sets how many queues the host will use; too late once there is one.
    pub(crate) fn set_queue_limit(&self, wanted: u32) -> Result<u16, Status> {
        let mut queues = self.queues();
        if !queues.open.is_empty() {
            return Err(Status::COMMAND_SEQUENCE.dnr());
        }
        queues.limit = wanted.clamp(1, u32::from(self.limits.queues)) as u16;
        Ok(queues.limit)
    }

    /// Makes an I/O queue. It goes with the ticket.
    pub(crate) fn open_queue(self: &Arc<Self>, qid: u16) -> Result<QueueTicket, QueueError> {
        // A reset takes the same lock: a queue is made before it and goes with it, or not at all.
        let mut queues = self.queues();
        if !self.is_enabled() {
            return Err(QueueError::Disabled);
        }
        if qid > queues.limit {
            return Err(QueueError::TooMany);
        }
        if !queues.open.insert(qid) {
            return Err(QueueError::Taken);
        }
        Ok(QueueTicket {
            association: self.clone(),
            qid,
            resets: self.resets(),
        })
    }

    /// A reservation notice for this host: kept for the log page, unless masked.
    pub(crate) fn notify(&self, nsid: u32, notice: Notice) {
        let mut all = self.notifications();
        if all
            .masks
            .get(&nsid)
            .is_some_and(|mask| mask & notice.mask() != 0)
        {
            return;
        }
        if all.waiting.len() == NOTICES_MAX {
            all.waiting.pop_front();
        }
        all.waiting.push_back((nsid, notice));
        drop(all);
        self.users.wake();
    }

    /// The oldest notice, which is then read, and how many wait after it.
    pub(crate) fn take_notice(&self, take: bool) -> Option<(u32, Notice, usize)> {
        let mut all = self.notifications();
        let (nsid, notice) = *all.waiting.front()?;
        if take {
            all.waiting.pop_front();
        }
        Some((nsid, notice, all.waiting.len() - usize::from(!take)))
    }

    /// Notices that wait.
    pub(crate) fn notices(&self) -> usize {
        self.notifications().waiting.len()
    }

    /// The Reservation Notification Mask of a namespace.
    pub(crate) fn reservation_mask(&self, nsid: u32) -> u32 {
        self.notifications().masks.get(&nsid).copied().unwrap_or(0)
    }

    /// Sets it.
    pub(crate) fn set_reservation_mask(&self, nsid: u32, mask: u32) {
        self.notifications().masks.insert(nsid, mask);
    }
}

/// Why there is no such I/O queue for a host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum QueueError {
    /// Its number is above the limit.
    TooMany,
    /// There is one with that number.
    Taken,
    /// The controller is not enabled.
    Disabled,
}

/// An I/O queue that exists.
pub(crate) struct QueueTicket {
    pub(crate) association: Arc<Association>,
    pub(crate) qid: u16,
    resets: u64,
}

impl QueueTicket {
    /// Whether the queue may go on: neither closed nor reset away.
    pub(crate) fn is_valid(&self) -> bool {
        self.association.resets() == self.resets && !self.association.is_closing()
    }
}

impl Drop for QueueTicket {
    fn drop(&mut self) {
        let mut queues = self.association.queues();
        queues.open.remove(&self.qid);
        let drained = queues.open.is_empty();
        drop(queues);
        if drained {
            self.association.users.wake();
        }
    }
}
