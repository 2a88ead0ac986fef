//! A volume that fails on purpose, to see what the things above it make of it.

use crate::{Done, Geometry, Home, Io, IoError, Lane, Nanos, Op, State, Volume};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// What goes wrong, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// The n-th I/O (from 0) fails with the error, and never reaches the volume.
    FailNth(u64, IoError),
    /// Every I/O of this kind fails.
    FailOp(Op, IoError),
    /// The n-th I/O, if a write, stores only its first block and then fails.
    TearNth(u64),
    /// Completions are held back until the fault is lifted.
    Hang,
    /// Completions come back in reverse order of submission within a poll.
    Reorder,
}

/// Wraps a volume and applies one fault, which may be changed while I/O is under way.
pub struct FaultVolume {
    inner: Arc<dyn Volume>,
    fault: Arc<Mutex<Option<Fault>>>,
    count: Arc<AtomicU64>,
}

impl FaultVolume {
    /// A volume without a fault yet.
    pub fn new(inner: Arc<dyn Volume>) -> Self {
        Self {
            inner,
            fault: Arc::default(),
            count: Arc::default(),
        }
    }

    /// Sets or lifts the fault.
    pub fn set(&self, fault: Option<Fault>) {
        *self.fault.lock().expect("no holder of the fault panics") = fault;
    }

    /// I/Os seen so far.
    pub fn seen(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Volume for FaultVolume {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }
    fn state(&self) -> State {
        self.inner.state()
    }
    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane> {
        Box::new(FaultLane {
            stride: self.inner.geometry().stride() as usize,
            inner: self.inner.open_lane(home),
            fault: self.fault.clone(),
            count: self.count.clone(),
            held: Vec::new(),
        })
    }
}

struct FaultLane {
    inner: Box<dyn Lane>,
    stride: usize,
    fault: Arc<Mutex<Option<Fault>>>,
    count: Arc<AtomicU64>,
    held: Vec<Done>,
}

impl FaultLane {
    fn fault(&self) -> Option<Fault> {
        *self.fault.lock().expect("no holder of the fault panics")
    }
}

/// The tag of the first half of a torn write, which nobody above may see.
const TORN: u64 = u64::MAX;

impl Lane for FaultLane {
    fn submit(&mut self, now: Nanos, io: Io) {
        let number = self.count.fetch_add(1, Relaxed);
        match self.fault() {
            Some(Fault::FailNth(n, error)) if n == number => self.held.push(io.finish(Err(error))),
            Some(Fault::FailOp(op, error)) if op == io.op => self.held.push(io.finish(Err(error))),
            Some(Fault::TearNth(n)) if n == number && io.op == Op::Write && io.blocks > 1 => {
                let first = Io::new(Op::Write, io.lba, 1, io.buf.slice(0..self.stride), TORN);
                self.inner.submit(now, first);
                self.held.push(io.finish(Err(IoError::Medium)));
            }
            _ => self.inner.submit(now, io),
        }
    }

    fn poll(&mut self, now: Nanos, done: &mut Vec<Done>) {
        self.inner.poll(now, &mut self.held);
        self.held.retain(|one| one.tag != TORN);
        match self.fault() {
            Some(Fault::Hang) => {}
            Some(Fault::Reorder) => done.extend(self.held.drain(..).rev()),
            _ => done.append(&mut self.held),
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        self.inner.deadline()
    }
}
