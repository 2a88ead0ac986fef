//! What installers of handlers are given to work on.

use crate::Reactors;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

/// Called, on any thread, when a change is durable or has failed.
pub type KeepDone = Box<dyn FnOnce(Result<(), String>) + Send>;

/// Small values that survive a crash, for data-plane state that a specification wants durable
/// before a command completes (reservations). The program brings it.
pub trait Keep: Send + Sync + 'static {
    /// The value under a key, as last made durable.
    fn get(&self, key: &str) -> Option<Vec<u8>>;
    /// Stores a value, or forgets the key with `None`. Never blocks; `done` tells when it is
    /// durable. Changes of one key happen in the order of the calls.
    fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone);
}

/// The world of a native data plane.
#[derive(Clone)]
pub struct World {
    /// The threads that do the I/O.
    pub reactors: Reactors,
    /// Durable small values.
    pub keep: Arc<dyn Keep>,
    /// Opened by the program once the stored resources are back after a start, each online or
    /// listed with its reason. Until then no front-end lets a host in: a host that saw only some
    /// of its namespaces would take the others for deleted.
    pub restored: Arc<Latch>,
}

/// A door that is opened once and stays open.
#[derive(Default)]
pub struct Latch(Mutex<LatchState>);

#[derive(Default)]
struct LatchState {
    open: bool,
    waiting: Vec<Waker>,
}

impl Latch {
    fn state(&self) -> MutexGuard<'_, LatchState> {
        self.0.lock().expect("no holder of the latch panics")
    }

    /// Opens it, and wakes who waits. Doing so again changes nothing.
    pub fn open(&self) {
        let mut state = self.state();
        state.open = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// True once it was opened. If not, `waker` is woken when it is.
    pub fn is_open_or_wake(&self, waker: &Waker) -> bool {
        let mut state = self.state();
        if !state.open {
            state.waiting.push(waker.clone());
        }
        state.open
    }

    /// Ends once it is opened.
    pub async fn opened(&self) {
        poll_fn(|cx| match self.is_open_or_wake(cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// True once it was opened.
    pub fn is_open(&self) -> bool {
        self.state().open
    }
}
