//! [`RemoteVolume`]: a namespace of an array as a volume, and the lanes into it.

use super::association::Shape;
use super::rail::Ticket;
use super::remote::{Post, RailBox};
use super::routes::Handle;
use blk::{
    Done, Geometry, Home, Io, IoError, Lane, Nanos, Op, State, Subscriber, Subscribers, Volume,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::Waker;

/// Lanes so far, to tell them apart.
static LANES: AtomicU64 = AtomicU64::new(0);

/// What the lanes of a volume look at.
struct Shared {
    handle: Handle,
    now: Mutex<(Geometry, State)>,
    /// Counts changes of `now`.
    version: AtomicU64,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, (Geometry, State)> {
        self.now.lock().expect("no holder of the state panics")
    }
}

/// See the file's head.
pub(super) struct RemoteVolume {
    shared: Arc<Shared>,
    rails: Arc<[Arc<RailBox>]>,
    subscribers: Subscribers,
}

impl RemoteVolume {
    pub(super) fn new(handle: Handle, rails: Arc<[Arc<RailBox>]>, shape: &Shape) -> Self {
        let shared = Shared {
            handle,
            now: Mutex::new((shape.geometry, State::Online)),
            version: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
            rails,
            subscribers: Subscribers::default(),
        }
    }

    /// Takes what the array says now. True if that is news, which users are to be told.
    pub(super) fn set(&self, shape: Option<&Shape>, state: &State) -> bool {
        let mut now = self.shared.now();
        let geometry = shape.map_or(now.0, |shape| shape.geometry);
        let next = (geometry, state.clone());
        let changed = *now != next;
        *now = next;
        self.shared
            .version
            .fetch_add(u64::from(changed), Ordering::Release);
        changed
    }

    /// Tells users that there is news.
    pub(super) fn tell(&self) {
        self.subscribers.wake();
    }
}

impl Volume for RemoteVolume {
    fn geometry(&self) -> Geometry {
        self.shared.now().0
    }

    fn state(&self) -> State {
        self.shared.now().1.clone()
    }

    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane> {
        let outbox = Arc::new(Outbox {
            done: Mutex::default(),
            waker: home.waker(),
            full: AtomicBool::new(false),
        });
        let id = LANES.fetch_add(1, Ordering::Relaxed);
        // The rail of this reactor if it has one; its queue is then served by the same thread.
        let rail = engine::current().unwrap_or(0) % self.rails.len();
        let rail = self.rails[rail].clone();
        rail.post(Post::Opened(id, outbox.clone()));
        Box::new(RemoteLane {
            id,
            version: self.shared.version.load(Ordering::Acquire),
            geometry: self.geometry(),
            volume: self.shared.clone(),
            rail,
            outbox,
            ended: Vec::new(),
        })
    }

    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.subscribers.add(subscriber);
    }
}

/// What has ended for one lane.
pub(super) struct Outbox {
    done: Mutex<Vec<Done>>,
    waker: Waker,
    /// There is something in it; saves the lock when there is not.
    full: AtomicBool,
}

impl Outbox {
    fn done(&self) -> MutexGuard<'_, Vec<Done>> {
        self.done.lock().expect("no holder of the outbox panics")
    }

    /// Adds what has ended, and wakes the owner of the lane.
    pub(super) fn put(&self, ended: &mut Vec<Done>) {
        self.done().append(ended);
        self.full.store(true, Ordering::Release);
        self.waker.wake_by_ref();
    }
}

struct RemoteLane {
    id: u64,
    volume: Arc<Shared>,
    rail: Arc<RailBox>,
    outbox: Arc<Outbox>,
    /// As of `version`.
    geometry: Geometry,
    version: u64,
    /// Ended without the array.
    ended: Vec<Done>,
}

impl RemoteLane {
    /// The one check of bounds; what passes it fits the namespace as the array last described it.
    fn admit(&mut self, io: &Io) -> Result<(), IoError> {
        let version = self.volume.version.load(Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.geometry = self.volume.now().0;
        }
        self.geometry.admit(io)?;
        if io.op == Op::Read && !io.buf.is_exclusive() {
            return Err(IoError::Misaligned);
        }
        Ok(())
    }
}

impl Lane for RemoteLane {
    fn submit(&mut self, _: Nanos, io: Io) {
        let admitted = self.admit(&io);
        if admitted.is_err() || (io.blocks == 0 && io.op != Op::Flush) {
            self.ended.push(io.finish(admitted));
            return;
        }
        let ticket = Ticket {
            lane: self.id,
            handle: self.volume.handle,
            stride: self.geometry.stride(),
        };
        self.rail.post(Post::Io(ticket, io));
    }

    fn poll(&mut self, _: Nanos, done: &mut Vec<Done>) {
        done.append(&mut self.ended);
        if self.outbox.full.swap(false, Ordering::Acquire) {
            done.append(&mut self.outbox.done());
        }
    }
}

impl Drop for RemoteLane {
    fn drop(&mut self) {
        self.rail.post(Post::Dropped(self.id));
    }
}
