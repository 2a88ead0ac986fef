//! One connection under load: what it does next, and what came of it.

use blk::{IoBuf, Nanos};

use wire::nvme::{IoOp, Rw};
use wire::nvme_tcp::{Completed, HostEvent, Payload};

use super::report::{Mismatch, Tally};
use super::{Area, Load, Order, Stage};
use crate::host::{HostError, Link, io_sqe};
use crate::stamp;

/// Marks a unit in the ledger whose content is not known, after a write that failed.
const UNKNOWN: u32 = 1 << 31;

/// How often each unit of a region was written, and which have I/O under way.
#[derive(Debug)]
struct Ledger {
    generations: Vec<u32>,
    busy: Vec<u64>,
}

impl Ledger {
    fn new(units: u64) -> Self {
        let words = units.div_ceil(64) as usize;
        Self {
            generations: vec![0; units as usize],
            busy: vec![0; words],
        }
    }

    fn is_busy(&self, unit: u64) -> bool {
        self.busy[unit as usize / 64] >> (unit % 64) & 1 == 1
    }

    fn set_busy(&mut self, unit: u64, busy: bool) {
        let word = &mut self.busy[unit as usize / 64];
        let bit = 1 << (unit % 64);
        *word = if busy { *word | bit } else { *word & !bit };
    }
}

/// An I/O in flight, by its CID.
#[derive(Debug, Default)]
struct Slot {
    begun: Nanos,
    /// Counted from the start of the queue's region.
    unit: u64,
    write: bool,
    generation: u32,
    /// What is being written, to be used again.
    buf: IoBuf,
}

/// What a queue is told before each round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) stage: Stage,
    /// The time now.
    pub(super) now: Nanos,
    /// No I/O is begun from here on.
    pub(super) stop: Nanos,
    /// What completes before is not counted.
    pub(super) count_from: Nanos,
}

/// One connection and its closed loop.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) link: Link,
    area: Area,
    /// First unit of the region, and how many there are.
    region: (u64, u64),
    order: Order,
    read_percent: u64,
    seed: u64,
    slots: Vec<Slot>,
    spare: Vec<IoBuf>,
    /// What writes send that nobody checks.
    pattern: IoBuf,
    random: u64,
    cursor: u64,
    /// I/Os that may still be begun in this stage.
    left: u64,
    in_flight: u16,
    ledger: Option<Ledger>,
    scratch: Vec<u8>,
}

impl Queue {
    /// `index` counts the queues of all threads.
    pub(super) fn new(load: &Load, area: Area, link: Link, index: u64) -> Self {
        let queues = u64::from(load.connections);
        let alone = load.verify || load.order == Order::Sequential;
        let region = if alone {
            let share = area.units / queues;
            // The last one takes what does not divide evenly.
            let rest = if index + 1 == queues {
                area.units % queues
            } else {
                0
            };
            (index * share, share + rest)
        } else {
            (0, area.units)
        };
        let stride = area.namespace.stride();
        let bytes = stride * area.io_blocks as usize;
        let mut pattern = IoBuf::alloc(bytes);
        let mut random = stamp::mix(load.seed ^ stamp::mix(index + 1)) | 1;
        let noise: Vec<u8> = (0..bytes.div_ceil(8))
            .flat_map(|_| next(&mut random).to_le_bytes())
            .collect();
        pattern.copy_from(0, &noise[..bytes]);
        let mut slots = Vec::new();
        slots.resize_with(usize::from(load.depth), Slot::default);
        Self {
            link,
            area,
            region,
            order: load.order,
            read_percent: u64::from(load.read_percent),
            seed: load.seed,
            slots,
            spare: (0..load.depth).map(|_| IoBuf::alloc(bytes)).collect(),
            pattern,
            random,
            cursor: 0,
            left: 0,
            in_flight: 0,
            ledger: load.verify.then(|| Ledger::new(region.1)),
            scratch: vec![0; stride],
        }
    }

    /// Units of this queue's own.
    pub(super) fn units(&self) -> u64 {
        self.region.1
    }

    /// Sets up a stage of so many I/Os.
    pub(super) fn begin(&mut self, left: u64) {
        self.left = left;
        self.cursor = 0;
    }

    /// True when nothing is in flight and nothing more is to be begun.
    pub(super) fn is_done(&self, round: &Round) -> bool {
        self.in_flight == 0 && (self.left == 0 || round.now >= round.stop)
    }

    /// Begins as many I/Os as there is room for, and sends them.
    #[inline]
    pub(super) fn refill(&mut self, round: &Round) -> Result<(), HostError> {
        while self.left > 0 && round.now < round.stop && self.link.host().can_submit() {
            self.submit(round)?;
            self.left -= 1;
        }
        self.link.send()
    }

    fn submit(&mut self, round: &Round) -> Result<(), HostError> {
        let write = match round.stage {
            Stage::Fill => true,
            Stage::Check => false,
            Stage::Load => match self.read_percent {
                0 => true,
                100 => false,
                percent => next(&mut self.random) % 100 >= percent,
            },
        };
        let unit = self.pick(round.stage);
        let blocks = self.area.io_blocks;
        let rw = Rw::new((self.region.0 + unit) * u64::from(blocks), blocks);
        let mut slot = Slot {
            begun: round.now,
            unit,
            write,
            ..Slot::default()
        };
        if let Some(ledger) = &mut self.ledger {
            ledger.set_busy(unit, true);
            slot.generation = ledger.generations[unit as usize];
        }
        let (op, payload) = if !write {
            (IoOp::Read(rw), Payload::ToHost(self.buffer()))
        } else if self.ledger.is_some() {
            slot.generation = (slot.generation & !UNKNOWN) + 1;
            slot.buf = self.stamped(rw.slba, slot.generation);
            (IoOp::Write(rw), Payload::ToController(slot.buf.clone()))
        } else {
            (IoOp::Write(rw), Payload::ToController(self.pattern.clone()))
        };
        let sqe = io_sqe(self.area.namespace.nsid, op);
        let cid = self.link.host().submit(sqe, payload);
        let cid = cid.map_err(|e| HostError::Invalid(format!("submitting an I/O: {e}")))?;
        self.slots[usize::from(cid)] = slot;
        self.in_flight += 1;
        Ok(())
    }

    /// A buffer for one I/O that belongs to it alone.
    fn buffer(&mut self) -> IoBuf {
        let bytes = self.pattern.len();
        match self.spare.pop() {
            Some(buf) if buf.len() == bytes && buf.is_exclusive() => buf,
            _ => IoBuf::alloc(bytes),
        }
    }

    fn stamped(&mut self, lba: u64, generation: u32) -> IoBuf {
        let mut buf = self.buffer();
        for block in 0..self.area.io_blocks {
            stamp::fill(
                &mut self.scratch,
                self.seed,
                lba + u64::from(block),
                generation,
            );
            buf.copy_from(block as usize * self.scratch.len(), &self.scratch);
        }
        buf
    }

    /// The unit for the next I/O: none that anything is under way for, if account is kept.
    fn pick(&mut self, stage: Stage) -> u64 {
        let units = self.region.1;
        let mut unit = if stage == Stage::Load && self.order == Order::Random {
            // The high half of a product spreads 64 random bits evenly over any range.
            ((u128::from(next(&mut self.random)) * u128::from(units)) >> 64) as u64
        } else {
            let at = self.cursor;
            self.cursor = (at + 1) % units;
            at
        };
        if let Some(ledger) = &self.ledger {
            // There are more units than I/Os in flight, so this ends.
            while ledger.is_busy(unit) {
                unit = (unit + 1) % units;
                if self.order == Order::Sequential || stage != Stage::Load {
                    self.cursor = (unit + 1) % units;
                }
            }
        }
        unit
    }

    /// Takes what has arrived; false if that was nothing.
    #[inline]
    pub(super) fn receive(&mut self) -> Result<bool, HostError> {
        self.link.receive()
    }

    /// Accounts for what is complete; returns how many I/Os that were.
    #[inline]
    pub(super) fn complete(&mut self, round: &Round, tally: &mut Tally) -> Result<u64, HostError> {
        let mut count = 0;
        while let Some(event) = self.link.host().next_event() {
            match event {
                HostEvent::Completed(done) => {
                    self.account(done, round, tally);
                    count += 1;
                }
                HostEvent::Closed(why) => {
                    let what = "the load".to_owned();
                    return Err(HostError::Closed { what, why });
                }
                HostEvent::Ready(_) => {}
            }
        }
        Ok(count)
    }

    fn account(&mut self, done: Completed, round: &Round, tally: &mut Tally) {
        let slot = std::mem::take(&mut self.slots[usize::from(done.cid)]);
        self.in_flight -= 1;
        let status = done.cqe.status();
        let full = slot.write || done.data.len() == self.pattern.len();
        let good = status.is_success() && full;
        if !good {
            let text = match status.is_success() {
                true => "fewer data than asked for".to_owned(),
                false => status.to_string(),
            };
            *tally.errors.entry(text).or_default() += 1;
        } else if round.stage == Stage::Load && round.now >= round.count_from {
            let bytes = u64::from(self.area.namespace.block_bytes) * u64::from(self.area.io_blocks);
            tally.count(slot.write, bytes, round.now.since(slot.begun));
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.set_busy(slot.unit, false);
            if slot.write {
                let mark = if good { 0 } else { UNKNOWN };
                ledger.generations[slot.unit as usize] = slot.generation | mark;
            } else if good && slot.generation & UNKNOWN == 0 && slot.generation > 0 {
                self.check(&slot, &done.data, tally);
            }
        }
        self.spare
            .push(if slot.write { slot.buf } else { done.data });
        // A write that nobody checks sends the pattern, and leaves nothing to use again.
        if self.spare.last().is_some_and(IoBuf::is_empty) {
            self.spare.pop();
        }
    }

    fn check(&mut self, slot: &Slot, data: &IoBuf, tally: &mut Tally) {
        let first = (self.region.0 + slot.unit) * u64::from(self.area.io_blocks);
        for block in 0..self.area.io_blocks {
            let lba = first + u64::from(block);
            data.copy_to(block as usize * self.scratch.len(), &mut self.scratch);
            tally.checked += 1;
            if let Err(kind) = stamp::check(&self.scratch, self.seed, lba, slot.generation) {
                tally.mismatch(Mismatch {
                    lba,
                    expected: slot.generation,
                    kind,
                });
            }
        }
    }
}

/// The next of a series of random numbers (xorshift64*); the state is never zero.
fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}
