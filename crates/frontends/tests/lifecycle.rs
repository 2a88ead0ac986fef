//! How a controller ends: with nothing under way, and nothing lost in a cache.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use blk::{IoBuf, IoError, Op};
use support::Site;
use support::host::{Queue, Session};
use support::memory::Memory;
use wire::nvme::cmds::Features;
use wire::nvme::property::CSTS;
use wire::nvme::{AdminCmd, Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::Payload;

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

fn ops(volume: &Memory) -> Vec<Op> {
    volume.log().iter().map(|(op, ..)| *op).collect()
}

#[test]
fn a_reset_is_over_once_what_was_under_way_has_ended() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let mut session = Session::to(address);
    let mut io = session.io(1);
    volume.hold(true);
    let write = first_block(&mut io);
    assert!(!io.completes(write));
    session.admin.set_cc(0);
    io.wait_closed();
    for _ in 0..10 {
        assert_eq!(session.admin.property(CSTS), 1, "a write could still land");
    }
    let refused = session.admin.identify(1, 0);
    assert_eq!(refused, Err(Status::COMMAND_SEQUENCE.dnr()));
    assert!(session.try_io(2).is_err());
    volume.hold(false);
    session.admin.wait_status(0);
    assert_eq!(ops(&volume), [Op::Write]);
    session.admin.set_cc(0x0046_0001);
    assert_eq!(session.io(1).write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
}

#[test]
fn a_normal_shutdown_is_complete_once_everything_is_flushed() {
    let site = Site::default();
    let volume = Memory::cached(64);
    let address = site.with_volume(volume.clone());
    let mut session = Session::to(address);
    assert_eq!(session.io(1).write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    volume.hold(true);
    session.admin.set_cc(0x0046_4001);
    for _ in 0..10 {
        assert_eq!(session.admin.property(CSTS), 0b0101, "not flushed yet");
    }
    volume.hold(false);
    session.admin.wait_status(0b1001);
    assert_eq!(ops(&volume), [Op::Write, Op::Flush]);
    // One in haste does not wait for that, and what failed does not keep a host from leaving.
    let mut session = Session::to(address);
    session.admin.set_cc(0x0046_8001);
    session.admin.wait_status(0b1001);
    assert_eq!(ops(&volume), [Op::Write, Op::Flush]);
    volume.fail_flushes(IoError::Medium);
    let mut session = Session::to(address);
    session.admin.set_cc(0x0046_4001);
    session.admin.wait_status(0b1001);
}

#[test]
fn a_cache_is_off_once_what_it_held_is_flushed() {
    let site = Site::default();
    let volume = Memory::cached(64);
    let address = site.with_volume(volume.clone());
    let mut session = Session::to(address);
    let mut io = session.io(1);
    let off = Features {
        nsid: 0,
        fid: 6,
        cdw11: 0,
        cdw12: 0,
        cdw13: 0,
    };
    let off = AdminCmd::SetFeatures(off, false).to_sqe();
    volume.hold(true);
    let write = first_block(&mut io);
    assert!(!io.completes(write));
    let set = session.admin.submit(off, Payload::None);
    assert!(!session.admin.completes(set));
    volume.hold_only(Op::Write);
    assert!(session.admin.wait(set).cqe.status().is_success());
    assert_eq!(ops(&volume), [Op::Flush]);
    // It began with the cache on and ends with the cache off.
    volume.hold(false);
    assert_eq!(io.wait(write).cqe.status(), Status::SUCCESS);
    assert_eq!(ops(&volume), [Op::Flush, Op::Write, Op::Flush]);
    assert_eq!(session.admin.get_feature(6, 0, 0, 0).cqe.dw0.get(), 0);
    // What cannot be flushed leaves the feature as it was.
    assert!(session.admin.set_feature(6, 0, 1).cqe.status().is_success());
    volume.fail_flushes(IoError::Medium);
    let set = session.admin.run(off, Payload::None).cqe.status();
    assert_eq!(set, Status::WRITE_FAULT.dnr());
    assert_eq!(session.admin.get_feature(6, 0, 0, 0).cqe.dw0.get(), 1);
}
