//! Asymmetric namespace access: what hosts see and get in each state, by listener and namespace.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use api::ext::v1::{NvmeAnaState, NvmeControllerSettings, NvmeNamespaceAnaState};
use api::storage::v1::NvmeController;
use blk::{IoBuf, State};
use std::net::SocketAddr;
use support::host::{Queue, Session, Who};
use support::memory::Memory;
use support::{NQN, Site, code, controller_name, free_address, listen};
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::cmds::Dsm;
use wire::nvme::log::{AnaState, parse_ana};
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::Payload;

const EVERYTHING: u32 = EventMask::NAMESPACE_ATTRIBUTE.bits() | EventMask::ANA_CHANGE.bits();

/// Every state, by its name in the API and on the wire, and what commands get.
const STATES: [(NvmeAnaState, AnaState, Status); 5] = [
    (
        NvmeAnaState::Optimized,
        AnaState::Optimized,
        Status::SUCCESS,
    ),
    (
        NvmeAnaState::NonOptimized,
        AnaState::NonOptimized,
        Status::SUCCESS,
    ),
    (
        NvmeAnaState::Inaccessible,
        AnaState::Inaccessible,
        Status::ANA_INACCESSIBLE,
    ),
    (
        NvmeAnaState::PersistentLoss,
        AnaState::PersistentLoss,
        Status::ANA_PERSISTENT_LOSS,
    ),
    (
        NvmeAnaState::Change,
        AnaState::Change,
        Status::ANA_TRANSITION,
    ),
];

/// A listener of the subsystem `s`.
struct Listener<'a> {
    site: &'a Site,
    name: String,
    made: NvmeController,
    address: SocketAddr,
}

impl<'a> Listener<'a> {
    fn new(site: &'a Site, id: &str) -> Self {
        let address = free_address("127.0.0.1");
        let made = site.controller_with(id, listen(address)).unwrap();
        let name = controller_name(id);
        Self {
            site,
            name,
            made,
            address,
        }
    }

    fn set(&self, settings: &NvmeControllerSettings) -> api::error::Result<()> {
        self.site.set(&self.name, &self.made, settings)
    }

    /// Sets the state of all namespaces, and that of some.
    fn states(&self, all: NvmeAnaState, some: &[(u32, NvmeAnaState)]) {
        self.set(&settings(all, some)).unwrap();
    }
}

fn settings(all: NvmeAnaState, some: &[(u32, NvmeAnaState)]) -> NvmeControllerSettings {
    let some = some.iter().map(|(nsid, state)| NvmeNamespaceAnaState {
        host_nsid: *nsid,
        ana_state: (*state).into(),
    });
    NvmeControllerSettings {
        ana_state: all.into(),
        namespace_ana_states: some.collect(),
        ..NvmeControllerSettings::default()
    }
}

/// The log's count, and of each group its number, state and count.
fn log(admin: &mut Queue) -> (u64, Vec<(u32, AnaState, u64)>) {
    let (count, groups) = parse_ana(&admin.log(0x0c, 16 + 2 * 36)).unwrap();
    let rows = groups.iter().map(|g| (g.id, g.state, g.change_count));
    (count, rows.collect())
}

fn to(len: usize) -> Payload {
    Payload::ToController(IoBuf::from_slice(&vec![0; len]))
}

fn from(len: usize) -> Payload {
    Payload::ToHost(IoBuf::alloc(len))
}

/// Every kind of command that needs the volume.
fn every_command(io: &mut Queue) -> Vec<Status> {
    let rw = || Rw::new(0, 1);
    let dsm = Dsm {
        ranges: 1,
        deallocate: true,
        integral_read: false,
        integral_write: false,
    };
    let report = IoOp::ReservationReport {
        len: 4096,
        extended: true,
    };
    let all = [
        (IoOp::Read(rw()), from(4096)),
        (IoOp::Write(rw()), to(4096)),
        (IoOp::Compare(rw()), to(4096)),
        (IoOp::Verify(rw()), Payload::None),
        (IoOp::WriteZeroes(rw()), Payload::None),
        (IoOp::Flush, Payload::None),
        (IoOp::Dsm(dsm), to(16)),
        (report, from(4096)),
    ];
    let mut all: Vec<Status> = all
        .into_iter()
        .map(|(op, payload)| io.io(1, op, payload).cqe.status())
        .collect();
    let pair = compare_and_write(io);
    all.push(io.wait(pair[0]).cqe.status());
    let second = io.wait(pair[1]).cqe.status();
    let failed = !all[0].is_success();
    assert_eq!(failed, second.is(Status::ABORTED_FAILED_FUSED));
    all
}

fn compare_and_write(io: &mut Queue) -> [u16; 2] {
    let half = |fuse, op| IoCmd { nsid: 1, fuse, op }.to_sqe();
    let first = half(Fuse::First, IoOp::Compare(Rw::new(0, 1)));
    let second = half(Fuse::Second, IoOp::Write(Rw::new(0, 1)));
    [first, second].map(|sqe| io.submit(sqe, to(4096)))
}

#[test]
fn every_state_is_told_and_decides_the_status_of_commands() {
    let site = Site::default();
    site.subsystem("s", NQN);
    site.namespace("s/n", Memory::new(64));
    let listener = Listener::new(&site, "s/c");
    let mut session = Session::to(listener.address);
    let mut io = session.io(1);
    assert_eq!(session.admin.identify_controller().anacap, 0b0101_1111);
    for (api, state, status) in STATES {
        listener.states(api, &[]);
        assert_eq!(every_command(&mut io), [status; 9], "{state:?}");
        let admin = &mut session.admin;
        assert_eq!(log(admin).1[0].1, state);
        // A queue made in this state is no better.
        let mut late = Session::to(listener.address);
        assert_eq!(log(&mut late.admin).1[0].1, state);
        assert_eq!(every_command(&mut late.io(1)), [status; 9], "{state:?}");
        // What is about the namespace and does not need the volume works in every state.
        let id = admin.identify_namespace(1);
        let used = matches!(state, AnaState::Inaccessible | AnaState::PersistentLoss);
        let used = if used { 0 } else { 64 };
        assert_eq!((id.nsze.get(), id.nuse.get()), (64, used), "{state:?}");
        assert_eq!((id.anagrpid.get(), id.nmic), (1, 1));
        for (cns, nsid) in [(2, 0), (3, 1), (5, 1), (8, 1)] {
            assert!(admin.identify(cns, nsid).is_ok(), "{cns}");
        }
        assert!(admin.log_at(2, 0, 512).is_ok());
        assert_eq!(admin.set_feature(7, 0, 0x0003_0003).cqe.status().sct(), 0);
        assert!(admin.get_feature(6, 0, 0, 0).cqe.status().is_success());
        // Features of the namespace do not (NVMe Base 2.1, 8.1.1).
        for fid in [0x05, 0x82, 0x83] {
            let got = admin.get_feature(fid, 1, 0, 0).cqe.status();
            let set = admin.set_feature(fid, 1, 0).cqe.status();
            assert_eq!((got, set), (status, status), "{fid:#x}");
        }
    }
}

#[test]
fn a_change_is_announced_to_the_hosts_of_its_listener_only() {
    let site = Site::default();
    site.subsystem("s", NQN);
    site.namespace("s/one", Memory::numbered(1, 64));
    site.namespace("s/two", Memory::numbered(2, 64));
    let (here, there) = (Listener::new(&site, "s/a"), Listener::new(&site, "s/b"));
    let mut session = Session::to(here.address);
    let mut other = Session::connect(there.address, NQN, Who::other()).unwrap();
    let [told, spared] = [&mut session, &mut other].map(|one| {
        one.admin.set_feature(0x0b, 0, EVERYTHING);
        one.admin.ask_event()
    });
    let optimized = AnaState::Optimized;
    let calm = (0, vec![(1, optimized, 1), (2, optimized, 1)]);
    assert_eq!(log(&mut session.admin), calm);

    here.states(
        NvmeAnaState::Unspecified,
        &[(2, NvmeAnaState::NonOptimized)],
    );
    let event = session.admin.wait(told).cqe.dw0.get();
    assert_eq!(AsyncEvent::from_dw0(event), Some(AsyncEvent::AnaChange));
    let rows = vec![(1, optimized, 1), (2, AnaState::NonOptimized, 2)];
    assert_eq!(log(&mut session.admin), (1, rows));
    // An exception stays one, and what is as it was is no change.
    here.states(
        NvmeAnaState::Inaccessible,
        &[(2, NvmeAnaState::NonOptimized)],
    );
    here.states(
        NvmeAnaState::Inaccessible,
        &[(2, NvmeAnaState::NonOptimized)],
    );
    let rows = vec![
        (1, AnaState::Inaccessible, 2),
        (2, AnaState::NonOptimized, 2),
    ];
    assert_eq!(log(&mut session.admin), (2, rows));
    let mut io = session.io(1);
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::ANA_INACCESSIBLE);
    assert_eq!(io.write(2, 0, 1, &[1; 4096]), Status::SUCCESS);
    // Hosts that came another way neither see nor feel it.
    assert!(!other.admin.completes(spared));
    assert_eq!(log(&mut other.admin), calm);
    let mut io = other.io(1);
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    // Counts begin anew with a controller reset.
    session.admin.set_cc(0);
    session.admin.wait_status(0);
    session.admin.set_cc(0x0046_0001);
    let rows = vec![
        (1, AnaState::Inaccessible, 1),
        (2, AnaState::NonOptimized, 1),
    ];
    assert_eq!(log(&mut session.admin), (0, rows));
}

#[test]
fn a_namespace_without_its_volume_is_inaccessible_whatever_is_set() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let volume = Memory::new(64);
    site.namespace("s/n", volume.clone());
    let listener = Listener::new(&site, "s/c");
    let mut session = Session::to(listener.address);
    let mut io = session.io(1);
    volume.set_state(State::Offline("gone".into()));
    for (api, _, _) in STATES {
        listener.states(api, &[(1, api)]);
        assert_eq!(log(&mut session.admin).1[0].1, AnaState::Inaccessible);
        assert_eq!(every_command(&mut io), [Status::ANA_INACCESSIBLE; 9]);
    }
    volume.set_state(State::Online);
    assert_eq!(log(&mut session.admin).1[0].1, AnaState::Change);
}

#[test]
fn what_has_begun_ends_and_what_waits_is_refused() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let volume = Memory::new(64);
    site.namespace("s/n", volume.clone());
    let listener = Listener::new(&site, "s/c");
    let session = Session::to(listener.address);
    let (mut io, mut other) = (session.io(1), session.io(2));
    volume.hold(true);
    let write = IoOp::Write(Rw::new(9, 1));
    let fuse = Fuse::Normal;
    let begun = IoCmd {
        nsid: 1,
        fuse,
        op: write,
    };
    let begun = io.submit(begun.to_sqe(), to(4096));
    assert!(!io.completes(begun));
    // The pair raises the gate and waits for the write; the next write waits for the gate.
    let pair = compare_and_write(&mut io);
    assert!(!io.completes(pair[0]));
    let late = IoCmd {
        nsid: 1,
        fuse,
        op: write,
    };
    let late = other.submit(late.to_sqe(), to(4096));
    assert!(!other.completes(late));
    listener.states(NvmeAnaState::Inaccessible, &[]);
    let inaccessible = Status::ANA_INACCESSIBLE;
    assert_eq!(io.wait(pair[0]).cqe.status(), inaccessible);
    assert_eq!(io.wait(pair[1]).cqe.status(), Status::ABORTED_FAILED_FUSED);
    assert_eq!(other.wait(late).cqe.status(), inaccessible);
    assert!(!io.completes(begun));
    volume.hold(false);
    assert_eq!(io.wait(begun).cqe.status(), Status::SUCCESS);
    assert_eq!(volume.log().len(), 1);
}

#[test]
fn settings_that_make_no_sense_are_refused_naming_the_field() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let listener = Listener::new(&site, "s/c");
    let (good, unknown) = (NvmeAnaState::Optimized, NvmeAnaState::Unspecified);
    let refused = |settings: &NvmeControllerSettings, field: &str| {
        let (code, at, message) = code(listener.set(settings));
        assert_eq!(
            (code, at.as_deref()),
            ("INVALID_ARGUMENT", Some(field)),
            "{message}"
        );
    };
    let nsid = "namespace_ana_states[0].host_nsid";
    refused(&settings(good, &[(0, good)]), nsid);
    refused(&settings(good, &[(16_385, good)]), nsid);
    let twice = "namespace_ana_states[1].host_nsid";
    refused(&settings(good, &[(1, good), (1, good)]), twice);
    let state = "namespace_ana_states[0].ana_state";
    refused(&settings(good, &[(1, unknown)]), state);
    let mut wrong = settings(good, &[]);
    wrong.ana_state = 9;
    refused(&wrong, "ana_state");
    // A namespace that is still to come has its state from the first moment.
    listener.states(good, &[(1, NvmeAnaState::Inaccessible)]);
    site.namespace("s/n", Memory::new(64));
    let mut session = Session::to(listener.address);
    assert_eq!(log(&mut session.admin).1[0].1, AnaState::Inaccessible);
}
