//! What a read may return, when writes overlap in time.

use blk::Nanos;

/// A write of one block.
#[derive(Clone, Copy, Debug)]
struct Write {
    stamp: u64,
    began: Nanos,
    /// `None` while it is under way, and for ever if it failed: it may land at any time.
    ended: Option<Nanos>,
}

/// The writes of one block.
#[derive(Clone, Debug)]
pub(super) struct History(Vec<Write>);

impl History {
    /// A block of zeroes.
    pub(super) fn new() -> Self {
        Self(vec![Write {
            stamp: 0,
            began: Nanos(0),
            ended: Some(Nanos(0)),
        }])
    }

    pub(super) fn begin(&mut self, stamp: u64, began: Nanos) {
        self.0.push(Write {
            stamp,
            began,
            ended: None,
        });
    }

    pub(super) fn end(&mut self, stamp: u64, at: Nanos) {
        // Zeroes have no stamp of their own: the one under way that began first.
        let write = self
            .0
            .iter_mut()
            .find(|w| w.stamp == stamp && w.ended.is_none());
        write.unwrap().ended = Some(at);
    }

    /// Whether a read from `began` to `ended` may have returned `stamp`: a write of it began before
    /// the read ended, and no write that came wholly after that one was complete before the read
    /// began.
    pub(super) fn allows(&self, stamp: u64, began: Nanos, ended: Nanos) -> bool {
        let replaced = |write: &Write| {
            let Some(end) = write.ended else {
                return false;
            };
            self.0
                .iter()
                .any(|other| other.began > end && other.ended.is_some_and(|at| at < began))
        };
        let mut of_stamp = self.0.iter().filter(|write| write.stamp == stamp);
        of_stamp.any(|write| write.began <= ended && !replaced(write))
    }
}

#[test]
fn a_read_returns_what_was_written_last_or_what_is_being_written() {
    let mut history = History::new();
    history.begin(1, Nanos(10));
    assert!(history.allows(0, Nanos(12), Nanos(13)) && history.allows(1, Nanos(12), Nanos(13)));
    history.end(1, Nanos(20));
    history.begin(2, Nanos(30));
    history.end(2, Nanos(40));
    assert!(!history.allows(0, Nanos(25), Nanos(26)));
    assert!(
        !history.allows(1, Nanos(45), Nanos(46)),
        "a stale write came to light"
    );
    assert!(history.allows(2, Nanos(45), Nanos(46)));
}
