//! Hosts that break the protocol, lie, stall or vanish: they get an answer, and others notice
//! nothing.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use blk::testkit::Random;
use blk::{Gather, IoBuf};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use support::host::{Queue, Session, Who};
use support::memory::Memory;
use support::{NQN, Site};
use wire::nvme::sgl::SglDescriptor;
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::{Digests, Host, HostConfig, Payload};

/// PDU type of C2HTermReq.
const TERM: u8 = 0x03;
/// PDU type of ICResp.
const IC_RESP: u8 = 0x01;

fn target() -> (Site, SocketAddr) {
    let site = Site::default();
    let address = site.with_volume(Memory::new(64));
    (site, address)
}

/// The target serves a well-behaved host.
fn is_well(address: SocketAddr) {
    let session = Session::to(address);
    let mut io = session.io(1);
    assert_eq!(io.write(1, 0, 1, &[1; 4096]), Status::SUCCESS);
    assert!(io.read(1, 0, 1, 4096).data.to_vec() == [1; 4096]);
}

/// Sends bytes and reads until the target closes or stays silent.
fn talk(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    // The target may have closed before it read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = stream.read(&mut buffer) {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&buffer[..n]);
    }
    answer
}

/// FES of the TermReq in an answer, which may come after ICResp or in its place.
fn term(answer: &[u8]) -> Option<u8> {
    let answer = if answer.first() == Some(&IC_RESP) {
        &answer[128..]
    } else {
        answer
    };
    (answer.first() == Some(&TERM)).then(|| answer[8])
}

/// ICReq as a host sends it.
fn ic_req(digests: Digests) -> Vec<u8> {
    let config = HostConfig {
        digests,
        ..HostConfig::default()
    };
    let mut out = Gather::new();
    Host::new(config, blk::Nanos(0)).transmit(&mut out);
    out.to_vec()
}

#[test]
fn a_connection_that_does_not_begin_with_icreq_is_terminated() {
    let (_site, address) = target();
    let mut capsule = vec![0; 72];
    (capsule[0], capsule[2], capsule[4]) = (4, 72, 72);
    let answer = talk(address, &capsule);
    assert!(term(&answer).is_some(), "{answer:x?}");
    let answer = talk(address, b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
    assert!(term(&answer).is_some(), "{answer:x?}");
    is_well(address);
}

#[test]
fn an_unknown_version_and_a_second_icreq_are_terminated() {
    let (_site, address) = target();
    let mut wrong = ic_req(Digests::default());
    wrong[8] = 9;
    assert_eq!(term(&talk(address, &wrong)), Some(6));
    let twice = [ic_req(Digests::default()), ic_req(Digests::default())].concat();
    assert_eq!(term(&talk(address, &twice)), Some(2));
    is_well(address);
}

#[test]
fn a_wrong_header_digest_ends_the_connection_and_a_wrong_length_too() {
    let (_site, address) = target();
    let digests = Digests {
        header: true,
        data: true,
    };
    let mut capsule = vec![0; 76];
    (capsule[0], capsule[1], capsule[2], capsule[4]) = (4, 1, 72, 76);
    let answer = talk(address, &[ic_req(digests), capsule.clone()].concat());
    assert_eq!(term(&answer), Some(3), "{answer:x?}");
    for plen in [0_u32, 8, 71, u32::MAX] {
        let mut capsule = vec![0; 72];
        (capsule[0], capsule[2]) = (4, 72);
        capsule[4..8].copy_from_slice(&plen.to_le_bytes());
        let answer = talk(address, &[ic_req(Digests::default()), capsule].concat());
        assert_eq!(term(&answer), Some(1), "PLEN {plen}");
    }
    is_well(address);
}

#[test]
fn a_wrong_data_digest_costs_the_command_only() {
    let (_site, address) = target();
    let who = Who {
        digests: Digests {
            header: false,
            data: true,
        },
        ..Who::default()
    };
    let session = Session::connect(address, NQN, who).unwrap();
    let mut io = session.io(1);
    // A second host machine writes the capsule, which is then bent on its way.
    let op = IoOp::Write(Rw::new(5, 1));
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op,
    }
    .to_sqe();
    let payload = Payload::ToController(IoBuf::from_slice(&[0x77; 4096]));
    let cid = io.host.submit(sqe, payload).unwrap();
    let mut out = Gather::new();
    io.host.transmit(&mut out);
    let mut bytes = out.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    io.stream.write_all(&bytes).unwrap();
    assert_eq!(io.wait(cid).cqe.status(), Status::TRANSIENT_TRANSPORT);
    assert!(
        io.read(1, 5, 1, 4096).data.to_vec() == [0; 4096],
        "nothing unverified is stored"
    );
    assert_eq!(io.write(1, 5, 1, &[0x77; 4096]), Status::SUCCESS);
}

#[test]
fn descriptors_that_lie_are_refused_by_status() {
    let (_site, address) = target();
    let session = Session::to(address);
    let mut io = session.io(1);
    let mut send = |edit: &dyn Fn(&mut SglDescriptor)| {
        let op = IoOp::Write(Rw::new(0, 1));
        let sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op,
        }
        .to_sqe();
        let payload = Payload::ToController(IoBuf::from_slice(&[1; 4096]));
        let cid = io.host.submit(sqe, payload).unwrap();
        let mut out = Gather::new();
        io.host.transmit(&mut out);
        let mut bytes = out.to_vec();
        let mut sgl = SglDescriptor::from_prefix(&bytes[8 + 24..]).unwrap();
        edit(&mut sgl);
        bytes[8 + 24..8 + 40].copy_from_slice(sgl.bytes());
        io.stream.write_all(&bytes).unwrap();
        io.wait(cid).cqe.status()
    };
    assert_eq!(
        send(&|sgl| sgl.identifier = 0x40),
        Status::SGL_TYPE_INVALID.dnr(),
        "keyed"
    );
    assert_eq!(
        send(&|sgl| sgl.identifier = 0x20),
        Status::SGL_TYPE_INVALID.dnr(),
        "segment"
    );
    assert_eq!(
        send(&|sgl| sgl.address = 8.into()),
        Status::SGL_OFFSET_INVALID.dnr()
    );
    assert_eq!(
        send(&|sgl| sgl.length = 512.into()),
        Status::SGL_LENGTH_INVALID.dnr()
    );
    assert_eq!(send(&|_| ()), Status::SUCCESS);
}

#[test]
fn more_commands_than_the_queue_holds_end_the_connection() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    volume.hold(true);
    let session = Session::to(address);
    let who = Who {
        entries: 8,
        ..Who::default()
    };
    let mut io = Queue::connect(address, NQN, &who, 1, session.admin.cntlid).unwrap();
    let op = IoOp::Flush;
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op,
    }
    .to_sqe();
    let mut capsule = [0; 8];
    (capsule[0], capsule[2], capsule[4]) = (4, 72, 72);
    for cid in 0..9_u16 {
        let mut own = sqe;
        own.cid = cid.into();
        let bytes = [&capsule[..], own.bytes()].concat();
        io.stream.write_all(&bytes).unwrap();
    }
    io.stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut first = [0; 1];
    io.stream.read_exact(&mut first).unwrap();
    assert_eq!(first, [TERM]);
    volume.hold(false);
    is_well(address);
}

#[test]
fn noise_never_hurts_anybody_else() {
    let (_site, address) = target();
    let session = Session::to(address);
    let mut io = session.io(1);
    let mut random = Random(0x0b5e_55ed);
    for round in 0..60 {
        let mut bytes = vec![0; 1 + random.below(600) as usize];
        random.fill(&mut bytes);
        let mut message = if round % 2 == 0 {
            Vec::new()
        } else {
            ic_req(Digests::default())
        };
        message.extend_from_slice(&bytes);
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(&message);
        if round % 3 == 0 {
            drop(stream);
        } else {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        assert_eq!(io.write(1, 0, 1, &[round; 4096]), Status::SUCCESS);
    }
    is_well(address);
}

#[test]
fn connections_that_stall_half_way_do_not_hold_up_others() {
    let (_site, address) = target();
    let half = ic_req(Digests::default());
    let stalled: Vec<TcpStream> = (0..50)
        .map(|at| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&half[..at]).unwrap();
            stream
        })
        .collect();
    is_well(address);
    drop(stalled);
}

#[test]
fn a_host_that_does_not_read_its_answers_stops_only_itself() {
    let site = Site::default();
    let address = site.with_volume(Memory::new(512));
    let session = Session::to(address);
    let mut greedy = session.io(1);
    for _ in 0..100 {
        let op = IoOp::Read(Rw::new(0, 256));
        let sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op,
        }
        .to_sqe();
        greedy.submit(sqe, Payload::ToHost(IoBuf::alloc(1 << 20)));
    }
    is_well(address);
    let all = greedy.wait_all();
    assert!(all.len() == 100 && all.iter().all(|status| status.is_success()));
}

#[test]
fn a_deleted_listener_sends_everybody_away_even_in_the_middle_of_io() {
    let site = Site::default();
    let volume = Memory::new(64);
    let address = site.with_volume(volume.clone());
    let session = Session::to(address);
    let mut io = session.io(1);
    for lba in 0..50 {
        let op = IoOp::Write(Rw::new(lba, 1));
        let sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op,
        }
        .to_sqe();
        io.submit(sqe, Payload::ToController(IoBuf::from_slice(&[3; 4096])));
    }
    site.delete("nvmeSubsystems/s/nvmeControllers/c").unwrap();
    assert!(TcpStream::connect(address).is_err());
    let before = volume.log().len();
    let session = Session::to(site.controller("s/c"));
    assert_eq!(session.io(1).write(1, 0, 1, &[4; 4096]), Status::SUCCESS);
    assert_eq!(
        volume.log().len(),
        before + 1,
        "nothing of the past lands after the deletion"
    );
}
