//! What a host that asks for much and reads nothing can make us keep in memory. Memory is counted
//! for the whole process, so these tests are a program of their own and run one after the other.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::NQN;
use support::Site;
use support::host::{Session, Who};
use support::memory::Memory;
use wire::nvme::sgl::SglDescriptor;
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Sqe, Status};

/// Commands in flight.
const COMMANDS: u16 = 400;
/// Data of each answer.
const ANSWER_BYTES: usize = 1 << 20;
/// C2HData and response capsule of an answer.
const HEADER_BYTES: usize = 24 + 24;
/// What all of them together may take.
const GROWTH_MAX: usize = 64 << 20;

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn deep() -> Who {
    Who {
        entries: 512,
        ..Who::default()
    }
}

/// Sends one command many times, all at once, so that one receive brings them. The first byte of
/// an answer says that the target has acted on what it received.
fn ask_for_much(stream: &mut TcpStream, mut sqe: Sqe) {
    sqe.sgl = SglDescriptor::transport(ANSWER_BYTES as u32);
    let mut bytes = Vec::new();
    for cid in 0..COMMANDS {
        sqe.cid = cid.into();
        let mut capsule = [0; 8];
        (capsule[0], capsule[2], capsule[4]) = (4, 72, 72);
        bytes.extend_from_slice(&capsule);
        bytes.extend_from_slice(sqe.bytes());
    }
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream.write_all(&bytes).unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
}

#[test]
fn log_pages_that_nobody_reads_are_bounded() {
    let _turn = one_at_a_time();
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let mut session = Session::connect(address, NQN, deep()).unwrap();
    // SMART, 1 MiB of it: 256 Ki dwords, zero-based, in NUMDU and NUMDL.
    let mut sqe = Sqe::new(0x02, u32::MAX);
    sqe.cdw10 = (0xffff_0000 | 0x02).into();
    sqe.cdw11 = 3.into();
    let before = blk::pool_bytes();
    ask_for_much(&mut session.admin.stream, sqe);
    // Others notice nothing.
    let other = Session::to(address);
    assert_eq!(other.io(1).write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    let grown = blk::pool_bytes() - before;
    assert!(
        grown < GROWTH_MAX,
        "{grown} bytes for answers that nobody reads"
    );
}

#[test]
fn blocks_that_nobody_reads_are_bounded_and_come_once_they_are_read() {
    let _turn = one_at_a_time();
    let site = Site::default();
    // Each read of it takes memory of its own, as with a file.
    let address = site.with_volume(Memory::new(256));
    let session = Session::connect(address, NQN, deep()).unwrap();
    let mut greedy = session.io(1);
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Read(Rw::new(0, 256)),
    }
    .to_sqe();
    let before = blk::pool_bytes();
    ask_for_much(&mut greedy.stream, sqe);
    let other = Session::to(address);
    assert_eq!(other.io(1).write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    let grown = blk::pool_bytes() - before;
    assert!(
        grown < GROWTH_MAX,
        "{grown} bytes for blocks that nobody reads"
    );
    let left = usize::from(COMMANDS) * (ANSWER_BYTES + HEADER_BYTES) - 1;
    let mut rest = vec![0; 1 << 20];
    for at in (0..left).step_by(rest.len()) {
        let len = rest.len().min(left - at);
        greedy.stream.read_exact(&mut rest[..len]).unwrap();
    }
}
