//! A namespace: a volume under a number. It stays when its volume goes, and shows as inaccessible.

use super::Subsystem;
use crate::nvme::fused::Gate;
use crate::nvme::reservation::Desk;
use crate::nvme::users::{HostId, Users};
use blk::{Geometry, Identity, State, Stats, Subscriber, Volume};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Weak};

/// A namespace with one volume, or without. When the volume is swapped for another object a new
/// `Namespace` takes the place of this one, with the same statistics and reservations.
pub(crate) struct Namespace {
    pub(crate) nsid: u32,
    /// The resource name.
    pub(crate) name: String,
    pub(crate) volume: Option<Arc<dyn Volume>>,
    pub(crate) gate: Arc<Gate>,
    /// What hosts know it by. All zeroes while that is unknown, because the volume never came.
    pub(crate) identity: Identity,
    pub(crate) stats: Arc<Stats>,
    pub(crate) desk: Arc<Desk>,
    /// Connections with a lane on it.
    pub(crate) users: Arc<Users>,
    /// The same for the volumes that this one has replaced, while they are being let go of.
    pub(crate) before: Vec<Arc<Users>>,
    /// How large it was when its volume was last there.
    pub(crate) remembered: Option<Geometry>,
    pub(crate) subsystem: Weak<Subsystem>,
    pub(crate) closing: AtomicBool,
}

/// What a host can see of a namespace besides its ANA state; a change of it is announced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shown {
    /// The generation is left out: it may count what hosts cannot see.
    geometry: Option<Geometry>,
    identity: Identity,
}

impl Namespace {
    /// Size and abilities, as they are or last were; `None` if they never were known.
    pub(crate) fn geometry(&self) -> Option<Geometry> {
        self.volume
            .as_ref()
            .map(|volume| volume.geometry())
            .or(self.remembered)
    }

    /// Why it cannot be used now, if so.
    pub(crate) fn offline(&self) -> Option<String> {
        match self.volume.as_ref().map(|volume| volume.state()) {
            Some(State::Online) => None,
            Some(State::Offline(reason)) => Some(reason),
            None => Some("its volume is not there".to_owned()),
        }
    }

    /// Whether it can be used now.
    pub(crate) fn is_online(&self) -> bool {
        self.volume
            .as_ref()
            .is_some_and(|volume| volume.state() == State::Online)
    }

    /// Whether it offers reservations. Those of a shared volume would have to be the array's, to
    /// hold for everybody, and are not passed on.
    pub(crate) fn has_reservations(&self) -> bool {
        self.geometry().is_some_and(|geometry| !geometry.shared)
    }

    /// What a host can see of it.
    pub(crate) fn shown(&self) -> Shown {
        let geometry = self.geometry().map(|geometry| Geometry {
            generation: 0,
            ..geometry
        });
        Shown {
            geometry,
            identity: self.identity,
        }
    }

    /// Tells its users to let go of it.
    pub(crate) fn close(&self) {
        self.closing.store(true, SeqCst);
        self.users.wake();
    }

    /// Connections with a lane on it or on what it replaced.
    pub(crate) fn lists_of_users(&self) -> Vec<Arc<Users>> {
        let before = self.before.iter().filter(|users| users.count() > 0);
        before.chain([&self.users]).cloned().collect()
    }

    /// Calls `done` once every present user of one of the `hosts` has ended what it had begun, also
    /// on a volume that was replaced meanwhile.
    pub(crate) fn fence(&self, hosts: &[HostId], done: Box<dyn FnOnce() + Send>) {
        let lists = self.lists_of_users();
        let left = Arc::new((AtomicUsize::new(lists.len()), Mutex::new(Some(done))));
        for users in lists {
            let left = left.clone();
            let passed = move || {
                if left.0.fetch_sub(1, SeqCst) > 1 {
                    return;
                }
                let done = left.1.lock().expect("no holder of the fence panics").take();
                if let Some(done) = done {
                    done();
                }
            };
            users.fence(hosts, Box::new(passed));
        }
    }

    /// Whether its users have to let go of it.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(SeqCst)
    }
}

impl Subscriber for Namespace {
    fn changed(&self) {
        if let Some(subsystem) = self.subsystem.upgrade() {
            subsystem.namespaces_changed();
        }
    }
}
