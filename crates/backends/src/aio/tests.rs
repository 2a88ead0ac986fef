//! The volume type as a whole: its rules, its files, and its behaviour on them.

use super::*;
use crate::testing::{FileHome, block_on, job, replay};
use api::Code;
use api::handler::Handler;
use blk::testkit::{Profile, SimHome, conformance, run, wait_for};
use blk::{Io, IoBuf, IoError, Lane, Lba, Nanos, Op, PAGE_BYTES, Volume};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::Arc;

const NAME: &str = "aioVolumes/a";

/// A folder that goes away, and the path of a file in it.
fn place() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk").to_str().unwrap().to_owned();
    (folder, path)
}

fn spec(path: &str, block_size: i64, blocks_count: i64) -> Spec {
    Spec {
        filename: path.to_owned(),
        block_size,
        blocks_count,
        ..Spec::default()
    }
}

fn make(path: &str, block_size: i64, blocks_count: i64) -> AioVolume {
    Files::default()
        .open(&job(NAME), spec(path, block_size, blocks_count))
        .unwrap()
        .0
}

/// A volume with blocks of 4096 that goes through the page cache.
fn cached(path: &str, blocks: u64) -> AioVolume {
    let opened = Claims::default().open(path, Some(4096 * blocks), NAME);
    let geometry = Geometry::new(4096, blocks);
    AioVolume::new(geometry, opened.unwrap(), None, path.to_owned())
}

fn write(lane: &mut dyn Lane, lba: u64, bytes: &[u8], block_bytes: usize) {
    let blocks = (bytes.len() / block_bytes) as u32;
    let io = Io::new(Op::Write, Lba(lba), blocks, IoBuf::from_slice(bytes), 0);
    assert_eq!(run(lane, io).result, Ok(()));
}

fn read(lane: &mut dyn Lane, lba: u64, blocks: u32) -> Vec<u8> {
    let done = run(lane, Io::new(Op::Read, Lba(lba), blocks, IoBuf::empty(), 0));
    assert_eq!(done.result, Ok(()));
    done.buf.to_vec()
}

/// Runs the suite with the file open the way it asks for, over a home of this sort. The suite
/// brings its own simulated home, so ours is put under it.
fn conforms(home: FileHome, block_size: i64) {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    let mut make = || -> Arc<dyn Volume> {
        count += 1;
        let path = folder.path().join(count.to_string());
        Arc::new(At {
            volume: make(path.to_str().unwrap(), block_size, 1100),
            home,
        })
    };
    conformance(
        &mut make,
        Profile {
            steps: 600,
            ..Profile::default()
        },
    );
}

/// A volume whose lanes always open at one home.
struct At {
    volume: AioVolume,
    home: FileHome,
}

impl Volume for At {
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }
    fn open_lane(&self, _: &mut dyn blk::Home) -> Box<dyn Lane> {
        self.volume.open_lane(&mut self.home.clone())
    }
}

#[test]
fn it_conforms_with_blocks_of_512_and_4096() {
    conforms(FileHome::default(), 512);
    conforms(FileHome::default(), 4096);
}

#[test]
fn it_conforms_on_file_systems_without_holes() {
    let punch = Some(libc::EOPNOTSUPP);
    conforms(
        FileHome {
            punch,
            ..FileHome::default()
        },
        512,
    );
    conforms(
        FileHome {
            punch,
            zero: Some(libc::EOPNOTSUPP),
            ..FileHome::default()
        },
        4096,
    );
}

#[test]
fn it_conforms_through_the_page_cache() {
    let folder = tempfile::tempdir().unwrap();
    let mut count = 0;
    let mut make = || -> Arc<dyn Volume> {
        count += 1;
        let path = folder
            .path()
            .join(count.to_string())
            .to_str()
            .unwrap()
            .to_owned();
        Arc::new(cached(&path, 600))
    };
    conformance(
        &mut make,
        Profile {
            steps: 600,
            ..Profile::default()
        },
    );
}

#[test]
fn buffers_that_direct_io_cannot_take_are_copied() {
    let (_folder, path) = place();
    let volume = make(&path, 512, 3000);
    let mut lane = volume.open_lane(&mut FileHome::default());
    let bytes: Vec<u8> = (0..300 * 512).map(|i| (i % 251) as u8).collect();
    let mut padded = vec![0; 7];
    padded.extend_from_slice(&bytes);
    let odd = IoBuf::from_slice(&padded).slice(7..padded.len());
    let io = Io::new(Op::Write, Lba(5), 300, odd.clone(), 0);
    assert_eq!(run(&mut *lane, io).result, Ok(()));
    assert!(read(&mut *lane, 5, 300) == bytes);
    let io = Io::new(Op::Compare, Lba(5), 300, odd, 0);
    assert_eq!(run(&mut *lane, io).result, Ok(()));
    // A buffer of odd pieces that belongs to the reader alone.
    let mut given = IoBuf::alloc(100);
    given.append(IoBuf::alloc(bytes.len() - 100));
    let done = run(&mut *lane, Io::new(Op::Read, Lba(5), 300, given, 0));
    assert!(done.result == Ok(()) && done.buf.to_vec() == bytes);
}

#[test]
fn transfers_larger_than_one_call_arrive_whole() {
    let (_folder, path) = place();
    let volume = make(&path, 4096, 3000);
    let mut lane = volume.open_lane(&mut FileHome::default());
    let bytes: Vec<u8> = (0..2500 * 4096_u32).map(|i| (i / 4096 + i) as u8).collect();
    write(&mut *lane, 17, &bytes, 4096);
    assert!(read(&mut *lane, 17, 2500) == bytes);
    let given = IoBuf::alloc(bytes.len());
    let done = run(&mut *lane, Io::new(Op::Read, Lba(17), 2500, given, 0));
    assert!(done.buf.to_vec() == bytes);
}

#[test]
fn data_survives_closing_and_opening_also_without_a_flush() {
    let (_folder, path) = place();
    let handler = Volumes::new(Files::default());
    let made = block_on(handler.create(job(NAME), spec(&path, 4096, 64))).unwrap();
    assert_eq!(
        (made.block_size, made.blocks_count, made.uuid.len()),
        (4096, 64, 36)
    );
    let bytes = [0x5a; 2 * PAGE_BYTES];
    let volume = handler.volume(&job(NAME).name).unwrap();
    let mut lane = volume.open_lane(&mut FileHome::default());
    write(&mut *lane, 62, &bytes, 4096);
    let identity = volume.geometry().identity;
    drop((handler, volume, lane));

    let handler = Volumes::new(Files::default());
    assert_eq!(
        block_on(handler.create(replay(NAME), made.clone())).unwrap(),
        made
    );
    let volume = handler.volume(&job(NAME).name).unwrap();
    assert_eq!(volume.geometry().identity, identity);
    let mut lane = volume.open_lane(&mut FileHome::default());
    assert_eq!(read(&mut *lane, 62, 2), bytes);
}

#[test]
fn a_missing_file_is_made_only_when_asked_and_never_by_a_replay() {
    let (_folder, path) = place();
    let handler = Volumes::new(Files::default());
    let create = |job, spec| block_on(handler.create(job, spec));
    let error = create(job(NAME), spec(&path, 512, 0)).unwrap_err();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::NotFound, Some(FILENAME))
    );
    let error = create(replay(NAME), spec(&path, 512, 8)).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(!fs::exists(&path).unwrap());
    create(job(NAME), spec(&path, 512, 1 << 30)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (1 << 39, 0o600));
    assert!(meta.blocks() < 64, "it is sparse");
    let nowhere = spec("/nonexistent-folder/disk", 512, 8);
    let error = create(job("aioVolumes/b"), nowhere).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[test]
fn a_file_that_vanished_comes_back_by_a_later_replay() {
    let (_folder, path) = place();
    let made = {
        let handler = Volumes::new(Files::default());
        block_on(handler.create(job(NAME), spec(&path, 512, 8))).unwrap()
    };
    let elsewhere = format!("{path}.moved");
    fs::rename(&path, &elsewhere).unwrap();
    let handler = Volumes::new(Files::default());
    let error = block_on(handler.create(replay(NAME), made.clone())).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(handler.volume(&job(NAME).name).is_none());
    let error = block_on(handler.update(job(NAME), made.clone(), spec(&path, 0, 9))).unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    assert!(!fs::exists(&path).unwrap());
    fs::rename(&elsewhere, &path).unwrap();
    assert_eq!(
        block_on(handler.create(replay(NAME), made.clone())).unwrap(),
        made
    );
}

#[test]
fn a_file_that_lost_its_end_is_not_served() {
    let (_folder, path) = place();
    let made = Files::default()
        .open(&job(NAME), spec(&path, 512, 8))
        .unwrap()
        .1;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    let error = Files::default()
        .open(&replay(NAME), made.clone())
        .err()
        .unwrap();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::FailedPrecondition, Some(BLOCKS_COUNT))
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    // For a first create, an empty file is as good as none.
    assert!(Files::default().open(&job(NAME), made).is_ok());
    assert_eq!(fs::metadata(&path).unwrap().len(), 4096);
}

#[test]
fn the_size_comes_from_the_file_and_a_partial_block_is_left_alone() {
    let (_folder, path) = place();
    fs::write(&path, vec![1; 10 * 512 + 100]).unwrap();
    let (_, made) = Files::default()
        .open(&job(NAME), spec(&path, 0, 0))
        .unwrap();
    assert_eq!((made.block_size, made.blocks_count), (512, 10));
    let (_, made) = Files::default()
        .open(&job(NAME), spec(&path, 4096, 0))
        .unwrap();
    assert_eq!(made.blocks_count, 1);
    let (_, made) = Files::default()
        .open(&job(NAME), spec(&path, 0, 4))
        .unwrap();
    assert_eq!(made.blocks_count, 4);
    let error = Files::default()
        .open(&job(NAME), spec(&path, 0, 11))
        .err()
        .unwrap();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::FailedPrecondition, Some(BLOCKS_COUNT))
    );
    fs::write(&path, [1; 100]).unwrap();
    let error = Files::default()
        .open(&job(NAME), spec(&path, 0, 0))
        .err()
        .unwrap();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::FailedPrecondition, Some(FILENAME))
    );
}

#[test]
fn an_update_with_only_the_name_of_the_same_file_changes_nothing() {
    let (_folder, path) = place();
    let handler = Volumes::new(Files::default());
    let made = block_on(handler.create(job(NAME), spec(&path, 512, 12))).unwrap();
    let same = spec(&path, 0, 0);
    handler.admit(&job(NAME).name, &same, Some(&made)).unwrap();
    assert_eq!(
        block_on(handler.update(job(NAME), made.clone(), same)).unwrap(),
        made
    );
}

#[test]
fn an_update_grows_the_file_and_keeps_the_rest() {
    let (_folder, path) = place();
    let handler = Volumes::new(Files::default());
    let made = block_on(handler.create(job(NAME), spec(&path, 512, 8))).unwrap();
    let volume = handler.volume(&job(NAME).name).unwrap();
    let mut lane = volume.open_lane(&mut FileHome::default());
    write(&mut *lane, 7, &[7; 512], 512);
    let update = |new| block_on(handler.update(job(NAME), made.clone(), new));
    for (new, field) in [
        (spec("/other", 0, 0), FILENAME),
        (spec(&path, 4096, 0), BLOCK_SIZE),
        (spec(&path, 0, 7), BLOCKS_COUNT),
        (
            Spec {
                uuid: "1".repeat(32),
                ..spec(&path, 0, 0)
            },
            UUID,
        ),
    ] {
        let error = update(new).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::FailedPrecondition, Some(field))
        );
    }
    let grown = update(spec(&path, 0, 16)).unwrap();
    assert_eq!(
        grown,
        Spec {
            blocks_count: 16,
            ..made.clone()
        }
    );
    assert_eq!(
        (volume.geometry().blocks, volume.geometry().generation),
        (16, 1)
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), 16 * 512);
    assert_eq!(read(&mut *lane, 7, 1), [7; 512]);
    assert_eq!(read(&mut *lane, 15, 1), [0; 512]);
}

#[test]
fn one_file_serves_one_volume_whatever_it_is_called() {
    let (folder, path) = place();
    let handler = Volumes::new(Files::default());
    block_on(handler.create(job(NAME), spec(&path, 512, 8))).unwrap();
    let link = folder.path().join("link").to_str().unwrap().to_owned();
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let second = || block_on(handler.create(job("aioVolumes/b"), spec(&link, 512, 8)));
    let error = second().unwrap_err();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::FailedPrecondition, Some(FILENAME))
    );
    assert_eq!(error.in_use_by, [NAME]);
    block_on(handler.delete(job(NAME).name)).unwrap();
    assert!(
        fs::exists(&path).unwrap(),
        "deleting a volume leaves its file"
    );
    second().unwrap();
}

#[test]
fn paths_that_are_no_disk_are_refused() {
    let (folder, _) = place();
    let admit = |path: &str| Files::default().admit(&spec(path, 0, 0), None);
    let long = format!("/{}", "x".repeat(4095));
    for bad in ["", "disk", "./disk", "/tmp/", "/a\0b", &long] {
        let error = admit(bad).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::InvalidArgument, Some(FILENAME))
        );
    }
    assert!(
        fs::metadata("/dev/null")
            .unwrap()
            .file_type()
            .is_char_device()
    );
    for bad in [folder.path().to_str().unwrap(), "/dev/null"] {
        let error = Files::default()
            .open(&job(NAME), spec(bad, 0, 8))
            .err()
            .unwrap();
        let found = (error.code, error.field.as_deref());
        assert_eq!(found, (Code::FailedPrecondition, Some(FILENAME)), "{bad}");
    }
}

#[test]
fn wrong_numbers_are_refused_with_their_field() {
    let admit = |block_size, blocks_count| {
        let error = Files::default().admit(&spec("/x", block_size, blocks_count), None);
        error.map_err(|e| (e.code, e.field.unwrap()))
    };
    let wrong = |field: &str| Err((Code::InvalidArgument, field.to_owned()));
    for bad in [-1, 1, 520, 1024, 8192, i64::MAX] {
        assert_eq!(admit(bad, 0), wrong(BLOCK_SIZE));
    }
    for bad in [-1, i64::MIN, i64::MAX, 1 << 55] {
        assert_eq!(admit(512, bad), wrong(BLOCKS_COUNT));
    }
    assert_eq!(admit(0, 0), Ok(()));
    assert_eq!(admit(4096, 1 << 40), Ok(()));
}

#[test]
fn errors_of_the_file_reach_the_submitter() {
    let (_folder, path) = place();
    let volume = make(&path, 512, 64);
    let result = |rest, op| {
        let mut lane = volume.open_lane(&mut FileHome {
            rest: Some(rest),
            ..FileHome::default()
        });
        let bytes = if matches!(op, Op::Write | Op::Compare) {
            512
        } else {
            0
        };
        let blocks = u32::from(op != Op::Flush);
        run(
            &mut *lane,
            Io::new(op, Lba(0), blocks, IoBuf::alloc(bytes), 3),
        )
        .result
    };
    assert_eq!(result(libc::EIO, Op::Read), Err(IoError::Medium));
    assert_eq!(result(libc::ENOSPC, Op::Write), Err(IoError::NoSpace));
    assert_eq!(
        result(libc::ETIMEDOUT, Op::Compare),
        Err(IoError::Transport)
    );
    let mut lane = volume.open_lane(&mut SimHome {
        fail_files_from: Some(0),
    });
    let io = Io::new(Op::Unmap, Lba(0), 1, IoBuf::empty(), 0);
    assert_eq!(run(&mut *lane, io).result, Err(IoError::Medium));
}

#[test]
fn a_file_cut_short_under_a_volume_is_an_error_and_not_old_data() {
    let (_folder, path) = place();
    let volume = make(&path, 512, 64);
    let mut lane = volume.open_lane(&mut FileHome::default());
    fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(512)
        .unwrap();
    let io = Io::new(Op::Read, Lba(0), 2, IoBuf::empty(), 0);
    assert_eq!(run(&mut *lane, io).result, Err(IoError::Medium));
}

#[test]
fn a_lane_without_a_queue_fails_and_one_dropped_in_flight_does_not_panic() {
    let (_folder, path) = place();
    let volume = make(&path, 512, 64);
    let mut lane = volume.open_lane(&mut FileHome {
        refuses: true,
        ..FileHome::default()
    });
    assert_eq!(run(&mut *lane, Io::flush(0)).result, Err(IoError::Busy));
    let mut lane = volume.open_lane(&mut FileHome {
        hangs: true,
        ..FileHome::default()
    });
    lane.submit(Nanos(0), Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 0));
    lane.submit(
        Nanos(0),
        Io::new(Op::Write, Lba(0), 1, IoBuf::alloc(512), 0),
    );
    drop(lane);
}

#[test]
fn many_at_once_come_back_each_with_its_own() {
    let (_folder, path) = place();
    let volume = make(&path, 512, 64);
    let mut lane = volume.open_lane(&mut FileHome::default());
    for tag in 0..64 {
        let buf = IoBuf::from_slice(&[tag as u8; 512]);
        lane.submit(
            Nanos(0),
            Io::new(Op::Write, Lba(tag), 1, buf, tag).with_fua(tag % 2 == 0),
        );
    }
    assert_eq!(wait_for(&mut *lane, 64).len(), 64);
    for tag in 0..64 {
        lane.submit(
            Nanos(0),
            Io::new(Op::Read, Lba(tag), 1, IoBuf::empty(), tag),
        );
    }
    for done in wait_for(&mut *lane, 64) {
        assert_eq!(done.buf.to_vec(), [done.tag as u8; 512]);
    }
}

#[test]
fn unmapping_gives_space_back() {
    let (_folder, path) = place();
    let volume = make(&path, 4096, 1024);
    let mut lane = volume.open_lane(&mut FileHome::default());
    write(&mut *lane, 0, &vec![1; 1024 * 4096], 4096);
    assert_eq!(run(&mut *lane, Io::flush(0)).result, Ok(()));
    let full = fs::metadata(&path).unwrap().blocks();
    let io = Io::new(Op::Unmap, Lba(0), 1023, IoBuf::empty(), 0).with_fua(true);
    assert_eq!(run(&mut *lane, io).result, Ok(()));
    let meta = fs::metadata(&path).unwrap();
    assert!(
        meta.blocks() < full / 2,
        "{} of {full} sectors are left",
        meta.blocks()
    );
    assert_eq!(meta.len(), 1024 * 4096);
    assert_eq!(read(&mut *lane, 1023, 1), [1; 4096]);
}

#[test]
fn a_request_that_cannot_be_punched_does_not_end_punching() {
    let (_folder, path) = place();
    let volume = make(&path, 4096, 1024);
    let mut odd = volume.open_lane(&mut FileHome {
        punch: Some(libc::EINVAL),
        zero: Some(libc::EINVAL),
        ..FileHome::default()
    });
    write(&mut *odd, 0, &vec![1; 1024 * 4096], 4096);
    let unmap = || Io::new(Op::Unmap, Lba(0), 1024, IoBuf::empty(), 0).with_fua(true);
    assert_eq!(run(&mut *odd, unmap()).result, Ok(()));
    assert_eq!(read(&mut *odd, 0, 1024), vec![0; 1024 * 4096]);
    let full = fs::metadata(&path).unwrap().blocks();
    let mut lane = volume.open_lane(&mut FileHome::default());
    assert_eq!(run(&mut *lane, unmap()).result, Ok(()));
    let left = fs::metadata(&path).unwrap().blocks();
    assert!(left < full / 2, "{left} of {full} sectors are left");
}

/// A home that notes the clearing operations.
#[derive(Clone, Default)]
struct Notes(Arc<std::sync::Mutex<Vec<(u64, u64)>>>);

struct NotedQueue(Notes, Box<dyn blk::FileQueue>);

impl blk::Home for Notes {
    fn waker(&self) -> std::task::Waker {
        std::task::Waker::noop().clone()
    }
    fn open_file(&mut self, file: Arc<fs::File>) -> std::io::Result<Box<dyn blk::FileQueue>> {
        let queue = FileHome::default().open_file(file)?;
        Ok(Box::new(NotedQueue(self.clone(), queue)))
    }
    fn keep(&self) -> Box<dyn blk::Home> {
        Box::new(self.clone())
    }
}

impl blk::FileQueue for NotedQueue {
    fn submit(&mut self, io: blk::FileIo) {
        if let blk::FileOp::Punch { len } | blk::FileOp::Zero { len } = io.op {
            self.0.0.lock().unwrap().push((io.offset, len));
        }
        self.1.submit(io);
    }
    fn poll(&mut self, done: &mut Vec<blk::FileDone>) {
        self.1.poll(done);
    }
}

#[test]
fn a_long_clear_goes_down_in_aligned_pieces() {
    const MIB: u64 = 1 << 20;
    let (_folder, path) = place();
    let volume = make(&path, 4096, 50_000);
    for op in [Op::Unmap, Op::WriteZeroes] {
        let notes = Notes::default();
        let mut lane = volume.open_lane(&mut notes.clone());
        // From 4 MiB on, 150 MiB.
        let io = Io::new(op, Lba(1024), 150 * 256, IoBuf::empty(), 0);
        assert_eq!(run(&mut *lane, io).result, Ok(()));
        let seen = std::mem::take(&mut *notes.0.lock().unwrap());
        let wanted = [(4, 60), (64, 64), (128, 26)];
        assert_eq!(seen, wanted.map(|(at, len)| (at * MIB, len * MIB)));
    }
}

#[test]
fn a_file_is_in_use_until_its_last_lane_is_gone() {
    let (_folder, path) = place();
    let handler = Volumes::new(Files::default());
    block_on(handler.create(job(NAME), spec(&path, 512, 8))).unwrap();
    let name = job(NAME).name;
    let lane = handler
        .volume(&name)
        .unwrap()
        .open_lane(&mut FileHome::default());
    block_on(handler.delete(name)).unwrap();
    let second = || block_on(handler.create(job("aioVolumes/b"), spec(&path, 512, 8)));
    assert_eq!(second().unwrap_err().in_use_by, [NAME]);
    drop(lane);
    second().unwrap();
}

#[test]
fn of_creates_that_race_for_a_file_one_wins_and_its_size_holds() {
    const RACERS: i64 = 4;
    let folder = tempfile::tempdir().unwrap();
    for round in 0..100 {
        let path = folder.path().join(round.to_string());
        let path = path.to_str().unwrap();
        let (files, start) = (Files::default(), std::sync::Barrier::new(RACERS as usize));
        let race = |number: i64| {
            start.wait();
            let name = format!("aioVolumes/a{number}");
            files.open(&job(&name), spec(path, 512, 8 * number))
        };
        let won: Vec<_> = std::thread::scope(|scope| {
            let race = &race;
            let all: Vec<_> = (1..=RACERS)
                .map(|number| scope.spawn(move || race(number)))
                .collect();
            all.into_iter()
                .filter_map(|one| one.join().unwrap().ok())
                .collect()
        });
        assert_eq!(won.len(), 1, "one file serves one volume");
        let bytes = won[0].0.geometry().data_bytes();
        assert_eq!(fs::metadata(path).unwrap().len(), bytes);
    }
}
