//! Every type of volume on real reactors, over io_uring where it is allowed and over epoll: a
//! deep queue of mixed operations whose every answer is checked.
#![allow(clippy::unwrap_used)]

use api::error::Result;
use api::handler::{Handlers, Job, Settings};
use api::names::ResourceName;
use api::storage::v1::{AioVolume, MallocVolume, NullVolume};
use blk::testkit::Random;
use blk::{Done, Io, IoBuf, IoError, Lane, Lba, Nanos, Op, Volume};
use engine::{Actor, Backend, Cx, Keep, KeepDone, Latch, Next, Options, Reactors, World};
use prost::Message as _;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Operations that are under way at once.
const DEPTH: u64 = 32;
/// Operations of one run.
const STEPS: u64 = 6_000;
/// Blocks that a run works on.
const SPAN: u64 = 512;
/// How long a run may take on a slow machine; past it something hangs.
const PATIENCE: Duration = Duration::from_secs(120);

struct NoKeep;

impl Keep for NoKeep {
    fn get(&self, _: &str) -> Option<Vec<u8>> {
        None
    }
    fn put(&self, _: &str, _: Option<Vec<u8>>, done: KeepDone) {
        done(Ok(()));
    }
}

fn world(backend: Backend) -> World {
    let options = Options {
        backend,
        ..Options::default()
    };
    let reactors = Reactors::start(&options).unwrap();
    World {
        reactors,
        keep: Arc::new(NoKeep),
        restored: Arc::new(Latch::default()),
    }
}

fn handlers(world: &World) -> Handlers {
    let mut handlers = Handlers::default();
    for one in backends::TYPES {
        one.install(world, &mut handlers).unwrap();
    }
    handlers
}

/// The handlers here never wait for anything.
fn ready<T>(future: impl Future<Output = Result<T>>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer.unwrap(),
        Poll::Pending => panic!("a back end waits without a reason"),
    }
}

fn make(handlers: &Handlers, name: &str, spec: Vec<u8>) -> Arc<dyn Volume> {
    let name = ResourceName::parse(name, "name").unwrap();
    let handler = handlers.of(&name.kind().collection).unwrap();
    let job = Job {
        name: name.clone(),
        replay: false,
        volumes: BTreeMap::new(),
        settings: Settings::default(),
    };
    ready(handler.create(job, spec));
    handler.volume(&name).unwrap()
}

/// Sends operations to blocks that nothing else is under way for, and checks each answer.
struct Runner {
    volume: Arc<dyn Volume>,
    lane: Option<Box<dyn Lane>>,
    random: Random,
    /// The byte that fills each block; `None` while an operation on it is under way.
    model: Vec<Option<u8>>,
    /// What each operation under way will have left, by tag.
    expected: BTreeMap<u64, Expected>,
    sent: u64,
    keeps_data: bool,
    done: Vec<Done>,
    end: Sender<u64>,
}

/// Operation, buffer, bytes of the blocks afterwards, answer.
type Choice = (Op, IoBuf, Vec<u8>, std::result::Result<(), IoError>);

struct Expected {
    first: u64,
    /// The bytes the blocks have afterwards.
    after: Vec<u8>,
    result: std::result::Result<(), IoError>,
}

impl Runner {
    fn fill(&self, marks: &[u8]) -> IoBuf {
        let stride = self.volume.geometry().stride() as usize;
        let bytes: Vec<u8> = marks
            .iter()
            .flat_map(|&m| std::iter::repeat_n(m, stride))
            .collect();
        // Now and then a buffer that begins in the middle of a page, as in-capsule data does.
        if bytes.len().is_multiple_of(3) {
            let mut odd = vec![0; 64];
            odd.extend_from_slice(&bytes);
            return IoBuf::from_slice(&odd).slice(64..odd.len());
        }
        IoBuf::from_slice(&bytes)
    }

    /// An operation on blocks filled with `before`: what it carries, leaves and answers.
    fn choose(&self, choice: u64, mark: u8, before: Vec<u8>) -> Choice {
        let zeroes = vec![0; before.len()];
        match choice {
            0..4 => {
                let marks = vec![mark; before.len()];
                let buf = self.fill(&marks);
                (
                    Op::Write,
                    buf,
                    if self.keeps_data { marks } else { zeroes },
                    Ok(()),
                )
            }
            4 => (Op::Unmap, IoBuf::empty(), zeroes, Ok(())),
            5 => (Op::WriteZeroes, IoBuf::empty(), zeroes, Ok(())),
            6 => (Op::Compare, self.fill(&before), before, Ok(())),
            7 => {
                let mut other = before.clone();
                *other.last_mut().expect("at least one block") ^= 1;
                (
                    Op::Compare,
                    self.fill(&other),
                    before,
                    Err(IoError::Miscompare),
                )
            }
            _ => (Op::Read, IoBuf::empty(), before, Ok(())),
        }
    }

    fn send(&mut self, now: Nanos) {
        let (tag, random) = (self.sent, &mut self.random);
        self.sent += 1;
        let first = random.below(SPAN);
        let most = self.model[first as usize..]
            .iter()
            .take_while(|m| m.is_some())
            .count();
        let blocks = (1 + random.below(24)).min(most as u64);
        let (choice, mark, fua) = (
            random.below(10),
            random.next_u64() as u8,
            random.below(5) == 0,
        );
        let range = first as usize..(first + blocks) as usize;
        let before: Vec<u8> = self.model[range.clone()]
            .iter()
            .map(|m| m.unwrap())
            .collect();
        if blocks == 0 || choice == 9 {
            let expected = Expected {
                first,
                after: Vec::new(),
                result: Ok(()),
            };
            self.expected.insert(tag, expected);
            self.lane.as_mut().unwrap().submit(now, Io::flush(tag));
            return;
        }
        let (op, buf, after, result) = self.choose(choice, mark, before);
        self.model[range].fill(None);
        self.expected.insert(
            tag,
            Expected {
                first,
                after,
                result,
            },
        );
        let io = Io::new(op, Lba(first), blocks as u32, buf, tag).with_fua(fua);
        self.lane.as_mut().unwrap().submit(now, io);
    }

    fn check(&mut self, done: &Done) {
        let expected = self
            .expected
            .remove(&done.tag)
            .expect("each answer comes once");
        assert_eq!(
            done.result, expected.result,
            "{:?} at {}",
            done.op, expected.first
        );
        if done.op == Op::Read {
            assert!(
                done.buf == self.fill(&expected.after),
                "read at {}",
                expected.first
            );
        }
        for (block, mark) in (expected.first..).zip(expected.after) {
            self.model[block as usize] = Some(mark);
        }
    }
}

impl Actor for Runner {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.lane = Some(self.volume.open_lane(cx));
        self.run(cx)
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        let now = cx.now();
        while self.sent < STEPS && (self.expected.len() as u64) < DEPTH {
            self.send(now);
        }
        let mut done = std::mem::take(&mut self.done);
        let lane = self.lane.as_mut().expect("opened by start");
        lane.poll(cx.now(), &mut done);
        let deadline = lane.deadline();
        let moved = !done.is_empty();
        for one in done.drain(..) {
            self.check(&one);
        }
        self.done = done;
        match () {
            () if moved => Next::Busy,
            () if self.sent == STEPS && self.expected.is_empty() => {
                let _ = self.end.send(self.sent);
                Next::Gone
            }
            () => Next::Idle(deadline),
        }
    }
}

fn drive(world: &World, volume: &Arc<dyn Volume>, keeps_data: bool) -> Receiver<u64> {
    let (end, ended) = channel();
    let volume = volume.clone();
    let seed = 42;
    world.reactors.least_loaded().spawn(move || {
        Box::new(Runner {
            volume,
            lane: None,
            random: Random(seed),
            model: vec![Some(0); SPAN as usize],
            expected: BTreeMap::new(),
            sent: 0,
            keeps_data,
            done: Vec::new(),
            end,
        })
    });
    ended
}

fn every_volume_answers_right(backend: Backend) {
    let world = world(backend);
    let handlers = handlers(&world);
    let folder = tempfile::tempdir().unwrap();
    let mut volumes = Vec::new();
    for block_size in [512, 4096] {
        let path = folder.path().join(format!("disk{block_size}"));
        let filename = path.to_str().unwrap().to_owned();
        let blocks_count = SPAN as i64;
        let spec = AioVolume {
            filename,
            block_size,
            blocks_count,
            ..AioVolume::default()
        };
        let name = format!("aioVolumes/a{block_size}");
        volumes.push((make(&handlers, &name, spec.encode_to_vec()), true));
        for metadata_size in [0, 8] {
            let blank = MallocVolume::default();
            let spec = MallocVolume {
                block_size,
                blocks_count,
                metadata_size,
                ..blank
            };
            let name = format!("mallocVolumes/m{block_size}-{metadata_size}");
            volumes.push((make(&handlers, &name, spec.encode_to_vec()), true));
        }
        let spec = NullVolume {
            block_size,
            blocks_count,
            ..NullVolume::default()
        };
        let name = format!("nullVolumes/n{block_size}");
        volumes.push((make(&handlers, &name, spec.encode_to_vec()), false));
    }
    let runs: Vec<_> = volumes
        .iter()
        .map(|(v, keeps)| drive(&world, v, *keeps))
        .collect();
    for run in runs {
        assert_eq!(run.recv_timeout(PATIENCE), Ok(STEPS));
    }
}

#[test]
fn every_volume_answers_right_as_the_reactors_choose() {
    every_volume_answers_right(Backend::Auto);
}

#[test]
fn every_volume_answers_right_over_epoll() {
    every_volume_answers_right(Backend::Epoll);
}

/// Submits writes and is gone before they are done.
struct Leaver {
    volume: Arc<dyn Volume>,
    lane: Mutex<Option<Box<dyn Lane>>>,
    end: Sender<()>,
}

impl Actor for Leaver {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        let mut lane = self.volume.open_lane(cx);
        for lba in 0..64 {
            let buf = IoBuf::from_slice(&[7; 512]);
            lane.submit(cx.now(), Io::new(Op::Write, Lba(lba), 1, buf, lba));
            lane.submit(
                cx.now(),
                Io::new(Op::Read, Lba(lba), 1, IoBuf::empty(), 64 + lba),
            );
        }
        *self.lane.lock().unwrap() = Some(lane);
        Next::Busy
    }
    fn run(&mut self, _: &mut Cx<'_>) -> Next {
        self.lane.lock().unwrap().take();
        let _ = self.end.send(());
        Next::Gone
    }
}

#[test]
fn an_actor_may_leave_with_file_io_under_way() {
    for backend in [Backend::Auto, Backend::Epoll] {
        let world = world(backend);
        let folder = tempfile::tempdir().unwrap();
        let filename = folder.path().join("disk").to_str().unwrap().to_owned();
        let spec = AioVolume {
            filename,
            blocks_count: SPAN as i64,
            ..AioVolume::default()
        };
        let volume = make(&handlers(&world), "aioVolumes/a", spec.encode_to_vec());
        for _ in 0..20 {
            let (end, ended) = channel();
            let volume = volume.clone();
            let leaver = move || -> Box<dyn Actor> {
                Box::new(Leaver {
                    volume,
                    lane: Mutex::default(),
                    end,
                })
            };
            world.reactors.least_loaded().spawn(leaver);
            assert_eq!(ended.recv_timeout(PATIENCE), Ok(()));
        }
        // The reactors still work.
        let spec = MallocVolume {
            block_size: 512,
            blocks_count: 512,
            ..MallocVolume::default()
        };
        let volume = make(&handlers(&world), "mallocVolumes/m", spec.encode_to_vec());
        assert_eq!(
            drive(&world, &volume, true).recv_timeout(PATIENCE),
            Ok(STEPS)
        );
    }
}
