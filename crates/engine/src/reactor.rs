//! A [`Reactor`] is one thread that runs actors; [`Reactors`] are all of them.
//!
//! A reactor works while there is work, spins for a bounded time that adapts to the load, and then
//! sleeps in the kernel until a descriptor, another thread or the earliest deadline wakes it.

use crate::actor::{Actor, ActorId, Cx, Next};
use crate::sys::{Driver, Event, FileHub, Files};
use crate::timers::Timers;
use blk::Nanos;
use rustix::event::{EventfdFlags, eventfd};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, mpsc};
use std::task::{Wake, Waker};
use std::thread::JoinHandle;
use std::time::Instant;

/// Rounds between two looks at the kernel while actors are busy: bounds how long a new event waits.
const BUSY_ROUNDS_PER_POLL: u32 = 1;
/// The longest sleep: a safety net only, nothing relies on it.
const SLEEP_MAX: Nanos = Nanos::from_secs(60);

/// The monotonic clock, in nanoseconds since the program's first look at it.
pub fn now() -> Nanos {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    Nanos(START.elapsed().as_nanos() as u64)
}

thread_local! {
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of the reactor that this thread is, as in [`Reactors::all`].
pub fn current() -> Option<usize> {
    CURRENT.get()
}

/// How reactors wait and do file I/O.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    /// io_uring where it is allowed, else epoll.
    Auto,
    /// io_uring, or an error.
    Uring,
    /// epoll and a few threads for files.
    Epoll,
}

/// How to start reactors.
#[derive(Clone, Debug)]
pub struct Options {
    /// One reactor on each of these CPUs. Empty: one for each CPU that the process may use, not
    /// pinned.
    pub cores: Vec<usize>,
    /// How to wait.
    pub backend: Backend,
    /// The longest time to spin before sleeping; zero never spins.
    pub spin_max: Nanos,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cores: Vec::new(),
            backend: Backend::Auto,
            spin_max: Nanos::from_micros(50),
        }
    }
}

type Make = Box<dyn FnOnce() -> Box<dyn Actor> + Send>;

#[derive(Default)]
struct Inbox {
    births: Vec<(ActorId, Make)>,
    woken: Vec<ActorId>,
    free_ids: Vec<ActorId>,
    next_id: u32,
    stop: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    /// True when the inbox may have something; saves the lock in the common round.
    rung: AtomicBool,
    sleeping: AtomicBool,
    bell: OwnedFd,
    actors: AtomicUsize,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("no holder of the inbox panics")
    }

    fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if self.sleeping.swap(false, Ordering::SeqCst) {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }
}

struct ActorWaker {
    shared: Arc<Shared>,
    id: ActorId,
}

impl Wake for ActorWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }
    fn wake_by_ref(self: &Arc<Self>) {
        self.shared.inbox().woken.push(self.id);
        self.shared.ring();
    }
}

/// A handle to one reactor, for any thread.
#[derive(Clone)]
pub struct Reactor(Arc<Shared>);

impl Reactor {
    /// Brings a new actor to life on the reactor's thread. `make` runs there.
    pub fn spawn(&self, make: impl FnOnce() -> Box<dyn Actor> + Send + 'static) -> ActorId {
        let mut inbox = self.0.inbox();
        let id = inbox.free_ids.pop().unwrap_or_else(|| {
            inbox.next_id += 1;
            ActorId(inbox.next_id - 1)
        });
        inbox.births.push((id, Box::new(make)));
        drop(inbox);
        self.0.actors.fetch_add(1, Ordering::Relaxed);
        self.0.ring();
        id
    }

    /// Wakes an actor from any thread. Waking one that has ended does no harm.
    pub fn waker(&self, id: ActorId) -> Waker {
        Waker::from(Arc::new(ActorWaker {
            shared: self.0.clone(),
            id,
        }))
    }

    /// Actors that live here.
    pub fn load(&self) -> usize {
        self.0.actors.load(Ordering::Relaxed)
    }
}

struct Threads {
    reactors: Vec<Reactor>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    backend: Backend,
}

/// All reactors of the process. The last clone to go ends them.
#[derive(Clone)]
pub struct Reactors(Arc<Threads>);

impl Reactors {
    /// Starts the threads.
    pub fn start(options: &Options) -> io::Result<Self> {
        let cores = placement(&options.cores)?;
        choose(options.backend, |backend| {
            Self::start_over(backend, &cores, options.spin_max)
        })
    }

    /// Starts all threads, or none.
    fn start_over(backend: Backend, cores: &[Option<usize>], spin_max: Nanos) -> io::Result<Self> {
        // Dropped on the way out if one of them fails, and with it those before.
        let mut all = Threads {
            reactors: Vec::new(),
            threads: Mutex::default(),
            backend,
        };
        for (number, &core) in cores.iter().enumerate() {
            let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
            let shared = Arc::new(Shared {
                inbox: Mutex::default(),
                rung: AtomicBool::new(false),
                sleeping: AtomicBool::new(false),
                bell: eventfd(0, flags)?,
                actors: AtomicUsize::new(0),
            });
            let reactor = Reactor(shared);
            let own = reactor.clone();
            let (tell, told) = mpsc::channel();
            let thread = std::thread::Builder::new()
                .name(format!("reactor-{number}"))
                .spawn(move || {
                    CURRENT.set(Some(number));
                    Local::main(own, core, backend, spin_max, &tell);
                })?;
            all.reactors.push(reactor);
            all.threads
                .get_mut()
                .expect("no holder panics")
                .push(thread);
            told.recv()
                .unwrap_or_else(|_| Err(io::Error::other("the reactor thread ended")))?;
        }
        Ok(Self(Arc::new(all)))
    }

    /// Each of them.
    pub fn all(&self) -> &[Reactor] {
        &self.0.reactors
    }

    /// How they wait: [`Backend::Uring`] or [`Backend::Epoll`].
    pub fn backend(&self) -> Backend {
        self.0.backend
    }

    /// The one with the fewest actors; new connections go there.
    pub fn least_loaded(&self) -> &Reactor {
        let least = self.0.reactors.iter().min_by_key(|r| r.load());
        least.expect("there is at least one reactor")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        for reactor in &self.reactors {
            reactor.0.inbox().stop = true;
            reactor.0.ring();
        }
        for thread in self.threads.lock().expect("no holder panics").drain(..) {
            // The last handle may be dropped by an actor, on a reactor's own thread.
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

/// Which CPU each reactor is pinned to; `None` leaves the choice to the kernel.
fn placement(wanted: &[usize]) -> io::Result<Vec<Option<usize>>> {
    let allowed = sched_getaffinity(None)?;
    if wanted.is_empty() {
        return Ok(vec![None; (allowed.count() as usize).max(1)]);
    }
    for &core in wanted {
        if core >= CpuSet::MAX_CPU || !allowed.is_set(core) {
            let usable: Vec<usize> = (0..CpuSet::MAX_CPU)
                .filter(|&c| allowed.is_set(c))
                .collect();
            let text = format!("cores: CPU {core} is not usable here; usable are {usable:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    Ok(wanted.iter().copied().map(Some).collect())
}

/// Starts as wanted. A machine may have rings for some reactors and not for all, so the automatic
/// choice is made by starting all of them.
fn choose<T>(wanted: Backend, start: impl Fn(Backend) -> io::Result<T>) -> io::Result<T> {
    if wanted != Backend::Auto {
        return start(wanted);
    }
    start(Backend::Uring).or_else(|error| {
        tracing::warn!(%error, "io_uring cannot be used here: epoll and threads do the work");
        start(Backend::Epoll)
    })
}

struct Entry {
    actor: Box<dyn Actor>,
    queued: bool,
}

/// A reactor as its own thread sees it.
pub(crate) struct Local {
    driver: Rc<RefCell<Driver>>,
    hub: Rc<RefCell<FileHub>>,
    /// Who watches which descriptor. Numbers are used again by the kernel, so an actor that ends
    /// may only take back what is still its own.
    watchers: RefCell<HashMap<RawFd, ActorId>>,
}

/// A reactor that panics takes the process along: unwinding would free buffers that the kernel
/// still writes to, and a dead reactor would go on to be given connections that nobody serves.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

struct Loop {
    local: Local,
    reactor: Reactor,
    actors: Vec<Option<Entry>>,
    ready: VecDeque<ActorId>,
    timers: Timers,
    spin: Nanos,
    spin_max: Nanos,
    events: Vec<Event>,
}

impl Local {
    pub(crate) fn watch(&self, fd: RawFd, actor: ActorId) -> io::Result<()> {
        self.driver.borrow_mut().watch(fd, actor)?;
        self.watchers.borrow_mut().insert(fd, actor);
        Ok(())
    }

    pub(crate) fn unwatch(&self, fd: RawFd, actor: ActorId) {
        let mut watchers = self.watchers.borrow_mut();
        if watchers.get(&fd) == Some(&actor) {
            watchers.remove(&fd);
            self.driver.borrow_mut().unwatch(fd);
        }
    }

    fn unwatch_all(&self, actor: ActorId) {
        let mut driver = self.driver.borrow_mut();
        self.watchers.borrow_mut().retain(|&fd, &mut watcher| {
            if watcher == actor {
                driver.unwatch(fd);
            }
            watcher != actor
        });
    }

    /// What file operations are handed to.
    pub(crate) fn files(&self) -> Files {
        Files {
            driver: self.driver.clone(),
            hub: self.hub.clone(),
        }
    }

    fn main(
        reactor: Reactor,
        core: Option<usize>,
        backend: Backend,
        spin_max: Nanos,
        tell: &mpsc::Sender<io::Result<()>>,
    ) {
        let _abort = AbortOnPanic;
        let start = || -> io::Result<Driver> {
            let bell = reactor.0.bell.as_raw_fd();
            let driver = if backend == Backend::Epoll {
                Driver::epoll(bell)?
            } else {
                Driver::uring(bell)?
            };
            // After the driver: its threads for files go wherever the process may.
            if let Some(core) = core {
                let mut set = CpuSet::new();
                set.set(core);
                sched_setaffinity(None, &set)?;
            }
            Ok(driver)
        };
        let driver = match start() {
            Ok(driver) => driver,
            Err(error) => {
                let _ = tell.send(Err(error));
                return;
            }
        };
        let local = Self {
            driver: Rc::new(RefCell::new(driver)),
            hub: Rc::default(),
            watchers: RefCell::default(),
        };
        let _ = tell.send(Ok(()));
        let mut own = Loop {
            local,
            reactor,
            actors: Vec::new(),
            ready: VecDeque::new(),
            timers: Timers::default(),
            spin: Nanos(0),
            spin_max,
            events: Vec::new(),
        };
        own.run();
    }
}

impl Loop {
    fn run(&mut self) {
        let mut round = 0_u32;
        while self.take_inbox() {
            round = round.wrapping_add(1);
            self.expire();
            if self.ready.is_empty() {
                self.wait();
            } else if round.is_multiple_of(BUSY_ROUNDS_PER_POLL) {
                self.poll(None);
            }
            for _ in 0..self.ready.len() {
                if let Some(id) = self.ready.pop_front() {
                    self.run_one(id);
                }
            }
        }
        self.end();
    }

    /// Takes births and wake-ups. False once the reactor is told to stop.
    fn take_inbox(&mut self) -> bool {
        if !self.reactor.0.rung.swap(false, Ordering::SeqCst) {
            return true;
        }
        let mut inbox = self.reactor.0.inbox();
        let (births, woken) = (
            std::mem::take(&mut inbox.births),
            std::mem::take(&mut inbox.woken),
        );
        let stop = inbox.stop;
        drop(inbox);
        for (id, make) in births {
            self.give_birth(id, make());
        }
        for id in woken {
            self.queue(id);
        }
        !stop
    }

    fn give_birth(&mut self, id: ActorId, actor: Box<dyn Actor>) {
        let index = id.0 as usize;
        if self.actors.len() <= index {
            self.actors.resize_with(index + 1, || None);
        }
        let entry = Entry {
            actor,
            queued: false,
        };
        self.actors[index] = Some(entry);
        self.step(id, |actor, cx| actor.start(cx));
    }

    fn queue(&mut self, id: ActorId) {
        if let Some(Some(entry)) = self.actors.get_mut(id.0 as usize)
            && !entry.queued
        {
            entry.queued = true;
            self.ready.push_back(id);
        }
    }

    fn run_one(&mut self, id: ActorId) {
        if let Some(Some(entry)) = self.actors.get_mut(id.0 as usize) {
            entry.queued = false;
            self.step(id, |actor, cx| actor.run(cx));
        }
    }

    fn step(&mut self, id: ActorId, act: impl FnOnce(&mut dyn Actor, &mut Cx<'_>) -> Next) {
        let Some(Some(entry)) = self.actors.get_mut(id.0 as usize) else {
            return;
        };
        let mut cx = Cx {
            local: &self.local,
            id,
            reactor: &self.reactor,
        };
        let next = act(&mut *entry.actor, &mut cx);
        match next {
            Next::Busy => {
                self.timers.set(id.0, None);
                self.queue(id);
            }
            Next::Idle(deadline) => self.timers.set(id.0, deadline),
            Next::Gone => self.bury(id),
        }
    }

    fn bury(&mut self, id: ActorId) {
        if let Some(entry) = self.actors[id.0 as usize].take() {
            self.local.unwatch_all(id);
            self.timers.forget(id.0);
            drop(entry);
            self.reactor.0.actors.fetch_sub(1, Ordering::Relaxed);
            self.reactor.0.inbox().free_ids.push(id);
        }
    }

    /// Queues the actors whose time has come.
    fn expire(&mut self) {
        if self.timers.first().is_none() {
            return;
        }
        let now = now();
        while let Some(id) = self.timers.expire(now) {
            self.queue(ActorId(id));
        }
    }

    fn poll(&mut self, wait: Option<Nanos>) {
        let mut events = std::mem::take(&mut self.events);
        let polled = self.local.driver.borrow_mut().poll(wait, &mut events);
        if let Err(error) = polled {
            // Without its ring a reactor can neither serve nor tell; hosts reconnect to the next.
            tracing::error!(%error, "the reactor's ring failed");
            std::process::abort();
        }
        for event in events.drain(..) {
            match event {
                Event::Fd(id) => self.queue(id),
                Event::File { slot, result } => {
                    let mut driver = self.local.driver.borrow_mut();
                    let ended = self.local.hub.borrow_mut().ended(&mut driver, slot, result);
                    drop(driver);
                    if let Some(id) = ended {
                        self.queue(id);
                    }
                }
                Event::Bell => {
                    let _ = rustix::io::read(&self.reactor.0.bell, &mut [0; 8]);
                }
            }
        }
        self.events = events;
    }

    /// Spins while that has paid off lately, then sleeps.
    fn wait(&mut self) {
        let began = now();
        let spin_until = began + self.spin;
        let earliest = self.timers.first();
        while self.spin > Nanos(0) {
            self.poll(None);
            let now = now();
            let rung = self.reactor.0.rung.load(Ordering::SeqCst);
            if !self.ready.is_empty() || rung || earliest.is_some_and(|at| at <= now) {
                self.spin = (self.spin + self.spin).min(self.spin_max);
                return;
            }
            if now >= spin_until {
                break;
            }
            std::hint::spin_loop();
        }
        self.reactor.0.sleeping.store(true, Ordering::SeqCst);
        if self.reactor.0.rung.load(Ordering::SeqCst) {
            self.reactor.0.sleeping.store(false, Ordering::SeqCst);
            return;
        }
        let now_ = now();
        let wait = earliest
            .map_or(SLEEP_MAX, |at| at.since(now_))
            .min(SLEEP_MAX);
        self.poll(Some(wait));
        self.reactor.0.sleeping.store(false, Ordering::SeqCst);
        // Events that come soon after the last are worth spinning for the next time.
        let slept = now().since(began);
        self.spin = if slept < self.spin_max {
            (self.spin + self.spin)
                .max(Nanos::from_micros(5))
                .min(self.spin_max)
        } else if self.spin < Nanos::from_micros(2) {
            Nanos(0)
        } else {
            Nanos(self.spin.0 / 2)
        };
    }

    /// Drops all actors and waits for the kernel to be done with their buffers.
    fn end(&mut self) {
        for index in 0..self.actors.len() {
            self.bury(ActorId(index as u32));
        }
        while self.local.hub.borrow().in_flight() > 0 {
            self.poll(Some(Nanos::from_millis(100)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_automatic_choice_falls_back_when_starting_fails() {
        let no_rings = |backend| match backend {
            Backend::Uring => Err(io::Error::from_raw_os_error(libc::ENOMEM)),
            other => Ok(other),
        };
        assert_eq!(choose(Backend::Auto, no_rings).unwrap(), Backend::Epoll);
        assert!(choose(Backend::Uring, no_rings).is_err());
        assert_eq!(choose(Backend::Auto, Ok).unwrap(), Backend::Uring);
        assert!(
            choose(Backend::Epoll, |_| Err::<(), _>(
                io::ErrorKind::Other.into()
            ))
            .is_err()
        );
    }
}
