//! Arrays that lie, over real sockets: what went wrong is said by name, the connection is closed
//! where the protocol was broken, no wrong data reach anybody, and all is well once the array
//! behaves.

mod array;
mod connect;
mod io;
mod namespaces;
mod pdu;

use crate::site::Site;
use api::storage::v1::{
    FabricsPath, NvmeAddressFamily, NvmeMultipath, NvmePath, NvmeRemoteController,
    NvmeRemoteNamespace, NvmeTransportType, TcpController,
};
use array::{BLOCK, BadArray, NQN};
use blk::testkit::SimHome;
use blk::{Done, Io, IoBuf, IoError, Lane, Lba, Nanos, Op, State, Volume};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long anything may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Blocks of the I/O that the tests do.
const IO_BLOCKS: u32 = 8;

/// An xPU with a remote controller of its own for each array.
struct Host {
    site: Site,
}

/// One remote controller, with a path to each of its arrays.
struct Remote<'a> {
    site: &'a Site,
    name: String,
    paths: usize,
}

impl Host {
    fn new() -> Self {
        Self { site: Site::new() }
    }

    /// A remote controller with a path to each of these arrays, as far as they can be had.
    fn connect(&self, name: &str, digests: bool, arrays: &[&BadArray]) -> Remote<'_> {
        let name = format!("nvmeRemoteControllers/{name}");
        let controller = NvmeRemoteController {
            multipath: NvmeMultipath::Multipath.into(),
            io_queues_count: 1,
            tcp: Some(TcpController {
                hdgst: digests,
                ddgst: digests,
                ..TcpController::default()
            }),
            ..NvmeRemoteController::default()
        };
        self.site.make(&name, &controller);
        let remote = Remote {
            site: &self.site,
            name,
            paths: arrays.len(),
        };
        for (number, array) in arrays.iter().enumerate() {
            self.site.make(&remote.path(number), &path(array.port()));
        }
        remote
    }
}

fn path(port: u16) -> NvmePath {
    NvmePath {
        trtype: NvmeTransportType::Tcp.into(),
        traddr: "127.0.0.1".to_owned(),
        fabrics: Some(FabricsPath {
            trsvcid: port.into(),
            subnqn: NQN.to_owned(),
            adrfam: NvmeAddressFamily::Ipv4.into(),
            ..FabricsPath::default()
        }),
        ..NvmePath::default()
    }
}

impl Remote<'_> {
    fn path(&self, number: usize) -> String {
        format!("{}/nvmePaths/p{number}", self.name)
    }

    fn namespace(&self, id: &str) -> String {
        format!("{}/nvmeRemoteNamespaces/{id}", self.name)
    }

    /// Why the first path does not serve.
    fn trouble(&self) -> Option<String> {
        self.site.trouble::<NvmePath>(&self.path(0))
    }

    /// Why a namespace does not serve.
    fn offline(&self, id: &str) -> Option<String> {
        self.site
            .trouble::<NvmeRemoteNamespace>(&self.namespace(id))
    }

    /// Waits until the first path says this.
    #[track_caller]
    fn says(&self, hint: &str) {
        wait(&format!("{}: {hint:?}", self.name), || {
            let trouble = self.trouble();
            match &trouble {
                Some(why) if why.contains(hint) => Ok(()),
                _ => Err(format!("{trouble:?}")),
            }
        });
    }

    /// Waits until a namespace can be used, and gives its volume.
    #[track_caller]
    fn serves(&self, id: &str) -> Arc<dyn Volume> {
        let mut found = None;
        wait(&format!("{}: {id} serves", self.name), || {
            found = self.site.volume(&self.namespace(id));
            match &found {
                Some(volume) if volume.state() == State::Online => Ok(()),
                _ => Err(format!("{:?}, {:?}", self.offline(id), self.trouble())),
            }
        });
        found.unwrap()
    }

    /// Waits until the first path serves.
    #[track_caller]
    fn recovers(&self) {
        wait(&format!("{} recovers", self.name), || {
            match self.trouble() {
                None => Ok(()),
                Some(why) => Err(why),
            }
        });
    }

    fn delete(self) {
        for number in 0..self.paths {
            self.site.delete(&self.path(number));
        }
        self.site.delete(&self.name);
    }
}

/// Waits until `look` has found what it looks for; else says what it found.
#[track_caller]
fn wait(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(found) = look() {
        assert!(begun.elapsed() < PATIENCE, "{what}: {found}");
        std::thread::yield_now();
    }
}

/// Waits until the array got a TermReq with this FES.
#[track_caller]
fn terminated(what: &str, array: &BadArray, fes: u16) {
    wait(&format!("{what}: H2CTermReq with {fes}"), || {
        let terms = array.terms();
        match terms.contains(&fes) {
            true => Ok(()),
            false => Err(format!("{terms:?}")),
        }
    });
}

/// I/O under way in a lane of its own.
struct Job {
    lane: Box<dyn Lane>,
    done: Vec<Done>,
    count: usize,
}

impl Job {
    /// Submits I/O of [`IO_BLOCKS`] blocks each.
    fn start(volume: &Arc<dyn Volume>, all: &[(Op, u64, IoBuf)]) -> Self {
        let mut lane = volume.open_lane(&mut SimHome::default());
        for (op, lba, buf) in all {
            let io = Io::new(*op, Lba(*lba), IO_BLOCKS, buf.clone(), *lba);
            lane.submit(Nanos(0), io);
        }
        Self {
            lane,
            done: Vec::new(),
            count: all.len(),
        }
    }

    /// Two reads, at blocks 0 and 8.
    fn reads(volume: &Arc<dyn Volume>) -> Self {
        let read = |lba| (Op::Read, lba, IoBuf::empty());
        Self::start(volume, &[read(0), read(8)])
    }

    /// A write of this byte at block 16.
    fn write(volume: &Arc<dyn Volume>, byte: u8) -> Self {
        let data = IoBuf::from_slice(&[byte; IO_BLOCKS as usize * BLOCK]);
        Self::start(volume, &[(Op::Write, 16, data)])
    }

    /// Waits until all has ended.
    #[track_caller]
    fn finish(mut self) -> Vec<Done> {
        wait("I/O ends", || {
            self.lane.poll(Nanos(0), &mut self.done);
            match self.done.len() == self.count {
                true => Ok(()),
                false => Err(format!("{} of {}", self.done.len(), self.count)),
            }
        });
        self.done.sort_by_key(|done| done.tag);
        self.done
    }

    /// Waits until all reads have ended well, and checks what came.
    #[track_caller]
    fn finish_reads(self) {
        for done in self.finish() {
            assert_eq!(done.result, Ok(()), "block {}", done.tag);
            let wanted = (0..u64::from(IO_BLOCKS)).flat_map(|at| {
                let byte = (done.tag + at) as u8 + 1;
                [byte; BLOCK]
            });
            assert_eq!(done.buf.to_vec(), wanted.collect::<Vec<u8>>());
        }
    }

    /// Waits until a single I/O has ended.
    #[track_caller]
    fn finish_one(self) -> Result<(), IoError> {
        self.finish().remove(0).result
    }
}

/// Reads what block 16 and the next hold; all have the same content.
#[track_caller]
fn written(volume: &Arc<dyn Volume>) -> u8 {
    let done = Job::start(volume, &[(Op::Read, 16, IoBuf::empty())]).finish();
    assert_eq!(done[0].result, Ok(()));
    let bytes = done[0].buf.to_vec();
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a torn write");
    bytes[0]
}
