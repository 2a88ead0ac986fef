//! [`Users`]: who is using something, so that whoever takes it away can wait for the last to go.

use slab::Slab;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// Identifies a host: HOSTID of its Connect command.
pub(crate) type HostId = [u8; 16];

struct User {
    waker: Waker,
    host: HostId,
}

struct Fence {
    waiting_for: Vec<usize>,
    done: Box<dyn FnOnce() + Send>,
}

#[derive(Default)]
struct State {
    users: Slab<User>,
    fences: Vec<Fence>,
    waiting: Vec<Waker>,
}

/// The users of a namespace, a controller or a port, on whatever reactor each of them lives.
#[derive(Default)]
pub(crate) struct Users {
    state: Mutex<State>,
}

impl Users {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no holder of the list of users panics")
    }

    /// Becomes a user. Afterwards the caller must look whether the thing is still to be had:
    /// who takes it away marks it first and wakes the users then.
    pub(crate) fn enter(self: &Arc<Self>, waker: Waker, host: HostId) -> Pass {
        let id = self.state().users.insert(User { waker, host });
        Pass {
            users: self.clone(),
            id,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.state().users.len()
    }

    /// Wakes all of them.
    pub(crate) fn wake(&self) {
        let wakers: Vec<Waker> = self
            .state()
            .users
            .iter()
            .map(|(_, u)| u.waker.clone())
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ready once there are none.
    pub(crate) fn gone(self: &Arc<Self>) -> Gone {
        Gone(self.clone())
    }

    /// Calls `done` once every present user of one of the `hosts` has ended what it had begun.
    pub(crate) fn fence(&self, hosts: &[HostId], done: Box<dyn FnOnce() + Send>) {
        let mut state = self.state();
        let fenced = state
            .users
            .iter()
            .filter(|(_, user)| hosts.contains(&user.host));
        let waiting_for: Vec<usize> = fenced.map(|(id, _)| id).collect();
        if waiting_for.is_empty() {
            drop(state);
            done();
            return;
        }
        let wakers: Vec<Waker> = waiting_for
            .iter()
            .map(|&id| state.users[id].waker.clone())
            .collect();
        state.fences.push(Fence { waiting_for, done });
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    fn passed(&self, id: usize, leave: bool) {
        let mut state = self.state();
        if leave {
            state.users.remove(id);
        }
        for fence in &mut state.fences {
            fence.waiting_for.retain(|&other| other != id);
        }
        let open = |fence: &mut Fence| fence.waiting_for.is_empty();
        let done: Vec<Fence> = state.fences.extract_if(.., open).collect();
        let waiting = if state.users.is_empty() {
            std::mem::take(&mut state.waiting)
        } else {
            Vec::new()
        };
        drop(state);
        done.into_iter().for_each(|fence| (fence.done)());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// The right to use something, for as long as it lives.
pub(crate) struct Pass {
    users: Arc<Users>,
    id: usize,
}

impl Pass {
    /// Tells that everything begun before the latest fence has ended.
    pub(crate) fn passed(&self) {
        self.users.passed(self.id, false);
    }

    /// True if a fence waits for this user.
    pub(crate) fn is_fenced(&self) -> bool {
        self.users
            .state()
            .fences
            .iter()
            .any(|fence| fence.waiting_for.contains(&self.id))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.users.passed(self.id, true);
    }
}

/// Ready once there are no users.
pub(crate) struct Gone(Arc<Users>);

impl Future for Gone {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.users.is_empty() {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    fn poll(gone: &mut Gone) -> Poll<()> {
        Pin::new(gone).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn gone_is_ready_when_the_last_user_leaves() {
        let users = Arc::new(Users::default());
        let one = users.enter(Waker::noop().clone(), [1; 16]);
        let two = users.enter(Waker::noop().clone(), [2; 16]);
        let mut gone = users.gone();
        assert!(poll(&mut gone).is_pending());
        drop(one);
        assert!(poll(&mut gone).is_pending());
        drop(two);
        assert!(poll(&mut gone).is_ready());
        assert_eq!(users.count(), 0);
    }

    #[test]
    fn a_fence_waits_for_the_users_of_its_hosts_only() {
        let users = Arc::new(Users::default());
        let fenced = users.enter(Waker::noop().clone(), [1; 16]);
        let leaving = users.enter(Waker::noop().clone(), [1; 16]);
        let other = users.enter(Waker::noop().clone(), [2; 16]);
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        users.fence(&[[1; 16]], Box::new(move || told.store(true, SeqCst)));
        assert!(fenced.is_fenced() && !other.is_fenced());
        fenced.passed();
        assert!(!done.load(SeqCst) && !fenced.is_fenced());
        drop(leaving);
        assert!(done.load(SeqCst));
        drop((fenced, other));
    }

    #[test]
    fn a_fence_around_nobody_is_passed_at_once() {
        let users = Users::default();
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        users.fence(&[[1; 16]], Box::new(move || told.store(true, SeqCst)));
        assert!(done.load(SeqCst));
    }
}
