//! Traffic recorded between software nobody here wrote: what a host sent is understood, and what
//! its target answered is what our controller would have sent, byte for byte.

use blk::{Gather, IoBuf, Nanos};
use wire::nvme::fabrics::ConnectData;
use wire::nvme::{Cqe, FabricsCmd, IoCmd, IoOp};
use wire::nvme_tcp::bits::{CapsuleResp, CommonHeader, DataPdu};
use wire::nvme_tcp::digest::crc32c;
use wire::nvme_tcp::{Command, Controller, Digests, Event, Limits};

const NOW: Nanos = Nanos(0);

/// One recorded connection: what each side sent, and the digests it had.
const RECORDINGS: [(&[u8], &[u8], Digests); 2] = [
    (
        include_bytes!("golden/mixed.host.bin"),
        include_bytes!("golden/mixed.target.bin"),
        Digests {
            header: false,
            data: false,
        },
    ),
    (
        include_bytes!("golden/mixed-digests.host.bin"),
        include_bytes!("golden/mixed-digests.target.bin"),
        Digests {
            header: true,
            data: true,
        },
    ),
];

/// Cuts a stream into its PDUs by PLEN.
fn pdus(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while !stream.is_empty() {
        let common = CommonHeader::from_prefix(stream).expect("recorded whole");
        let (pdu, rest) = stream.split_at(common.plen.get() as usize);
        all.push(pdu);
        stream = rest;
    }
    all
}

/// The target the traffic was recorded from: 128 KiB of MDTS and MAXH2CDATA.
fn controller() -> Controller {
    let limits = Limits {
        mdts_bytes: 128 << 10,
        h2c_data_bytes: 128 << 10,
        ..Limits::default()
    };
    Controller::new(limits, NOW)
}

fn commands(controller: &mut Controller) -> Vec<Command> {
    let mut commands = Vec::new();
    while let Some(event) = controller.next_event() {
        match event {
            Event::Command(command) => commands.push(command),
            Event::Ready(_) => {}
            other => panic!("{other:?}"),
        }
    }
    commands
}

#[test]
fn every_recorded_command_is_understood() {
    for (host, _, digests) in RECORDINGS {
        let mut controller = controller();
        controller.receive(host, NOW).unwrap();
        let Some(Event::Ready(negotiated)) = controller.next_event() else {
            panic!("initialised")
        };
        assert_eq!(negotiated.digests, digests);
        let commands = commands(&mut controller);
        assert_eq!(commands.len(), pdus(host).len() - 1);
        let FabricsCmd::Connect(connect) = FabricsCmd::parse(&commands[0].sqe).unwrap() else {
            panic!("the first command connects");
        };
        assert_eq!((connect.qid, connect.queue_entries), (1, 128));
        let data = ConnectData::from_prefix(&commands[0].data.to_vec()).unwrap();
        assert_eq!(
            data.subsystem().unwrap().as_str(),
            "nqn.2016-06.io.spdk:cnode1"
        );
        // This host's tool gives no name.
        assert!(data.is_anonymous());
        for command in &commands[1..] {
            let (blocks, bytes) = match IoCmd::parse(&command.sqe).unwrap().op {
                IoOp::Write(rw) => (rw.blocks, command.data.len()),
                IoOp::Read(rw) => (rw.blocks, command.len as usize),
                other => panic!("{other:?}"),
            };
            assert_eq!((blocks, bytes), (8, 4096));
        }
    }
}

#[test]
fn our_answers_are_the_recorded_ones_byte_for_byte() {
    for (host, target, digests) in RECORDINGS {
        let mut controller = controller();
        controller.receive(host, NOW).unwrap();
        let mut waiting = commands(&mut controller);
        let mut wanted = vec![pdus(target)[0].to_vec()];
        let mut read: Vec<&[u8]> = Vec::new();
        for pdu in &pdus(target)[1..] {
            if pdu[0] == 7 {
                read.push(pdu);
                continue;
            }
            let cqe = CapsuleResp::from_prefix(pdu).unwrap().cqe;
            let data = read
                .iter()
                .position(|data| data[8..10] == cqe.cid.get().to_le_bytes());
            let data = data.map(|at| read.remove(at));
            // The recording of the host's side ends earlier than that of its target.
            let Some(at) = waiting.iter().position(|c| c.sqe.cid() == cqe.cid.get()) else {
                continue;
            };
            wanted.extend(data.map(<[u8]>::to_vec));
            wanted.push(pdu.to_vec());
            answer(&mut controller, &waiting.remove(at), data, cqe);
        }
        let mut out = Gather::new();
        controller.transmit(&mut out);
        let sent = out.to_vec();
        let mut sent: Vec<Vec<u8>> = pdus(&sent).iter().map(|pdu| pdu.to_vec()).collect();
        assert!(sent.len() > 5, "digests {digests:?}");
        sent.sort();
        wanted.sort();
        assert!(sent == wanted, "digests {digests:?}");
    }
}

fn answer(controller: &mut Controller, command: &Command, c2h: Option<&[u8]>, cqe: Cqe) {
    match c2h {
        Some(pdu) => {
            let header = DataPdu::from_prefix(pdu).expect("recorded whole");
            let start = usize::from(header.common.pdo);
            let data = IoBuf::from_slice(&pdu[start..][..header.datal.get() as usize]);
            controller.respond_data(command.slot, data, cqe);
        }
        None => controller.respond(command.slot, cqe),
    }
}

#[test]
fn recorded_digests_are_those_we_compute() {
    let (host, target, _) = RECORDINGS[1];
    let mut checked = 0;
    for pdu in pdus(host).iter().chain(&pdus(target)) {
        let common = CommonHeader::from_prefix(pdu).unwrap();
        let hlen = usize::from(common.hlen);
        if common.flags & 1 != 0 {
            assert_eq!(pdu[hlen..hlen + 4], crc32c(&pdu[..hlen]).to_le_bytes());
            checked += 1;
        }
        if common.flags & 2 != 0 {
            let (data, digest) =
                pdu[usize::from(common.pdo)..].split_at(pdu.len() - usize::from(common.pdo) - 4);
            assert_eq!(digest, crc32c(data).to_le_bytes());
            checked += 1;
        }
    }
    assert!(checked > 30, "{checked}");
}
