//! The admin queue over real sockets: identify, log pages, features, events, life and death.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use blk::{Geometry, IoBuf, State};
use std::io::{Read, Write};
use std::net::SocketAddr;
use support::host::{Queue, Session, Who};
use support::memory::Memory;
use support::{HOST, NQN, Site, namespace_name, shows};
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::cmds::{Features, Identify};
use wire::nvme::fabrics::InvalidParameter;
use wire::nvme::features::{QueueCounts, Select, Timestamp};
use wire::nvme::identify::{Descriptor, parse_descriptors, parse_list};
use wire::nvme::log::{AnaState, CommandEffects, ErrorEntry, FirmwareSlots, Smart, parse_ana};
use wire::nvme::{AdminCmd, AdminOpcode, CNTLID_DYNAMIC, Fuse, IoCmd, IoOp, IoOpcode, Rw};
use wire::nvme::{Sqe, Status, text};
use wire::nvme_tcp::Payload;

const INVALID: Status = Status::INVALID_FIELD.dnr();
const EVERYTHING: u32 = EventMask::NAMESPACE_ATTRIBUTE.bits() | EventMask::ANA_CHANGE.bits();

fn event(session: &mut Session, cid: u16) -> AsyncEvent {
    let done = session.admin.wait(cid);
    AsyncEvent::from_dw0(done.cqe.dw0.get()).unwrap()
}

#[test]
fn identify_controller_tells_the_subsystem_and_its_limits() {
    let site = Site::default();
    let mut spec = api::storage::v1::NvmeSubsystemSpec {
        nqn: NQN.into(),
        ..Default::default()
    };
    (spec.serial_number, spec.model_number) = ("SN 42".into(), "A model".into());
    spec.max_namespaces = 7;
    site.subsystem_with("s", spec).unwrap();
    let address = site.controller("s/c");
    let mut session = Session::to(address);
    let id = session.admin.identify_controller();
    assert_eq!(
        (text::trimmed(&id.sn), text::trimmed(&id.mn)),
        ("SN 42".into(), "A model".into())
    );
    assert_eq!((id.cntlid.get(), id.nn.get(), id.mnan.get()), (1, 7, 7));
    assert_eq!((id.data_max(), id.in_capsule_data()), (Some(1 << 20), 8192));
    assert_eq!((id.kas.get(), id.cntrltype, id.fuses.get()), (10, 1, 1));
    assert_eq!(
        (id.anagrpmax.get(), id.nanagrpid.get(), id.cmic),
        (7, 7, 0b1011)
    );
    assert_eq!(text::trimmed(&id.subnqn), NQN);
    assert_eq!(text::trimmed(&id.fr), env!("CARGO_PKG_VERSION"));
    // What Linux insists on: SGLs with offsets, keep-alive, a response capsule of 16 bytes.
    assert_eq!(
        (id.sgls.get() & 1, id.sgls.get() >> 20 & 1, id.iorcsz.get()),
        (1, 1, 1)
    );
    assert_eq!(id.ofcs.get(), 0, "Disconnect of I/O queues is not offered");
    // Another host's controller has a CNTLID of its own.
    let mut other = Session::connect(address, NQN, Who::other()).unwrap();
    assert_eq!(other.admin.identify_controller().cntlid.get(), 2);
}

#[test]
fn identify_namespace_tells_the_volume() {
    let site = Site::default();
    let mut geometry = Geometry::new(512, 2048);
    geometry.identity.uuid = [7; 16];
    geometry.identity.eui64 = [8; 8];
    geometry.optimal_blocks = 8;
    let address = site.with_volume(Memory::with(geometry));
    let admin = &mut Session::to(address).admin;
    let id = admin.identify_namespace(1);
    assert_eq!(
        (id.nsze.get(), id.ncap.get(), id.nvmcap.get()),
        (2048, 2048, 1 << 20)
    );
    assert_eq!((id.block_size(), id.nmic, id.rescap), (Some(512), 1, 0xff));
    assert_eq!(
        (id.anagrpid.get(), id.nguid, id.eui64),
        (1, [7; 16], [8; 8])
    );
    assert_eq!((id.npwg.get(), id.nows.get(), id.dlfeat & 7), (7, 7, 1));
    let list = parse_descriptors(&admin.identify(3, 1).unwrap()).unwrap();
    let expected = [
        Descriptor::Eui64([8; 8]),
        Descriptor::Nguid([7; 16]),
        Descriptor::Uuid([7; 16]),
        Descriptor::CommandSet(0),
    ];
    assert_eq!(list, expected);
    let independent = admin.identify(8, 1).unwrap();
    assert_eq!((independent[1], independent[4], independent[14]), (1, 1, 1));
    for (cns, nsid) in [(5, 1), (6, 0), (0x1c, 0), (0x13, 0)] {
        assert!(admin.identify(cns, nsid).is_ok(), "{cns:#x}");
    }
    assert_eq!(admin.identify(0x42, 0), Err(INVALID));
    // Unused but possible, impossible, and wild numbers.
    assert_eq!(admin.identify(0, 2), Ok(vec![0; 4096]));
    assert_eq!(
        admin.identify(0, 5000),
        Err(Status::INVALID_NAMESPACE.dnr())
    );
    assert_eq!(
        admin.identify(0, 0xffff_ffff),
        Err(Status::INVALID_NAMESPACE.dnr())
    );
    assert_eq!(admin.identify(3, 2), Err(Status::INVALID_NAMESPACE.dnr()));
}

#[test]
fn active_namespaces_are_listed_and_limited_per_controller() {
    let site = Site::default();
    site.subsystem("s", NQN);
    for number in 1..=5 {
        site.namespace(&format!("s/n{number}"), Memory::numbered(number, 16));
    }
    let all = site.controller("s/all");
    let address = support::free_address("127.0.0.1");
    let mut spec = support::listen(address);
    spec.max_namespaces = 2;
    site.controller_with("s/two", spec).unwrap();
    let list = |address, after| {
        let page = Session::to(address).admin.identify(2, after).unwrap();
        parse_list(&page).collect::<Vec<_>>()
    };
    assert_eq!(list(all, 0), [1, 2, 3, 4, 5]);
    assert_eq!(list(all, 3), [4, 5]);
    assert_eq!(list(address, 0), [1, 2]);
    let session = Session::to(address);
    let mut io = session.io(1);
    assert_eq!(io.write(2, 0, 1, &[0; 4096]), Status::SUCCESS);
    assert_eq!(
        io.write(3, 0, 1, &[0; 4096]),
        Status::INVALID_NAMESPACE.dnr()
    );
}

#[test]
fn every_log_page_reads_and_unknown_ones_do_not() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let mut session = Session::to(address);
    let mut io = session.io(1);
    io.write(1, 0, 16, &[1; 65536]);
    io.read(1, 0, 1, 4096);
    let admin = &mut session.admin;
    let supported = admin.log(0x00, 1024);
    for lid in [0, 1, 2, 3, 4, 5, 0x0c, 0x12, 0x80] {
        assert_eq!(supported[lid * 4], 1, "{lid:#x}");
        assert!(admin.log_at(lid as u8, 0, 512).is_ok(), "{lid:#x}");
    }
    assert_eq!(supported[0x70 * 4], 0);
    assert_eq!(
        admin.log_at(0x70, 0, 512),
        Err(Status::INVALID_LOG_PAGE.dnr())
    );
    assert_eq!(
        admin.log_at(0x02, 1024, 512),
        Err(INVALID),
        "beyond the end"
    );
    let smart = Smart::from_prefix(&admin.log(2, 512)).unwrap();
    assert_eq!((smart.host_reads.get(), smart.host_writes.get()), (1, 1));
    assert_eq!((smart.data_units_written.get(), smart.spare), (1, 100));
    let firmware = FirmwareSlots::from_prefix(&admin.log(3, 512)).unwrap();
    assert_eq!(firmware.active, 1);
    assert_eq!(
        text::trimmed(&firmware.revisions[0]),
        env!("CARGO_PKG_VERSION")
    );
    let effects = CommandEffects::from_prefix(&admin.log(5, 4096)).unwrap();
    for op in AdminOpcode::ALL {
        assert_eq!(
            effects.admin[op.opcode() as usize].get() & 1,
            1,
            "{}",
            op.name()
        );
    }
    for op in IoOpcode::ALL {
        assert_eq!(
            effects.io[op.opcode() as usize].get() & 1,
            1,
            "{}",
            op.name()
        );
    }
}

#[test]
fn failed_commands_are_in_the_error_log_newest_first() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let mut session = Session::to(address);
    let mut io = session.io(3);
    io.write(1, 64, 1, &[1; 4096]);
    session.admin.identify(0x42, 0).unwrap_err();
    let page = session.admin.log(1, 128);
    let newest = ErrorEntry::from_prefix(&page).unwrap();
    assert_eq!(
        (newest.error_count.get(), newest.sqid.get(), newest.opcode),
        (2, 0, 6)
    );
    let older = ErrorEntry::from_prefix(&page[64..]).unwrap();
    assert_eq!(
        (older.sqid.get(), older.lba.get(), older.nsid.get()),
        (3, 64, 1)
    );
    assert!(older.status().is(Status::LBA_OUT_OF_RANGE));
}

#[test]
fn features_have_defaults_and_keep_what_is_set() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let admin = &mut Session::to(address).admin;
    for fid in [1, 2, 4, 6, 7, 0x0a, 0x0b, 0x0f, 0x82, 0x83, 5] {
        let got = admin.get_feature(fid, 1, 0, 0);
        assert!(got.cqe.status().is_success(), "{fid:#x}");
    }
    let counts = QueueCounts {
        submission: 9,
        completion: 5,
    };
    let set = admin.set_feature(7, 0, counts.bits());
    let given = QueueCounts::parse(set.cqe.dw0.get()).unwrap();
    assert_eq!((given.submission, given.completion), (5, 5));
    for (fid, nsid, value) in [
        (1, 0, 0x0201_0003),
        (4, 0, 350),
        (0x0b, 0, 0x900),
        (5, 1, 9),
    ] {
        assert!(
            admin
                .set_feature(fid, nsid, value)
                .cqe
                .status()
                .is_success(),
            "{fid:#x}"
        );
        assert_eq!(
            admin.get_feature(fid, nsid, 0, 0).cqe.dw0.get(),
            value,
            "{fid:#x}"
        );
    }
}

#[test]
fn features_that_are_wrong_or_not_ours_are_refused() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let admin = &mut Session::to(address).admin;
    assert_eq!(
        admin.set_feature(2, 0, 1).cqe.status(),
        INVALID,
        "there is one power state"
    );
    assert_eq!(
        admin.set_feature(5, 1, 1 << 16).cqe.status(),
        INVALID,
        "DULBE"
    );
    assert_eq!(admin.get_feature(0xc0, 0, 0, 0).cqe.status(), INVALID);
    assert_eq!(
        admin.get_feature(8, 0, 0, 0).cqe.status(),
        INVALID,
        "no interrupts over fabrics"
    );
    let host = admin.get_feature(0x81, 0, 1, 16);
    assert_eq!(host.data.to_vec(), [0x11; 16]);
    assert_eq!(admin.get_feature(0x81, 0, 0, 16).cqe.status(), INVALID);
    let wrong = admin.set_feature(6, 5, 1).cqe.status();
    assert_eq!(wrong, Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
    let feature = Features {
        nsid: 0,
        fid: 6,
        cdw11: 1,
        cdw12: 0,
        cdw13: 0,
    };
    let saved = admin
        .admin(AdminCmd::SetFeatures(feature, true), 0)
        .cqe
        .status();
    assert_eq!(saved, Status::FEATURE_NOT_SAVEABLE.dnr());
    let able = admin.admin(AdminCmd::GetFeatures(feature, Select::Capabilities), 0);
    assert_eq!(able.cqe.dw0.get(), 0b100);
}

#[test]
fn a_timestamp_goes_on_from_what_the_host_set() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let admin = &mut Session::to(address).admin;
    let feature = Features {
        nsid: 0,
        fid: 0x0e,
        cdw11: 0,
        cdw12: 0,
        cdw13: 0,
    };
    let data = Payload::ToController(IoBuf::from_slice(Timestamp::new(1_000_000, true).bytes()));
    let set = admin.run(AdminCmd::SetFeatures(feature, false).to_sqe(), data);
    assert!(set.cqe.status().is_success());
    let got = admin.get_feature(0x0e, 0, 0, 8).data.to_vec();
    let got = Timestamp::from_prefix(&got).unwrap();
    assert!(
        (1_000_000..1_060_000).contains(&got.get()) && got.attributes == 2,
        "{got:?}"
    );
}

#[test]
fn a_namespace_that_comes_grows_and_goes_is_announced() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let mut session = Session::to(address);
    session.admin.set_feature(0x0b, 0, EVERYTHING);
    let changed = |session: &mut Session, cid: u16| {
        assert_eq!(event(session, cid), AsyncEvent::NamespaceAttribute);
        parse_list(&session.admin.log(4, 4096)).collect::<Vec<_>>()
    };
    let cid = session.admin.ask_event();
    site.namespace("s/n2", Memory::numbered(2, 16));
    assert_eq!(changed(&mut session, cid), [2]);
    assert_eq!(session.admin.identify_namespace(2).nsze.get(), 16);
    let cid = session.admin.ask_event();
    volume.resize(128);
    assert_eq!(changed(&mut session, cid), [1]);
    assert_eq!(session.admin.identify_namespace(1).nsze.get(), 128);
    let cid = session.admin.ask_event();
    volume.cry_wolf();
    assert!(
        !session.admin.completes(cid),
        "nothing that a host could see has changed"
    );
    site.delete(&namespace_name("s/n2")).unwrap();
    assert_eq!(changed(&mut session, cid), [2]);
    assert_eq!(
        parse_list(&session.admin.identify(2, 0).unwrap()).collect::<Vec<_>>(),
        [1]
    );
    // Changes before the event was asked for are announced as soon as it is.
    site.namespace("s/n3", Memory::numbered(3, 16));
    let cid = session.admin.ask_event();
    assert_eq!(changed(&mut session, cid), [2]);
}

#[test]
fn a_grown_volume_can_be_written_at_its_new_end() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    assert_eq!(
        io.write(1, 100, 1, &[1; 4096]),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    volume.resize(128);
    assert_eq!(io.write(1, 100, 1, &[1; 4096]), Status::SUCCESS);
}

#[test]
fn a_lost_volume_shows_as_inaccessible_and_is_announced() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let mut session = Session::to(address);
    session.admin.set_feature(0x0b, 0, EVERYTHING);
    let ana = |session: &mut Session| parse_ana(&session.admin.log(0x0c, 16 + 36)).unwrap();
    let (first, groups) = ana(&mut session);
    assert_eq!((groups[0].id, groups[0].state), (1, AnaState::Optimized));
    let cid = session.admin.ask_event();
    volume.set_state(State::Offline("gone".into()));
    assert_eq!(event(&mut session, cid), AsyncEvent::AnaChange);
    let (second, groups) = ana(&mut session);
    assert_eq!(
        (&groups[0].namespaces[..], groups[0].state),
        (&[1][..], AnaState::Inaccessible)
    );
    assert!(second > first);
    assert_eq!(
        session.admin.identify_namespace(1).nsze.get(),
        64,
        "it is still there"
    );
    let cid = session.admin.ask_event();
    volume.set_state(State::Online);
    assert_eq!(event(&mut session, cid), AsyncEvent::AnaChange);
    assert_eq!(ana(&mut session).1[0].state, AnaState::Optimized);
}

#[test]
fn a_namespace_whose_volume_is_missing_after_a_start_stays_listed() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let mut spec = shows("aioVolumes/a");
    spec.host_nsid = 4;
    site.namespace_with("s/n", None, spec.clone(), true)
        .unwrap();
    let address = site.controller("s/c");
    let mut session = Session::to(address);
    session.admin.set_feature(0x0b, 0, EVERYTHING);
    assert_eq!(
        parse_list(&session.admin.identify(2, 0).unwrap()).collect::<Vec<_>>(),
        [4]
    );
    assert_eq!(
        session.admin.identify(0, 4),
        Err(Status::NAMESPACE_NOT_READY)
    );
    assert_eq!(
        session.admin.identify(3, 4),
        Err(Status::NAMESPACE_NOT_READY)
    );
    assert_eq!(session.admin.identify(8, 4).unwrap()[14], 0, "not ready");
    let mut io = session.io(1);
    assert_eq!(io.write(4, 0, 1, &[1; 4096]), Status::ANA_INACCESSIBLE);
    let cid = session.admin.ask_event();
    let volume = Memory::new(64);
    site.namespace_with("s/n", Some(volume.clone()), spec.clone(), true)
        .unwrap();
    assert_eq!(event(&mut session, cid), AsyncEvent::NamespaceAttribute);
    assert_eq!(session.admin.identify_namespace(4).nsze.get(), 64);
    assert_eq!(io.write(4, 0, 1, &[1; 4096]), Status::SUCCESS);
    // The base goes again: what was known of it still shows.
    site.namespace_with("s/n", None, spec, true).unwrap();
    assert_eq!(io.write(4, 0, 1, &[1; 4096]), Status::ANA_INACCESSIBLE);
    assert_eq!(session.admin.identify_namespace(4).nsze.get(), 64);
}

/// A write of the first block.
fn first_block(io: &mut Queue) -> u16 {
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Write(Rw::new(0, 1)),
    }
    .to_sqe();
    io.submit(sqe, Payload::ToController(IoBuf::from_slice(&[7; 4096])))
}

#[test]
fn a_deleted_namespace_is_drained_first() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    volume.hold(true);
    let cid = first_block(&mut io);
    assert!(!io.completes(cid));
    std::thread::scope(|scope| {
        let deletion = scope.spawn(|| site.delete(&namespace_name("s/n")).unwrap());
        assert!(!io.completes(cid));
        assert!(!deletion.is_finished(), "the write is still under way");
        volume.hold(false);
        deletion.join().unwrap();
    });
    assert_eq!(io.wait(cid).cqe.status(), Status::SUCCESS);
    assert_eq!(volume.bytes()[..4096], [7; 4096]);
    assert_eq!(
        io.write(1, 0, 1, &[1; 4096]),
        Status::INVALID_NAMESPACE.dnr()
    );
}

/// Status and DW0 of a Connect that must be refused.
fn refused(address: SocketAddr, nqn: &str, who: &Who, qid: u16, cntlid: u16) -> (Status, u32) {
    let Err(cqe) = Queue::connect(address, nqn, who, qid, cntlid) else {
        panic!("it was let in");
    };
    (cqe.status(), cqe.dw0.get())
}

fn invalid(at: InvalidParameter) -> (Status, u32) {
    (Status::CONNECT_INVALID_PARAMETERS.dnr(), at.dw0())
}

#[test]
fn connect_is_refused_for_a_reason() {
    let site = Site::default();
    let mut spec = api::storage::v1::NvmeSubsystemSpec {
        nqn: NQN.into(),
        ..Default::default()
    };
    spec.hostnqn = HOST.into();
    site.subsystem_with("s", spec).unwrap();
    site.subsystem("t", "nqn.2024-01.org.example:elsewhere");
    let address = site.controller("s/c");
    site.controller("t/c");
    let refuse = |nqn: &str, who: &Who, qid, cntlid| refused(address, nqn, who, qid, cntlid);
    let who = Who::default();
    let unknown = refuse("nqn.2024-01.org.example:nobody", &who, 0, CNTLID_DYNAMIC);
    assert_eq!(unknown, invalid(InvalidParameter::SUBSYSTEM));
    let elsewhere = refuse("nqn.2024-01.org.example:elsewhere", &who, 0, CNTLID_DYNAMIC);
    assert_eq!(
        elsewhere,
        invalid(InvalidParameter::SUBSYSTEM),
        "it has another listener"
    );
    let (status, _) = refuse(NQN, &Who::other(), 0, CNTLID_DYNAMIC);
    assert_eq!(status, Status::CONNECT_INVALID_HOST.dnr());
    assert_eq!(
        refuse(NQN, &who, 0, 1),
        invalid(InvalidParameter::CONTROLLER_ID)
    );
    assert_eq!(
        refuse(NQN, &who, 1, 77),
        invalid(InvalidParameter::CONTROLLER_ID)
    );
    let long = Who {
        entries: 5000,
        ..Who::default()
    };
    assert_eq!(
        refuse(NQN, &long, 0, CNTLID_DYNAMIC),
        invalid(InvalidParameter::QUEUE_SIZE)
    );
}

#[test]
fn an_io_queue_is_refused_for_a_reason() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let address = site.controller("s/c");
    let who = Who::default();
    let refuse = |nqn: &str, who: &Who, qid, cntlid| refused(address, nqn, who, qid, cntlid);
    // Before the controller is enabled, twice, too many, another host's.
    let mut admin = Queue::connect(address, NQN, &who, 0, CNTLID_DYNAMIC).unwrap();
    let cntlid = admin.cntlid;
    assert_eq!(
        refuse(NQN, &who, 1, cntlid).0,
        Status::COMMAND_SEQUENCE.dnr()
    );
    admin.set_cc(0x0046_0001);
    let _io = Queue::connect(address, NQN, &who, 1, cntlid).unwrap();
    assert_eq!(
        refuse(NQN, &who, 1, cntlid).0,
        Status::COMMAND_SEQUENCE.dnr()
    );
    assert_eq!(
        refuse(NQN, &who, 65, cntlid),
        invalid(InvalidParameter::QUEUE_ID)
    );
    let imposter = Who {
        hostid: [9; 16],
        ..Who::default()
    };
    assert_eq!(
        refuse(NQN, &imposter, 2, cntlid),
        invalid(InvalidParameter::HOST_ID)
    );
}

#[test]
fn queues_are_bounded_by_the_smaller_of_the_limits() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let address = support::free_address("127.0.0.1");
    let mut spec = support::listen(address);
    (spec.max_nsq, spec.max_ncq, spec.sqes, spec.cqes) = (3, 2, 7, 8);
    site.controller_with("s/c", spec).unwrap();
    let mut session = Session::to(address);
    let set = session.admin.set_feature(7, 0, 0x003f_003f);
    assert_eq!(set.cqe.dw0.get(), 0x0001_0001);
    let _queues = [session.io(1), session.io(2)];
    assert!(session.try_io(3).is_err());
    let late = session.admin.set_feature(7, 0, 0).cqe.status();
    assert_eq!(late, Status::COMMAND_SEQUENCE.dnr());
}

#[test]
fn commands_before_connect_or_enable_are_out_of_sequence() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let who = Who::default();
    let mut fresh = Queue::open(address, &who);
    let early = fresh.run(AdminCmd::KeepAlive.to_sqe(), Payload::None);
    assert_eq!(early.cqe.status(), Status::COMMAND_SEQUENCE.dnr());
    let mut admin = Queue::connect(address, NQN, &who, 0, CNTLID_DYNAMIC).unwrap();
    let id = Identify {
        nsid: 0,
        cns: 1,
        cntid: 0,
        cns_specific: 0,
        csi: 0,
        uuid_index: 0,
    };
    let disabled = admin.admin(AdminCmd::Identify(id), 4096);
    assert_eq!(disabled.cqe.status(), Status::COMMAND_SEQUENCE.dnr());
    admin.set_cc(0x0046_0001);
    assert!(
        admin
            .admin(AdminCmd::Identify(id), 4096)
            .cqe
            .status()
            .is_success()
    );
    let unknown = admin.run(Sqe::new(0xc4, 0), Payload::None).cqe.status();
    assert_eq!(unknown, Status::INVALID_OPCODE.dnr());
}

#[test]
fn events_are_limited_aborted_and_end_with_a_reset() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let mut session = Session::to(address);
    let cids: Vec<u16> = (0..4).map(|_| session.admin.ask_event()).collect();
    let over = session.admin.ask_event();
    let status = session.admin.wait(over).cqe.status();
    assert_eq!(status, Status::AER_LIMIT_EXCEEDED.dnr());
    let abort = AdminCmd::Abort {
        sqid: 0,
        cid: cids[1],
    };
    assert_eq!(session.admin.admin(abort, 0).cqe.dw0.get(), 0);
    assert_eq!(
        session.admin.wait(cids[1]).cqe.status(),
        Status::ABORT_REQUESTED
    );
    let nothing = AdminCmd::Abort { sqid: 1, cid: 3 };
    assert_eq!(
        session.admin.admin(nothing, 0).cqe.dw0.get(),
        1,
        "not aborted"
    );
    let mut io = session.io(1);
    session.admin.set_cc(0);
    session.admin.wait_status(0);
    let status = session.admin.wait(cids[0]).cqe.status();
    assert_eq!(status, Status::ABORTED_SQ_DELETION.dnr());
    io.wait_closed();
    session.admin.set_cc(0x0046_0001);
    let mut io = session.io(1);
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    session.admin.set_cc(0x0046_4001);
    session.admin.wait_status(0b1001);
    io.wait_closed();
}

#[test]
fn a_host_that_falls_silent_loses_its_queues() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let who = Who {
        kato_ms: 2000,
        ..Who::default()
    };
    let mut session = Session::connect(address, NQN, who).unwrap();
    let mut io = session.io(1);
    for _ in 0..4 {
        session.admin.admin(AdminCmd::KeepAlive, 0);
        assert!(!io.completes(u16::MAX), "waits a while");
    }
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    io.wait_closed();
    session.admin.wait_closed();
}

#[test]
fn hosts_wait_outside_until_everything_is_restored() {
    let site = Site::start(std::sync::Arc::default(), false);
    let address = site.with_volume(Memory::new(64));
    // The connection is made, by the kernel, but nobody serves it.
    let mut early = std::net::TcpStream::connect(address).unwrap();
    early
        .set_read_timeout(Some(std::time::Duration::from_millis(200)))
        .unwrap();
    let mut byte = [0];
    early
        .write_all(b"not a PDU, and long enough to be answered by one")
        .unwrap();
    assert!(
        early.read(&mut byte).is_err(),
        "an answer before everything is back"
    );
    site.restored.open();
    early
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .unwrap();
    early.read_exact(&mut byte).unwrap();
    Session::to(address);
}
