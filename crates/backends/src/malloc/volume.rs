//! The volume in memory: sparse, growing on write, empty after a restart.

use super::store::Store;
use crate::shape::Shape;
use blk::{
    Budget, Done, Geometry, Home, Io, IoError, Lane, Lba, Nanos, Op, Spent, Subscriber,
    VOLUME_MEMORY, Volume,
};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Weak};

/// Pages that one step of an unmap frees: about a millisecond, so that unmapping a terabyte holds
/// up nobody else on the thread.
const CLEAR_PAGES: usize = 4096;

struct Inner {
    shape: Shape,
    store: Store,
}

/// A volume in memory.
pub(crate) struct MallocVolume(Arc<Inner>);

impl MallocVolume {
    /// An empty volume of this geometry, no larger than [`super::pages::BYTES_MAX`].
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self::within(&VOLUME_MEMORY, geometry)
    }

    /// The same, with a budget of its own.
    fn within(budget: &'static Budget, geometry: Geometry) -> Self {
        let store = Store::new(geometry.stride(), budget);
        Self(Arc::new(Inner {
            shape: Shape::new(geometry),
            store,
        }))
    }

    /// Makes it longer; what is new reads as zeroes.
    pub(crate) fn grow(&self, blocks: u64) {
        self.0.shape.grow(blocks);
    }
}

impl Volume for MallocVolume {
    fn geometry(&self) -> Geometry {
        self.0.shape.geometry()
    }
    fn open_lane(&self, _: &mut dyn Home) -> Box<dyn Lane> {
        Box::new(MallocLane {
            inner: self.0.clone(),
            done: Vec::new(),
            clearing: VecDeque::new(),
            now: Nanos(0),
        })
    }
    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.0.shape.subscribe(subscriber);
    }
}

/// An unmap or write-zeroes that takes several polls.
struct Clearing {
    io: Io,
    /// The blocks that are left.
    blocks: Range<u64>,
}

struct MallocLane {
    inner: Arc<Inner>,
    done: Vec<Done>,
    clearing: VecDeque<Clearing>,
    now: Nanos,
}

fn range(lba: Lba, blocks: u32) -> Range<u64> {
    lba.0..lba.0 + u64::from(blocks)
}

impl MallocLane {
    /// Everything but clearing, which takes its time.
    fn act(&self, io: &mut Io) -> Result<(), IoError> {
        self.inner.shape.geometry().admit(io)?;
        let store = &self.inner.store;
        let blocks = range(io.lba, io.blocks);
        match io.op {
            Op::Read if io.buf.is_empty() => io.buf = store.share(blocks),
            Op::Read if !io.buf.is_exclusive() => return Err(IoError::Misaligned),
            Op::Read => store.fill(blocks, &mut io.buf),
            Op::Write => return store.write(blocks, &io.buf).map_err(|e| self.full(e)),
            Op::Compare if store.share(blocks) != io.buf => return Err(IoError::Miscompare),
            // Memory is as durable as it gets; there is nothing to flush.
            Op::Compare | Op::Flush | Op::Unmap | Op::WriteZeroes => {}
        }
        Ok(())
    }

    /// There is no memory left for a write.
    #[cold]
    fn full(&self, spent: Spent) -> IoError {
        if spent.first {
            let budget = self.inner.store.budget();
            tracing::error!(
                mib_used = budget.bytes_used() >> 20,
                mib_max = budget.bytes_max() >> 20,
                "malloc volumes hold all that memory-mib-max allows: writes to new blocks fail \
                 until hosts unmap some, a volume is deleted, or the server runs with more"
            );
        }
        IoError::NoSpace
    }

    fn clear(&mut self) {
        let Some(mut first) = self.clearing.pop_front() else {
            return;
        };
        first.blocks.start = self.inner.store.clear(first.blocks.clone(), CLEAR_PAGES);
        if first.blocks.is_empty() {
            self.done.push(first.io.finish(Ok(())));
        } else {
            self.clearing.push_front(first);
        }
    }
}

impl Lane for MallocLane {
    fn submit(&mut self, now: Nanos, mut io: Io) {
        self.now = now;
        let result = self.act(&mut io);
        if result.is_ok() && matches!(io.op, Op::Unmap | Op::WriteZeroes) {
            let blocks = range(io.lba, io.blocks);
            self.clearing.push_back(Clearing { io, blocks });
            if self.clearing.len() == 1 {
                self.clear();
            }
            return;
        }
        self.done.push(io.finish(result));
    }

    fn poll(&mut self, now: Nanos, done: &mut Vec<Done>) {
        self.now = now;
        self.clear();
        done.append(&mut self.done);
    }

    fn deadline(&self) -> Option<Nanos> {
        (!self.clearing.is_empty()).then_some(self.now)
    }
}

impl Drop for MallocLane {
    fn drop(&mut self) {
        // Whoever drops the lane no longer waits for what it had under way.
        for one in self.clearing.drain(..) {
            drop(one.io.finish(Err(IoError::Aborted)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::testkit::{Profile, Random, SimHome, conformance, run, wait_for};
    use blk::{IoBuf, PAGE_BYTES, PageRef};
    use std::sync::atomic::{AtomicBool, Ordering};

    fn geometry(block_bytes: u32, metadata_bytes: u32, blocks: u64) -> Geometry {
        Geometry {
            metadata_bytes,
            ..Geometry::new(block_bytes, blocks)
        }
    }

    fn lane(volume: &MallocVolume) -> Box<dyn Lane> {
        volume.open_lane(&mut SimHome::default())
    }

    fn write(lane: &mut dyn Lane, lba: u64, blocks: u32, buf: IoBuf) {
        assert_eq!(
            run(lane, Io::new(Op::Write, Lba(lba), blocks, buf, 0)).result,
            Ok(())
        );
    }

    fn read(lane: &mut dyn Lane, lba: u64, blocks: u32) -> IoBuf {
        let done = run(lane, Io::new(Op::Read, Lba(lba), blocks, IoBuf::empty(), 0));
        assert_eq!(done.result, Ok(()));
        done.buf
    }

    #[test]
    fn it_conforms_at_every_block_and_metadata_size() {
        for block_bytes in [512, 4096, 65_536] {
            for metadata_bytes in [0, 8, 64] {
                // Large blocks take fewer steps: each one moves up to 2.5 MiB.
                let steps = if block_bytes > 4096 { 150 } else { 1500 };
                let geometry = geometry(block_bytes, metadata_bytes, 600);
                let profile = Profile {
                    steps,
                    ..Profile::default()
                };
                conformance(&mut || Arc::new(MallocVolume::new(geometry)), profile);
            }
        }
    }

    #[test]
    fn whole_pages_are_stored_and_read_without_a_copy() {
        let volume = MallocVolume::new(geometry(512, 0, 1 << 20));
        let mut lane = lane(&volume);
        let mut random = Random(7);
        let mut bytes = vec![0; 2 * PAGE_BYTES];
        random.fill(&mut bytes);
        let buf = IoBuf::from_slice(&bytes);
        let given: Vec<*const u8> = buf.slices().map(<[u8]>::as_ptr).collect();
        write(&mut *lane, 16, 16, buf);
        let seen = read(&mut *lane, 16, 16);
        assert_eq!(seen.slices().map(<[u8]>::as_ptr).collect::<Vec<_>>(), given);
        // Blocks that do not begin a page are copied, and the reader keeps what it has.
        write(&mut *lane, 17, 1, IoBuf::from_slice(&[9; 512]));
        assert_eq!(seen.to_vec(), bytes);
        assert_eq!(read(&mut *lane, 17, 1).to_vec(), [9; 512]);
        assert_eq!(read(&mut *lane, 16, 1).to_vec(), bytes[..512]);
    }

    #[test]
    fn a_writer_that_keeps_its_buffer_cannot_change_what_is_stored() {
        let volume = MallocVolume::new(geometry(4096, 0, 16));
        let mut lane = lane(&volume);
        let io = Io::new(Op::Write, Lba(3), 1, IoBuf::from_slice(&[5; PAGE_BYTES]), 0);
        let mut buf = run(&mut *lane, io).buf;
        assert!(buf.slices_mut().all(|part| part.is_none()));
        assert!(!buf.is_exclusive());
    }

    #[test]
    fn a_huge_volume_costs_what_is_written_and_gives_it_back() {
        let volume = MallocVolume::new(geometry(4096, 0, (1 << 40) / 4096));
        let mut lane = lane(&volume);
        let last = volume.geometry().blocks - 1;
        for lba in [0, 1, 1 << 20, last] {
            write(&mut *lane, lba, 1, IoBuf::from_slice(&[1; PAGE_BYTES]));
        }
        assert_eq!(volume.0.store.resident(), 4);
        let io = Io::new(Op::Unmap, Lba(1), (last - 1) as u32, IoBuf::empty(), 0);
        assert_eq!(run(&mut *lane, io).result, Ok(()));
        assert_eq!(volume.0.store.resident(), 2);
        assert_eq!(read(&mut *lane, last, 1).to_vec(), [1; PAGE_BYTES]);
        assert_eq!(read(&mut *lane, 1 << 20, 1).to_vec(), [0; PAGE_BYTES]);
    }

    #[test]
    fn a_spent_budget_refuses_new_blocks_only_and_clearing_gives_it_back() {
        // Eight pages of data, and the leaf, table and root above them.
        const PAGES: u64 = 8;
        static BUDGET: Budget = Budget::new((PAGES + 5) * PAGE_BYTES as u64);
        for block_bytes in [512, 4096, 16_384] {
            let blocks = 64 * PAGE_BYTES as u64 / u64::from(block_bytes);
            let volume = MallocVolume::within(&BUDGET, geometry(block_bytes, 0, blocks));
            let mut lane = lane(&volume);
            let in_32k = 8 * PAGE_BYTES as u32 / block_bytes;
            let bytes =
                |mark: u8, len: u32| IoBuf::from_slice(&vec![mark; (len * block_bytes) as usize]);
            let mut go = |op, lba, len, buf| run(&mut *lane, Io::new(op, Lba(lba), len, buf, 0));
            // The tables are counted with the first write, so that one more fails.
            assert_eq!(go(Op::Write, 0, in_32k, bytes(1, in_32k)).result, Ok(()));
            let new = u64::from(in_32k);
            let refused = go(Op::Write, new, 1, bytes(2, 1));
            assert_eq!(refused.result, Err(IoError::NoSpace));
            assert_eq!(go(Op::Write, 0, in_32k, bytes(3, in_32k)).result, Ok(()));
            let seen = go(Op::Read, 0, in_32k, IoBuf::empty());
            assert_eq!(seen.buf, bytes(3, in_32k));
            assert_eq!(go(Op::Read, new, 1, IoBuf::empty()).buf, bytes(0, 1));

            for op in [Op::Unmap, Op::WriteZeroes] {
                assert_eq!(go(op, 0, in_32k, IoBuf::empty()).result, Ok(()));
                assert_eq!(BUDGET.bytes_used(), 5 * PAGE_BYTES as u64);
                assert_eq!(go(Op::Write, new, in_32k, bytes(4, in_32k)).result, Ok(()));
                assert_eq!(go(op, new, in_32k, IoBuf::empty()).result, Ok(()));
            }
            drop((lane, volume));
            assert_eq!(BUDGET.bytes_used(), 0, "a volume that goes gives back all");
        }
    }

    #[test]
    fn the_count_is_exact_when_threads_write_and_clear_the_same_blocks() {
        static BUDGET: Budget = Budget::new(u64::MAX);
        for (block_bytes, metadata_bytes) in [(512, 0), (4096, 0), (4096, 8)] {
            let volume = MallocVolume::within(&BUDGET, geometry(block_bytes, metadata_bytes, 64));
            let stride = volume.geometry().stride() as usize;
            std::thread::scope(|scope| {
                for seed in 1..=4 {
                    let volume = &volume;
                    scope.spawn(move || {
                        let (mut lane, mut random) = (lane(volume), Random(seed));
                        for _ in 0..5000 {
                            let (lba, blocks) = (random.below(48), 1 + random.below(16) as u32);
                            let (op, buf) = match random.below(2) {
                                0 => (
                                    Op::Write,
                                    IoBuf::from_slice(&vec![1; blocks as usize * stride]),
                                ),
                                _ => (Op::Unmap, IoBuf::empty()),
                            };
                            let done = run(&mut *lane, Io::new(op, Lba(lba), blocks, buf, 0));
                            assert_eq!(done.result, Ok(()));
                        }
                    });
                }
            });
            let tables = 5;
            let held = (volume.0.store.resident() + tables) * PAGE_BYTES as u64;
            assert_eq!(BUDGET.bytes_used(), held);
            drop(volume);
            assert_eq!(BUDGET.bytes_used(), 0);
        }
    }

    #[test]
    fn a_long_unmap_takes_several_polls_and_other_io_goes_on() {
        let blocks = 3 * CLEAR_PAGES as u32;
        let volume = MallocVolume::new(geometry(4096, 0, u64::from(blocks)));
        let mut lane = lane(&volume);
        let page = PageRef::zeroed();
        for lba in 0..u64::from(blocks) {
            write(
                &mut *lane,
                lba,
                1,
                IoBuf::from_page(page.clone(), 0..PAGE_BYTES),
            );
        }
        lane.submit(
            Nanos(5),
            Io::new(Op::Unmap, Lba(0), blocks, IoBuf::empty(), 1),
        );
        lane.submit(Nanos(5), Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 2));
        assert_eq!(lane.deadline(), Some(Nanos(5)));
        let mut done = Vec::new();
        lane.poll(Nanos(6), &mut done);
        assert_eq!(done.iter().map(|one| one.tag).collect::<Vec<_>>(), [2]);
        assert_eq!(wait_for(&mut *lane, 1)[0].tag, 1);
        assert_eq!((volume.0.store.resident(), lane.deadline()), (0, None));
        lane.submit(
            Nanos(7),
            Io::new(Op::Write, Lba(0), 1, IoBuf::zeroes(4096), 3),
        );
        assert_eq!(wait_for(&mut *lane, 1)[0].tag, 3);
    }

    #[test]
    fn a_lane_may_be_dropped_in_the_middle_of_an_unmap() {
        let blocks = 3 * CLEAR_PAGES as u32;
        let volume = MallocVolume::new(geometry(4096, 0, u64::from(blocks)));
        let mut lane = lane(&volume);
        let page = PageRef::zeroed();
        for lba in 0..u64::from(blocks) {
            write(
                &mut *lane,
                lba,
                1,
                IoBuf::from_page(page.clone(), 0..PAGE_BYTES),
            );
        }
        lane.submit(
            Nanos(0),
            Io::new(Op::Unmap, Lba(0), blocks, IoBuf::empty(), 1),
        );
        drop(lane);
    }

    /// Four threads write blocks filled with one byte each; no reader may see two bytes in one.
    fn nobody_sees_a_torn_block(block_bytes: u32, metadata_bytes: u32) {
        let geometry = geometry(block_bytes, metadata_bytes, 24);
        let volume = MallocVolume::new(geometry);
        let stride = geometry.stride() as usize;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for seed in 1..=4_u64 {
                let (volume, stop) = (&volume, &stop);
                scope.spawn(move || {
                    let mut lane = lane(volume);
                    let mut random = Random(seed);
                    for _ in 0..1500 {
                        let lba = random.below(20);
                        let blocks = 1 + random.below(4) as u32;
                        let mark = random.next_u64() as u8;
                        match random.below(16) {
                            0 => {
                                let op = Io::new(Op::Unmap, Lba(lba), blocks, IoBuf::empty(), 0);
                                assert_eq!(run(&mut *lane, op).result, Ok(()));
                            }
                            _ => {
                                let bytes = vec![mark; blocks as usize * stride];
                                write(&mut *lane, lba, blocks, IoBuf::from_slice(&bytes));
                            }
                        }
                    }
                    stop.store(true, Ordering::Relaxed);
                });
            }
            let mut lane = lane(&volume);
            while !stop.load(Ordering::Relaxed) {
                let bytes = read(&mut *lane, 0, 24).to_vec();
                for block in bytes.chunks(stride) {
                    assert!(
                        block.iter().all(|&b| b == block[0]),
                        "a torn block of {stride} bytes"
                    );
                }
            }
        });
    }

    #[test]
    fn blocks_inside_a_page_are_never_torn() {
        nobody_sees_a_torn_block(512, 0);
        nobody_sees_a_torn_block(4096, 0);
    }

    #[test]
    fn blocks_across_pages_are_never_torn() {
        nobody_sees_a_torn_block(512, 8);
        nobody_sees_a_torn_block(4096, 64);
        nobody_sees_a_torn_block(16_384, 0);
    }

    #[test]
    fn metadata_travels_behind_the_data_of_its_block() {
        let volume = MallocVolume::new(geometry(512, 8, 100));
        let mut lane = lane(&volume);
        let mut bytes = vec![0xda; 520];
        bytes[512..].fill(0x3e);
        write(&mut *lane, 15, 2, IoBuf::from_slice(&bytes.repeat(2)));
        assert_eq!(read(&mut *lane, 16, 1).to_vec(), bytes);
        assert_eq!(read(&mut *lane, 17, 1).to_vec(), [0; 520]);
    }

    #[test]
    fn growing_keeps_what_is_there() {
        let volume = MallocVolume::new(geometry(4096, 0, 4));
        let mut lane = lane(&volume);
        write(&mut *lane, 3, 1, IoBuf::from_slice(&[7; PAGE_BYTES]));
        volume.grow(8);
        assert_eq!(read(&mut *lane, 3, 1).to_vec(), [7; PAGE_BYTES]);
        assert_eq!(read(&mut *lane, 7, 1).to_vec(), [0; PAGE_BYTES]);
    }
}
