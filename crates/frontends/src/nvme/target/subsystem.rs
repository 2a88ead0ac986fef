//! An NVM subsystem: what hosts name in Connect, with its namespaces, ways in and hosts.

use super::{Association, CntlidRange, Listener, Namespace};
use crate::nvme::reservation::Notice;
use crate::nvme::users::HostId;
use arc_swap::ArcSwap;
use blk::Stats;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use wire::nvme::{Nqn, Status};

/// Namespaces of a subsystem whose `max_namespaces` is 0: one changed namespace list holds them.
pub(crate) const NAMESPACES_DEFAULT: u32 = 1024;
/// The largest `max_namespaces`: the ANA log page of so many stays below 1 MiB, one transfer.
pub(crate) const NAMESPACES_MAX: u32 = 16_384;

/// What may change while the subsystem lives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    pub(crate) nqn: Nqn,
    pub(crate) serial: String,
    pub(crate) model: String,
    /// Also the largest NSID.
    pub(crate) max_namespaces: u32,
    /// The only host that may connect.
    pub(crate) host: Option<Nqn>,
}

impl Shape {
    /// Whether a host may connect.
    pub(crate) fn admits(&self, host: &Nqn) -> bool {
        self.host.as_ref().is_none_or(|only| only == host)
    }
}

/// See the file's head.
pub(crate) struct Subsystem {
    /// The resource name.
    pub(crate) name: String,
    pub(crate) stats: Arc<Stats>,
    shape: ArcSwap<Shape>,
    namespaces: ArcSwap<BTreeMap<u32, Arc<Namespace>>>,
    /// Changes with everything that connections keep copies of.
    generation: AtomicU64,
    /// Counts the fences of all namespaces.
    fences: AtomicU64,
    ways: Mutex<Ways>,
}

/// How hosts come in, and who has.
#[derive(Default)]
pub(crate) struct Ways {
    /// By resource name.
    pub(crate) listeners: BTreeMap<String, Arc<Listener>>,
    /// By CNTLID.
    pub(crate) associations: BTreeMap<u16, Arc<Association>>,
    /// What the CNTLIDs of both are among.
    pub(crate) cntlids: CntlidRange,
}

impl Subsystem {
    pub(crate) fn new(name: String, shape: Shape) -> Arc<Self> {
        Arc::new(Self {
            name,
            stats: Arc::default(),
            shape: ArcSwap::from_pointee(shape),
            namespaces: ArcSwap::default(),
            generation: AtomicU64::new(1),
            fences: AtomicU64::new(0),
            ways: Mutex::default(),
        })
    }

    /// Listeners and hosts, locked.
    pub(crate) fn ways(&self) -> MutexGuard<'_, Ways> {
        self.ways.lock().expect("no holder of the listeners panics")
    }

    /// What it looks like now.
    pub(crate) fn shape(&self) -> Arc<Shape> {
        self.shape.load_full()
    }

    /// Gives it another look.
    pub(crate) fn reshape(&self, shape: Shape) {
        self.shape.store(Arc::new(shape));
    }

    /// The namespaces as they are now, by NSID.
    pub(crate) fn namespaces(&self) -> Arc<BTreeMap<u32, Arc<Namespace>>> {
        self.namespaces.load_full()
    }

    /// The namespace of a resource name.
    pub(crate) fn namespace_named(&self, name: &str) -> Option<Arc<Namespace>> {
        self.namespaces
            .load()
            .values()
            .find(|one| one.name == name)
            .cloned()
    }

    /// Changes the set of namespaces and tells the hosts. Edits happen one after the other.
    pub(crate) fn edit_namespaces<T>(
        &self,
        edit: impl FnOnce(&mut BTreeMap<u32, Arc<Namespace>>) -> T,
    ) -> T {
        let ways = self.ways();
        let mut all = BTreeMap::clone(&self.namespaces.load());
        let result = edit(&mut all);
        self.namespaces.store(Arc::new(all));
        drop(ways);
        self.namespaces_changed();
        result
    }

    /// Changes with everything that connections keep copies of.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    /// Changes when a fence is raised on a namespace.
    #[inline]
    pub(crate) fn fences(&self) -> u64 {
        self.fences.load(SeqCst)
    }

    /// A fence was raised on a namespace: its users look for it when they run.
    pub(crate) fn fence_raised(&self) {
        self.fences.fetch_add(1, SeqCst);
    }

    /// Makes all connections look at the namespaces and their ANA states again; each works out what
    /// its host has to be told.
    pub(crate) fn namespaces_changed(&self) {
        self.generation.fetch_add(1, SeqCst);
        let all: Vec<_> = self.ways().associations.values().cloned().collect();
        all.iter().for_each(|one| one.users.wake());
    }

    /// Makes a controller for a host, with a CNTLID of the listener's range.
    ///
    /// # Errors
    /// Connect Invalid Host for a host that may not come in, Connect Controller Busy when the range
    /// is used up.
    pub(crate) fn associate(
        self: &Arc<Self>,
        listener: &Arc<Listener>,
        host: HostId,
        hostnqn: Nqn,
    ) -> Result<Arc<Association>, Status> {
        let mut ways = self.ways();
        // Under the lock that whoever changes who may come in takes afterwards to send the others
        // away: a host is refused here or found there.
        if !self.shape().admits(&hostnqn) {
            return Err(Status::CONNECT_INVALID_HOST.dnr());
        }
        let free = listener
            .cntlids(ways.cntlids.last)
            .find(|id| !ways.associations.contains_key(id));
        let cntlid = free.ok_or(Status::CONTROLLER_BUSY)?;
        listener.gave(cntlid);
        let way = Some((self.clone(), listener.clone()));
        let one = Association::new(cntlid, host, hostnqn, way, **listener.limits.load());
        ways.associations.insert(cntlid, one.clone());
        Ok(one)
    }

    /// Forgets a controller whose admin queue is gone.
    pub(crate) fn dissociate(&self, association: &Arc<Association>) {
        let mut ways = self.ways();
        let cntlid = association.cntlid;
        if ways
            .associations
            .get(&cntlid)
            .is_some_and(|one| Arc::ptr_eq(one, association))
        {
            ways.associations.remove(&cntlid);
        }
    }

    /// Hosts that are connected now.
    pub(crate) fn hosts(&self) -> Vec<String> {
        let ways = self.ways();
        ways.associations
            .values()
            .map(|one| one.hostnqn.to_string())
            .collect()
    }

    /// Tells the controllers of registered hosts what became of their reservations.
    pub(crate) fn notify(&self, nsid: u32, notices: &[(HostId, Notice)]) {
        let all: Vec<_> = self.ways().associations.values().cloned().collect();
        for (host, notice) in notices {
            all.iter()
                .filter(|one| one.host == *host)
                .for_each(|one| one.notify(nsid, *notice));
        }
    }
}
