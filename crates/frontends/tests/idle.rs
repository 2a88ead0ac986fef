//! A connection that waits costs no processor time. That is counted for the reactors of the whole
//! process, so this test is a program of its own.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use std::io::Write;
use std::sync::mpsc;
use std::time::Duration;
use support::host::{Session, Who};
use support::memory::Memory;
use support::{NQN, Site};
use wire::nvme::Sqe;
use wire::nvme::sgl::SglDescriptor;

/// After this the keep-alive of 1 s has expired, and the connection lingers for 2 s.
const EXPIRED: Duration = Duration::from_millis(1300);
/// The part of that in which processor time is counted.
const WATCHED: Duration = Duration::from_secs(1);
/// What `/proc` counts in, for every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time of the reactors so far, in ticks.
fn reactor_ticks() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    stats
        .filter_map(|stat| {
            let (name, rest) = stat.split_once(") ")?;
            let fields: Vec<&str> = rest.split(' ').collect();
            // Fields 14 and 15 of proc(5), of which two are before the name's end.
            let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
            name.contains("(reactor-")
                .then_some(ticks(11)? + ticks(12)?)
        })
        .sum()
}

#[test]
fn a_host_that_fell_silent_without_reading_is_waited_for_without_spinning() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    let who = Who {
        kato_ms: 1000,
        ..Who::default()
    };
    let mut session = Session::connect(address, NQN, who).unwrap();
    // More than the socket takes, so that something is left to be sent when the time is up.
    let mut sqe = Sqe::new(0x02, u32::MAX);
    sqe.cdw10 = (0xffff_0000 | 0x02).into();
    sqe.cdw11 = 3.into();
    sqe.sgl = SglDescriptor::transport(1 << 20);
    let mut bytes = Vec::new();
    for cid in 0..64_u16 {
        sqe.cid = cid.into();
        let mut capsule = [0; 8];
        (capsule[0], capsule[2], capsule[4]) = (4, 72, 72);
        bytes.extend_from_slice(&capsule);
        bytes.extend_from_slice(sqe.bytes());
    }
    session.admin.stream.write_all(&bytes).unwrap();
    let (_never, nothing) = mpsc::channel::<()>();
    nothing.recv_timeout(EXPIRED).unwrap_err();
    let before = reactor_ticks();
    nothing.recv_timeout(WATCHED).unwrap_err();
    let spent = reactor_ticks() - before;
    assert!(
        spent < TICKS_PER_SECOND * WATCHED.as_secs() / 4,
        "{spent} ticks for waiting"
    );
}
