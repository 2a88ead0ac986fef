//! Lies while I/O is under way.

use super::array::{Asked, At, BadArray, Lie, stranger};
use super::pdu::{data, data_flagged, pdu, r2t, response, success};
use super::{Host, Job, terminated, wait, written};
use std::time::{Duration, Instant};
use wire::nvme::{Cqe, Status};
use wire::nvme_tcp::PduType;
use wire::nvme_tcp::bits::{LAST_PDU, SUCCESS};

/// A lie, what the path says of it, and the FES of the TermReq that the array gets.
type Case = (&'static str, Lie, &'static str, Option<u16>);

/// Half of the data of a read.
fn first(asked: &Asked) -> &[u8] {
    &asked.data[..asked.data.len() / 2]
}

/// A data PDU whose byte `at` is another.
fn data_with(asked: &Asked, at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = data(asked.cid, 0, &asked.data);
    bytes[at] = byte;
    bytes
}

/// Lies told instead of the answer to a read.
const READ_LIES: &[Case] = &[
    (
        "unknown CID",
        Lie::Bytes(|_| success(0x7fff)),
        "CID names no command",
        Some(1),
    ),
    (
        "answered twice",
        Lie::Bytes(|a| [data(a.cid, 0, &a.data), success(a.cid), success(a.cid)].concat()),
        "CID names no command",
        Some(1),
    ),
    (
        "data after the answer",
        Lie::Bytes(|a| {
            let all = data(a.cid, 0, &a.data);
            [all.clone(), success(a.cid), all].concat()
        }),
        "CCCID names no command that reads",
        Some(1),
    ),
    (
        "data twice",
        Lie::Bytes(|a| [data(a.cid, 0, &a.data), data(a.cid, 0, &[0xee; 4096])].concat()),
        "not the next of their command",
        Some(4),
    ),
    (
        "overlap",
        Lie::Bytes(|a| {
            [
                data_flagged(a.cid, 0, first(a), 0),
                data(a.cid, 512, first(a)),
            ]
            .concat()
        }),
        "not the next of their command",
        Some(4),
    ),
    (
        "gap",
        Lie::Bytes(|a| data(a.cid, 512, first(a))),
        "not the next of their command",
        Some(4),
    ),
    (
        "beyond",
        Lie::Bytes(|a| data(a.cid, 0, &[a.data.clone(), vec![0xee; 512]].concat())),
        "not the next of their command",
        Some(4),
    ),
    (
        "offset of all ones",
        Lie::Bytes(|a| data(a.cid, u32::MAX, &a.data)),
        "not the next of their command",
        Some(4),
    ),
    (
        "no data",
        Lie::Bytes(|a| success(a.cid)),
        "less data than was asked for",
        None,
    ),
    (
        "last too early",
        Lie::Bytes(|a| [data(a.cid, 0, first(a)), success(a.cid)].concat()),
        "less data than was asked for",
        None,
    ),
    (
        "success too early",
        Lie::Bytes(|a| data_flagged(a.cid, 0, first(a), LAST_PDU | SUCCESS)),
        "less data than was asked for",
        None,
    ),
    (
        "success before the last",
        Lie::Bytes(|a| data_flagged(a.cid, 0, &a.data, SUCCESS)),
        "SUCCESS is set before the last",
        Some(1),
    ),
    // Two reads are under way, and one gets the answer to the other.
    (
        "another's CID",
        Lie::Bytes(|a| [success(a.cid), success(a.cid + 1)].concat()),
        "less data than was asked for",
        None,
    ),
    (
        "R2T",
        Lie::Bytes(|a| r2t(a.cid, 0, 512)),
        "CCCID names no command with data",
        Some(1),
    ),
    ("type", Lie::Bytes(stranger), "type of PDU", Some(1)),
    (
        "command",
        Lie::Bytes(|_| pdu(PduType::CapsuleCmd, 0, &[], &[])),
        "type of PDU",
        Some(1),
    ),
    ("HLEN", Lie::Bytes(|a| data_with(a, 2, 23)), "HLEN", Some(1)),
    ("PDO", Lie::Bytes(|a| data_with(a, 3, 8)), "PDO", Some(1)),
    (
        "PDO of no alignment",
        Lie::Bytes(|a| data_with(a, 3, 25)),
        "PDO",
        Some(1),
    ),
    (
        "PLEN",
        Lie::Bytes(|a| data_with(a, 4, 25)),
        "DATAL does not fit PLEN",
        Some(1),
    ),
    (
        "giant PLEN",
        Lie::Bytes(|a| data_with(a, 7, 0xff)),
        "DATAL does not fit PLEN",
        Some(1),
    ),
    (
        "no PLEN",
        Lie::Bytes(|a| data_with(a, 5, 0)),
        "PLEN leaves no room",
        Some(1),
    ),
    (
        "digest flag",
        Lie::Bytes(|a| data_with(a, 1, 2)),
        "DDGSTF",
        Some(1),
    ),
    (
        "garbage",
        Lie::Bytes(|_| vec![0xa5; 100]),
        "type of PDU",
        Some(1),
    ),
    (
        "TermReq",
        Lie::Bytes(|_| pdu(PduType::C2hTermReq, 0, &[3, 0], &[])),
        "the array ended the connection: HeaderDigest",
        None,
    ),
    ("cut", Lie::Cut, "the array closed the connection", None),
];

/// Lies told instead of asking for the data of a write.
const WRITE_LIES: &[Case] = &[
    (
        "beyond",
        Lie::Bytes(|a| r2t(a.cid, 0, a.len + 4)),
        "the next data",
        Some(4),
    ),
    (
        "past the end",
        Lie::Bytes(|a| r2t(a.cid, a.len, 4)),
        "the next data",
        Some(4),
    ),
    (
        "overflow",
        Lie::Bytes(|a| r2t(a.cid, 4, u32::MAX)),
        "the next data",
        Some(4),
    ),
    (
        "nothing",
        Lie::Bytes(|a| r2t(a.cid, 0, 0)),
        "R2TL is 0",
        Some(1),
    ),
    (
        "twice",
        Lie::Bytes(|a| [r2t(a.cid, 0, a.len), r2t(a.cid, 0, a.len)].concat()),
        "the next data",
        Some(4),
    ),
    (
        "too many",
        Lie::Bytes(|a| [r2t(a.cid, 0, 512), r2t(a.cid, 512, 512)].concat()),
        "MAXR2T",
        Some(5),
    ),
    (
        "nobody",
        Lie::Bytes(|a| r2t(a.cid + 1, 0, 512)),
        "CCCID names no command",
        Some(1),
    ),
    (
        "data",
        Lie::Bytes(|a| data(a.cid, 0, &[0; 512])),
        "CCCID names no command",
        Some(1),
    ),
    (
        "no data",
        Lie::Bytes(|a| success(a.cid)),
        "without its data",
        Some(2),
    ),
    (
        "half of the data",
        Lie::Bytes(|a| [r2t(a.cid, 0, 512), success(a.cid)].concat()),
        "without its data",
        Some(2),
    ),
    ("cut", Lie::Cut, "the array closed the connection", None),
];

fn check(at: At, cases: &[Case]) {
    let host = Host::new();
    let honest = BadArray::start();
    let other = host.connect("honest", false, &[&honest]);
    let witness = other.serves("n1");
    for (number, (name, lie, hint, fes)) in cases.iter().enumerate() {
        let array = BadArray::start();
        let remote = host.connect(&format!("bad{number}"), false, &[&array]);
        let volume = remote.serves("n1");
        array.lie(at, *lie);
        let job = match at {
            At::Write => Job::write(&volume, 0x77),
            _ => Job::reads(&volume),
        };
        remote.says(hint);
        if let Some(fes) = fes {
            terminated(name, &array, *fes);
        }
        array.behave();
        match at {
            At::Write => {
                assert_eq!(job.finish_one(), Ok(()), "{name}");
                assert_eq!(written(&volume), 0x77, "{name}");
            }
            _ => job.finish_reads(),
        }
        remote.recovers();
        remote.delete();
        Job::reads(&witness).finish_reads();
    }
    assert_eq!(other.trouble(), None);
    other.delete();
}

#[test]
fn a_read_never_succeeds_with_what_was_not_sent_for_it() {
    check(At::Read, READ_LIES);
}

#[test]
fn a_write_never_succeeds_without_its_data() {
    check(At::Write, WRITE_LIES);
}

#[test]
fn while_one_path_lies_the_other_serves() {
    let host = Host::new();
    let liar = BadArray::start();
    let honest = liar.twin();
    let remote = host.connect("rc", false, &[&liar, &honest]);
    let volume = remote.serves("n1");
    for (lies, at) in [(READ_LIES, At::Read), (WRITE_LIES, At::Write)] {
        for (name, lie, ..) in lies {
            liar.behave();
            // Or it would wait longer each time.
            host.site.reset(&remote.name);
            remote.recovers();
            liar.lie(at, *lie);
            let told = liar.told();
            // The paths take turns, so the liar gets its share.
            for byte in 0..4 {
                Job::reads(&volume).finish_reads();
                assert_eq!(Job::write(&volume, byte).finish_one(), Ok(()), "{name}");
                assert_eq!(written(&volume), byte, "{name}");
            }
            wait(name, || match liar.told() > told {
                true => Ok(()),
                false => {
                    Job::reads(&volume).finish_reads();
                    assert_eq!(Job::write(&volume, 9).finish_one(), Ok(()));
                    Err("no lie is told".to_owned())
                }
            });
        }
    }
    remote.delete();
}

#[test]
fn broken_digests_cost_the_command_or_the_connection_and_never_the_data() {
    let host = Host::new();
    // The header has 24 bytes and its digest 4; data follow, and then their digest.
    for (name, byte, fes) in [("header", 12, Some(3)), ("data", 100, None)] {
        let array = BadArray::start();
        let remote = host.connect(name, true, &[&array]);
        let volume = remote.serves("n1");
        array.lie(At::Read, Lie::Flip(byte));
        let job = Job::reads(&volume);
        match fes {
            Some(fes) => {
                remote.says("the header digest is wrong");
                terminated(name, &array, fes);
            }
            None => wait("a lie is told", || match array.told() {
                0 => Err("none".to_owned()),
                _ => Ok(()),
            }),
        }
        array.behave();
        job.finish_reads();
        remote.recovers();
        remote.delete();
    }
    // Nothing that is read wrongly makes a namespace go.
    let array = BadArray::start();
    array.lie(At::Namespace, Lie::Flip(100));
    let remote = host.connect("identify", true, &[&array]);
    remote.says("Identify Namespace was refused: Transient Transport Error");
    array.behave();
    Job::reads(&remote.serves("n1")).finish_reads();
    remote.delete();
}

#[test]
fn what_the_queue_head_says_does_not_matter() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    let nonsense = Lie::Bytes(|a| {
        let answer = response(Cqe::new(a.cid, 0xfff7, Status::SUCCESS));
        [data(a.cid, 0, &a.data), answer].concat()
    });
    array.lie(At::Read, nonsense);
    Job::reads(&volume).finish_reads();
    assert_eq!(remote.trouble(), None);
    remote.delete();
}

#[test]
fn an_array_that_stops_in_the_middle_of_everything_is_noticed_by_keep_alive() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    array.lie(At::Read, Lie::Freeze);
    let job = Job::reads(&volume);
    remote.says("no answer to keep-alive");
    array.behave();
    job.finish_reads();
    remote.delete();
}

#[test]
fn an_array_that_refuses_what_its_ana_log_promises_is_asked_again_after_a_pause() {
    let host = Host::new();
    let array = BadArray::start();
    let remote = host.connect("rc", false, &[&array]);
    let volume = remote.serves("n1");
    array.lie(At::Read, Lie::Status(Status::ANA_INACCESSIBLE));
    let begun = Instant::now();
    let job = Job::reads(&volume);
    wait("refusals", || match array.told() {
        8.. => Ok(()),
        told => Err(told.to_string()),
    });
    assert!(
        begun.elapsed() >= Duration::from_millis(200),
        "{:?}",
        begun.elapsed()
    );
    array.behave();
    job.finish_reads();
    assert_eq!(remote.trouble(), None);
    remote.delete();
}
