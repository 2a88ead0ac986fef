//! Blocks through the front-end: what a host writes is what it reads, on real sockets.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use blk::{Geometry, IoBuf, Op, State};
use std::sync::Arc;
use support::host::{Queue, Session, Who};
use support::memory::Memory;
use support::{NQN, Site};
use wire::nvme::cmds::Dsm;
use wire::nvme::dsm::DsmRange;
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Sqe, Status};
use wire::nvme_tcp::{Digests, Payload};

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|at| (at / 7) as u8 ^ seed.wrapping_add(at as u8))
        .collect()
}

fn to(data: &[u8]) -> Payload {
    Payload::ToController(IoBuf::from_slice(data))
}

#[test]
fn what_is_written_is_read_with_every_combination_of_digests_and_flow_control() {
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        for no_sq_flow_control in [false, true] {
            let site = Site::default();
            let address = site.with_volume(Memory::new(1024));
            let digests = Digests { header, data };
            let who = Who {
                digests,
                no_sq_flow_control,
                ..Who::default()
            };
            let session = Session::connect(address, NQN, who).unwrap();
            let mut io = session.io(1);
            // In the capsule, by one R2T, and the largest there is.
            for (slba, blocks) in [(0, 1), (10, 2), (100, 16), (200, 256)] {
                let bytes = pattern(blocks as usize * 4096, slba as u8);
                assert_eq!(io.write(1, slba, blocks, &bytes), Status::SUCCESS);
                let read = io.read(1, slba, blocks, bytes.len());
                assert_eq!(read.cqe.status(), Status::SUCCESS);
                assert!(read.data.to_vec() == bytes, "{blocks} blocks");
            }
        }
    }
}

#[test]
fn many_commands_in_flight_all_come_back_right() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(1024));
    let session = Session::to(address);
    let mut queues: Vec<Queue> = (1..=4).map(|qid| session.io(qid)).collect();
    for (number, queue) in queues.iter_mut().enumerate() {
        for slot in 0..100 {
            let lba = (number * 200 + slot) as u64;
            let cid = queue.submit(
                IoCmd {
                    nsid: 1,
                    fuse: Fuse::Normal,
                    op: IoOp::Write(Rw::new(lba, 1)),
                }
                .to_sqe(),
                to(&pattern(4096, lba as u8)),
            );
            assert!(cid < 127);
        }
    }
    for queue in &mut queues {
        for cid in queue.wait_all() {
            assert_eq!(cid, Status::SUCCESS);
        }
    }
    for lba in (0..800).filter(|lba| lba % 200 < 100) {
        let read = queues[0].read(1, lba, 1, 4096);
        assert!(
            read.data.to_vec() == pattern(4096, lba as u8),
            "block {lba}"
        );
    }
}

#[test]
fn the_other_commands_do_what_they_say() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    let data = pattern(8192, 3);
    assert_eq!(io.write(1, 4, 2, &data), Status::SUCCESS);
    let compare = IoOp::Compare(Rw::new(4, 2));
    assert_eq!(io.io(1, compare, to(&data)).cqe.status(), Status::SUCCESS);
    let differs = io.io(1, compare, to(&pattern(8192, 4))).cqe.status();
    assert_eq!(differs, Status::COMPARE_FAILURE.dnr());
    assert_eq!(
        io.io(1, IoOp::Flush, Payload::None).cqe.status(),
        Status::SUCCESS
    );
    let verify = IoOp::Verify(Rw::new(4, 2));
    assert_eq!(
        io.io(1, verify, Payload::None).cqe.status(),
        Status::SUCCESS
    );
    let zero = IoOp::WriteZeroes(Rw::new(4, 1));
    assert_eq!(io.io(1, zero, Payload::None).cqe.status(), Status::SUCCESS);
    assert_eq!(io.read(1, 4, 1, 4096).data.to_vec(), [0; 4096]);
    let deallocate = IoOp::WriteZeroes(Rw {
        deallocate: true,
        ..Rw::new(5, 1)
    });
    assert_eq!(
        io.io(1, deallocate, Payload::None).cqe.status(),
        Status::SUCCESS
    );
    let ops: Vec<Op> = volume.log().iter().map(|(op, ..)| *op).collect();
    assert!(
        ops.ends_with(&[Op::WriteZeroes, Op::Read, Op::Unmap]),
        "{ops:?}"
    );
    assert_eq!(io.write(1, 8, 2, &data), Status::SUCCESS);
    let ranges = [(8, 1), (60, 4), (9, 0)].map(|(slba, blocks): (u64, u32)| DsmRange {
        slba: slba.into(),
        blocks: blocks.into(),
        ..DsmRange::default()
    });
    let bytes: Vec<u8> = ranges
        .iter()
        .flat_map(|range| range.bytes().to_vec())
        .collect();
    let dsm = Dsm {
        ranges: 3,
        deallocate: true,
        integral_read: false,
        integral_write: false,
    };
    assert_eq!(
        io.io(1, IoOp::Dsm(dsm), to(&bytes)).cqe.status(),
        Status::SUCCESS
    );
    let read = io.read(1, 8, 2, 8192).data.to_vec();
    assert_eq!(read[..4096], [0; 4096]);
    assert_eq!(read[4096..], data[4096..]);
}

#[test]
fn force_unit_access_and_a_cache_switched_off_reach_the_volume() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let mut session = Session::to(address);
    let mut io = session.io(1);
    let data = pattern(4096, 1);
    assert_eq!(io.write(1, 0, 1, &data), Status::SUCCESS);
    let fua = IoOp::Write(Rw {
        fua: true,
        ..Rw::new(1, 1)
    });
    assert_eq!(io.io(1, fua, to(&data)).cqe.status(), Status::SUCCESS);
    assert!(
        session
            .admin
            .set_feature(0x06, 0, 0)
            .cqe
            .status()
            .is_success()
    );
    assert_eq!(io.write(1, 2, 1, &data), Status::SUCCESS);
    let fua: Vec<bool> = volume.log().iter().map(|(.., fua)| *fua).collect();
    assert_eq!(fua, [false, true, true]);
}

#[test]
fn what_is_wrong_with_a_command_is_told_by_its_status() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(300));
    let session = Session::to(address);
    let mut io = session.io(1);
    let block = pattern(4096, 9);
    assert_eq!(io.write(1, 300, 1, &block), Status::LBA_OUT_OF_RANGE.dnr());
    assert_eq!(
        io.write(1, u64::MAX, 1, &block),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    assert_eq!(io.write(7, 0, 1, &block), Status::INVALID_NAMESPACE.dnr());
    assert_eq!(
        io.write(0xffff_ffff, 0, 1, &block),
        Status::INVALID_NAMESPACE.dnr()
    );
    assert_eq!(io.write(1, 0, 2, &block), Status::SGL_LENGTH_INVALID.dnr());
    let short = io.read(1, 0, 2, 4096);
    assert_eq!(short.cqe.status(), Status::SGL_LENGTH_INVALID.dnr());
    let long = io.read(1, 0, 257, 257 * 4096);
    assert_eq!(long.cqe.status(), Status::INVALID_FIELD.dnr());
    let unknown = io.run(Sqe::new(0x90, 1), Payload::None);
    assert_eq!(unknown.cqe.status(), Status::INVALID_OPCODE.dnr());
    let admin_only = io.run(Sqe::new(0x06, 1), Payload::ToHost(IoBuf::alloc(4096)));
    assert_eq!(admin_only.cqe.status(), Status::INVALID_OPCODE.dnr());
    let zero = IoOp::WriteZeroes(Rw::new(299, 2));
    assert_eq!(
        io.io(1, zero, Payload::None).cqe.status(),
        Status::LBA_OUT_OF_RANGE.dnr()
    );
    let few = Dsm {
        ranges: 2,
        deallocate: true,
        integral_read: false,
        integral_write: false,
    };
    let answer = io.io(1, IoOp::Dsm(few), to(&[0; 16]));
    assert_eq!(answer.cqe.status(), Status::SGL_LENGTH_INVALID.dnr());
    // And the queue goes on.
    assert_eq!(io.write(1, 0, 1, &block), Status::SUCCESS);
}

#[test]
fn a_volume_with_metadata_shows_them_after_each_block() {
    let site = Site::default();
    let mut geometry = Geometry::new(512, 128);
    geometry.metadata_bytes = 8;
    let address = site.with_volume(Memory::with(geometry));
    let mut session = Session::to(address);
    let id = session.admin.identify_namespace(1);
    assert!(id.metadata_interleaved());
    assert_eq!(
        (id.format().metadata.get(), id.block_size()),
        (8, Some(512))
    );
    let mut io = session.io(1);
    let data = pattern(3 * 520, 5);
    assert_eq!(io.write(1, 7, 3, &data), Status::SUCCESS);
    assert_eq!(io.read(1, 7, 3, 3 * 520).data.to_vec(), data);
    assert_eq!(
        io.write(1, 7, 3, &data[..3 * 512]),
        Status::SGL_LENGTH_INVALID.dnr()
    );
}

fn fused(nsid: u32, fuse: Fuse, op: IoOp) -> Sqe {
    IoCmd { nsid, fuse, op }.to_sqe()
}

/// Submits a pair in one go and returns both statuses.
fn compare_and_write(io: &mut Queue, lba: u64, old: &[u8], new: &[u8]) -> (Status, Status) {
    let rw = Rw::new(lba, (old.len() / 4096) as u32);
    let first = io.submit(fused(1, Fuse::First, IoOp::Compare(rw)), to(old));
    let second = io.submit(fused(1, Fuse::Second, IoOp::Write(rw)), to(new));
    (io.wait(first).cqe.status(), io.wait(second).cqe.status())
}

#[test]
fn a_fused_pair_writes_only_if_the_compare_holds() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let session = Session::to(address);
    let mut io = session.io(1);
    let (zero, one, two) = (vec![0; 4096], pattern(4096, 1), pattern(4096, 2));
    let good = (Status::SUCCESS, Status::SUCCESS);
    assert_eq!(compare_and_write(&mut io, 3, &zero, &one), good);
    let bad = (
        Status::COMPARE_FAILURE.dnr(),
        Status::ABORTED_FAILED_FUSED.dnr(),
    );
    assert_eq!(compare_and_write(&mut io, 3, &zero, &two), bad);
    assert_eq!(io.read(1, 3, 1, 4096).data.to_vec(), one);
    // More blocks than are atomic, and halves that do not belong together.
    let (status, _) = compare_and_write(&mut io, 3, &[0; 8192], &[0; 8192]);
    assert_eq!(status, Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
    let first = io.submit(
        fused(1, Fuse::First, IoOp::Compare(Rw::new(1, 1))),
        to(&zero),
    );
    let other = io.submit(fused(1, Fuse::Second, IoOp::Write(Rw::new(2, 1))), to(&one));
    assert_eq!(io.wait(first).cqe.status(), Status::INVALID_FIELD.dnr());
    assert_eq!(
        io.wait(other).cqe.status(),
        Status::ABORTED_FAILED_FUSED.dnr()
    );
    let alone = io.submit(fused(1, Fuse::Second, IoOp::Write(Rw::new(2, 1))), to(&one));
    assert_eq!(
        io.wait(alone).cqe.status(),
        Status::ABORTED_MISSING_FUSED.dnr()
    );
    let first = io.submit(
        fused(1, Fuse::First, IoOp::Compare(Rw::new(1, 1))),
        to(&zero),
    );
    assert_eq!(
        io.write(1, 9, 1, &two),
        Status::SUCCESS,
        "it does not belong to the pair"
    );
    assert_eq!(
        io.wait(first).cqe.status(),
        Status::ABORTED_MISSING_FUSED.dnr()
    );
}

#[test]
fn halves_with_a_command_between_them_are_no_pair() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    let rw = Rw::new(0, 1);
    let first = io.submit(fused(1, Fuse::First, IoOp::Compare(rw)), to(&[0; 4096]));
    // Its data are asked for by R2T, and come after the second half.
    let between = fused(1, Fuse::Normal, IoOp::Write(Rw::new(8, 16)));
    let between = io.submit(between, to(&pattern(65536, 1)));
    let second = io.submit(fused(1, Fuse::Second, IoOp::Write(rw)), to(&[9; 4096]));
    for half in [first, second] {
        let status = io.wait(half).cqe.status();
        assert_eq!(status, Status::ABORTED_MISSING_FUSED.dnr());
    }
    assert_eq!(io.wait(between).cqe.status(), Status::SUCCESS);
    assert!(volume.bytes()[..4096] == [0; 4096]);
}

#[test]
fn fused_pairs_of_many_hosts_never_lose_an_update() {
    const HOSTS: usize = 4;
    const ROUNDS: u64 = 40;
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let total: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..HOSTS)
            .map(|_| {
                scope.spawn(move || {
                    let session = Session::to(address);
                    let mut io = session.io(1);
                    let mut won = 0;
                    while won < ROUNDS {
                        let old = io.read(1, 0, 1, 4096).data.to_vec();
                        let count = u64::from_le_bytes(old[..8].try_into().unwrap());
                        let mut new = old.clone();
                        new[..8].copy_from_slice(&(count + 1).to_le_bytes());
                        let (_, status) = compare_and_write(&mut io, 0, &old, &new);
                        won += u64::from(status.is_success());
                    }
                    won
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    let session = Session::to(address);
    let read = session.io(1).read(1, 0, 1, 4096).data.to_vec();
    assert_eq!(u64::from_le_bytes(read[..8].try_into().unwrap()), total);
}

#[test]
fn statistics_are_counted_for_namespace_controller_and_subsystem() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let session = Session::to(address);
    let mut io = session.io(1);
    io.write(1, 0, 2, &pattern(8192, 1));
    io.read(1, 0, 1, 4096);
    io.write(1, 99, 1, &pattern(4096, 1));
    let names = [
        "nvmeSubsystems/s",
        "nvmeSubsystems/s/nvmeNamespaces/n",
        "nvmeSubsystems/s/nvmeControllers/c",
    ];
    for resource in names {
        let name = support::name(resource);
        let handler = site.handlers.of(&name.kind().collection).unwrap();
        let (_, observed) = handler.observe(&name, &[]).unwrap();
        let stats = observed.stats.unwrap();
        assert_eq!(
            (stats.op(Op::Write).ops, stats.op(Op::Write).bytes),
            (1, 8192),
            "{resource}"
        );
        assert_eq!(
            (stats.op(Op::Read).ops, stats.op(Op::Read).bytes),
            (1, 4096),
            "{resource}"
        );
        assert_eq!(stats.in_flight, 0);
    }
}

#[test]
fn an_offline_volume_is_inaccessible_and_comes_back() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    volume.set_state(State::Offline("the disk fell out".to_owned()));
    assert_eq!(io.write(1, 0, 1, &[2; 4096]), Status::ANA_INACCESSIBLE);
    volume.set_state(State::Online);
    assert_eq!(io.read(1, 0, 1, 4096).data.to_vec(), [1; 4096]);
}

#[test]
fn a_host_that_vanishes_mid_write_leaves_a_target_that_goes_on() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    volume.hold(true);
    let session = Session::to(address);
    let mut io = session.io(1);
    for lba in 0..20 {
        let op = IoOp::Write(Rw::new(lba, 1));
        io.submit(
            IoCmd {
                nsid: 1,
                fuse: Fuse::Normal,
                op,
            }
            .to_sqe(),
            to(&[7; 4096]),
        );
    }
    // One more, of which only the header arrives.
    io.stream.shutdown(std::net::Shutdown::Both).unwrap();
    drop((io, session));
    volume.hold(false);
    let session = Session::to(address);
    let mut io = session.io(1);
    assert_eq!(io.write(1, 40, 1, &[9; 4096]), Status::SUCCESS);
    drop((io, session));
    // Everything is let go of, so that the resources can be deleted.
    for name in [
        "nvmeSubsystems/s/nvmeControllers/c",
        "nvmeSubsystems/s/nvmeNamespaces/n",
    ] {
        site.delete(name).unwrap();
    }
    let _: Arc<Memory> = volume;
}
