//! One thread of a load: it polls its connections without ever sleeping.

use blk::Nanos;
use engine::now;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::queue::{Queue, Round};
use super::report::Tally;
use super::{Area, Load, Shared, Stage};
use crate::cpu;
use crate::host::{HostError, Link, nanos};

/// Rounds without anything received after which a thread lets others run: a few hundred
/// microseconds, so that a target on the same processor gets it.
const IDLE_ROUNDS: u32 = 1024;

/// One thread and its connections.
#[derive(Debug)]
pub(super) struct Worker<'a> {
    load: &'a Load,
    area: Area,
    links: Vec<Link>,
    first_queue: u64,
    cpu: Option<usize>,
    timeout: Duration,
    shared: &'a Shared,
}

impl<'a> Worker<'a> {
    pub(super) fn new(
        load: &'a Load,
        area: Area,
        links: Vec<Link>,
        first_queue: u64,
        cpu: Option<usize>,
        timeout: Duration,
        shared: &'a Shared,
    ) -> Self {
        Self {
            load,
            area,
            links,
            first_queue,
            cpu,
            timeout,
            shared,
        }
    }

    /// Runs all stages. Keeps the others' pace even after a failure, or they would wait for ever.
    pub(super) fn run(mut self) -> Result<Tally, HostError> {
        let mut tally = Tally::default();
        let mut failure = self
            .cpu
            .and_then(|cpu| cpu::bind(cpu).err())
            .map(HostError::Invalid);
        let links = std::mem::take(&mut self.links);
        // Here, so that the buffers come from this thread's part of the memory.
        let mut queues: Vec<Queue> = links
            .into_iter()
            .zip(self.first_queue..)
            .map(|(link, index)| Queue::new(self.load, self.area, link, index))
            .collect();
        for &stage in Stage::of(self.load) {
            self.shared.gate.wait();
            if failure.is_none() && !self.shared.failed.load(Ordering::Relaxed) {
                failure = self.stage(stage, &mut queues, &mut tally).err();
            }
            if failure.is_some() {
                self.shared.failed.store(true, Ordering::Relaxed);
            }
            self.shared.running.fetch_sub(1, Ordering::Release);
            self.shared.gate.wait();
        }
        failure.map_or(Ok(tally), Err)
    }

    fn stage(
        &self,
        stage: Stage,
        queues: &mut [Queue],
        tally: &mut Tally,
    ) -> Result<(), HostError> {
        let begun = now();
        let timed = stage == Stage::Load && self.load.ios.is_none();
        let ramp = if timed {
            nanos(self.load.ramp)
        } else {
            Nanos(0)
        };
        let mut round = Round {
            stage,
            now: begun,
            count_from: begun + ramp,
            stop: if timed {
                begun + ramp + nanos(self.load.time)
            } else {
                Nanos(u64::MAX)
            },
        };
        let connections = u64::from(self.load.connections);
        for (queue, index) in queues.iter_mut().zip(self.first_queue..) {
            queue.begin(match (stage, self.load.ios) {
                (Stage::Load, None) => u64::MAX,
                // What does not divide evenly goes to the first queues.
                (Stage::Load, Some(all)) => (all + connections - 1 - index) / connections,
                _ => queue.units(),
            });
            queue.refill(&round)?;
        }
        self.poll(&mut round, queues, tally)?;
        if stage == Stage::Load {
            let end = if timed { round.stop } else { round.now };
            tally.measured = tally.measured.max(end.since(round.count_from).duration());
        }
        Ok(())
    }

    /// Rounds over all connections until every one is done.
    fn poll(
        &self,
        round: &mut Round,
        queues: &mut [Queue],
        tally: &mut Tally,
    ) -> Result<(), HostError> {
        let patience = nanos(self.timeout);
        let (mut idle, mut last) = (0_u32, round.now);
        while !queues.iter().all(|q| q.is_done(round)) {
            let mut ios = 0;
            for queue in &mut *queues {
                if queue.receive()? {
                    round.now = now();
                    ios += queue.complete(round, tally)?;
                    queue.refill(round)?;
                } else if queue.link.is_blocked() {
                    queue.link.send()?;
                }
            }
            if ios > 0 {
                self.shared.ios.fetch_add(ios, Ordering::Relaxed);
                (idle, last) = (0, round.now);
                continue;
            }
            idle += 1;
            if idle >= IDLE_ROUNDS {
                idle = 0;
                round.now = now();
                if self.shared.failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if round.now.since(last) > patience {
                    let what = "the load".to_owned();
                    return Err(HostError::Timeout {
                        what,
                        after: self.timeout,
                    });
                }
                thread::yield_now();
            }
        }
        Ok(())
    }
}
