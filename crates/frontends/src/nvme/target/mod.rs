//! [`Target`]: everything the NVMe front-end serves, shared by handlers and connections.
//!
//! Handlers change it on the control plane's threads; connections on the reactors look things up
//! when a host connects and hold what they found. Locks are taken in the order directory,
//! subsystem, users, and never while an I/O is handled.

mod ana;
mod association;
mod listener;
mod namespace;
mod subsystem;

pub(crate) use ana::AnaStates;
pub(crate) use association::{Association, QueueError, QueueTicket};
pub(crate) use listener::{CNTLID_RANGE, CntlidRange, Limits, Listener, QUEUES_MAX};
pub(crate) use namespace::{Namespace, Shown};
pub(crate) use subsystem::{NAMESPACES_DEFAULT, NAMESPACES_MAX, Shape, Subsystem, Ways};

use super::fused::Gate;
use super::tcp::Port;
use super::users::Users;
use blk::{Nanos, Volume};
use engine::{Keep, Latch, Reactor, World};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use wire::nvme::{CNTLID_MAX, Nqn};

/// See the file's head.
pub(crate) struct Target {
    pub(crate) keep: Arc<dyn Keep>,
    pub(crate) restored: Arc<Latch>,
    /// When the program started serving, for "power on hours".
    pub(crate) started: Nanos,
    pub(crate) discovery: Discovery,
    /// Handles only: what the target starts must not keep the reactors' threads alive.
    reactors: Vec<Reactor>,
    directory: Mutex<Directory>,
    gates: Mutex<HashMap<usize, Weak<Gate>>>,
}

/// What there is, by name.
#[derive(Default)]
pub(crate) struct Directory {
    /// By resource name.
    pub(crate) subsystems: BTreeMap<String, Arc<Subsystem>>,
    /// The same by NQN, which hosts ask for.
    pub(crate) by_nqn: HashMap<Nqn, Arc<Subsystem>>,
    /// Sockets that listen, by their address.
    pub(crate) ports: BTreeMap<SocketAddr, Arc<Port>>,
}

/// What all discovery controllers share.
pub(crate) struct Discovery {
    generation: AtomicU64,
    next_cntlid: AtomicU16,
    /// Connected discovery controllers, to be woken when the log page changes.
    pub(crate) users: Arc<Users>,
}

impl Discovery {
    /// GENCTR of the discovery log page.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// The log page may read differently from now on.
    pub(crate) fn changed(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.users.wake();
    }

    /// A CNTLID for a discovery controller; they come round after 65,519 others.
    pub(crate) fn next_cntlid(&self) -> u16 {
        self.next_cntlid.fetch_add(1, SeqCst) % CNTLID_MAX + 1
    }
}

impl Target {
    pub(crate) fn new(world: &World) -> Arc<Self> {
        Arc::new(Self {
            keep: world.keep.clone(),
            restored: world.restored.clone(),
            started: engine::now(),
            discovery: Discovery {
                generation: AtomicU64::new(1),
                next_cntlid: AtomicU16::new(0),
                users: Arc::default(),
            },
            reactors: world.reactors.all().to_vec(),
            directory: Mutex::default(),
            gates: Mutex::default(),
        })
    }

    /// The directory, locked.
    pub(crate) fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory
            .lock()
            .expect("no holder of the directory panics")
    }

    /// The subsystem of a resource name.
    pub(crate) fn subsystem(&self, name: &str) -> Option<Arc<Subsystem>> {
        self.directory().subsystems.get(name).cloned()
    }

    /// The subsystem of an NQN.
    pub(crate) fn subsystem_of(&self, nqn: &Nqn) -> Option<Arc<Subsystem>> {
        self.directory().by_nqn.get(nqn).cloned()
    }

    /// The reactor with the fewest actors.
    pub(crate) fn least_loaded(&self) -> &Reactor {
        let least = self.reactors.iter().min_by_key(|reactor| reactor.load());
        least.expect("there is at least one reactor")
    }

    /// The gate that orders writes to a volume, the same for everybody who shows it.
    pub(crate) fn gate(&self, volume: &Arc<dyn Volume>) -> Arc<Gate> {
        let key = Arc::as_ptr(volume).cast::<()>() as usize;
        let mut gates = self.gates.lock().expect("no holder of the gates panics");
        gates.retain(|_, gate| gate.strong_count() > 0);
        if let Some(gate) = gates.get(&key).and_then(Weak::upgrade) {
            return gate;
        }
        let gate = Arc::new(Gate::default());
        gates.insert(key, Arc::downgrade(&gate));
        gate
    }
}
