//! [`DriveVolume`]: a namespace as the volume that users have, whatever block device is behind it
//! now: none while the drive is away, and another one once it is back.

use blk::{Done, Geometry, Home, Io, IoError, Lane, Nanos, State, Subscriber, Subscribers, Volume};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

struct Now {
    geometry: Geometry,
    /// The volume on the present block device; or why there is none.
    below: Result<Arc<dyn Volume>, String>,
}

struct Shared {
    now: Mutex<Now>,
    /// Counts changes of what is below.
    version: AtomicU64,
    subscribers: Subscribers,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().expect("no holder of the state panics")
    }
}

/// What the volume below tells is passed on.
impl Subscriber for Shared {
    fn changed(&self) {
        self.subscribers.wake();
    }
}

/// See the file's head.
pub(super) struct DriveVolume(Arc<Shared>);

impl DriveVolume {
    /// A volume of this geometry, with nothing below for the reason given.
    pub(super) fn new(geometry: Geometry, why: String) -> Self {
        Self(Arc::new(Shared {
            now: Mutex::new(Now {
                geometry,
                below: Err(why),
            }),
            version: AtomicU64::new(0),
            subscribers: Subscribers::default(),
        }))
    }

    /// Puts another volume below, or none for the reason given; tells users if that is news.
    pub(super) fn set(&self, below: Result<Arc<dyn Volume>, String>) {
        let mut now = self.0.now();
        match (&now.below, &below) {
            (Ok(old), Ok(new)) if Arc::ptr_eq(old, new) => return,
            (Err(old), Err(new)) if old == new => return,
            _ => {}
        }
        if let Ok(volume) = &below {
            let subscriber: Arc<dyn Subscriber> = self.0.clone();
            volume.subscribe(Arc::downgrade(&subscriber));
            let mut geometry = volume.geometry();
            geometry.generation = now.geometry.generation;
            if geometry != now.geometry {
                geometry.generation += 1;
            }
            now.geometry = geometry;
        }
        now.below = below;
        self.0.version.fetch_add(1, Ordering::Release);
        drop(now);
        self.0.subscribers.wake();
    }
}

impl Volume for DriveVolume {
    fn geometry(&self) -> Geometry {
        self.0.now().geometry
    }

    fn state(&self) -> State {
        match &self.0.now().below {
            Ok(volume) => volume.state(),
            Err(why) => State::Offline(why.clone()),
        }
    }

    fn open_lane(&self, home: &mut dyn Home) -> Box<dyn Lane> {
        let mut lane = DriveLane {
            shared: self.0.clone(),
            home: home.keep(),
            version: 0,
            below: None,
            in_flight: 0,
            before: Vec::new(),
            ended: Vec::new(),
        };
        lane.follow();
        Box::new(lane)
    }

    fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.0.subscribers.add(subscriber);
    }
}

struct DriveLane {
    shared: Arc<Shared>,
    home: Box<dyn Home>,
    /// What is below is as of this one.
    version: u64,
    below: Option<Box<dyn Lane>>,
    /// I/Os in the lane below.
    in_flight: usize,
    /// Lanes of earlier block devices that have not given everything back yet, and how much.
    before: Vec<(Box<dyn Lane>, usize)>,
    /// Ended without a drive.
    ended: Vec<Done>,
}

impl DriveLane {
    /// Opens a lane on what is below now.
    fn follow(&mut self) {
        let below = {
            let now = self.shared.now();
            self.version = self.shared.version.load(Ordering::Acquire);
            now.below.as_ref().ok().cloned()
        };
        let below = below.map(|volume| volume.open_lane(&mut *self.home));
        if let Some(old) = std::mem::replace(&mut self.below, below)
            && self.in_flight > 0
        {
            self.before.push((old, self.in_flight));
        }
        self.in_flight = 0;
    }
}

impl Lane for DriveLane {
    fn submit(&mut self, now: Nanos, io: Io) {
        if self.shared.version.load(Ordering::Acquire) != self.version {
            self.follow();
        }
        match &mut self.below {
            Some(below) => {
                below.submit(now, io);
                self.in_flight += 1;
            }
            None => self.ended.push(io.finish(Err(IoError::Offline))),
        }
    }

    fn poll(&mut self, now: Nanos, done: &mut Vec<Done>) {
        done.append(&mut self.ended);
        if let Some(below) = &mut self.below {
            let before = done.len();
            below.poll(now, done);
            self.in_flight -= done.len() - before;
        }
        self.before.retain_mut(|(lane, in_flight)| {
            let before = done.len();
            lane.poll(now, done);
            *in_flight -= done.len() - before;
            *in_flight > 0
        });
    }

    fn deadline(&self) -> Option<Nanos> {
        let before = self.before.iter().map(|(lane, _)| lane);
        let all = self.below.iter().chain(before);
        all.filter_map(|lane| lane.deadline()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use blk::testkit::{Profile, SimHome, conformance, run};
    use blk::{Identity, IoBuf, Lba, Op};
    use std::sync::atomic::AtomicU32;

    const WHY: &str = "it is away";

    /// A volume whose I/Os come back only once it is let go.
    struct Slow {
        blocks: u64,
        go: Arc<AtomicU32>,
    }

    struct SlowLane(Arc<AtomicU32>, Vec<Io>);

    impl Volume for Slow {
        fn geometry(&self) -> Geometry {
            Geometry::new(512, self.blocks)
        }
        fn open_lane(&self, _: &mut dyn Home) -> Box<dyn Lane> {
            Box::new(SlowLane(self.go.clone(), Vec::new()))
        }
    }

    impl Lane for SlowLane {
        fn submit(&mut self, _: Nanos, io: Io) {
            self.1.push(io);
        }
        fn poll(&mut self, _: Nanos, done: &mut Vec<Done>) {
            if self.0.load(Ordering::Relaxed) > 0 {
                done.extend(self.1.drain(..).map(|io| io.finish(Ok(()))));
            }
        }
    }

    fn slow(blocks: u64, go: u32) -> (Arc<dyn Volume>, Arc<AtomicU32>) {
        let go = Arc::new(AtomicU32::new(go));
        let volume = Slow {
            blocks,
            go: go.clone(),
        };
        (Arc::new(volume), go)
    }

    fn flush(tag: u64) -> Io {
        Io::new(Op::Flush, Lba(0), 0, IoBuf::empty(), tag)
    }

    #[derive(Default)]
    struct Told(AtomicU32);

    impl Subscriber for Told {
        fn changed(&self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn io_fails_while_nothing_is_below_and_works_once_something_is_on_the_same_lane() {
        let volume = DriveVolume::new(Geometry::new(512, 8), WHY.to_owned());
        let told = Arc::new(Told::default());
        let subscriber: Arc<dyn Subscriber> = told.clone();
        volume.subscribe(Arc::downgrade(&subscriber));
        let mut lane = volume.open_lane(&mut SimHome::default());
        assert_eq!(run(&mut *lane, flush(1)).result, Err(IoError::Offline));
        assert_eq!(volume.state(), State::Offline(WHY.to_owned()));
        volume.set(Err(WHY.to_owned()));
        assert_eq!(told.0.load(Ordering::Relaxed), 0, "that is no news");

        volume.set(Ok(slow(8, 1).0));
        assert_eq!(run(&mut *lane, flush(2)).result, Ok(()));
        assert_eq!(volume.state(), State::Online);
        assert_eq!(volume.geometry().generation, 0, "it is as it was");
        assert_eq!(told.0.load(Ordering::Relaxed), 1);
        volume.set(Ok(slow(9, 1).0));
        let now = volume.geometry();
        assert_eq!((now.blocks, now.generation), (9, 1));
    }

    #[test]
    fn what_is_on_its_way_ends_where_it_began() {
        let volume = DriveVolume::new(Geometry::new(512, 8), WHY.to_owned());
        let (first, go) = slow(8, 0);
        volume.set(Ok(first));
        let mut lane = volume.open_lane(&mut SimHome::default());
        lane.submit(Nanos(0), flush(1));
        volume.set(Err(WHY.to_owned()));
        lane.submit(Nanos(0), flush(2));
        volume.set(Ok(slow(8, 1).0));
        lane.submit(Nanos(0), flush(3));
        let mut done = Vec::new();
        lane.poll(Nanos(0), &mut done);
        let mut ended: Vec<_> = done.drain(..).map(|one| (one.tag, one.result)).collect();
        ended.sort_by_key(|one| one.0);
        assert_eq!(ended, [(2, Err(IoError::Offline)), (3, Ok(()))]);
        go.store(1, Ordering::Relaxed);
        lane.poll(Nanos(0), &mut done);
        assert_eq!((done[0].tag, done[0].result), (1, Ok(())));
    }

    #[test]
    fn it_conforms_as_what_is_below_does() {
        let folder = tempfile::tempdir().unwrap();
        let mut count = 0;
        let mut make = || -> Arc<dyn Volume> {
            count += 1;
            let path = folder.path().join(count.to_string());
            std::fs::File::create(&path)
                .unwrap()
                .set_len(1100 * 512)
                .unwrap();
            let below: Arc<dyn Volume> =
                Arc::new(crate::aio::open_file(&path, Identity::default()).unwrap());
            let volume = DriveVolume::new(below.geometry(), WHY.to_owned());
            volume.set(Ok(below));
            Arc::new(volume)
        };
        conformance(
            &mut make,
            Profile {
                steps: 600,
                ..Profile::default()
            },
        );
    }
}
