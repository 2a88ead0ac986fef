//! [`Remote`]: one remote controller: its paths, its rails, and what all threads know of it.

use super::association::{Key, Loss, Times};
use super::memory;
use super::path::Condition;
use super::path_actor::PathActor;
use super::rail::Ticket;
use super::rail_actor::RailActor;
use super::routes::{Handle, PathId, Policy, Routes};
use super::session::Wish;
use super::socket::Place;
use super::table::{Known, Table};
use super::volume::{Outbox, RemoteVolume};
use blk::{Counted, Identity, Io, IoError, Nanos, State, Stats, Tally, Volume};
use engine::{Keep, Latch, Reactors, World};
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;
use wire::nvme::log::AnaState;

/// What a rail is told by lanes.
pub(super) enum Post {
    /// A lane was opened; its results go there.
    Opened(u64, Arc<Outbox>),
    /// It was dropped.
    Dropped(u64),
    /// An I/O.
    Io(Ticket, Io),
}

/// The mail of a rail.
#[derive(Default)]
pub(super) struct RailBox {
    posts: Mutex<Vec<Post>>,
    waker: OnceLock<Waker>,
}

impl RailBox {
    /// Tells the rail. It is woken with the first of a batch.
    pub(super) fn post(&self, post: Post) {
        let first = {
            let mut posts = self.posts.lock().expect("no holder of the mail panics");
            posts.push(post);
            posts.len() == 1
        };
        if first {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Takes all mail; `into` is empty and lends its memory.
    pub(super) fn take(&self, into: &mut Vec<Post>) {
        let mut posts = self.posts.lock().expect("no holder of the mail panics");
        std::mem::swap(&mut *posts, into);
    }

    /// The rail is there; mail that came before is looked at at once.
    pub(super) fn begin(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }
}

impl Drop for RailBox {
    fn drop(&mut self) {
        let posts = self.posts.get_mut().expect("no holder of the mail panics");
        for post in posts.drain(..) {
            if let Post::Io(_, io) = post {
                drop(io.finish(Err(IoError::Aborted)));
            }
        }
    }
}

/// What a path is told.
pub(super) enum Order {
    /// An I/O queue of this association is lost.
    Lost(u64, Loss),
    /// ANA states may have changed.
    CheckAna,
    /// Take other times.
    Tune(Times),
    /// Give the association up, and connect anew, as asked for now.
    Reset(Option<Wish>),
    /// End.
    Stop,
}

/// The mail of a path.
#[derive(Default)]
pub(super) struct PathBox {
    orders: Mutex<Vec<Order>>,
    waker: OnceLock<Waker>,
}

impl PathBox {
    pub(super) fn order(&self, order: Order) {
        self.orders.lock().expect("no holder panics").push(order);
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn take(&self) -> Vec<Order> {
        std::mem::take(&mut *self.orders.lock().expect("no holder panics"))
    }

    pub(super) fn begin(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }
}

/// One path as the threads share it.
pub(super) struct SharedPath {
    pub(super) mail: PathBox,
    pub(super) stats: Arc<Stats>,
    pub(super) place: Place,
    /// Associations made after the first.
    pub(super) reconnects: AtomicU64,
    /// Where its association is; I/O queues go to the same address.
    pub(super) address: Mutex<Option<SocketAddr>>,
    /// Opened once it has shown its namespaces or failed for the first time.
    pub(super) tried: Latch,
    /// Opened once its actor has ended.
    pub(super) ended: Latch,
}

/// A namespace as users get it.
struct Given {
    volume: Arc<RemoteVolume>,
    counted: Arc<dyn Volume>,
    stats: Arc<Stats>,
}

struct Inner {
    table: Table,
    given: BTreeMap<Handle, Given>,
    paths: BTreeMap<PathId, Arc<SharedPath>>,
    next_path: u32,
    /// What paths did that are gone: counters never go back.
    gone: Count,
}

/// What the paths of a controller have done in all.
#[derive(Clone, Default)]
pub(super) struct Count {
    pub(super) stats: Tally,
    pub(super) reconnects: u64,
}

impl Count {
    fn add(&mut self, path: &SharedPath) {
        self.stats.add(&path.stats.tally());
        self.reconnects += path.reconnects.load(Ordering::Relaxed);
    }
}

/// A namespace, as the API shows it.
pub(super) struct Namespace {
    pub(super) id: String,
    pub(super) nsid: u32,
    pub(super) identity: Identity,
    pub(super) state: State,
    pub(super) stats: Tally,
    pub(super) volume: Option<Arc<dyn Volume>>,
}

/// See the file's head.
pub(super) struct Remote {
    inner: Mutex<Inner>,
    routes: Mutex<Arc<Routes>>,
    /// Counts changes of `routes`.
    version: AtomicU64,
    rails: Arc<[Arc<RailBox>]>,
    ended: AtomicBool,
    keep: Arc<dyn Keep>,
    /// Until then those who use namespaces may not be there yet.
    restored: Arc<Latch>,
    /// Under which key namespaces are remembered.
    key: String,
}

impl Remote {
    /// A controller without paths, with so many rails: one on each of the first reactors.
    pub(super) fn start(
        world: &World,
        name: &str,
        rails: usize,
        policy: Policy,
        times: Times,
    ) -> Arc<Self> {
        let reactors = &world.reactors;
        let count = rails.clamp(1, reactors.all().len());
        let key = format!("nvme/remote/{name}");
        let remembered = world.keep.get(&key).unwrap_or_default();
        let remote = Arc::new(Self {
            inner: Mutex::new(Inner {
                table: Table::new(policy, times),
                given: BTreeMap::new(),
                paths: BTreeMap::new(),
                next_path: 0,
                gone: Count::default(),
            }),
            routes: Mutex::default(),
            version: AtomicU64::new(0),
            rails: (0..count).map(|_| Arc::default()).collect(),
            ended: AtomicBool::new(false),
            keep: world.keep.clone(),
            restored: world.restored.clone(),
            key,
        });
        let remembered = memory::read(&remembered);
        remote.change(|table| table.remember(remembered, engine::now()));
        for (at, mail) in remote.rails.iter().enumerate() {
            let (remote, mail) = (remote.clone(), mail.clone());
            let qid = at as u16 + 1;
            reactors.all()[at].spawn(move || Box::new(RailActor::new(remote, mail, qid)));
        }
        remote
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no holder of the table panics")
    }

    /// I/O queues wanted on each path.
    pub(super) fn rails(&self) -> u16 {
        self.rails.len() as u16
    }

    /// Adds a path, which connects on its own from now on.
    pub(super) fn add_path(
        self: &Arc<Self>,
        reactors: &Reactors,
        wish: Wish,
        place: Place,
    ) -> PathId {
        let stats: Arc<Stats> = Arc::default();
        let shared = Arc::new(SharedPath {
            mail: PathBox::default(),
            stats: stats.clone(),
            place,
            reconnects: AtomicU64::new(0),
            address: Mutex::new(None),
            tried: Latch::default(),
            ended: Latch::default(),
        });
        let id = {
            let mut inner = self.inner();
            let id = PathId(inner.next_path);
            inner.next_path += 1;
            inner.paths.insert(id, shared.clone());
            id
        };
        self.change(|table| table.add(id, stats, engine::now()));
        let remote = self.clone();
        let actor = move || -> Box<dyn engine::Actor> {
            Box::new(PathActor::new(remote, id, shared, wish))
        };
        reactors.least_loaded().spawn(actor);
        id
    }

    /// A path, until its removal has ended.
    pub(super) fn path(&self, id: PathId) -> Option<Arc<SharedPath>> {
        self.inner().paths.get(&id).cloned()
    }

    /// All paths.
    pub(super) fn paths(&self) -> Vec<Arc<SharedPath>> {
        self.inner().paths.values().cloned().collect()
    }

    /// What all paths have done, those included that are gone.
    pub(super) fn count(&self) -> Count {
        let inner = self.inner();
        let mut count = inner.gone.clone();
        inner.paths.values().for_each(|path| count.add(path));
        count
    }

    /// How many paths there are, and how many of them serve.
    pub(super) fn paths_live(&self) -> (usize, usize) {
        let inner = self.inner();
        (inner.paths.len(), inner.table.routes().paths.len())
    }

    /// The namespaces that a path shows, by their numbers on it, and how well.
    pub(super) fn ana_states(&self, id: PathId) -> Vec<(u32, AnaState)> {
        self.inner().table.ana_states(id)
    }

    /// Has every path give up its association and connect anew.
    pub(super) fn reset_paths(&self) {
        for path in self.paths() {
            path.mail.order(Order::Reset(None));
        }
    }

    /// Whether any path serves; if not, why.
    pub(super) fn state(&self) -> State {
        self.inner().table.overall()
    }

    /// Told by the path's own actor when it begins to end.
    pub(super) fn forget_path(&self, id: PathId) {
        {
            let mut inner = self.inner();
            if let Some(path) = inner.paths.remove(&id) {
                inner.gone.add(&path);
            }
        }
        self.change(|table| table.remove(id, engine::now()));
    }

    /// Ends it, once all I/O has ended. There are no paths any more.
    pub(super) fn end(&self) {
        self.keep.put(&self.key, None, Box::new(|_| {}));
        self.ended.store(true, Ordering::Release);
        self.rails.iter().for_each(|rail| rail.wake());
    }

    /// Whether the rails are to end.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Changes the table, and tells all who must know.
    pub(super) fn change(&self, act: impl FnOnce(&mut Table)) {
        self.change_all(|inner| act(&mut inner.table));
    }

    fn change_all(&self, act: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner();
        let before = (inner.table.routes().clone(), inner.table.to_remember());
        act(&mut inner);
        if Arc::ptr_eq(&before.0, inner.table.routes()) {
            return;
        }
        let remembered = inner.table.to_remember();
        if remembered != before.1 {
            let key = self.key.clone();
            let told = move |stored: Result<(), String>| {
                if let Err(error) = stored {
                    tracing::warn!(
                        key,
                        error,
                        "the namespaces of an array cannot be remembered"
                    );
                }
            };
            self.keep
                .put(&self.key, Some(memory::write(&remembered)), Box::new(told));
        }
        *self.routes.lock().expect("no holder panics") = inner.table.routes().clone();
        self.version.fetch_add(1, Ordering::Release);
        let news = inner.publish(&self.rails);
        drop(inner);
        self.rails.iter().for_each(|rail| rail.wake());
        for volume in news {
            volume.tell();
        }
    }

    /// Forgets namespaces that the array has no more and that nobody uses. Whoever is given a
    /// namespace gets it under the same lock, so nobody is left with one that is forgotten.
    pub(super) fn forget_unused(&self) {
        // Another namespace would get the number of one whose user is not back yet.
        if !self.restored.is_open() {
            return;
        }
        self.change_all(|Inner { table, given, .. }| {
            let is_used = |handle| {
                let given: Option<&Given> = given.get(&handle);
                given.is_some_and(|given| Arc::strong_count(&given.counted) > 1)
            };
            table.forget(is_used, engine::now());
            let known: HashSet<Handle> = table.namespaces().map(|(_, k)| k.handle).collect();
            given.retain(|handle, _| known.contains(handle));
        });
    }

    /// The first rail, which has a queue on every path that serves.
    pub(super) fn first_rail(&self) -> &RailBox {
        &self.rails[0]
    }

    /// The routes, if they are not those of `version`, which is brought up to date.
    pub(super) fn routes_since(&self, version: &mut u64) -> Option<Arc<Routes>> {
        let now = self.version.load(Ordering::Acquire);
        if now == *version {
            return None;
        }
        *version = now;
        Some(self.routes.lock().expect("no holder panics").clone())
    }

    /// When the table has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.inner().table.deadline()
    }

    /// How a path is doing.
    pub(super) fn condition(&self, id: PathId) -> Option<Condition> {
        self.inner().table.condition(id).cloned()
    }

    /// The namespaces that are known.
    pub(super) fn namespaces(&self) -> Vec<Namespace> {
        let inner = self.inner();
        let one = |(key, known): (&Key, &Known)| {
            let given = inner.given.get(&known.handle);
            Namespace {
                id: known.id.clone(),
                nsid: known.nsid,
                identity: key.identity(),
                state: known.state.clone(),
                stats: given.map(|given| given.stats.tally()).unwrap_or_default(),
                volume: given.map(|given| given.counted.clone()),
            }
        };
        inner.table.namespaces().map(one).collect()
    }
}

impl Inner {
    /// Makes volumes for new namespaces, and brings all up to date; returns those that have news.
    /// Under the lock, or of two changes on two threads the older could have the last word.
    fn publish(&mut self, rails: &Arc<[Arc<RailBox>]>) -> Vec<Arc<RemoteVolume>> {
        let mut news = Vec::new();
        for (_, known) in self.table.namespaces() {
            if let Ok(shape) = &known.shape {
                self.given.entry(known.handle).or_insert_with(|| {
                    let volume = Arc::new(RemoteVolume::new(known.handle, rails.clone(), shape));
                    let stats: Arc<Stats> = Arc::default();
                    let counted = Arc::new(Counted::new(volume.clone(), stats.clone()));
                    Given {
                        volume,
                        counted,
                        stats,
                    }
                });
            }
            if let Some(given) = self.given.get(&known.handle)
                && given.volume.set(known.shape.as_ref().ok(), &known.state)
            {
                news.push(given.volume.clone());
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::super::association::{Key, Shape};
    use super::super::memory::Remembered;
    use super::*;
    use blk::Geometry;
    use engine::{KeepDone, Options};

    /// Holds one value.
    struct Kept(Vec<u8>);

    impl Keep for Kept {
        fn get(&self, _: &str) -> Option<Vec<u8>> {
            Some(self.0.clone())
        }
        fn put(&self, _: &str, _: Option<Vec<u8>>, done: KeepDone) {
            done(Ok(()));
        }
    }

    #[test]
    fn a_start_forgets_no_namespace_before_its_users_are_back() {
        let one = Remembered {
            key: Key::Global([7; 16], [0; 16], [0; 8]),
            id: "n1".to_owned(),
            nsid: 1,
            shape: Shape {
                geometry: Geometry::new(4096, 8),
                boundary_blocks: 0,
                deallocated_zeroes: false,
            },
        };
        let world = World {
            reactors: Reactors::start(&Options::default()).unwrap(),
            keep: Arc::new(Kept(memory::write(&[one]))),
            restored: Arc::default(),
        };
        let remote = Remote::start(&world, "rc", 1, Policy::Failover, Times::default());
        remote.forget_unused();
        assert_eq!(remote.namespaces().len(), 1);
        world.restored.open();
        remote.forget_unused();
        assert_eq!(remote.namespaces().len(), 0);
        remote.end();
    }
}
