//! Namespaces of volumes that others than this process may use: nothing is offered that would bind
//! only our own hosts, and another server shows the same disk.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use blk::{Geometry, Identity, IoBuf, Op};
use std::sync::Arc;
use support::host::{Queue, Session};
use support::memory::Memory;
use support::{NQN, Site};
use wire::nvme::identify::{Descriptor, parse_descriptors};
use wire::nvme::reservation::{AcquireAction, PersistChange, RegisterAction, ReservationType};
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::Payload;

const INVALID: Status = Status::INVALID_FIELD.dnr();
/// Reservation Notification Mask and Reservation Persistence.
const RESERVATION_FEATURES: [u8; 2] = [0x82, 0x83];

fn identity(number: u8) -> Identity {
    Identity {
        nguid: [number; 16],
        ..Identity::default()
    }
}

/// A volume as a remote array has it.
fn shared(identity: Identity) -> Arc<Memory> {
    Memory::with(Geometry {
        identity,
        atomic_blocks: 8,
        shared: true,
        ..Geometry::new(4096, 64)
    })
}

fn zeroes(len: usize) -> Payload {
    Payload::ToController(IoBuf::from_slice(&vec![0; len]))
}

/// A fused pair that finds what it expects.
fn compare_and_write(io: &mut Queue, nsid: u32) -> [Status; 2] {
    let half = |fuse, op| IoCmd { nsid, fuse, op }.to_sqe();
    let first = half(Fuse::First, IoOp::Compare(Rw::new(0, 1)));
    let second = half(Fuse::Second, IoOp::Write(Rw::new(0, 1)));
    let cids = [first, second].map(|sqe| io.submit(sqe, zeroes(4096)));
    cids.map(|cid| io.wait(cid).cqe.status())
}

#[test]
fn what_others_would_not_be_bound_by_is_not_offered() {
    let site = Site::default();
    let volume = shared(identity(1));
    let address = site.with_volume(volume.clone());
    site.namespace("s/local", Memory::numbered(2, 64));
    let mut session = Session::to(address);
    let (far, near) = (1, 2);
    let admin = &mut session.admin;
    assert_eq!(admin.identify_controller().fuses.get(), 0);
    let id = admin.identify_namespace(far);
    assert_eq!((id.rescap, id.nacwu.get(), id.nawun.get()), (0, 0, 7));
    assert_eq!(admin.identify(8, far).unwrap()[2], 0, "nor elsewhere");
    assert_eq!(admin.identify_namespace(near).rescap, 0xff);
    for fid in RESERVATION_FEATURES {
        let mut both = |nsid| {
            let got = admin.get_feature(fid, nsid, 0, 0).cqe.status();
            assert_eq!(admin.set_feature(fid, nsid, 0).cqe.status(), got);
            got
        };
        assert_eq!(both(far), INVALID, "{fid:#x}");
        assert_eq!(both(near), Status::SUCCESS, "{fid:#x}");
        let all = admin.set_feature(fid, 0xffff_ffff, 0).cqe.status();
        assert_eq!(all, Status::SUCCESS, "those that have it");
    }
    let mut io = session.io(1);
    assert_eq!(
        compare_and_write(&mut io, far),
        [INVALID, Status::ABORTED_FAILED_FUSED.dnr()]
    );
    assert_eq!(volume.log(), [], "not even compared");
    let success = [Status::SUCCESS; 2];
    assert_eq!(compare_and_write(&mut io, near), success);
    // Each alone is what it always was.
    assert_eq!(io.write(far, 0, 1, &[0; 4096]), Status::SUCCESS);
    let compare = io.io(far, IoOp::Compare(Rw::new(0, 1)), zeroes(4096));
    assert_eq!(compare.cqe.status(), Status::SUCCESS);
    // With the last namespace that others may write the offer is back.
    site.delete("nvmeSubsystems/s/nvmeNamespaces/n").unwrap();
    assert_eq!(session.admin.identify_controller().fuses.get(), 1);
}

#[test]
fn reservation_commands_are_refused_and_nothing_is_reserved() {
    let site = Site::default();
    let volume = shared(identity(1));
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    let register = IoOp::ReservationRegister {
        action: RegisterAction::Register,
        ignore_key: false,
        persist: PersistChange::Unchanged,
    };
    let acquire = IoOp::ReservationAcquire {
        action: AcquireAction::Acquire,
        ignore_key: false,
        rtype: ReservationType::ExclusiveAccess,
    };
    let report = IoOp::ReservationReport {
        len: 4096,
        extended: true,
    };
    let into = || Payload::ToHost(IoBuf::alloc(4096));
    for (op, payload) in [
        (register, zeroes(16)),
        (acquire, zeroes(16)),
        (report, into()),
    ] {
        let status = io.io(1, op, payload).cqe.status();
        assert_eq!(status, Status::INVALID_OPCODE.dnr(), "{op:?}");
    }
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    assert_eq!(volume.log(), [(Op::Write, 0, 1, false)]);
}

#[test]
fn two_servers_show_one_disk_whatever_they_call_it() {
    // An array need not give its namespaces a UUID.
    let descriptors = |id: &str, identity: Identity| {
        let site = Site::default();
        site.subsystem("s", NQN);
        site.namespace(id, shared(identity));
        let address = site.controller("s/c");
        let admin = &mut Session::to(address).admin;
        let mut list = parse_descriptors(&admin.identify(3, 1).unwrap()).unwrap();
        assert_eq!(list.pop(), Some(Descriptor::CommandSet(0)));
        assert_eq!(admin.identify_namespace(1).nmic, 1);
        list
    };
    let eui64 = Identity {
        eui64: [3; 8],
        ..Identity::default()
    };
    for (known, expected) in [
        (identity(1), Descriptor::Nguid([1; 16])),
        (eui64, Descriptor::Eui64([3; 8])),
    ] {
        assert_eq!(descriptors("s/here", known), [expected]);
        assert_eq!(descriptors("s/there", known), [expected]);
    }
}
