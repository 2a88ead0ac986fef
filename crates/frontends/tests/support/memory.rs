//! A volume in memory that can be held, resized and taken offline by a test.

use blk::{Done, Geometry, Home, Io, IoBuf, IoError, Lane, Nanos, Op, State, Subscriber};
use blk::{Subscribers, Volume};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};
use std::task::Waker;

#[derive(Default)]
struct Shared {
    bytes: Vec<u8>,
    held: bool,
    /// Only these stay in the lanes, although nothing is held.
    held_op: Option<Op>,
    /// What becomes of flushes.
    flush_error: Option<IoError>,
    wakers: Vec<Waker>,
    /// I/Os that were executed, in order.
    log: Vec<(Op, u64, u32, bool)>,
}

pub struct Memory {
    geometry: Mutex<Geometry>,
    state: Mutex<State>,
    shared: Arc<Mutex<Shared>>,
    subscribers: Subscribers,
}

impl Memory {
    pub fn new(blocks: u64) -> Arc<Self> {
        let mut geometry = Geometry::new(4096, blocks);
        geometry.identity.uuid = [0x5a; 16];
        Self::with(geometry)
    }

    /// A volume that may lose completed writes until it is flushed.
    pub fn cached(blocks: u64) -> Arc<Self> {
        let mut geometry = Geometry::new(4096, blocks);
        (geometry.identity.uuid, geometry.write_cache) = ([0x5a; 16], true);
        Self::with(geometry)
    }

    pub fn with(geometry: Geometry) -> Arc<Self> {
        let bytes = vec![0; geometry.transfer_bytes(geometry.blocks as u32)];
        Arc::new(Self {
            geometry: Mutex::new(geometry),
            state: Mutex::new(State::Online),
            shared: Arc::new(Mutex::new(Shared {
                bytes,
                ..Shared::default()
            })),
            subscribers: Subscribers::default(),
        })
    }

    /// A volume that nobody takes for another.
    pub fn numbered(number: u8, blocks: u64) -> Arc<Self> {
        let mut geometry = Geometry::new(4096, blocks);
        geometry.identity.uuid = [number; 16];
        Self::with(geometry)
    }

    /// I/Os stay in the lanes until released.
    pub fn hold(&self, held: bool) {
        self.holding(held, None);
    }

    /// Lets go of all I/Os but those of one kind.
    pub fn hold_only(&self, op: Op) {
        self.holding(false, Some(op));
    }

    fn holding(&self, held: bool, op: Option<Op>) {
        let mut shared = self.shared.lock().unwrap();
        (shared.held, shared.held_op) = (held, op);
        let wakers = std::mem::take(&mut shared.wakers);
        drop(shared);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// From now on flushes fail.
    pub fn fail_flushes(&self, error: IoError) {
        self.shared.lock().unwrap().flush_error = Some(error);
    }

    /// I/Os that were executed, in order.
    pub fn log(&self) -> Vec<(Op, u64, u32, bool)> {
        self.shared.lock().unwrap().log.clone()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.shared.lock().unwrap().bytes.clone()
    }

    pub fn resize(&self, blocks: u64) {
        let mut geometry = self.geometry.lock().unwrap();
        geometry.blocks = blocks;
        geometry.generation += 1;
        let len = geometry.transfer_bytes(blocks as u32);
        drop(geometry);
        self.shared.lock().unwrap().bytes.resize(len, 0);
        self.subscribers.wake();
    }

    pub fn set_state(&self, state: State) {
        *self.state.lock().unwrap() = state;
        self.subscribers.wake();
    }

    /// Says that something changed although nothing did.
    pub fn cry_wolf(&self) {
        self.geometry.lock().unwrap().generation += 1;
        self.subscribers.wake();
    }
}

impl Volume for Memory {
    fn geometry(&self) -> Geometry {
        *self.geometry.lock().unwrap()
    }
    fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }
    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane> {
        Box::new(MemoryLane {
            geometry: self.geometry(),
            shared: self.shared.clone(),
            waker: home.waker(),
            waiting: VecDeque::new(),
        })
    }
    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.subscribers.add(subscriber);
    }
}

struct MemoryLane {
    geometry: Geometry,
    shared: Arc<Mutex<Shared>>,
    waker: Waker,
    waiting: VecDeque<Io>,
}

impl MemoryLane {
    fn execute(&self, shared: &mut Shared, mut io: Io) -> Done {
        let stride = self.geometry.stride() as usize;
        let start = io.lba.0 as usize * stride;
        let end = start + io.blocks as usize * stride;
        shared.log.push((io.op, io.lba.0, io.blocks, io.fua));
        if io.op == Op::Flush {
            return io.finish(shared.flush_error.map_or(Ok(()), Err));
        }
        let Some(place) = shared.bytes.get_mut(start..end) else {
            return io.finish(Err(IoError::OutOfRange));
        };
        let result = match io.op {
            Op::Read => {
                io.buf = IoBuf::from_slice(place);
                Ok(())
            }
            Op::Write => {
                io.buf.copy_to(0, place);
                Ok(())
            }
            Op::Unmap | Op::WriteZeroes => {
                place.fill(0);
                Ok(())
            }
            Op::Compare if io.buf.to_vec() == *place => Ok(()),
            Op::Compare => Err(IoError::Miscompare),
            Op::Flush => Ok(()),
        };
        io.finish(result)
    }
}

impl Lane for MemoryLane {
    fn submit(&mut self, _now: Nanos, io: Io) {
        self.waiting.push_back(io);
    }

    fn poll(&mut self, _now: Nanos, done: &mut Vec<Done>) {
        let shared = self.shared.clone();
        let mut shared = shared.lock().unwrap();
        if shared.held {
            shared.wakers.push(self.waker.clone());
            return;
        }
        for _ in 0..self.waiting.len() {
            let Some(io) = self.waiting.pop_front() else {
                break;
            };
            if shared.held_op == Some(io.op) {
                shared.wakers.push(self.waker.clone());
                self.waiting.push_back(io);
            } else {
                done.push(self.execute(&mut shared, io));
            }
        }
    }
}

impl Drop for MemoryLane {
    fn drop(&mut self) {
        for io in self.waiting.drain(..) {
            let _ = io.finish(Err(IoError::Aborted));
        }
    }
}
