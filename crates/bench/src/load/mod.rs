//! The load: closed loops of reads and writes over NVMe/TCP connections, measured and verified.

mod queue;
mod report;
mod worker;

pub use report::{Cost, Latency, Mismatch, Report, Side, Verified};

pub use crate::stamp::MismatchKind;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{HostError, Link, Namespace, Options, Session};
use crate::{Address, cpu};
use report::Tally;
use worker::Worker;

/// Most I/O units that a verified run keeps account of: 256 MiB of generations.
const VERIFY_UNITS_MAX: u64 = 64 << 20;
/// Least room that a verified queue needs for each command in flight, so that finding a unit
/// that nothing is under way for stays cheap.
const VERIFY_ROOM: u64 = 2;
/// How often progress is reported.
const TICK: Duration = Duration::from_millis(200);

/// In which order blocks are visited.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Anywhere.
    Random,
    /// One after the other, each connection in a part of its own.
    Sequential,
}

/// What to do to a namespace.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Load {
    /// Bytes of data in one I/O, without metadata.
    pub io_bytes: usize,
    /// I/Os in flight on each connection.
    pub depth: u16,
    /// Connections, each an I/O queue; spread over the threads.
    pub connections: u16,
    /// Threads.
    pub threads: u16,
    /// In which order.
    pub order: Order,
    /// Of 100 I/Os, how many are reads.
    pub read_percent: u8,
    /// How long to measure; in JSON as seconds.
    #[serde(rename = "time_seconds", serialize_with = "seconds")]
    pub time: Duration,
    /// How long to run before measuring; in JSON as seconds.
    #[serde(rename = "ramp_seconds", serialize_with = "seconds")]
    pub ramp: Duration,
    /// End after so many I/Os instead of a time.
    pub ios: Option<u64>,
    /// Use only so many bytes from the start.
    pub range_bytes: Option<u64>,
    /// Stamp every block and check what is read.
    pub verify: bool,
    /// Where random numbers start.
    pub seed: u64,
    /// Processors to bind the threads to, in turn.
    pub cpus: Vec<usize>,
    /// Process whose processor time is counted: the target's.
    pub target_pid: Option<u32>,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

impl Default for Load {
    fn default() -> Self {
        Self {
            io_bytes: 4096,
            depth: 32,
            connections: 1,
            threads: 1,
            order: Order::Random,
            read_percent: 100,
            time: Duration::from_secs(10),
            ramp: Duration::from_secs(1),
            ios: None,
            range_bytes: None,
            verify: false,
            seed: 1,
            cpus: Vec::new(),
            target_pid: None,
        }
    }
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// What it is doing.
    pub stage: &'static str,
    /// Part of the stage that is done, from 0 to 1.
    pub part: f64,
    /// I/Os in the stage so far.
    pub ios: u64,
    /// I/Os per second since the last report.
    pub rate: f64,
}

/// A part of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// Stamp every block, so that reads find something to check.
    Fill,
    /// The load itself.
    Load,
    /// Read and check every block.
    Check,
}

impl Stage {
    /// The parts of a run, in order.
    fn of(load: &Load) -> &'static [Self] {
        if load.verify {
            &[Self::Fill, Self::Load, Self::Check]
        } else {
            &[Self::Load]
        }
    }
}

/// What the threads of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// I/Os completed in the present stage.
    ios: AtomicU64,
    /// A thread has failed: the others stop too.
    failed: AtomicBool,
    /// Threads still at work.
    running: AtomicU64,
    /// All threads and the one that watches meet here before and after each stage.
    gate: Barrier,
}

/// Where the blocks of a run are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    namespace: Namespace,
    /// Blocks of one I/O.
    io_blocks: u32,
    /// I/Os that fit into the range.
    units: u64,
}

impl Load {
    /// Connects and runs, telling `progress` how it goes.
    ///
    /// # Errors
    /// The load makes no sense for the namespace, or a connection fails.
    pub fn run(
        &self,
        address: &Address,
        nsid: u32,
        host: &Options,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Report, HostError> {
        self.check()?;
        let mut sessions = Vec::new();
        let mut links = Vec::new();
        let mut area = None;
        let threads = self.threads.min(self.connections);
        for thread in 0..threads {
            // Connections that do not divide evenly: the first threads take one more.
            let share = (self.connections - thread).div_ceil(threads);
            let options = Options {
                queues: share,
                depth: self.depth,
                ..host.clone()
            };
            let mut session = Session::connect(address.socket, &address.subnqn, options)?;
            if area.is_none() {
                area = Some(self.area(&mut session, nsid)?);
            }
            links.push(session.take_queues());
            sessions.push(session);
        }
        let area = area.ok_or_else(|| HostError::Invalid("there are no connections".into()))?;
        let report = drive(self, area, links, host.timeout, progress)?;
        for session in sessions {
            session.close()?;
        }
        Ok(Report {
            target: address.to_string(),
            ..report
        })
    }

    fn check(&self) -> Result<(), HostError> {
        let wrong = |text: &str| Err(HostError::Invalid(text.to_owned()));
        match self {
            Load { connections: 0, .. } | Load { threads: 0, .. } | Load { depth: 0, .. } => {
                wrong("connections, threads and depth are at least 1")
            }
            Load {
                read_percent: 101..,
                ..
            } => wrong("reads are 0 to 100 of 100 I/Os"),
            Load { ios: Some(0), .. } => wrong("at least one I/O must be done"),
            _ => Ok(()),
        }
    }

    fn area(&self, session: &mut Session, nsid: u32) -> Result<Area, HostError> {
        let namespace = session.namespace(nsid)?;
        let block = namespace.block_bytes as usize;
        let wrong = |text: String| Err(HostError::Invalid(text));
        if self.io_bytes == 0 || !self.io_bytes.is_multiple_of(block) {
            let bytes = self.io_bytes;
            return wrong(format!(
                "{bytes} bytes are not whole blocks of {block} bytes"
            ));
        }
        let io_blocks = (self.io_bytes / block) as u32;
        let most = session.data_max();
        if io_blocks as usize * namespace.stride() > most {
            let bytes = self.io_bytes;
            return wrong(format!(
                "{bytes} bytes are more than one command may move ({most})"
            ));
        }
        let range = self
            .range_bytes
            .map_or(namespace.blocks, |b| b / block as u64);
        let units = range.min(namespace.blocks) / u64::from(io_blocks);
        let queues = u64::from(self.connections);
        let least = if self.verify {
            u64::from(self.depth) * VERIFY_ROOM
        } else {
            1
        };
        if units / queues < least {
            return wrong(format!(
                "the range holds {units} I/Os of {} bytes, too few for {queues} connections",
                self.io_bytes
            ));
        }
        if self.verify && units > VERIFY_UNITS_MAX {
            return wrong(format!(
                "a verified run keeps account of at most {VERIFY_UNITS_MAX} I/Os; this range has \
                 {units}: make it smaller with --range"
            ));
        }
        Ok(Area {
            namespace,
            io_blocks,
            units,
        })
    }
}

/// An area of reads without a namespace behind it, for the minimal responder.
pub(crate) fn bare_area(io_bytes: u32) -> Area {
    // One block per I/O, and enough of them that random addresses have nothing in common.
    let namespace = Namespace {
        nsid: 1,
        blocks: 1 << 20,
        block_bytes: io_bytes,
        metadata_bytes: 0,
    };
    Area {
        namespace,
        io_blocks: 1,
        units: 1 << 20,
    }
}

/// Runs a load over connections that are ready for I/O, one list of them per thread.
///
/// # Errors
/// A connection fails, or stops answering.
pub(crate) fn drive(
    load: &Load,
    area: Area,
    links: Vec<Vec<Link>>,
    timeout: Duration,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, HostError> {
    let threads = links.len();
    let shared = Shared {
        ios: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        running: AtomicU64::new(threads as u64),
        gate: Barrier::new(threads + 1),
    };
    let mut first_queue = 0;
    let mut workers = Vec::new();
    for (index, links) in links.into_iter().enumerate() {
        let count = links.len() as u64;
        let cpu = load.cpus.get(index % load.cpus.len().max(1)).copied();
        workers.push(Worker::new(
            load,
            area,
            links,
            first_queue,
            cpu,
            timeout,
            &shared,
        ));
        first_queue += count;
    }
    thread::scope(|scope| {
        let running: Vec<_> = workers
            .into_iter()
            .map(|w| scope.spawn(move || w.run()))
            .collect();
        let used = watch(load, area, &shared, progress);
        let mut tally = Tally::default();
        let mut failure = None;
        for thread in running {
            match thread.join() {
                Ok(Ok(part)) => tally.add(part),
                Ok(Err(e)) => failure = Some(e),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        match failure {
            Some(e) => Err(e),
            None => Ok(Report::new(load, &tally, used)),
        }
    })
}

/// Processor time used while measuring, here and by the target.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Used {
    here: Duration,
    target: Option<Duration>,
}

/// Leads the threads through the stages; returns what the measured part cost.
fn watch(load: &Load, area: Area, shared: &Shared, progress: &mut dyn FnMut(Progress)) -> Used {
    let threads = shared.running.load(Ordering::Relaxed);
    let mut used = Used::default();
    for &stage in Stage::of(load) {
        shared.ios.store(0, Ordering::Relaxed);
        shared.running.store(threads, Ordering::Relaxed);
        shared.gate.wait();
        let of_area = |ios: u64, _: Duration| ios as f64 / area.units as f64;
        match stage {
            Stage::Fill => follow(shared, progress, "filling", &of_area, None),
            Stage::Check => follow(shared, progress, "checking", &of_area, None),
            Stage::Load => used = watch_load(load, shared, progress),
        }
        shared.gate.wait();
    }
    used
}

fn watch_load(load: &Load, shared: &Shared, progress: &mut dyn FnMut(Progress)) -> Used {
    let before;
    if let Some(all) = load.ios {
        before = snapshot(load);
        let part = |ios: u64, _: Duration| ios as f64 / all as f64;
        follow(shared, progress, "measuring", &part, None);
    } else {
        let of = |whole: Duration| move |_: u64, time: Duration| time.div_duration_f64(whole);
        follow(
            shared,
            progress,
            "warming up",
            &of(load.ramp),
            Some(load.ramp),
        );
        before = snapshot(load);
        follow(
            shared,
            progress,
            "measuring",
            &of(load.time),
            Some(load.time),
        );
    }
    let after = snapshot(load);
    Used {
        here: after.here.saturating_sub(before.here),
        target: after
            .target
            .zip(before.target)
            .map(|(a, b)| a.saturating_sub(b)),
    }
}

fn snapshot(load: &Load) -> Used {
    Used {
        here: cpu::used_here().unwrap_or_default(),
        target: load.target_pid.and_then(cpu::used_by),
    }
}

/// Reports progress until the time is over, or with no time until all threads are done with the
/// stage.
fn follow(
    shared: &Shared,
    progress: &mut dyn FnMut(Progress),
    stage: &'static str,
    part: &dyn Fn(u64, Duration) -> f64,
    until: Option<Duration>,
) {
    let begun = Instant::now();
    let mut last = (begun, shared.ios.load(Ordering::Relaxed));
    loop {
        let over = match until {
            Some(time) => begun.elapsed() >= time,
            None => shared.running.load(Ordering::Acquire) == 0,
        };
        if over || shared.failed.load(Ordering::Relaxed) {
            return;
        }
        let left = until.map_or(TICK, |time| time.saturating_sub(begun.elapsed()));
        thread::sleep(left.min(TICK));
        let now = (Instant::now(), shared.ios.load(Ordering::Relaxed));
        let seconds = now.0.duration_since(last.0).as_secs_f64();
        let rate = now.1.saturating_sub(last.1) as f64 / seconds;
        let part = part(now.1, begun.elapsed()).clamp(0.0, 1.0);
        progress(Progress {
            stage,
            part,
            ios: now.1,
            rate,
        });
        last = now;
    }
}
