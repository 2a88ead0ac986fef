//! A drive on a made-up machine: taken, lost, back, and changed.

use super::drive::{Drive, Open};
use super::testing::Machine;
use super::{Address, Trouble};
use crate::aio;
use crate::nvme::remote::Namespace;
use blk::testkit::{SimHome, run};
use blk::{Io, IoBuf, IoError, Lane, Lba, Op, State, Volume};
use engine::{Keep, KeepDone, Latch};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Where the drive is; [`Machine::namespace`] knows of no other.
const SLOT: &str = "0000:01:00.0";
const DEVICE: &str = "sys/bus/pci/devices/0000:01:00.0";

#[derive(Default)]
struct Kept(Mutex<BTreeMap<String, Vec<u8>>>);

impl Keep for Kept {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(key).cloned()
    }
    fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone) {
        let mut all = self.0.lock().unwrap();
        match value {
            Some(value) => all.insert(key.to_owned(), value),
            None => all.remove(key),
        };
        done(Ok(()));
    }
}

/// A machine with a drive of one namespace, and the controller it is for.
struct Lab {
    machine: Machine,
    kept: Arc<Kept>,
    restored: Arc<Latch>,
    drive: Arc<Drive>,
}

fn slot() -> Address {
    Address::parse(SLOT).unwrap()
}

impl Lab {
    fn new() -> Self {
        let machine = Machine::new();
        machine.drive(SLOT, 0, 1);
        machine.namespace("nvme0/nvme0n1", "nvme0n1", 1, 7);
        for file in ["proc/self/mountinfo", "proc/swaps"] {
            machine.write(file, "");
        }
        let kept: Arc<Kept> = Arc::default();
        let restored: Arc<Latch> = Arc::default();
        restored.open();
        let place = (machine.roots.clone(), aio::open_file as Open);
        let drive = Drive::on(place, kept.clone(), restored.clone(), "rc");
        Self {
            machine,
            kept,
            restored,
            drive,
        }
    }

    /// The server is started again.
    fn restart(&mut self) {
        let place = (self.machine.roots.clone(), aio::open_file as Open);
        self.restored = Arc::default();
        self.drive = Drive::on(place, self.kept.clone(), self.restored.clone(), "rc");
    }

    fn attach(&self) -> Result<(), Trouble> {
        self.drive.attach(slot(), true)
    }

    fn one(&self, id: &str) -> Namespace {
        let mut all = self.drive.namespaces().into_iter();
        let found = all.find(|one| one.id == id);
        found.unwrap_or_else(|| panic!("there is no {id}"))
    }

    fn volume(&self, id: &str) -> Arc<dyn Volume> {
        self.one(id).volume.unwrap()
    }

    /// Why a namespace is offline.
    fn why(&self, id: &str) -> String {
        match self.one(id).state {
            State::Online => String::new(),
            State::Offline(why) => why,
        }
    }

    /// The drive is pulled out.
    fn pull(&self) {
        self.machine.remove(DEVICE);
        self.machine.remove("sys/class/block/nvme0n1");
        self.drive.look_again();
    }

    /// A drive is put in whose namespace's identifiers are made of this byte; the kernel numbers
    /// disks as it likes.
    fn put_in(&self, number: u32, byte: u8, sequence: u32) {
        let disk = format!("nvme{number}n1");
        self.machine.drive(SLOT, number, 1);
        self.machine
            .namespace(&format!("nvme{number}/{disk}"), &disk, 1, byte);
        let path = format!("sys/class/block/{disk}/diskseq");
        self.machine.write(&path, &format!("{sequence}\n"));
        self.drive.look_again();
    }
}

fn act(lane: &mut dyn Lane, op: Op) -> Result<(), IoError> {
    let bytes = if op == Op::Write { 512 } else { 0 };
    let blocks = u32::from(op != Op::Flush);
    run(lane, Io::new(op, Lba(3), blocks, IoBuf::zeroes(bytes), 0)).result
}

#[test]
fn a_drive_is_taken_with_all_its_namespaces_or_not_at_all() {
    let lab = Lab::new();
    lab.machine.namespace("nvme0/nvme0n2", "nvme0n2", 2, 8);
    let mount = "22 1 259:8 / /mnt rw - ext4 /dev/nvme0n2 rw\n";
    lab.machine.write("proc/self/mountinfo", mount);
    let trouble = lab.attach().unwrap_err();
    assert!(
        trouble.text.contains("/dev/nvme0n2 is mounted on /mnt"),
        "{trouble:?}"
    );
    assert!(lab.drive.namespaces().is_empty() && lab.drive.address().is_none());

    lab.machine.write("proc/self/mountinfo", "");
    lab.attach().unwrap();
    let ids: Vec<String> = lab
        .drive
        .namespaces()
        .into_iter()
        .map(|one| one.id)
        .collect();
    assert_eq!(ids, ["n1", "n2"]);
    let geometry = lab.volume("n1").geometry();
    assert_eq!((geometry.blocks, geometry.block_bytes), (2048, 512));
    assert_eq!(geometry.identity.uuid, [7; 16]);
    let mut lane = lab.volume("n1").open_lane(&mut SimHome::default());
    assert_eq!(act(&mut *lane, Op::Write), Ok(()));
    assert_eq!(lab.drive.state(), State::Online);
}

#[test]
fn what_cannot_be_opened_is_named() {
    let busy: Open = |_, _| Err(std::io::Error::from_raw_os_error(libc::EBUSY));
    let lab = Lab::new();
    let place = (lab.machine.roots.clone(), busy);
    let drive = Drive::on(place, lab.kept.clone(), lab.restored.clone(), "rc");
    let dev = lab.machine.roots.dev.join("nvme0n1");
    lab.machine.link("proc/77/fd/5", &dev);
    lab.machine.write("proc/77/comm", "qemu\n");
    let trouble = drive.attach(slot(), true).unwrap_err();
    let wanted = "/dev/nvme0n1 is in use: it is held by qemu (process 77)";
    assert!(trouble.text.contains(wanted), "{trouble:?}");
    lab.machine
        .write("sys/class/block/nvme0n1/queue/zoned", "host-managed\n");
    let trouble = lab.attach().unwrap_err();
    assert!(
        trouble.text.contains("/dev/nvme0n1 is zoned"),
        "{trouble:?}"
    );
}

#[test]
fn a_drive_that_was_away_is_the_same_to_those_who_use_it() {
    let lab = Lab::new();
    lab.attach().unwrap();
    let volume = lab.volume("n1");
    let mut lane = volume.open_lane(&mut SimHome::default());
    assert_eq!(act(&mut *lane, Op::Write), Ok(()));
    assert_eq!(act(&mut *lane, Op::Flush), Ok(()));
    lab.pull();
    assert_eq!(act(&mut *lane, Op::Write), Err(IoError::Offline));
    assert!(lab.why("n1").contains(SLOT), "{}", lab.why("n1"));
    assert_ne!(lab.drive.state(), State::Online);
    lab.put_in(5, 7, 70);
    assert_eq!(
        (lab.why("n1").as_str(), lab.drive.state()),
        ("", State::Online)
    );
    assert_eq!(volume.state(), State::Online);
    assert_eq!(act(&mut *lane, Op::Write), Ok(()));
}

#[test]
fn another_drive_in_its_place_gives_nobody_its_data() {
    let lab = Lab::new();
    lab.attach().unwrap();
    let volume = lab.volume("n1");
    let mut lane = volume.open_lane(&mut SimHome::default());
    lab.pull();
    lab.put_in(0, 9, 90);
    assert!(lab.why("n1").contains("no more"), "{}", lab.why("n1"));
    assert_eq!(act(&mut *lane, Op::Write), Err(IoError::Offline));
    assert_eq!(lab.why("n1-2"), "");
    assert_eq!(lab.one("n1-2").identity.uuid, [9; 16]);
    drop((lane, volume));
    lab.drive.look_again();
    assert_eq!(
        lab.drive.namespaces().len(),
        1,
        "nobody uses the first any more"
    );
}

#[test]
fn another_drive_at_a_start_does_not_get_the_number_of_what_somebody_is_about_to_use() {
    let mut lab = Lab::new();
    lab.attach().unwrap();
    lab.machine.remove(DEVICE);
    lab.machine.remove("sys/class/block/nvme0n1");
    lab.restart();
    lab.put_in(0, 9, 90);
    lab.drive.attach(slot(), false).unwrap();
    lab.drive.look_again();
    // Only now those who use namespaces are back.
    let volume = lab.volume("n1");
    assert_eq!(volume.geometry().identity.uuid, [7; 16]);
    lab.restored.open();
    lab.drive.look_again();
    assert_eq!(lab.one("n1-2").identity.uuid, [9; 16]);
    assert!(lab.why("n1").contains("no more"), "{}", lab.why("n1"));
    drop(volume);
    lab.drive.look_again();
    assert_eq!(lab.drive.namespaces().len(), 1);
}

#[test]
fn a_disk_that_was_swapped_between_two_looks_is_opened_anew() {
    let lab = Lab::new();
    lab.attach().unwrap();
    let mut lane = lab.volume("n1").open_lane(&mut SimHome::default());
    assert_eq!(act(&mut *lane, Op::Write), Ok(()));
    // Out and in again, and all the names are as before.
    let dev = lab.machine.roots.dev.join("nvme0n1");
    std::fs::remove_file(&dev).unwrap();
    lab.put_in(0, 7, 71);
    assert_eq!(act(&mut *lane, Op::Write), Ok(()));
    let bytes = std::fs::metadata(&dev).unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&bytes) > 0,
        "it went elsewhere"
    );
}

#[test]
fn a_start_without_the_drive_knows_its_namespaces_and_takes_it_once_it_is_there() {
    let mut lab = Lab::new();
    lab.attach().unwrap();
    lab.machine.remove(DEVICE);
    lab.restart();
    let volume = lab.volume("n1");
    assert_eq!(volume.geometry().blocks, 2048);
    lab.drive.attach(slot(), false).unwrap();
    assert!(lab.why("n1").contains("no PCI device"), "{}", lab.why("n1"));
    let mount = "22 1 259:7 / /mnt rw - ext4 /dev/nvme0n1 rw\n";
    lab.machine.write("proc/self/mountinfo", mount);
    lab.put_in(0, 7, 70);
    assert!(
        lab.why("n1").contains("mounted on /mnt"),
        "{}",
        lab.why("n1")
    );
    lab.machine.write("proc/self/mountinfo", "");
    lab.drive.look_again();
    assert_eq!(volume.state(), State::Online);
    drop(volume);
    lab.drive.end();
    assert!(lab.kept.0.lock().unwrap().is_empty());
}

#[test]
fn a_namespace_of_another_size_is_taken_over_and_counted() {
    let lab = Lab::new();
    lab.attach().unwrap();
    let volume = lab.volume("n1");
    let mut lane = volume.open_lane(&mut SimHome::default());
    for (bytes, generation) in [(2 << 20, 1), (512 << 10, 2), (512 << 10, 2)] {
        lab.machine.disk("nvme0n1", 1, 7, bytes);
        lab.drive.look_again();
        let geometry = volume.geometry();
        assert_eq!(
            (geometry.blocks, geometry.generation),
            (bytes / 512, generation)
        );
        let last = Io::new(Op::Read, Lba(bytes / 512 - 1), 1, IoBuf::empty(), 0);
        assert_eq!(run(&mut *lane, last).result, Ok(()));
        let past = Io::new(Op::Read, Lba(bytes / 512), 1, IoBuf::empty(), 0);
        assert_eq!(run(&mut *lane, past).result, Err(IoError::OutOfRange));
    }
}

#[test]
fn a_drive_without_its_path_is_out_of_reach_and_taken_again_as_it_is() {
    let lab = Lab::new();
    lab.attach().unwrap();
    let volume = lab.volume("n1");
    let mut lane = volume.open_lane(&mut SimHome::default());
    lab.drive.detach();
    assert_eq!(act(&mut *lane, Op::Write), Err(IoError::Offline));
    lab.drive.look_again();
    assert!(
        lab.why("n1").contains("path was deleted"),
        "{}",
        lab.why("n1")
    );
    lab.attach().unwrap();
    assert_eq!(act(&mut *lane, Op::Write), Ok(()));
    drop((lane, volume));
    lab.drive.detach();
    assert!(lab.drive.namespaces().is_empty());
}

#[test]
fn a_reset_is_the_kernels_and_forgets_faults() {
    let lab = Lab::new();
    lab.attach().unwrap();
    let volume = lab.volume("n1");
    let mut ill = volume.open_lane(&mut SimHome {
        fail_files_from: Some(0),
    });
    assert!(act(&mut *ill, Op::Flush).is_err());
    assert!(lab.why("n1").contains("a sync of"), "{}", lab.why("n1"));
    lab.drive.reset().unwrap();
    let node = lab.machine.roots.sys.join("bus/pci/devices").join(SLOT);
    let written = std::fs::read_to_string(node.join("nvme/nvme0/reset_controller"));
    assert_eq!(written.unwrap(), "1");
    assert_eq!(lab.why("n1"), "");
    let mut well = volume.open_lane(&mut SimHome::default());
    assert_eq!(act(&mut *well, Op::Flush), Ok(()));
}

#[test]
fn a_drive_that_was_pulled_with_writes_in_its_cache_says_so_until_it_is_reset() {
    for (cache, is_lost) in [("write back", true), ("write through", false)] {
        let lab = Lab::new();
        let write_cache = "sys/class/block/nvme0n1/queue/write_cache";
        lab.machine.write(write_cache, &format!("{cache}\n"));
        lab.attach().unwrap();
        let mut lane = lab.volume("n1").open_lane(&mut SimHome::default());
        assert_eq!(act(&mut *lane, Op::Write), Ok(()));
        lab.pull();
        lab.put_in(0, 7, 70);
        assert_eq!(act(&mut *lane, Op::Flush).is_err(), is_lost);
        assert_eq!(act(&mut *lane, Op::Write), Ok(()));
        assert_eq!(
            lab.why("n1").contains("reset"),
            is_lost,
            "{}",
            lab.why("n1")
        );
        lab.drive.reset().unwrap();
        assert_eq!(lab.why("n1"), "");
        assert_eq!(act(&mut *lane, Op::Flush), Ok(()));
    }
}
