//! [`Desk`]: where the reservation commands of all hosts queue, so that each change is durable
//! before it counts and before its command completes.

use super::{Access, Change, Request, Reservations};
use crate::nvme::users::HostId;
use engine::{Keep, KeepDone};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use wire::nvme::Status;
use wire::nvme::reservation::Report;

/// Commands that may wait for those before them: a host has one or two in flight.
const QUEUE_MAX: usize = 256;

/// What a request of a namespace that is deleted meanwhile is told.
const GONE: Status = Status::INVALID_NAMESPACE.dnr();

/// How a request ended: what it changed, or the status to complete it with.
pub(crate) type Outcome = Result<Change, Status>;
type Done = Box<dyn FnOnce(Outcome) + Send>;

struct Waiting {
    host: HostId,
    request: Request,
    done: Done,
}

#[derive(Default)]
struct State {
    current: Reservations,
    /// A change is on its way to the disk.
    busy: bool,
    queue: VecDeque<Waiting>,
    /// The namespace is deleted: nothing changes any more.
    closed: bool,
    /// Who waits for everything to be forgotten, while a change is on its way to the disk.
    forgetting: Option<KeepDone>,
}

/// The reservations of one namespace, shared by all controllers.
pub(crate) struct Desk {
    keep: Arc<dyn Keep>,
    key: String,
    state: Mutex<State>,
    /// Changes with every change of who may do what.
    version: AtomicU64,
}

impl Desk {
    /// Brings back what was kept under `key`.
    pub(crate) fn open(keep: Arc<dyn Keep>, key: String) -> Arc<Self> {
        let record = keep.get(&key);
        let current = record.as_deref().and_then(Reservations::from_record);
        if record.is_some() && current.is_none() {
            // Hosts find themselves unregistered, as after a power loss without persistence.
            tracing::error!(key, "the kept reservations cannot be read and are lost");
        }
        let state = State {
            current: current.unwrap_or_default(),
            ..State::default()
        };
        Arc::new(Self {
            keep,
            key,
            state: Mutex::new(state),
            version: AtomicU64::new(1),
        })
    }

    /// Forgets what was kept: the namespace is deleted. What is on its way to the disk gets there
    /// first, or it would be back under the next namespace of that name; requests that wait, and
    /// those to come, are refused. `done` is called once it is durable, on any thread.
    pub(crate) fn forget(&self, done: KeepDone) {
        let mut state = self.state();
        state.closed = true;
        let refused = std::mem::take(&mut state.queue);
        if state.busy {
            state.forgetting = Some(done);
            drop(state);
        } else {
            drop(state);
            self.keep.put(&self.key, None, done);
        }
        for waiting in refused {
            (waiting.done)(Err(GONE));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the desk panics")
    }

    /// Changes with every change of who may do what; to be looked at for every command.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(SeqCst)
    }

    /// What `host` may do now.
    pub(crate) fn access(&self, host: &HostId) -> Access {
        self.state().current.access(host)
    }

    /// What Reservation Report tells.
    pub(crate) fn report(&self) -> Report {
        self.state().current.report()
    }

    /// Whether reservations survive a loss of power.
    pub(crate) fn persists(&self) -> bool {
        self.state().current.persists()
    }

    /// Takes a request. `done` is called once its change is durable and counts, or with the status
    /// that refuses it; on any thread.
    pub(crate) fn submit(self: &Arc<Self>, host: HostId, request: Request, done: Done) {
        let mut state = self.state();
        let refusal = match &*state {
            State { closed: true, .. } => Some(GONE),
            State { queue, .. } if queue.len() >= QUEUE_MAX => Some(Status::COMMAND_INTERRUPTED),
            _ => None,
        };
        if let Some(status) = refusal {
            drop(state);
            done(Err(status));
            return;
        }
        state.queue.push_back(Waiting {
            host,
            request,
            done,
        });
        drop(state);
        self.work();
    }

    /// Handles requests until one has to wait for the disk.
    fn work(self: &Arc<Self>) {
        loop {
            let mut state = self.state();
            if state.busy {
                return;
            }
            let Some(Waiting {
                host,
                request,
                done,
            }) = state.queue.pop_front()
            else {
                return;
            };
            let change = match state.current.apply(&host, &request) {
                Ok(change) => change,
                Err(status) => {
                    drop(state);
                    done(Err(status));
                    continue;
                }
            };
            let record = change.next.record();
            state.busy = true;
            let same = record == state.current.record();
            drop(state);
            if same {
                self.finish(change, done, Ok(()));
                continue;
            }
            let desk = self.clone();
            let then = move |result: Result<(), String>| {
                desk.finish(change, done, result);
                desk.work();
            };
            self.keep.put(&self.key, record, Box::new(then));
        }
    }

    fn finish(&self, change: Change, done: Done, result: Result<(), String>) {
        let mut state = self.state();
        state.busy = false;
        if result.is_ok() {
            state.current = change.next.clone();
            self.version.fetch_add(1, SeqCst);
        }
        let forgetting = state.forgetting.take();
        drop(state);
        if let Some(forgotten) = forgetting {
            self.keep.put(&self.key, None, forgotten);
        }
        done(match result {
            Ok(()) => Ok(change),
            Err(error) => {
                tracing::error!(key = self.key, error, "a reservation could not be kept");
                Err(Status::INTERNAL_ERROR)
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use wire::nvme::reservation::{PersistChange, RegisterAction};

    type Put = (String, Option<Vec<u8>>, KeepDone);

    /// Keeps what it is told when the test says so.
    #[derive(Default)]
    struct Slow {
        kept: Mutex<HashMap<String, Vec<u8>>>,
        pending: Mutex<Vec<Put>>,
    }

    impl Keep for Slow {
        fn get(&self, key: &str) -> Option<Vec<u8>> {
            self.kept.lock().unwrap().get(key).cloned()
        }
        fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone) {
            self.pending
                .lock()
                .unwrap()
                .push((key.to_owned(), value, done));
        }
    }

    impl Slow {
        fn settle(&self, result: &Result<(), String>) -> usize {
            let pending = std::mem::take(&mut *self.pending.lock().unwrap());
            let count = pending.len();
            for (key, value, done) in pending {
                let mut kept = self.kept.lock().unwrap();
                match (result, value) {
                    (Ok(()), Some(value)) => drop(kept.insert(key, value)),
                    (Ok(()), None) => drop(kept.remove(&key)),
                    (Err(_), _) => {}
                }
                drop(kept);
                done(result.clone());
            }
            count
        }
    }

    fn register(new: u64, persist: PersistChange) -> Request {
        let action = RegisterAction::Register;
        Request::Register {
            action,
            ignore_key: false,
            persist,
            current: 0,
            new,
        }
    }

    type Seen = Arc<Mutex<Vec<Result<(), Status>>>>;

    fn submit(desk: &Arc<Desk>, seen: &Seen, host: HostId, request: Request) {
        let seen = seen.clone();
        let done = move |outcome: Outcome| seen.lock().unwrap().push(outcome.map(drop));
        desk.submit(host, request, Box::new(done));
    }

    #[test]
    fn a_change_counts_and_completes_only_once_it_is_durable() {
        let keep = Arc::new(Slow::default());
        let desk = Desk::open(keep.clone(), "k".to_owned());
        let seen = Seen::default();
        submit(&desk, &seen, [1; 16], register(5, PersistChange::Persist));
        submit(&desk, &seen, [2; 16], register(6, PersistChange::Unchanged));
        assert!(seen.lock().unwrap().is_empty());
        assert!(desk.report().registrants.is_empty());
        assert_eq!(keep.settle(&Ok(())), 1, "one at a time");
        assert_eq!(desk.report().registrants.len(), 1);
        assert_eq!(keep.settle(&Ok(())), 1);
        assert_eq!(*seen.lock().unwrap(), [Ok(()), Ok(())]);
        let again = Desk::open(keep, "k".to_owned());
        assert_eq!(again.report(), desk.report());
    }

    #[test]
    fn a_change_that_cannot_be_kept_does_not_count() {
        let keep = Arc::new(Slow::default());
        let desk = Desk::open(keep.clone(), "k".to_owned());
        let seen = Seen::default();
        let before = desk.version();
        submit(&desk, &seen, [1; 16], register(5, PersistChange::Persist));
        keep.settle(&Err("disk full".to_owned()));
        assert_eq!(*seen.lock().unwrap(), [Err(Status::INTERNAL_ERROR)]);
        assert!(desk.report().registrants.is_empty());
        assert_eq!(desk.version(), before);
    }

    #[test]
    fn without_persistence_nothing_waits_for_the_disk() {
        let keep = Arc::new(Slow::default());
        let desk = Desk::open(keep.clone(), "k".to_owned());
        let seen = Seen::default();
        submit(&desk, &seen, [1; 16], register(5, PersistChange::Unchanged));
        assert_eq!(*seen.lock().unwrap(), [Ok(())]);
        assert_eq!(keep.settle(&Ok(())), 0);
    }

    #[test]
    fn what_is_on_its_way_to_the_disk_is_forgotten_too() {
        let keep = Arc::new(Slow::default());
        let desk = Desk::open(keep.clone(), "k".to_owned());
        let seen = Seen::default();
        submit(&desk, &seen, [1; 16], register(5, PersistChange::Persist));
        submit(&desk, &seen, [2; 16], register(6, PersistChange::Persist));
        let forgotten = Arc::new(Mutex::new(None));
        let told = forgotten.clone();
        desk.forget(Box::new(move |result| *told.lock().unwrap() = Some(result)));
        assert_eq!(*seen.lock().unwrap(), [Err(GONE)], "the one that waited");
        assert_eq!(keep.settle(&Ok(())), 1, "the change is not overtaken");
        assert_eq!(*forgotten.lock().unwrap(), None);
        assert_eq!(keep.settle(&Ok(())), 1);
        assert_eq!(*forgotten.lock().unwrap(), Some(Ok(())));
        assert!(keep.kept.lock().unwrap().is_empty());
        submit(&desk, &seen, [3; 16], register(7, PersistChange::Persist));
        assert_eq!(*seen.lock().unwrap(), [Err(GONE), Ok(()), Err(GONE)]);
        assert_eq!(keep.settle(&Ok(())), 0);
    }

    #[test]
    fn too_many_waiting_requests_are_turned_away() {
        let keep = Arc::new(Slow::default());
        let desk = Desk::open(keep.clone(), "k".to_owned());
        let seen = Seen::default();
        for _ in 0..=QUEUE_MAX + 1 {
            submit(&desk, &seen, [1; 16], register(5, PersistChange::Persist));
        }
        assert_eq!(*seen.lock().unwrap(), [Err(Status::COMMAND_INTERRUPTED)]);
        while keep.settle(&Ok(())) > 0 {}
        assert_eq!(seen.lock().unwrap().len(), QUEUE_MAX + 2);
    }
}
