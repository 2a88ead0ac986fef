//! The test kit: what any volume must do, and volumes and homes that misbehave on purpose.
//!
//! Every volume type runs [`conformance`] in its own tests, so a new type gets the suite free.

mod conformance;
mod fault;
mod home;
mod sys;

pub use conformance::{Profile, conformance};
pub use fault::{Fault, FaultVolume};
pub use home::SimHome;

use crate::{Done, Io, Lane, Nanos};

/// A small seeded generator (SplitMix64), so that a failure is a seed and not a story.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 for a limit of 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        if limit == 0 {
            0
        } else {
            self.next_u64() % limit
        }
    }

    /// Fills `bytes` with noise.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Polls a lane until it gives `count` completions.
///
/// # Panics
/// If they do not come within a bounded number of polls: something lost an I/O.
pub fn wait_for(lane: &mut dyn Lane, count: usize) -> Vec<Done> {
    let mut done = Vec::new();
    let mut now = Nanos(0);
    for _ in 0..1_000_000 {
        lane.poll(now, &mut done);
        if done.len() >= count {
            assert_eq!(done.len(), count, "an I/O came back twice");
            return done;
        }
        now = lane
            .deadline()
            .unwrap_or(now + Nanos::from_micros(10))
            .max(now);
        std::thread::yield_now();
    }
    panic!("{} of {count} I/Os came back", done.len());
}

/// Submits one I/O and waits for it.
pub fn run(lane: &mut dyn Lane, io: Io) -> Done {
    lane.submit(Nanos(0), io);
    wait_for(lane, 1).remove(0)
}
