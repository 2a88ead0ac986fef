//! The gate that makes a fused compare-and-write atomic: writers pass it one by one, and whoever
//! raises it waits until those inside have left.
//!
//! There is one gate for each exported volume, whatever namespaces and reactors show it.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::Waker;

/// Set while the gate is up; the other bits count the writers inside.
const RAISED: u64 = 1 << 63;

/// See the file's head.
#[derive(Default)]
pub(crate) struct Gate {
    word: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
}

impl Gate {
    /// A write wants to begin. If it may not now, `waker` is woken when it is worth asking again.
    #[inline]
    pub(crate) fn enter(&self, waker: &Waker) -> bool {
        if self.try_enter() {
            return true;
        }
        self.wait(waker);
        // The gate may have been lowered before the waker was in its place.
        self.try_enter()
    }

    #[inline]
    fn try_enter(&self) -> bool {
        // Only looking first keeps those who wait from waking each other.
        if self.word.load(SeqCst) & RAISED != 0 {
            return false;
        }
        if self.word.fetch_add(1, SeqCst) & RAISED == 0 {
            return true;
        }
        self.leave();
        false
    }

    /// A write that was let in has ended.
    #[inline]
    pub(crate) fn leave(&self) {
        if self.word.fetch_sub(1, SeqCst) == RAISED | 1 {
            self.wake();
        }
    }

    /// Raises the gate, unless somebody else has: then `waker` is woken when it is worth asking
    /// again. Writers may still be inside.
    pub(crate) fn raise(self: &Arc<Self>, waker: &Waker) -> Option<Raised> {
        for attempt in 0..2 {
            if self.word.fetch_or(RAISED, SeqCst) & RAISED == 0 {
                return Some(Raised(self.clone()));
            }
            if attempt == 0 {
                self.wait(waker);
            }
        }
        None
    }

    fn wait(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock().expect("no holder of the queue panics");
        if !waiting.iter().any(|other| other.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    #[cold]
    fn wake(&self) {
        let mut waiting = self.waiting.lock().expect("no holder of the queue panics");
        let all = std::mem::take(&mut *waiting);
        drop(waiting);
        all.into_iter().for_each(Waker::wake);
    }
}

/// A raised gate. Dropping it lowers the gate.
pub(crate) struct Raised(Arc<Gate>);

impl Raised {
    /// True once no writer is inside any more; else `waker` is woken when it is worth asking again.
    pub(crate) fn is_clear(&self, waker: &Waker) -> bool {
        if self.0.word.load(SeqCst) == RAISED {
            return true;
        }
        self.0.wait(waker);
        self.0.word.load(SeqCst) == RAISED
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        self.0.word.fetch_and(!RAISED, SeqCst);
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (count.clone(), Waker::from(count))
    }

    #[test]
    fn writers_do_not_hinder_each_other() {
        let (_, waker) = counting();
        let gate = Gate::default();
        assert!(gate.enter(&waker) && gate.enter(&waker));
        gate.leave();
        gate.leave();
        assert_eq!(gate.word.load(SeqCst), 0);
    }

    #[test]
    fn a_raised_gate_keeps_new_writers_out_and_waits_for_old_ones() {
        let (inside, writer) = counting();
        let (told, raiser) = counting();
        let gate = Arc::new(Gate::default());
        assert!(gate.enter(&writer));
        let raised = gate.raise(&raiser).expect("nobody else raised it");
        assert!(!raised.is_clear(&raiser));
        assert!(!gate.enter(&writer), "the gate is up");
        assert!(gate.raise(&writer).is_none(), "it is up already");
        gate.leave();
        assert!(
            told.0.load(SeqCst) > 0,
            "the raiser is woken by the last writer"
        );
        assert!(raised.is_clear(&raiser));
        assert!(!gate.enter(&writer));
        let before = inside.0.load(SeqCst);
        drop(raised);
        assert!(
            inside.0.load(SeqCst) > before,
            "lowering wakes those who wait"
        );
        assert!(gate.enter(&writer));
    }

    #[test]
    fn no_write_ever_runs_inside_a_raised_gate() {
        let gate = Arc::new(Gate::default());
        let writing = Arc::new(AtomicUsize::new(0));
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let (gate, writing) = (gate.clone(), writing.clone());
                std::thread::spawn(move || {
                    let waker = Waker::noop();
                    for round in 0..20_000 {
                        if number == 0 && round % 16 == 0 {
                            let Some(raised) = gate.raise(waker) else {
                                continue;
                            };
                            while !raised.is_clear(waker) {
                                std::hint::spin_loop();
                            }
                            assert_eq!(writing.load(SeqCst), 0);
                        } else if gate.enter(waker) {
                            writing.fetch_add(1, SeqCst);
                            writing.fetch_sub(1, SeqCst);
                            gate.leave();
                        }
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        assert_eq!(gate.word.load(SeqCst), 0);
    }
}
