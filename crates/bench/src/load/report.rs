//! What a run found: counts, rates, latencies, errors.

use blk::Nanos;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use api::units;

use super::{Load, Used};
use crate::stamp::MismatchKind;

/// Version of the JSON form; it changes when a field changes its meaning or goes away.
const SCHEMA: &str = "opi-bench/1";
/// Longest latency told apart: a minute, in nanoseconds.
const LATENCY_MAX_NS: u64 = 60_000_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;
/// Mismatches that are told one by one; the rest are counted.
const MISMATCHES_MAX: usize = 16;

/// A block that did not hold what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Mismatch {
    /// Its address.
    pub lba: u64,
    /// How often it had been written.
    pub expected: u32,
    /// What it held.
    #[serde(flatten)]
    pub kind: MismatchKind,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lba, expected, .. } = self;
        write!(f, "block {lba}, written {expected} times, ")?;
        match self.kind {
            MismatchKind::Zeroes => f.write_str("holds zeroes"),
            MismatchKind::Stale { found } => write!(f, "is stale: it holds version {found}"),
            MismatchKind::Newer { found } => write!(f, "holds version {found}, too new"),
            MismatchKind::Misplaced { found } => write!(f, "holds block {found}"),
            MismatchKind::Foreign => f.write_str("holds a block of another run"),
            MismatchKind::Torn { offset } => write!(f, "is wrong from byte {offset} on"),
            MismatchKind::Garbage => f.write_str("holds no stamp"),
        }
    }
}

/// What one thread counted.
#[derive(Debug)]
pub(crate) struct Tally {
    read: Count,
    write: Count,
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) checked: u64,
    mismatches: u64,
    first: Vec<Mismatch>,
    pub(crate) measured: Duration,
}

#[derive(Debug)]
struct Count {
    ios: u64,
    bytes: u64,
    latency: Histogram<u64>,
}

impl Default for Count {
    fn default() -> Self {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX_NS, DIGITS)
            .expect("the bounds are valid and constant");
        Self {
            ios: 0,
            bytes: 0,
            latency,
        }
    }
}

impl Count {
    fn add(&mut self, other: &Self) {
        self.ios += other.ios;
        self.bytes += other.bytes;
        self.latency
            .add(&other.latency)
            .expect("all histograms have the same bounds");
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            read: Count::default(),
            write: Count::default(),
            errors: BTreeMap::new(),
            checked: 0,
            mismatches: 0,
            first: Vec::new(),
            measured: Duration::ZERO,
        }
    }
}

impl Tally {
    #[inline]
    pub(crate) fn count(&mut self, write: bool, bytes: u64, latency: Nanos) {
        let count = if write {
            &mut self.write
        } else {
            &mut self.read
        };
        count.ios += 1;
        count.bytes += bytes;
        count.latency.saturating_record(latency.0);
    }

    pub(crate) fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        if self.first.len() < MISMATCHES_MAX {
            self.first.push(mismatch);
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.read.add(&other.read);
        self.write.add(&other.write);
        for (status, count) in other.errors {
            *self.errors.entry(status).or_default() += count;
        }
        self.checked += other.checked;
        self.mismatches += other.mismatches;
        self.first.extend(other.first);
        self.first.truncate(MISMATCHES_MAX);
        self.measured = self.measured.max(other.measured);
    }
}

/// Latencies, in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// The shortest.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// Half were at most this.
    pub p50_us: f64,
    /// 90 of 100 were at most this.
    pub p90_us: f64,
    /// 99 of 100 were at most this.
    pub p99_us: f64,
    /// 999 of 1000 were at most this.
    pub p999_us: f64,
    /// 9999 of 10000 were at most this.
    pub p9999_us: f64,
    /// The longest.
    pub max_us: f64,
}

/// What reads, writes, or both together did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Side {
    /// I/Os that succeeded.
    pub ios: u64,
    /// Their data, without metadata.
    pub bytes: u64,
    /// I/Os per second.
    pub ios_per_second: f64,
    /// Bytes per second.
    pub bytes_per_second: f64,
    /// How long they took.
    pub latency: Latency,
}

impl Side {
    fn new(count: &Count, seconds: f64) -> Self {
        let h = &count.latency;
        let us = |ns: u64| ns as f64 / 1e3;
        let latency = if h.is_empty() {
            Latency::default()
        } else {
            Latency {
                min_us: us(h.min()),
                mean_us: h.mean() / 1e3,
                p50_us: us(h.value_at_quantile(0.5)),
                p90_us: us(h.value_at_quantile(0.9)),
                p99_us: us(h.value_at_quantile(0.99)),
                p999_us: us(h.value_at_quantile(0.999)),
                p9999_us: us(h.value_at_quantile(0.9999)),
                max_us: us(h.max()),
            }
        };
        let rate = |n: u64| {
            if seconds > 0.0 {
                n as f64 / seconds
            } else {
                0.0
            }
        };
        Self {
            ios: count.ios,
            bytes: count.bytes,
            ios_per_second: rate(count.ios),
            bytes_per_second: rate(count.bytes),
            latency,
        }
    }
}

/// What a verified run checked.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verified {
    /// Blocks read and compared.
    pub blocks: u64,
    /// Blocks that held something else.
    pub mismatches: u64,
    /// The first of them.
    pub first: Vec<Mismatch>,
}

/// Processor time while measuring.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Cost {
    /// Processors that this program kept busy.
    pub load_cores: f64,
    /// Processor time of this program per I/O, in microseconds.
    pub load_us_per_io: f64,
    /// Processors that the target kept busy, if its process was named.
    pub target_cores: Option<f64>,
    /// Processor time of the target per I/O, in microseconds.
    pub target_us_per_io: Option<f64>,
}

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of this form: `opi-bench/1`.
    pub schema: &'static str,
    /// Where the load went.
    pub target: String,
    /// The load.
    pub load: Load,
    /// How long was measured.
    pub seconds: f64,
    /// Both together.
    pub total: Side,
    /// Reads.
    pub read: Side,
    /// Writes.
    pub write: Side,
    /// Failed I/Os, by what the controller said; of the whole run.
    pub errors: BTreeMap<String, u64>,
    /// What was verified, if anything was to be.
    pub verified: Option<Verified>,
    /// Processor time.
    pub cpu: Cost,
}

impl Report {
    pub(crate) fn new(load: &Load, tally: &Tally, used: Used) -> Self {
        let seconds = tally.measured.as_secs_f64();
        let mut both = Count::default();
        both.add(&tally.read);
        both.add(&tally.write);
        let total = Side::new(&both, seconds);
        let cores = |d: Duration| {
            if seconds > 0.0 {
                d.as_secs_f64() / seconds
            } else {
                0.0
            }
        };
        let per_io = |d: Duration| {
            if total.ios > 0 {
                d.as_secs_f64() * 1e6 / total.ios as f64
            } else {
                0.0
            }
        };
        Self {
            schema: SCHEMA,
            target: String::new(),
            load: load.clone(),
            seconds,
            total,
            read: Side::new(&tally.read, seconds),
            write: Side::new(&tally.write, seconds),
            errors: tally.errors.clone(),
            verified: load.verify.then(|| Verified {
                blocks: tally.checked,
                mismatches: tally.mismatches,
                first: tally.first.clone(),
            }),
            cpu: Cost {
                load_cores: cores(used.here),
                load_us_per_io: per_io(used.here),
                target_cores: used.target.map(cores),
                target_us_per_io: used.target.map(per_io),
            },
        }
    }

    /// True if every I/O succeeded and every block checked was right.
    pub fn is_good(&self) -> bool {
        self.errors.is_empty() && self.verified.as_ref().is_none_or(|v| v.mismatches == 0)
    }

    /// The report for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}, {:.1} s", self.target, self.seconds);
        for (name, side) in [("read", &self.read), ("write", &self.write)] {
            if side.ios == 0 {
                continue;
            }
            let l = &side.latency;
            let _ = writeln!(
                text,
                "{name:6} {:>9} IO/s {:>10}/s   {:.1} us mean, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, \
                 max {:.1}",
                units::count(side.ios_per_second),
                units::size(side.bytes_per_second as u64),
                l.mean_us,
                l.p50_us,
                l.p99_us,
                l.p999_us,
                l.max_us,
            );
        }
        let cpu = &self.cpu;
        let _ = write!(text, "cpu    load {:.2} us/IO", cpu.load_us_per_io);
        if let (Some(us), Some(cores)) = (cpu.target_us_per_io, cpu.target_cores) {
            let _ = write!(text, ", target {us:.2} us/IO ({cores:.2} cores)");
        }
        text.push('\n');
        for (status, count) in &self.errors {
            let _ = writeln!(text, "failed {count} times: {status}");
        }
        if let Some(verified) = &self.verified {
            let Verified {
                blocks,
                mismatches,
                first,
            } = verified;
            let _ = writeln!(text, "checked {blocks} blocks, {mismatches} wrong");
            first.iter().for_each(|m| {
                let _ = writeln!(text, "  {m}");
            });
        }
        text
    }
}
