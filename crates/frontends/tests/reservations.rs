//! Reservations between two hosts, and over a restart.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use blk::{IoBuf, Op};
use std::sync::Arc;
use support::host::{Queue, Session, Who};
use support::memory::Memory;
use support::{MemoryKeep, NQN, Site, shows};
use wire::nvme::aer::AsyncEvent;
use wire::nvme::cmds::GetLog;
use wire::nvme::reservation::{
    AcquireAction, AcquireData, PersistChange, RegisterAction, RegisterData, ReleaseAction,
    ReleaseData, Report, ReservationType,
};
use wire::nvme::{AdminCmd, Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::Payload;

const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();

fn register(io: &mut Queue, action: RegisterAction, current: u64, new: u64) -> Status {
    let data = RegisterData {
        current_key: current.into(),
        new_key: new.into(),
    };
    let persist = PersistChange::Persist;
    let op = IoOp::ReservationRegister {
        action,
        ignore_key: false,
        persist,
    };
    io.io(
        1,
        op,
        Payload::ToController(IoBuf::from_slice(data.bytes())),
    )
    .cqe
    .status()
}

fn acquire(
    io: &mut Queue,
    action: AcquireAction,
    rtype: ReservationType,
    current: u64,
    preempt: u64,
) -> Status {
    let data = AcquireData {
        current_key: current.into(),
        preempt_key: preempt.into(),
    };
    let op = IoOp::ReservationAcquire {
        action,
        ignore_key: false,
        rtype,
    };
    io.io(
        1,
        op,
        Payload::ToController(IoBuf::from_slice(data.bytes())),
    )
    .cqe
    .status()
}

fn release(io: &mut Queue, action: ReleaseAction, rtype: ReservationType, key: u64) -> Status {
    let data = ReleaseData {
        current_key: key.into(),
    };
    let op = IoOp::ReservationRelease {
        action,
        ignore_key: false,
        rtype: Some(rtype),
    };
    io.io(
        1,
        op,
        Payload::ToController(IoBuf::from_slice(data.bytes())),
    )
    .cqe
    .status()
}

fn report(io: &mut Queue) -> Report {
    let op = IoOp::ReservationReport {
        len: 4096,
        extended: true,
    };
    let done = io.io(1, op, Payload::ToHost(IoBuf::alloc(4096)));
    Report::parse_extended(&done.data.to_vec()).unwrap()
}

/// The second host of a pair throws the first out.
fn preempt_and_abort(io: &mut Queue) -> u16 {
    let data = AcquireData {
        current_key: 0xb.into(),
        preempt_key: 0xa.into(),
    };
    let op = IoOp::ReservationAcquire {
        action: AcquireAction::PreemptAndAbort,
        ignore_key: false,
        rtype: ReservationType::WriteExclusive,
    };
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op,
    }
    .to_sqe();
    io.submit(sqe, Payload::ToController(IoBuf::from_slice(data.bytes())))
}

struct Pair {
    site: Site,
    volume: Arc<Memory>,
    sessions: [Session; 2],
    io: [Queue; 2],
}

fn pair() -> Pair {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let connect = |who| Session::connect(address, NQN, who).unwrap();
    let sessions = [connect(Who::default()), connect(Who::other())];
    let mut io = [sessions[0].io(1), sessions[1].io(1)];
    assert_eq!(
        register(&mut io[0], RegisterAction::Register, 0, 0xa),
        Status::SUCCESS
    );
    assert_eq!(
        register(&mut io[1], RegisterAction::Register, 0, 0xb),
        Status::SUCCESS
    );
    Pair {
        site,
        volume,
        sessions,
        io,
    }
}

#[test]
fn a_write_exclusive_reservation_keeps_others_from_writing() {
    let Pair { io: [a, b], .. } = &mut pair();
    let rtype = ReservationType::WriteExclusive;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    assert_eq!(a.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    assert_eq!(b.write(1, 0, 1, &[2; 4096]), CONFLICT);
    assert_eq!(b.io(1, IoOp::Flush, Payload::None).cqe.status(), CONFLICT);
    assert_eq!(b.read(1, 0, 1, 4096).cqe.status(), Status::SUCCESS);
    assert_eq!(acquire(b, AcquireAction::Acquire, rtype, 0xb, 0), CONFLICT);
    let seen = report(b);
    assert_eq!(
        (seen.rtype, seen.persist, seen.registrants.len()),
        (Some(rtype), true, 2)
    );
    assert!(seen.registrants[0].holder && !seen.registrants[1].holder);
    assert_eq!(
        release(a, ReleaseAction::Release, rtype, 0xa),
        Status::SUCCESS
    );
    assert_eq!(b.write(1, 0, 1, &[2; 4096]), Status::SUCCESS);
}

#[test]
fn an_exclusive_access_reservation_keeps_others_from_reading_too() {
    let Pair { io: [a, b], .. } = &mut pair();
    let rtype = ReservationType::ExclusiveAccess;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    assert_eq!(b.read(1, 0, 1, 4096).cqe.status(), CONFLICT);
    assert_eq!(b.write(1, 0, 1, &[2; 4096]), CONFLICT);
}

#[test]
fn short_reports_and_short_data_are_refused() {
    let Pair { io: [a, _], .. } = &mut pair();
    let op = IoOp::ReservationReport {
        len: 64,
        extended: false,
    };
    let done = a.io(1, op, Payload::ToHost(IoBuf::alloc(64)));
    assert_eq!(done.cqe.status(), Status::HOST_ID_INCONSISTENT.dnr());
    let op = IoOp::ReservationRegister {
        action: RegisterAction::Register,
        ignore_key: false,
        persist: PersistChange::Unchanged,
    };
    let done = a.io(1, op, Payload::ToController(IoBuf::from_slice(&[0; 8])));
    assert_eq!(done.cqe.status(), Status::SGL_LENGTH_INVALID.dnr());
}

#[test]
fn preempting_tells_the_victim() {
    let Pair {
        sessions: [first, _],
        io: [a, b],
        ..
    } = &mut pair();
    let rtype = ReservationType::WriteExclusive;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    let cid = first.admin.ask_event();
    assert_eq!(
        acquire(b, AcquireAction::Preempt, rtype, 0xb, 0xa),
        Status::SUCCESS
    );
    let done = first.admin.wait(cid);
    let event = AsyncEvent::from_dw0(done.cqe.dw0.get());
    assert_eq!(event, Some(AsyncEvent::ReservationNotification));
    // Nothing is taken by reading past the end, or with too little room.
    assert!(first.admin.log_at(0x80, 128, 64).is_err());
    let log = GetLog {
        nsid: 0,
        lid: 0x80,
        lsp: 0,
        retain_event: false,
        len: 64,
        offset: 0,
        lsi: 0,
        by_index: false,
        csi: 0,
        uuid_index: 0,
    };
    let sqe = AdminCmd::GetLogPage(log).to_sqe();
    let short = first.admin.run(sqe, Payload::ToHost(IoBuf::alloc(32)));
    assert_eq!(short.cqe.status(), Status::SGL_LENGTH_INVALID.dnr());
    let page = first.admin.log(0x80, 64);
    assert_eq!((page[0], page[8], page[9], page[12]), (1, 1, 0, 1));
    assert_eq!(first.admin.log(0x80, 64)[8], 0, "read once");
    assert_eq!(a.write(1, 0, 1, &[1; 4096]), CONFLICT);
    assert_eq!(b.write(1, 0, 1, &[2; 4096]), Status::SUCCESS);
}

#[test]
fn masked_notices_stay_away() {
    let Pair {
        sessions: [first, _],
        io: [a, b],
        ..
    } = &mut pair();
    assert!(
        first
            .admin
            .set_feature(0x82, 1, 0b1110)
            .cqe
            .status()
            .is_success()
    );
    assert_eq!(first.admin.get_feature(0x82, 1, 0, 0).cqe.dw0.get(), 0b1110);
    let cid = first.admin.ask_event();
    let rtype = ReservationType::WriteExclusive;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    assert_eq!(
        acquire(b, AcquireAction::Preempt, rtype, 0xb, 0xa),
        Status::SUCCESS
    );
    assert!(!first.admin.completes(cid));
}

#[test]
fn preempt_and_abort_waits_for_what_the_victim_has_under_way() {
    let Pair {
        volume, io: [a, b], ..
    } = &mut pair();
    let rtype = ReservationType::WriteExclusive;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    volume.hold(true);
    let write = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Write(Rw::new(3, 1)),
    }
    .to_sqe();
    let under_way = a.submit(write, Payload::ToController(IoBuf::from_slice(&[9; 4096])));
    assert!(!a.completes(under_way));
    let preempt = preempt_and_abort(b);
    assert!(
        !b.completes(preempt),
        "a write of the victim could still land"
    );
    volume.hold(false);
    assert_eq!(a.wait(under_way).cqe.status(), Status::SUCCESS);
    assert_eq!(b.wait(preempt).cqe.status(), Status::SUCCESS);
    assert_eq!(a.write(1, 3, 1, &[1; 4096]), CONFLICT);
}

#[test]
fn preempt_and_abort_waits_for_the_write_of_a_fused_pair_under_way() {
    let Pair {
        volume, io: [a, b], ..
    } = &mut pair();
    let rtype = ReservationType::WriteExclusive;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    volume.hold(true);
    let rw = Rw::new(0, 1);
    let data = |byte| Payload::ToController(IoBuf::from_slice(&[byte; 4096]));
    let sqe = |fuse, op| IoCmd { nsid: 1, fuse, op }.to_sqe();
    let first = a.submit(sqe(Fuse::First, IoOp::Compare(rw)), data(0));
    let second = a.submit(sqe(Fuse::Second, IoOp::Write(rw)), data(9));
    assert!(!a.completes(second));
    let preempt = preempt_and_abort(b);
    assert!(!b.completes(preempt));
    volume.hold_only(Op::Write);
    assert!(
        !b.completes(preempt),
        "the compare is over, but not the write"
    );
    volume.hold(false);
    assert_eq!(b.wait(preempt).cqe.status(), Status::SUCCESS);
    assert_eq!(a.wait(first).cqe.status(), Status::SUCCESS);
    assert_eq!(a.wait(second).cqe.status(), Status::SUCCESS);
    assert!(volume.bytes()[..4096] == [9; 4096]);
}

#[test]
fn preempt_and_abort_waits_for_what_is_under_way_on_a_volume_just_replaced() {
    let Pair {
        site,
        volume,
        sessions,
        io: [a, b],
    } = &mut pair();
    let rtype = ReservationType::WriteExclusive;
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    volume.hold(true);
    let write = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Write(Rw::new(3, 1)),
    }
    .to_sqe();
    let under_way = a.submit(write, Payload::ToController(IoBuf::from_slice(&[9; 4096])));
    assert!(!a.completes(under_way));
    let other = Memory::new(128);
    std::thread::scope(|scope| {
        let swap = scope.spawn(|| {
            let spec = shows("mallocVolumes/m");
            site.namespace_with("s/n", Some(other.clone()), spec, true)
                .unwrap();
        });
        while sessions[1].admin.identify_namespace(1).nsze.get() != 128 {}
        let preempt = preempt_and_abort(b);
        let early = b.completes(preempt);
        volume.hold(false);
        assert!(!early, "a write of the victim could still land");
        assert_eq!(b.wait(preempt).cqe.status(), Status::SUCCESS);
        swap.join().unwrap();
    });
    assert_eq!(a.wait(under_way).cqe.status(), Status::SUCCESS);
    assert_eq!(a.write(1, 3, 1, &[1; 4096]), CONFLICT);
}

#[test]
fn a_fused_pair_that_waited_meets_the_reservation_taken_meanwhile() {
    let Pair {
        volume, io: [a, b], ..
    } = &mut pair();
    let rtype = ReservationType::WriteExclusive;
    volume.hold(true);
    let rw = Rw::new(0, 1);
    let data = |byte| Payload::ToController(IoBuf::from_slice(&[byte; 4096]));
    let sqe = |fuse, op| IoCmd { nsid: 1, fuse, op }.to_sqe();
    // A write under way keeps the pair of the other host waiting.
    let write = a.submit(sqe(Fuse::Normal, IoOp::Write(rw)), data(1));
    assert!(!a.completes(write));
    let first = b.submit(sqe(Fuse::First, IoOp::Compare(rw)), data(1));
    let second = b.submit(sqe(Fuse::Second, IoOp::Write(rw)), data(2));
    assert!(!b.completes(second));
    assert_eq!(
        acquire(a, AcquireAction::Acquire, rtype, 0xa, 0),
        Status::SUCCESS
    );
    volume.hold(false);
    assert_eq!(a.wait(write).cqe.status(), Status::SUCCESS);
    assert_eq!(b.wait(first).cqe.status(), CONFLICT);
    assert_eq!(
        b.wait(second).cqe.status(),
        Status::ABORTED_FAILED_FUSED.dnr()
    );
    assert!(volume.bytes()[..4096] == [1; 4096]);
}

#[test]
fn reservations_that_persist_survive_a_restart_and_go_with_the_namespace() {
    let keep: Arc<MemoryKeep> = Arc::default();
    let rtype = ReservationType::ExclusiveAccess;
    {
        let site = Site::start(keep.clone(), true);
        let address = site.with_volume(Memory::new(64));
        let session = Session::to(address);
        let mut io = session.io(1);
        assert_eq!(
            register(&mut io, RegisterAction::Register, 0, 7),
            Status::SUCCESS
        );
        assert_eq!(
            acquire(&mut io, AcquireAction::Acquire, rtype, 7, 0),
            Status::SUCCESS
        );
    }
    let site = Site::start(keep.clone(), true);
    let address = site.with_volume(Memory::new(64));
    let holder = Session::to(address);
    let other = Session::connect(address, NQN, Who::other()).unwrap();
    assert_eq!(other.io(1).write(1, 0, 1, &[1; 4096]), CONFLICT);
    let mut io = holder.io(1);
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    assert_eq!(report(&mut io).registrants[0].key, 7);
    let kept = keep.0.lock().unwrap().clone();
    site.delete("nvmeSubsystems/s/nvmeNamespaces/n").unwrap();
    assert!(keep.0.lock().unwrap().is_empty());
    // The same when a deletion that was cut short is repeated after a start.
    *keep.0.lock().unwrap() = kept;
    let site = Site::start(keep.clone(), true);
    site.delete("nvmeSubsystems/s/nvmeNamespaces/n").unwrap();
    assert!(keep.0.lock().unwrap().is_empty());
}

#[test]
fn persistence_is_a_feature_too() {
    let Pair {
        sessions: [first, _],
        ..
    } = &mut pair();
    assert_eq!(first.admin.get_feature(0x83, 1, 0, 0).cqe.dw0.get(), 1);
    assert!(
        first
            .admin
            .set_feature(0x83, 0xffff_ffff, 0)
            .cqe
            .status()
            .is_success()
    );
    assert_eq!(first.admin.get_feature(0x83, 1, 0, 0).cqe.dw0.get(), 0);
    let unknown = first.admin.get_feature(0x83, 9, 0, 0).cqe.status();
    assert_eq!(unknown, Status::INVALID_NAMESPACE.dnr());
}
