//! Counting: what every volume and every host-facing object did, at what latency.
//!
//! A [`Counters`] has one writer, its lane or connection, so counting costs plain loads and stores.
//! A [`Stats`] adds up all the counters that were ever opened for one resource.

use crate::{Done, Geometry, Home, Io, IoError, Lane, Nanos, Op, State, Subscriber, Volume};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Four buckets for each doubling of the latency from 1 microsecond (2^10 ns) to 17 s (2^34 ns),
/// one below and one above.
pub const BUCKETS: usize = 24 * 4 + 2;
const FIRST_BIT: u32 = 10;
const LAST_BIT: u32 = 34;

/// The bucket that a latency falls into.
pub fn bucket_of(latency: Nanos) -> usize {
    let ns = latency.0;
    if ns < 1 << FIRST_BIT {
        return 0;
    }
    let octave = 63 - ns.leading_zeros();
    if octave >= LAST_BIT {
        return BUCKETS - 1;
    }
    let quarter = (ns >> (octave - 2)) as usize & 3;
    1 + (octave - FIRST_BIT) as usize * 4 + quarter
}

/// The first latency in nanoseconds above the bucket; `u64::MAX` for the last one.
pub fn bucket_upper_ns(bucket: usize) -> u64 {
    match bucket {
        0 => 1 << FIRST_BIT,
        b if b >= BUCKETS - 1 => u64::MAX,
        b => {
            let (octave, quarter) = ((b - 1) / 4, (b - 1) % 4);
            (5 + quarter as u64) << (FIRST_BIT as usize + octave - 2)
        }
    }
}

/// How often each latency bucket was hit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Histogram(pub [u64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([0; BUCKETS])
    }
}

impl Histogram {
    /// An upper bound of the latency that the given share (0.0 to 1.0) of all stayed under.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let total: u64 = self.0.iter().sum();
        let wanted = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return bucket_upper_ns(bucket);
            }
        }
        0
    }
}

/// What one kind of operation did.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OpStats {
    /// Operations that ended, well or not.
    pub ops: u64,
    /// Bytes of data moved or covered by those that ended well.
    pub bytes: u64,
    /// Operations that failed.
    pub errors: u64,
    /// The same by reason, in the order of [`IoError::ALL`].
    pub by_error: [u64; IoError::ALL.len()],
    /// Sum of all latencies in nanoseconds.
    pub ns: u64,
    /// The shortest latency in nanoseconds; 0 before the first operation.
    pub ns_min: u64,
    /// The longest latency in nanoseconds.
    pub ns_max: u64,
    /// The latencies.
    pub latency: Histogram,
}

impl OpStats {
    fn add(&mut self, other: &Self) {
        self.ns_min = match (self.ops, other.ops) {
            (_, 0) => self.ns_min,
            (0, _) => other.ns_min,
            _ => self.ns_min.min(other.ns_min),
        };
        self.ns_max = self.ns_max.max(other.ns_max);
        self.ops += other.ops;
        self.bytes += other.bytes;
        self.errors += other.errors;
        for (sum, part) in self.by_error.iter_mut().zip(other.by_error) {
            *sum += part;
        }
        self.ns += other.ns;
        for (sum, part) in self.latency.0.iter_mut().zip(other.latency.0) {
            *sum += part;
        }
    }
}

/// Everything counted for one resource at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// By operation, in the order of [`Op::ALL`].
    pub by_op: [OpStats; 6],
    /// Operations that have started and not ended.
    pub in_flight: u64,
}

impl Tally {
    /// What one operation did.
    pub fn op(&self, op: Op) -> &OpStats {
        &self.by_op[op.index()]
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: &Self) {
        for (sum, part) in self.by_op.iter_mut().zip(&other.by_op) {
            sum.add(part);
        }
        self.in_flight += other.in_flight;
    }
}

#[derive(Default)]
struct OpCounters {
    ops: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    ns: AtomicU64,
    ns_min: AtomicU64,
    ns_max: AtomicU64,
    /// Made at the first operation of its kind: most lanes never see most kinds.
    latency: OnceLock<Box<[AtomicU64; BUCKETS]>>,
    /// Made at the first failure.
    by_error: OnceLock<Box<[AtomicU64; IoError::ALL.len()]>>,
}

/// The counters of one lane or connection. One thread writes, any thread reads.
#[derive(Default)]
pub struct Counters {
    by_op: [OpCounters; 6],
    started: AtomicU64,
    ended: AtomicU64,
    closed: AtomicBool,
}

fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

impl Counters {
    /// An operation has started.
    pub fn start(&self) {
        bump(&self.started, 1);
    }

    /// An operation has ended with `result` after `latency`; `bytes` is what it covered.
    pub fn end(&self, op: Op, bytes: u64, result: Result<(), IoError>, latency: Nanos) {
        let own = &self.by_op[op.index()];
        if own.ops.load(Relaxed) == 0 || latency.0 < own.ns_min.load(Relaxed) {
            own.ns_min.store(latency.0, Relaxed);
        }
        if latency.0 > own.ns_max.load(Relaxed) {
            own.ns_max.store(latency.0, Relaxed);
        }
        bump(&own.ops, 1);
        match result {
            Ok(()) => bump(&own.bytes, bytes),
            Err(error) => {
                bump(&own.errors, 1);
                let by_error = own.by_error.get_or_init(Box::default);
                bump(&by_error[error.index()], 1);
            }
        }
        bump(&own.ns, latency.0);
        let buckets = own
            .latency
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; BUCKETS]));
        bump(&buckets[bucket_of(latency)], 1);
        bump(&self.ended, 1);
    }

    /// The writer is gone; [`Stats`] may fold these counters into the past.
    pub fn close(&self) {
        self.closed
            .store(true, std::sync::atomic::Ordering::Release);
    }

    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for (out, own) in tally.by_op.iter_mut().zip(&self.by_op) {
            out.ops = own.ops.load(Relaxed);
            out.bytes = own.bytes.load(Relaxed);
            out.errors = own.errors.load(Relaxed);
            out.ns = own.ns.load(Relaxed);
            out.ns_min = own.ns_min.load(Relaxed);
            out.ns_max = own.ns_max.load(Relaxed);
            if let Some(by_error) = own.by_error.get() {
                for (to, from) in out.by_error.iter_mut().zip(by_error.iter()) {
                    *to = from.load(Relaxed);
                }
            }
            if let Some(buckets) = own.latency.get() {
                for (to, from) in out.latency.0.iter_mut().zip(buckets.iter()) {
                    *to = from.load(Relaxed);
                }
            }
        }
        let ended = self.ended.load(Relaxed);
        tally.in_flight = self.started.load(Relaxed).saturating_sub(ended);
        tally
    }
}

#[derive(Default)]
struct Book {
    open: Vec<Arc<Counters>>,
    past: Tally,
}

/// All counters that were ever opened for one resource.
#[derive(Default)]
pub struct Stats(Mutex<Book>);

impl Stats {
    /// New counters for one writer.
    pub fn open(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.adopt(counters.clone());
        counters
    }

    /// Counts `counters`, opened elsewhere, here as well: a namespace's I/O is also its
    /// controller's and its subsystem's.
    pub fn adopt(&self, counters: Arc<Counters>) {
        let mut book = self.0.lock().expect("no holder of the book panics");
        Self::fold(&mut book);
        book.open.push(counters);
    }

    fn fold(book: &mut Book) {
        let Book { open, past } = book;
        open.retain(|one| {
            let open = !one.closed.load(std::sync::atomic::Ordering::Acquire);
            if !open {
                let mut tally = one.tally();
                tally.in_flight = 0;
                past.add(&tally);
            }
            open
        });
    }

    /// The sum at this moment.
    pub fn tally(&self) -> Tally {
        let mut book = self.0.lock().expect("no holder of the book panics");
        Self::fold(&mut book);
        let mut sum = book.past.clone();
        for one in &book.open {
            sum.add(&one.tally());
        }
        sum
    }
}

/// A volume that counts what passes through it; every volume type is wrapped in one.
pub struct Counted {
    inner: Arc<dyn Volume>,
    stats: Arc<Stats>,
}

impl Counted {
    /// Counts the I/O of `inner` in `stats`.
    pub fn new(inner: Arc<dyn Volume>, stats: Arc<Stats>) -> Self {
        Self { inner, stats }
    }
}

impl Volume for Counted {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn state(&self) -> State {
        self.inner.state()
    }
    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane> {
        Box::new(CountedLane {
            block_bytes: u64::from(self.inner.geometry().block_bytes),
            inner: self.inner.open_lane(home),
            counters: self.stats.open(),
            pending: Vec::new(),
            free: Vec::new(),
        })
    }
    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.inner.subscribe(subscriber);
    }
    fn bases(&self) -> Vec<Arc<dyn Volume>> {
        self.inner.bases()
    }
}

struct CountedLane {
    inner: Box<dyn Lane>,
    counters: Arc<Counters>,
    block_bytes: u64,
    /// The submitter's tag and the start of each I/O below; its index is the tag given down.
    pending: Vec<(u64, Nanos)>,
    free: Vec<u32>,
}

impl Lane for CountedLane {
    fn submit(&mut self, now: Nanos, mut io: Io) {
        let entry = (io.tag, now);
        let index = match self.free.pop() {
            Some(index) => {
                self.pending[index as usize] = entry;
                index
            }
            None => {
                self.pending.push(entry);
                (self.pending.len() - 1) as u32
            }
        };
        io.tag = u64::from(index);
        self.counters.start();
        self.inner.submit(now, io);
    }

    fn poll(&mut self, now: Nanos, done: &mut Vec<Done>) {
        let first = done.len();
        self.inner.poll(now, done);
        for one in &mut done[first..] {
            let (tag, start) = self.pending[one.tag as usize];
            self.free.push(one.tag as u32);
            one.tag = tag;
            let bytes = u64::from(one.blocks) * self.block_bytes;
            self.counters
                .end(one.op, bytes, one.result, now.since(start));
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.inner.deadline()
    }
}

impl Drop for CountedLane {
    fn drop(&mut self) {
        self.counters.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_latency_lies_below_the_bound_of_its_bucket_and_above_the_one_before() {
        for ns in (0..60).flat_map(|bit| [1_u64 << bit, (1 << bit) + 1, (1 << bit) * 7 / 4]) {
            let bucket = bucket_of(Nanos(ns));
            assert!(
                ns < bucket_upper_ns(bucket) || bucket == BUCKETS - 1,
                "{ns} {bucket}"
            );
            assert!(
                bucket == 0 || ns >= bucket_upper_ns(bucket - 1),
                "{ns} {bucket}"
            );
        }
    }

    #[test]
    fn counts_outlive_the_lane_that_made_them() {
        let stats = Stats::default();
        let counters = stats.open();
        counters.start();
        counters.start();
        counters.end(Op::Read, 4096, Ok(()), Nanos::from_micros(3));
        assert_eq!(stats.tally().in_flight, 1);
        counters.end(Op::Read, 4096, Err(IoError::Medium), Nanos::from_micros(4));
        counters.close();
        let tally = stats.tally();
        assert_eq!(
            (tally.op(Op::Read).ops, tally.op(Op::Read).bytes),
            (2, 4096)
        );
        assert_eq!((tally.op(Op::Read).errors, tally.in_flight), (1, 0));
        assert_eq!(tally.op(Op::Read).by_error[IoError::Medium.index()], 1);
        assert_eq!(
            (tally.op(Op::Read).ns_min, tally.op(Op::Read).ns_max),
            (3_000, 4_000)
        );
        assert_eq!(stats.tally(), tally);
        assert_eq!(tally.op(Op::Read).latency.quantile_ns(0.5), 3072);
    }
}
