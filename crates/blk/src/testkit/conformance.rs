//! The conformance suite: a volume behaves like plain memory, and says so when it cannot.

use super::{Random, SimHome, run, wait_for};
use crate::{Geometry, Io, IoBuf, IoError, Lane, Lba, Nanos, Op, Volume};
use std::sync::Arc;

/// What the suite may expect of a volume type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Profile {
    /// False for a volume that forgets what is written (null).
    pub keeps_data: bool,
    /// How many random operations to run against the model.
    pub steps: usize,
    /// Where the random operations start; the failure message repeats it.
    pub seed: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            keeps_data: true,
            steps: 2_000,
            seed: 0x0905_2026,
        }
    }
}

/// Runs the whole suite over fresh volumes from `make`.
///
/// # Panics
/// With what went wrong.
pub fn conformance(make: &mut dyn FnMut() -> Arc<dyn Volume>, profile: Profile) {
    bounds(&*make());
    overflow(&*make());
    empty_and_flush(&*make());
    all_come_back(&*make(), profile);
    two_lanes_see_one_volume(&*make(), profile);
    if profile.keeps_data {
        starts_as_zeroes(&*make());
        like_memory(&*make(), profile);
        compare_tells_the_truth(&*make());
    }
}

fn noise(geometry: &Geometry, blocks: u32, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; geometry.transfer_bytes(blocks)];
    random.fill(&mut bytes);
    bytes
}

fn write(lane: &mut dyn Lane, lba: u64, bytes: &[u8], stride: usize) {
    let blocks = (bytes.len() / stride) as u32;
    let done = run(
        lane,
        Io::new(Op::Write, Lba(lba), blocks, IoBuf::from_slice(bytes), 1),
    );
    assert_eq!(done.result, Ok(()), "write of {blocks} blocks at {lba}");
}

fn read(lane: &mut dyn Lane, lba: u64, blocks: u32, buf: IoBuf) -> Vec<u8> {
    let done = run(lane, Io::new(Op::Read, Lba(lba), blocks, buf, 2));
    assert_eq!(done.result, Ok(()), "read of {blocks} blocks at {lba}");
    done.buf.to_vec()
}

fn bounds(volume: &dyn Volume) {
    let geometry = volume.geometry();
    let mut lane = volume.open_lane(&mut SimHome::default());
    let last = geometry.blocks - 1;
    for op in [Op::Read, Op::Write, Op::Unmap, Op::WriteZeroes, Op::Compare] {
        for (lba, blocks) in [
            (geometry.blocks, 1),
            (last, 2),
            (u64::MAX, 1),
            (u64::MAX - 1, 8),
        ] {
            let needs = matches!(op, Op::Write | Op::Compare | Op::Read);
            let bytes = if needs {
                geometry.transfer_bytes(blocks)
            } else {
                0
            };
            let buf = IoBuf::alloc(bytes);
            let done = run(&mut *lane, Io::new(op, Lba(lba), blocks, buf, 5));
            assert_eq!(
                done.result,
                Err(IoError::OutOfRange),
                "{op:?} {blocks} at {lba}"
            );
            assert_eq!(
                (done.op, done.lba, done.blocks, done.tag),
                (op, Lba(lba), blocks, 5)
            );
        }
    }
}

fn overflow(volume: &dyn Volume) {
    let geometry = volume.geometry();
    let mut lane = volume.open_lane(&mut SimHome::default());
    let short = IoBuf::alloc(geometry.transfer_bytes(2) - 1);
    for op in [Op::Write, Op::Compare, Op::Read] {
        let done = run(&mut *lane, Io::new(op, Lba(0), 2, short.clone(), 6));
        assert_eq!(
            done.result,
            Err(IoError::Misaligned),
            "{op:?} with a short buffer"
        );
    }
}

fn empty_and_flush(volume: &dyn Volume) {
    let mut lane = volume.open_lane(&mut SimHome::default());
    let done = run(&mut *lane, Io::flush(77));
    assert_eq!((done.result, done.tag), (Ok(()), 77));
}

fn all_come_back(volume: &dyn Volume, profile: Profile) {
    let geometry = volume.geometry();
    let mut random = Random(profile.seed);
    let mut lane = volume.open_lane(&mut SimHome::default());
    let count = 200_u64;
    for tag in 0..count {
        let op = Op::ALL[random.below(6) as usize];
        let lba = Lba(random.below(geometry.blocks));
        let buf = match op {
            Op::Write | Op::Compare => IoBuf::alloc(geometry.transfer_bytes(1)),
            _ => IoBuf::empty(),
        };
        let blocks = u32::from(op != Op::Flush);
        lane.submit(Nanos(tag), Io::new(op, lba, blocks, buf, tag));
    }
    let mut tags: Vec<u64> = wait_for(&mut *lane, count as usize)
        .iter()
        .map(|d| d.tag)
        .collect();
    tags.sort_unstable();
    assert!(tags.into_iter().eq(0..count), "each tag comes back once");
}

fn two_lanes_see_one_volume(volume: &dyn Volume, profile: Profile) {
    let geometry = volume.geometry();
    let mut random = Random(profile.seed ^ 1);
    let mut one = volume.open_lane(&mut SimHome::default());
    let mut two = volume.open_lane(&mut SimHome::default());
    let bytes = noise(&geometry, 1, &mut random);
    write(&mut *one, 3, &bytes, geometry.stride() as usize);
    let seen = read(&mut *two, 3, 1, IoBuf::empty());
    assert_eq!(seen.len(), bytes.len());
    assert!(
        !profile.keeps_data || seen == bytes,
        "a second lane sees the write of the first"
    );
}

fn starts_as_zeroes(volume: &dyn Volume) {
    let mut lane = volume.open_lane(&mut SimHome::default());
    let bytes = read(&mut *lane, 0, 8, IoBuf::empty());
    assert!(
        bytes.iter().all(|&b| b == 0),
        "a new volume reads as zeroes"
    );
}

/// Random operations of random sizes, with each answer checked against a vector of bytes.
fn like_memory(volume: &dyn Volume, profile: Profile) {
    let geometry = volume.geometry();
    let stride = geometry.stride() as usize;
    let span = geometry.blocks.min(1_024);
    let mut model = vec![0_u8; span as usize * stride];
    let mut random = Random(profile.seed);
    let mut lane = volume.open_lane(&mut SimHome::default());
    for step in 0..profile.steps {
        let lba = random.below(span);
        let blocks = (1 + random.below((span - lba).min(40))) as u32;
        let range = lba as usize * stride..(lba as usize + blocks as usize) * stride;
        let what = format!(
            "seed {} step {step}: {blocks} blocks at {lba}",
            profile.seed
        );
        match random.below(8) {
            0..3 => {
                let bytes = noise(&geometry, blocks, &mut random);
                model[range].copy_from_slice(&bytes);
                let buf = IoBuf::from_slice(&bytes);
                let io = Io::new(Op::Write, Lba(lba), blocks, buf, 0);
                let done = run(&mut *lane, io.with_fua(random.below(4) == 0));
                assert_eq!(done.result, Ok(()), "write, {what}");
            }
            3 => {
                let op = if random.below(2) == 0 {
                    Op::Unmap
                } else {
                    Op::WriteZeroes
                };
                model[range].fill(0);
                let done = run(&mut *lane, Io::new(op, Lba(lba), blocks, IoBuf::empty(), 0));
                assert_eq!(done.result, Ok(()), "{op:?}, {what}");
            }
            4 => assert_eq!(
                run(&mut *lane, Io::flush(0)).result,
                Ok(()),
                "flush, {what}"
            ),
            5 => {
                let given = IoBuf::alloc(geometry.transfer_bytes(blocks));
                assert!(
                    read(&mut *lane, lba, blocks, given) == model[range],
                    "read, {what}"
                );
            }
            _ => {
                let seen = read(&mut *lane, lba, blocks, IoBuf::empty());
                assert!(seen == model[range], "read without a buffer, {what}");
            }
        }
    }
    let all = read(&mut *lane, 0, span as u32, IoBuf::empty());
    assert!(
        all == model,
        "the whole volume at the end, seed {}",
        profile.seed
    );
}

fn compare_tells_the_truth(volume: &dyn Volume) {
    let geometry = volume.geometry();
    let mut lane = volume.open_lane(&mut SimHome::default());
    let mut bytes = noise(&geometry, 3, &mut Random(3));
    write(&mut *lane, 5, &bytes, geometry.stride() as usize);
    let compare = |bytes: &[u8]| Io::new(Op::Compare, Lba(5), 3, IoBuf::from_slice(bytes), 0);
    assert_eq!(run(&mut *lane, compare(&bytes)).result, Ok(()));
    *bytes.last_mut().expect("three blocks are not empty") ^= 1;
    assert_eq!(
        run(&mut *lane, compare(&bytes)).result,
        Err(IoError::Miscompare)
    );
}
