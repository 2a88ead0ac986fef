//! Remote namespaces: our initiator on our own target, which real hosts and arrays are tested
//! against elsewhere.

use crate::site::{Kept, Site, own_address, until};
use api::ext::v1::{NvmeIoPolicy, NvmeRemoteControllerSettings};
use api::handler::FactValue;
use api::storage::v1::nvme_controller_spec::Endpoint;
use api::storage::v1::{
    FabricsEndpoint, FabricsPath, MallocVolume, NvmeAddressFamily, NvmeController,
    NvmeControllerSpec, NvmeMultipath, NvmeNamespace, NvmeNamespaceSpec, NvmePath,
    NvmeRemoteController, NvmeRemoteNamespace, NvmeSubsystem, NvmeSubsystemSpec, NvmeTransportType,
    TcpController,
};
use blk::testkit::{Profile, SimHome, conformance, run};
use blk::{Io, IoBuf, Lba, Nanos, Op, State, Volume};
use std::sync::Arc;

const NQN: &str = "nqn.2026-01.org.example:array";
const BASE: &str = "spec.volume_name_ref";
const REMOTE: &str = "nvmeRemoteControllers/rc";

/// An array: a subsystem of our own front end with so many listeners.
struct Array {
    site: Site,
    address: String,
    ports: Vec<u16>,
}

impl Array {
    fn start(listeners: usize) -> Self {
        let site = Site::new();
        let spec = NvmeSubsystemSpec {
            nqn: NQN.to_owned(),
            ..NvmeSubsystemSpec::default()
        };
        let subsystem = NvmeSubsystem {
            spec: Some(spec),
            ..NvmeSubsystem::default()
        };
        site.make("nvmeSubsystems/s0", &subsystem);
        let mut array = Self {
            site,
            address: own_address(),
            ports: Vec::new(),
        };
        for listener in 0..listeners {
            array.ports.push(4420 + listener as u16);
            array.listen(listener);
        }
        array
    }

    fn listen(&self, listener: usize) {
        let endpoint = FabricsEndpoint {
            traddr: self.address.clone(),
            trsvcid: self.ports[listener].to_string(),
            adrfam: NvmeAddressFamily::Ipv4.into(),
        };
        let spec = NvmeControllerSpec {
            trtype: NvmeTransportType::Tcp.into(),
            endpoint: Some(Endpoint::FabricsId(endpoint)),
            ..NvmeControllerSpec::default()
        };
        let controller = NvmeController {
            spec: Some(spec),
            ..NvmeController::default()
        };
        self.site.make(
            &format!("nvmeSubsystems/s0/nvmeControllers/c{listener}"),
            &controller,
        );
    }

    fn close(&self, listener: usize) {
        self.site
            .delete(&format!("nvmeSubsystems/s0/nvmeControllers/c{listener}"));
    }

    /// Makes namespace `nsid` on a memory volume of its own.
    fn add(&self, nsid: i32, block_size: i64, blocks_count: i64, metadata_size: i64) {
        let volume = format!("mallocVolumes/m{nsid}");
        let spec = MallocVolume {
            block_size,
            blocks_count,
            metadata_size,
            ..MallocVolume::default()
        };
        self.site.make(&volume, &spec);
        let spec = NvmeNamespaceSpec {
            volume_name_ref: volume.clone(),
            host_nsid: nsid,
            ..NvmeNamespaceSpec::default()
        };
        let namespace = NvmeNamespace {
            spec: Some(spec),
            ..NvmeNamespace::default()
        };
        let below = self.site.volume(&volume).unwrap();
        let name = format!("nvmeSubsystems/s0/nvmeNamespaces/n{nsid}");
        self.site
            .try_make(&name, &namespace, &[(BASE, below)], false)
            .unwrap();
    }

    fn remove(&self, nsid: i32) {
        self.site
            .delete(&format!("nvmeSubsystems/s0/nvmeNamespaces/n{nsid}"));
        self.site.delete(&format!("mallocVolumes/m{nsid}"));
    }
}

fn controller(digests: bool) -> NvmeRemoteController {
    NvmeRemoteController {
        multipath: NvmeMultipath::Multipath.into(),
        tcp: Some(TcpController {
            hdgst: digests,
            ddgst: digests,
            ..TcpController::default()
        }),
        ..NvmeRemoteController::default()
    }
}

fn path(address: &str, port: u16) -> NvmePath {
    NvmePath {
        trtype: NvmeTransportType::Tcp.into(),
        traddr: address.to_owned(),
        fabrics: Some(FabricsPath {
            trsvcid: port.into(),
            subnqn: NQN.to_owned(),
            adrfam: NvmeAddressFamily::Ipv4.into(),
            ..FabricsPath::default()
        }),
        ..NvmePath::default()
    }
}

fn path_name(number: usize) -> String {
    format!("{REMOTE}/nvmePaths/p{number}")
}

fn namespace(nsid: i32) -> String {
    format!("{REMOTE}/nvmeRemoteNamespaces/n{nsid}")
}

/// An xPU with a path to each listener of the array.
fn xpu(array: &Array, digests: bool) -> Site {
    let site = Site::new();
    site.make(REMOTE, &controller(digests));
    for (number, port) in array.ports.iter().enumerate() {
        site.make(&path_name(number), &path(&array.address, *port));
    }
    site
}

fn write(volume: &Arc<dyn Volume>, byte: u8) -> Result<(), blk::IoError> {
    let mut lane = volume.open_lane(&mut SimHome::default());
    run(
        &mut *lane,
        Io::new(Op::Write, Lba(0), 1, IoBuf::from_slice(&[byte; 4096]), 1),
    )
    .result
}

fn read(volume: &Arc<dyn Volume>) -> Vec<u8> {
    let mut lane = volume.open_lane(&mut SimHome::default());
    let done = run(&mut *lane, Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 1));
    assert_eq!(done.result, Ok(()));
    done.buf.to_vec()
}

#[test]
fn a_remote_namespace_behaves_like_memory() {
    for (digests, block, metadata) in [(false, 4096, 0), (true, 512, 0), (false, 512, 8)] {
        let array = Array::start(2);
        let xpu = xpu(&array, digests);
        let mut nsid = 0;
        let mut make = || {
            nsid += 1;
            array.add(nsid, block, 2048, metadata);
            // The array tells of it, on either path.
            until("finding a namespace", || {
                xpu.volume(&namespace(nsid)).is_some()
            });
            let volume = xpu.volume(&namespace(nsid)).unwrap();
            until("reaching a namespace", || volume.state() == State::Online);
            volume
        };
        let profile = Profile {
            steps: 500,
            ..Profile::default()
        };
        conformance(&mut make, profile);
    }
}

#[test]
fn namespaces_are_listed_as_the_array_has_them() {
    let array = Array::start(1);
    array.add(3, 4096, 100, 0);
    let xpu = xpu(&array, false);
    // A path that is made has shown what is there.
    let found = xpu.discovered::<NvmeRemoteNamespace>(REMOTE);
    assert_eq!(found.len(), 1, "{found:?}");
    let (id, first) = &found[0];
    assert_eq!((id.as_str(), first.nsid), ("n3", 3));
    assert_eq!(first.uuid.len(), 36, "{first:?}");
    let volume = xpu.volume(&namespace(3)).unwrap();
    assert_eq!(
        (volume.geometry().block_bytes, volume.geometry().blocks),
        (4096, 100)
    );

    array.remove(3);
    until("losing a namespace", || {
        matches!(volume.state(), State::Offline(_))
    });
    let mut lane = volume.open_lane(&mut SimHome::default());
    let done = run(&mut *lane, Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 1));
    assert_eq!(done.result, Err(blk::IoError::Offline));
}

#[test]
fn io_goes_on_while_listeners_come_and_go() {
    let array = Array::start(2);
    array.add(1, 4096, 100, 0);
    let xpu = xpu(&array, false);
    let volume = xpu.volume(&namespace(1)).unwrap();
    for round in 0..4_u8 {
        let listener = usize::from(round % 2);
        array.close(listener);
        let name = path_name(listener);
        until("losing a path", || xpu.trouble::<NvmePath>(&name).is_some());
        assert_eq!(volume.state(), State::Online);
        assert_eq!(write(&volume, round), Ok(()));
        assert_eq!(read(&volume), [round; 4096]);
        array.listen(listener);
        until("a path's return", || {
            xpu.trouble::<NvmePath>(&name).is_none()
        });
    }
    let tally = xpu.observe::<NvmeRemoteController>(REMOTE).stats.unwrap();
    assert!(tally.op(Op::Write).ops >= 4, "{:?}", tally.op(Op::Write));
}

#[test]
fn a_reset_connects_anew_and_loses_nothing() {
    let array = Array::start(1);
    array.add(1, 4096, 100, 0);
    let xpu = xpu(&array, false);
    let volume = xpu.volume(&namespace(1)).unwrap();
    assert_eq!(write(&volume, 9), Ok(()));
    xpu.reset(REMOTE);
    assert_eq!(read(&volume), [9; 4096]);
    assert_eq!(xpu.trouble::<NvmePath>(&path_name(0)), None);
}

#[test]
fn what_stands_on_a_remote_namespace_has_its_size_before_the_array_is_reached() {
    let array = Array::start(1);
    array.add(1, 512, 77, 0);
    let kept = Arc::new(Kept::default());
    {
        let before = Site::with(kept.clone());
        before.make(REMOTE, &controller(false));
        before.make(&path_name(0), &path(&array.address, array.ports[0]));
        assert!(before.volume(&namespace(1)).is_some());
    }
    array.close(0);
    let after = Site::with(kept);
    after
        .try_make(REMOTE, &controller(false), &[], true)
        .unwrap();
    after
        .try_make(
            &path_name(0),
            &path(&array.address, array.ports[0]),
            &[],
            true,
        )
        .unwrap();
    let volume = after.volume(&namespace(1)).unwrap();
    assert_eq!(
        (volume.geometry().block_bytes, volume.geometry().blocks),
        (512, 77)
    );
    let State::Offline(why) = volume.state() else {
        panic!("the array cannot be reached");
    };
    assert!(why.contains("no path"), "{why}");
    array.listen(0);
    until("the array's return", || volume.state() == State::Online);
}

#[test]
fn an_array_that_cannot_be_had_is_kept_and_says_why() {
    let array = Array::start(1);
    let site = Site::new();
    site.make(REMOTE, &controller(false));
    let mut wrong = path(&array.address, array.ports[0]);
    wrong.fabrics.as_mut().unwrap().subnqn = "nqn.2026-01.org.example:nobody".to_owned();
    let mut nowhere = path(&array.address, array.ports[0]);
    nowhere.traddr = "no-such-host.invalid".to_owned();
    for (number, spec, hint) in [
        (0, wrong, "Connect was refused"),
        (1, path(&own_address(), 4420), "refused"),
        (2, nowhere, "no address"),
    ] {
        let name = path_name(number);
        site.make(&name, &spec);
        let why = site.trouble::<NvmePath>(&name).unwrap_or_default();
        assert!(why.contains(hint), "{why}");
        site.delete(&name);
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_the_field() {
    let site = Site::new();
    let refused = |spec: &NvmePath, hint: &str| {
        let error = site.try_make(&path_name(0), spec, &[], false).unwrap_err();
        assert!(error.message.contains(hint), "{}", error.message);
    };
    let good = path("127.0.0.1", 4420);
    let mut fabrics = good.fabrics.clone().unwrap();
    fabrics.trsvcid = 0;
    let with = |fabrics: FabricsPath| NvmePath {
        fabrics: Some(fabrics),
        ..good.clone()
    };
    refused(&with(fabrics.clone()), "trsvcid");
    fabrics.trsvcid = 4420;
    fabrics.subnqn = "no name".to_owned();
    refused(&with(fabrics.clone()), "subnqn");
    fabrics.subnqn = "nqn.2014-08.org.nvmexpress.discovery".to_owned();
    refused(&with(fabrics.clone()), "discovery");
    fabrics.subnqn = NQN.to_owned();
    fabrics.adrfam = NvmeAddressFamily::Ipv6.into();
    refused(&with(fabrics.clone()), "adrfam");
    fabrics.adrfam = NvmeAddressFamily::Ipv4.into();
    fabrics.source_traddr = "::1".to_owned();
    refused(&with(fabrics), "source_traddr");
    for transport in [NvmeTransportType::Rdma, NvmeTransportType::Fc] {
        let spec = NvmePath {
            trtype: transport.into(),
            ..good.clone()
        };
        refused(&spec, transport.as_str_name());
    }
    let secret = NvmeRemoteController {
        tcp: Some(TcpController {
            psk: b"secret".to_vec(),
            ..TcpController::default()
        }),
        ..controller(false)
    };
    let error = site.try_make(REMOTE, &secret, &[], false).unwrap_err();
    assert!(
        error.message.contains("psk") && !error.message.contains("secret"),
        "{}",
        error.message
    );
}

#[test]
fn without_multipath_there_is_one_path() {
    let array = Array::start(2);
    let site = Site::new();
    let spec = NvmeRemoteController {
        multipath: NvmeMultipath::Disable.into(),
        ..controller(false)
    };
    site.make(REMOTE, &spec);
    site.make(&path_name(0), &path(&array.address, array.ports[0]));
    let error = site
        .try_make(
            &path_name(1),
            &path(&array.address, array.ports[1]),
            &[],
            false,
        )
        .unwrap_err();
    assert!(error.message.contains(&path_name(0)), "{}", error.message);
}

#[test]
fn a_platform_ends_in_order_while_io_waits_for_a_lost_array() {
    let array = Array::start(1);
    array.add(1, 4096, 100, 0);
    let xpu = xpu(&array, false);
    let volume = xpu.volume(&namespace(1)).unwrap();
    array.close(0);
    until("losing the array", || {
        matches!(volume.state(), State::Offline(_))
    });
    let mut lane = volume.open_lane(&mut SimHome::default());
    for tag in 0..3 {
        lane.submit(
            Nanos(0),
            Io::new(Op::Read, Lba(tag), 1, IoBuf::empty(), tag),
        );
    }
    let mut done = Vec::new();
    lane.poll(Nanos(0), &mut done);
    assert!(done.is_empty(), "I/O waits for a path");
    // A reactor that panicked would take this process along.
    drop((lane, volume));
    drop(xpu);
}

#[test]
fn of_changes_on_two_paths_at_once_the_later_has_the_last_word() {
    let array = Array::start(2);
    array.add(1, 4096, 100, 0);
    let xpu = xpu(&array, false);
    let volume = xpu.volume(&namespace(1)).unwrap();
    for _ in 0..20 {
        // Both paths are lost and made at the same moment, on two reactors.
        xpu.reset(REMOTE);
        for path in 0..2 {
            let name = path_name(path);
            until("a path's return", || {
                xpu.trouble::<NvmePath>(&name).is_none()
            });
        }
        until("a namespace's return", || volume.state() == State::Online);
    }
}

/// Operations and bytes that a resource did.
fn counted<R: api::Resource>(site: &Site, name: &str, op: Op) -> (u64, u64) {
    let stats = site.observe::<R>(name).stats.unwrap();
    (stats.op(op).ops, stats.op(op).bytes)
}

/// The word of a state.
fn word(value: FactValue) -> &'static str {
    match value {
        FactValue::State { now, all } => {
            assert!(all.contains(&now));
            now
        }
        other => panic!("{other:?} is no state"),
    }
}

#[test]
fn io_and_reconnections_are_counted_on_the_path_that_had_them() {
    let array = Array::start(2);
    array.add(1, 4096, 100, 0);
    let failover = NvmeRemoteController {
        multipath: NvmeMultipath::Failover.into(),
        ..controller(false)
    };
    let site = Site::new();
    site.make(REMOTE, &failover);
    site.make(&path_name(0), &path(&array.address, array.ports[0]));
    let volume = site.volume(&namespace(1)).unwrap();
    until("reaching it", || volume.state() == State::Online);
    // Failover stays with the path that is used, which is the first one from here on.
    read(&volume);
    site.make(&path_name(1), &path(&array.address, array.ports[1]));
    for byte in 1..=3 {
        write(&volume, byte).unwrap();
    }
    let (first, second) = (path_name(0), path_name(1));
    let path = |name: &str, op| counted::<NvmePath>(&site, name, op);
    assert_eq!(path(&first, Op::Write), (3, 3 * 4096));
    assert_eq!(path(&first, Op::Read), (1, 4096));
    assert_eq!(path(&second, Op::Write), (0, 0));
    let latency = site.observe::<NvmePath>(&first).stats.unwrap();
    assert_eq!(latency.op(Op::Write).latency.0.iter().sum::<u64>(), 3);
    let fact = |name: &str, fact: &str| site.fact::<NvmePath>(name, fact);
    assert_eq!(word(fact(&first, "nvme_path_state")), "live");
    assert_eq!(word(fact(&first, "nvme_path_ana_state")), "optimized");
    let reconnects = |name: &str| fact(name, "nvme_path_reconnects");
    assert_eq!(reconnects(&first), FactValue::Counter(0));

    array.close(0);
    until("losing a path", || {
        word(fact(&first, "nvme_path_state")) == "lost"
    });
    write(&volume, 4).unwrap();
    assert_eq!(path(&second, Op::Write), (1, 4096));
    array.listen(0);
    until("a path's return", || {
        reconnects(&first) == FactValue::Counter(1)
    });
    assert_eq!(reconnects(&second), FactValue::Counter(0));

    // The controller has it all, also when a path goes.
    let all = || counted::<NvmeRemoteController>(&site, REMOTE, Op::Write);
    assert_eq!(all(), (4, 4 * 4096));
    site.delete(&first);
    assert_eq!(all(), (4, 4 * 4096));
    let fact = |fact: &str| site.fact::<NvmeRemoteController>(REMOTE, fact);
    let reconnects = fact("nvme_remote_controller_reconnects");
    assert_eq!(reconnects, FactValue::Counter(1));
    assert_eq!(
        fact("nvme_remote_controller_paths_live"),
        FactValue::Gauge(1.0)
    );
}

#[test]
fn paths_take_turns_once_that_is_set_and_none_is_lost_for_it() {
    let array = Array::start(2);
    array.add(1, 4096, 100, 0);
    let xpu = xpu(&array, false);
    let volume = xpu.volume(&namespace(1)).unwrap();
    let settings = NvmeRemoteControllerSettings {
        io_policy: NvmeIoPolicy::RoundRobin.into(),
        io_timeout_ms: Some(10_000),
        keep_alive_timeout_ms: Some(2_000),
        ..NvmeRemoteControllerSettings::default()
    };
    xpu.set(REMOTE, &controller(false), &settings);
    let mut lane = volume.open_lane(&mut SimHome::default());
    let mut one = || {
        let io = Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 1);
        assert_eq!(run(&mut *lane, io).result, Ok(()));
    };
    let reads = || [0, 1].map(|p| counted::<NvmePath>(&xpu, &path_name(p), Op::Read).0);
    // Queues of both paths come up at their own pace.
    until("a read on either path", || {
        one();
        reads().iter().all(|reads| *reads > 0)
    });
    let before = reads();
    (0..10).for_each(|_| one());
    assert_eq!(reads(), before.map(|reads| reads + 5));
    for number in 0..2 {
        let reconnects = xpu.fact::<NvmePath>(&path_name(number), "nvme_path_reconnects");
        assert_eq!(reconnects, FactValue::Counter(0));
    }
}

#[test]
fn without_patience_io_fails_when_the_last_path_is_lost_and_works_when_one_is_back() {
    let array = Array::start(1);
    array.add(1, 4096, 100, 0);
    let xpu = xpu(&array, false);
    let volume = xpu.volume(&namespace(1)).unwrap();
    until("reaching it", || volume.state() == State::Online);
    let settings = NvmeRemoteControllerSettings {
        controller_loss_timeout_s: Some(0),
        reconnect_delay_ms_max: Some(100),
        ..NvmeRemoteControllerSettings::default()
    };
    xpu.set(REMOTE, &controller(false), &settings);
    write(&volume, 1).unwrap();
    array.close(0);
    until("losing the array", || {
        matches!(volume.state(), State::Offline(_))
    });
    assert_eq!(write(&volume, 2), Err(blk::IoError::Transport));
    array.listen(0);
    until("its return", || volume.state() == State::Online);
    write(&volume, 3).unwrap();
    assert_eq!(read(&volume), [3; 4096]);
}
