//! A [`Budget`]: how much memory volumes may hold, so that hosts cannot use up the machine.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// The part of a budget that has to be free before the next refusal is news again: a sixteenth.
const ROOM: u64 = 16;

/// A number of bytes that several users share. Exact, and lock-free.
pub struct Budget {
    bytes_max: AtomicU64,
    bytes_used: AtomicU64,
    refusing: AtomicBool,
}

/// What the volumes of this process may hold in memory. The program sets it when it starts; what
/// it leaves out is for the buffers of commands, so that reads and unmaps work when it is spent.
pub static VOLUME_MEMORY: Budget = Budget::new(u64::MAX);

impl Budget {
    /// So many bytes, none of them used.
    pub const fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max: AtomicU64::new(bytes_max),
            bytes_used: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
        }
    }

    /// Changes the size. What is used stays in use, also if it is more.
    pub fn resize(&self, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Relaxed);
    }

    /// The size.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max.load(Relaxed)
    }

    /// Bytes in use.
    pub fn bytes_used(&self) -> u64 {
        self.bytes_used.load(Relaxed)
    }

    /// Takes `bytes`, all or nothing.
    ///
    /// # Errors
    /// [`Spent`] if so many are not left.
    pub fn take(&self, bytes: u64) -> Result<(), Spent> {
        let most = self.bytes_max();
        let fits = |used: u64| used.checked_add(bytes).filter(|&sum| sum <= most);
        match self.bytes_used.fetch_update(Relaxed, Relaxed, fits) {
            Ok(before) => {
                // Only once there is some room again: at the brim, refusals come and go.
                if before + bytes <= most - most / ROOM {
                    self.refusing.store(false, Relaxed);
                }
                Ok(())
            }
            Err(_) => Err(Spent {
                first: !self.refusing.swap(true, Relaxed),
            }),
        }
    }

    /// Takes `bytes` even if they are not left: for little things that come with what was taken.
    pub fn charge(&self, bytes: u64) {
        self.bytes_used.fetch_add(bytes, Relaxed);
    }

    /// Gives back what was taken or charged.
    pub fn give(&self, bytes: u64) {
        let before = self.bytes_used.fetch_sub(bytes, Relaxed);
        debug_assert!(before >= bytes, "nobody gives back more than was taken");
    }
}

/// A budget is spent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spent {
    /// True for the first refusal since there was room: worth a line in the log.
    pub first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_what_it_has_and_says_once_that_it_is_spent() {
        let budget = Budget::new(10);
        assert_eq!(budget.take(7), Ok(()));
        assert_eq!(budget.take(4), Err(Spent { first: true }));
        assert_eq!(budget.take(u64::MAX), Err(Spent { first: false }));
        assert_eq!(budget.take(3), Ok(()));
        budget.charge(2);
        assert_eq!(budget.bytes_used(), 12);
        assert_eq!(budget.take(1), Err(Spent { first: true }));
        budget.give(5);
        assert_eq!(budget.take(3), Ok(()));
        budget.resize(20);
        assert_eq!((budget.take(10), budget.bytes_max()), (Ok(()), 20));
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let budget = Budget::new(1000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if budget.take(300).is_ok() {
                            assert!(budget.bytes_used() <= 1000);
                            budget.give(300);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.bytes_used(), 0);
    }
}
