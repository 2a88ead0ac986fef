//! What each end answers to PDUs that break the rules: the right FES, and where the fault is.

use blk::{Gather, IoBuf, Nanos};
use wire::nvme::bits::Sqe;
use wire::nvme::sgl::SglDescriptor;
use wire::nvme::{Cqe, Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::bits::{
    CapsuleCmd, CapsuleResp, CommonHeader, DDGSTF, DataPdu, IcReq, IcResp, LAST_PDU, R2t, SUCCESS,
    TermReq,
};
use wire::nvme_tcp::{
    Closed, Controller, Digests, Event, FatalStatus, Host, HostConfig, HostEvent, Limits, Payload,
};

const NOW: Nanos = Nanos(0);

fn common(kind: u8, flags: u8, hlen: u8, pdo: u8, plen: u32) -> CommonHeader {
    CommonHeader {
        kind,
        flags,
        hlen,
        pdo,
        plen: plen.into(),
    }
}

fn ic_req() -> IcReq {
    IcReq {
        common: common(0, 0, 128, 0, 128),
        maxr2t: 3.into(),
        ..IcReq::default()
    }
}

fn ic_resp() -> IcResp {
    let common = common(1, 0, 128, 0, 128);
    IcResp {
        common,
        maxh2cdata: 8192.into(),
        ..IcResp::default()
    }
}

/// A controller that is initialised, without digests.
fn controller() -> Controller {
    let limits = Limits {
        h2c_data_bytes: 8192,
        mdts_bytes: 64 << 10,
        ..Limits::default()
    };
    let mut controller = Controller::new(limits, NOW);
    controller
        .receive(ic_req().bytes(), NOW)
        .expect("no rule is broken");
    assert!(matches!(controller.next_event(), Some(Event::Ready(_))));
    controller.transmit(&mut Gather::new());
    controller
}

/// A host that is initialised, without digests, and allows two R2Ts per command.
fn host() -> Host {
    let config = HostConfig {
        r2t_max: 2,
        ..HostConfig::default()
    };
    let mut host = Host::new(config, NOW);
    host.receive(ic_resp().bytes(), NOW)
        .expect("no rule is broken");
    assert!(matches!(host.next_event(), Some(HostEvent::Ready(_))));
    host.transmit(&mut Gather::new());
    host
}

/// What a controller says in its C2HTermReq about `bytes`.
fn refused(mut controller: Controller, bytes: &[u8]) -> (u16, u32) {
    let fatal = controller
        .receive(bytes, NOW)
        .expect_err("a rule is broken");
    let mut out = Gather::new();
    controller.transmit(&mut out);
    let sent = out.to_vec();
    let term = TermReq::from_prefix(&sent).expect("no rule is broken");
    assert_eq!((term.common.kind, term.common.hlen), (3, 24));
    assert_eq!(term.common.plen.get() as usize, sent.len());
    assert!(
        bytes.starts_with(&sent[24..]),
        "the offending header comes back"
    );
    assert_eq!(
        (term.fes.get(), term.fei.get()),
        (fatal.status.value(), fatal.at)
    );
    // What comes after is dropped.
    controller.receive(bytes, NOW).expect("no rule is broken");
    assert!(controller.next_event().is_none());
    (term.fes.get(), term.fei.get())
}

/// What a host says in its H2CTermReq about `bytes`.
fn host_refused(mut host: Host, bytes: &[u8]) -> (u16, u32) {
    let fatal = host.receive(bytes, NOW).expect_err("a rule is broken");
    let mut out = Gather::new();
    host.transmit(&mut out);
    let term = TermReq::from_prefix(&out.to_vec()).expect("no rule is broken");
    assert_eq!(term.common.kind, 2);
    assert_eq!(
        (term.fes.get(), term.fei.get()),
        (fatal.status.value(), fatal.at)
    );
    (term.fes.get(), term.fei.get())
}

#[test]
fn a_controller_points_at_what_is_wrong_with_the_initialisation() {
    let fresh = || Controller::new(Limits::default(), NOW);
    let mut wrong = ic_req();
    wrong.pfv = 1.into();
    assert_eq!(refused(fresh(), wrong.bytes()), (6, 8));
    let mut wrong = ic_req();
    wrong.hpda = 32;
    assert_eq!(refused(fresh(), wrong.bytes()), (1, 10));
    let mut wrong = ic_req();
    wrong.common.hlen = 127;
    assert_eq!(refused(fresh(), wrong.bytes()), (1, 2));
    let mut wrong = ic_req();
    wrong.common.plen = 4096.into();
    assert_eq!(refused(fresh(), wrong.bytes()), (1, 4));
    let early = CapsuleCmd {
        common: common(4, 0, 72, 0, 72),
        sqe: Sqe::default(),
    };
    assert_eq!(refused(fresh(), early.bytes()), (2, 0));
    assert_eq!(refused(controller(), ic_req().bytes()), (2, 0));
    // A TLS record, a web browser and a PDU for the other end.
    assert_eq!(
        refused(fresh(), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03").0,
        1
    );
    assert_eq!(refused(fresh(), b"GET / HTTP/1.1\r\n"), (1, 0));
    assert_eq!(refused(fresh(), ic_resp().bytes()), (1, 0));
}

fn write_sqe(cid: u16, len: u32) -> Sqe {
    let rw = Rw::new(0, len / 512);
    let mut sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Write(rw),
    }
    .to_sqe();
    sqe.cid = cid.into();
    sqe.sgl = SglDescriptor::transport(len);
    sqe
}

/// A controller that has sent an R2T for 16 KiB of command 7, with its TTAG.
fn with_r2t() -> (Controller, u16) {
    let mut controller = controller();
    let capsule = CapsuleCmd {
        common: common(4, 0, 72, 0, 72),
        sqe: write_sqe(7, 16 << 10),
    };
    controller
        .receive(capsule.bytes(), NOW)
        .expect("no rule is broken");
    let mut out = Gather::new();
    controller.transmit(&mut out);
    let r2t = R2t::from_prefix(&out.to_vec()).expect("no rule is broken");
    assert_eq!(
        (r2t.common.kind, r2t.cccid.get(), r2t.r2tl.get()),
        (9, 7, 16 << 10)
    );
    (controller, r2t.ttag.get())
}

fn h2c(ttag: u16, offset: u32, len: u32, flags: u8) -> DataPdu {
    DataPdu {
        common: common(6, flags, 24, 24, 24 + len),
        cccid: 7.into(),
        ttag: ttag.into(),
        datao: offset.into(),
        datal: len.into(),
        ..DataPdu::default()
    }
}

#[test]
fn a_controller_points_at_what_is_wrong_with_data() {
    let check = |change: &dyn Fn(&mut DataPdu)| {
        let (controller, ttag) = with_r2t();
        let mut pdu = h2c(ttag, 0, 8192, 0);
        change(&mut pdu);
        refused(controller, pdu.bytes())
    };
    assert_eq!(check(&|pdu| pdu.ttag = 99.into()), (1, 10));
    assert_eq!(check(&|pdu| pdu.cccid = 8.into()), (1, 8));
    assert_eq!(check(&|pdu| pdu.datal = 8188.into()), (1, 16));
    assert_eq!(check(&|pdu| pdu.datao = 4.into()), (4, 0));
    assert_eq!(check(&|pdu| pdu.datao = 0xffff_ff00.into()), (4, 0));
    assert_eq!(check(&|pdu| pdu.common.flags = LAST_PDU), (1, 1));
    assert_eq!(check(&|pdu| pdu.common.flags = DDGSTF), (1, 1));
    assert_eq!(check(&|pdu| pdu.common.pdo = 20), (1, 3));
    assert_eq!(check(&|pdu| pdu.common.pdo = 26), (1, 3));
    assert_eq!(check(&|pdu| pdu.common.plen = 24.into()), (1, 4));
    assert_eq!(check(&|pdu| pdu.common.plen = (24 + 8193).into()), (5, 0));
    // No R2T at all.
    assert_eq!(
        refused(controller(), h2c(0, 0, 512, LAST_PDU).bytes()),
        (1, 10)
    );
}

#[test]
fn data_past_the_end_of_an_r2t_are_refused_and_its_exact_end_is_not() {
    let (mut controller, ttag) = with_r2t();
    let feed = |controller: &mut Controller, pdu: DataPdu| {
        controller.receive(pdu.bytes(), NOW)?;
        controller.receive(&vec![9; pdu.datal.get() as usize], NOW)
    };
    feed(&mut controller, h2c(ttag, 0, 8192, 0)).unwrap();
    feed(&mut controller, h2c(ttag, 8192, 8192, LAST_PDU)).unwrap();
    let Some(Event::Command(command)) = controller.next_event() else {
        panic!("complete")
    };
    assert_eq!((command.data.len(), command.sqe.cid()), (16 << 10, 7));
    // The R2T is spent.
    assert_eq!(
        refused(controller, h2c(ttag, 0, 512, LAST_PDU).bytes()),
        (1, 10)
    );

    let (mut controller, ttag) = with_r2t();
    feed(&mut controller, h2c(ttag, 0, 8192, 0)).unwrap();
    feed(&mut controller, h2c(ttag, 8192, 4096, 0)).unwrap();
    assert_eq!(
        refused(controller, h2c(ttag, 12_288, 8192, LAST_PDU).bytes()),
        (4, 0)
    );
}

#[test]
fn a_capsule_with_more_data_than_allowed_is_refused() {
    let pdu = CapsuleCmd {
        common: common(4, 0, 72, 72, 72 + 8193),
        sqe: Sqe::default(),
    };
    assert_eq!(refused(controller(), pdu.bytes()), (1, 4));
}

/// The status with which a controller refuses one command, with `data` bytes in its capsule.
fn command_refused(sqe: Sqe, data: u32) -> Status {
    let mut controller = controller();
    let common = match data {
        0 => common(4, 0, 72, 0, 72),
        len => common(4, 0, 72, 72, 72 + len),
    };
    controller
        .receive(CapsuleCmd { common, sqe }.bytes(), NOW)
        .expect("no rule is broken");
    controller
        .receive(&vec![1; data as usize], NOW)
        .expect("no rule is broken");
    match controller.next_event() {
        Some(Event::Refused { slot, status, .. }) => {
            controller.respond(slot, Cqe::new(0, 0, status));
            status
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_sgl_that_cannot_be_used_costs_the_command_only() {
    let mut sqe = write_sqe(1, 512);
    sqe.sgl.identifier = 0x40;
    assert_eq!(command_refused(sqe, 0), Status::SGL_TYPE_INVALID.dnr());
    sqe.sgl = SglDescriptor::in_capsule(512);
    assert_eq!(command_refused(sqe, 0), Status::SGL_LENGTH_INVALID.dnr());
    assert_eq!(command_refused(sqe, 256), Status::SGL_LENGTH_INVALID.dnr());
    sqe.sgl.address = 16.into();
    assert_eq!(command_refused(sqe, 512), Status::SGL_OFFSET_INVALID.dnr());
    sqe.sgl = SglDescriptor::transport(u32::MAX);
    assert_eq!(command_refused(sqe, 0), Status::INVALID_FIELD.dnr());
    // A read whose data would have to come in the command.
    let mut read = Sqe::new(2, 1);
    read.sgl = SglDescriptor::in_capsule(512);
    assert_eq!(command_refused(read, 512), Status::SGL_TYPE_INVALID.dnr());
    // An opcode with the reserved direction.
    assert_eq!(
        command_refused(Sqe::new(3, 1), 0),
        Status::INVALID_OPCODE.dnr()
    );
}

#[test]
fn a_capsule_longer_than_its_sgl_is_cut_to_it() {
    let mut controller = controller();
    let mut sqe = write_sqe(1, 512);
    sqe.sgl = SglDescriptor::in_capsule(512);
    let pdu = CapsuleCmd {
        common: common(4, 0, 72, 72, 72 + 1024),
        sqe,
    };
    controller.receive(pdu.bytes(), NOW).unwrap();
    controller.receive(&[5; 1024], NOW).unwrap();
    let Some(Event::Command(command)) = controller.next_event() else {
        panic!("complete")
    };
    assert_eq!(command.data.to_vec(), [5; 512]);
}

#[test]
fn more_data_than_the_sgl_describes_are_not_sent() {
    let mut controller = controller();
    let mut sqe = Sqe::new(2, 1);
    sqe.sgl = SglDescriptor::transport(512);
    let pdu = CapsuleCmd {
        common: common(4, 0, 72, 0, 72),
        sqe,
    };
    controller.receive(pdu.bytes(), NOW).unwrap();
    let Some(Event::Command(command)) = controller.next_event() else {
        panic!("complete")
    };
    let cqe = Cqe::new(0, 5, Status::SUCCESS);
    controller.respond_data(command.slot, IoBuf::zeroes(513), cqe);
    let mut out = Gather::new();
    controller.transmit(&mut out);
    let answer = CapsuleResp::from_prefix(&out.to_vec()).unwrap().cqe;
    assert_eq!(
        (answer.status(), answer.sqhd.get()),
        (Status::SGL_LENGTH_INVALID.dnr(), 5)
    );
}

#[test]
fn what_was_due_before_a_fatal_error_is_sent_before_the_termreq() {
    let mut fresh = Controller::new(Limits::default(), Nanos(0));
    let bytes = [ic_req().bytes(), &[0xff; 8]].concat();
    assert!(fresh.receive(&bytes, Nanos(0)).is_err());
    assert_eq!(kinds(&mut fresh), [0x01, 0x03], "ICResp, TermReq");

    // One command is answered, one is being executed, and one waits for its data.
    let (mut controller, _) = with_r2t();
    let capsule = |cid: u16| {
        let mut sqe = Sqe::new(0x00, 1);
        sqe.cid = cid.into();
        let common = common(4, 0, 72, 0, 72);
        CapsuleCmd { common, sqe }.bytes().to_vec()
    };
    let bytes = [capsule(7), capsule(8)].concat();
    controller.receive(&bytes, Nanos(0)).unwrap();
    let mut slots = Vec::new();
    while let Some(event) = controller.next_event() {
        match event {
            Event::Command(command) => slots.push(command.slot),
            other => panic!("{other:?}"),
        }
    }
    let cqe = Cqe::new(0, 0, Status::SUCCESS);
    controller.respond(slots[0], cqe);
    let write = CapsuleCmd {
        common: common(4, 0, 72, 0, 72),
        sqe: write_sqe(9, 4096),
    };
    controller.receive(write.bytes(), Nanos(0)).unwrap();
    assert!(controller.receive(&[0xff; 8], Nanos(0)).is_err());
    controller.respond(slots[1], cqe);
    assert_eq!(kinds(&mut controller), [0x05, 0x03], "CapsuleResp, TermReq");
}

/// The types of the PDUs that are to be sent.
fn kinds(controller: &mut Controller) -> Vec<u8> {
    let mut out = Gather::new();
    controller.transmit(&mut out);
    let bytes = out.to_vec();
    let (mut rest, mut kinds) = (&bytes[..], Vec::new());
    while let [kind, _, _, _, a, b, c, d, ..] = *rest {
        kinds.push(kind);
        let len = u32::from_le_bytes([a, b, c, d]);
        rest = &rest[len as usize..];
    }
    kinds
}

#[test]
fn a_host_that_terminates_is_believed() {
    let mut controller = controller();
    let term = TermReq {
        common: common(2, 0, 24, 0, 24 + 8),
        fes: 4.into(),
        fei: 0x1234.into(),
        ..TermReq::default()
    };
    controller.receive(term.bytes(), NOW).unwrap();
    assert!(controller.is_closed());
    let Some(Event::Closed(why)) = controller.next_event() else {
        panic!("closed")
    };
    assert_eq!(why, Closed::ByPeer(FatalStatus::DataOutOfRange, 0x1234));
}

#[test]
fn a_host_points_at_what_is_wrong_with_the_initialisation() {
    let fresh = || Host::new(HostConfig::default(), NOW);
    let check = |change: &dyn Fn(&mut IcResp)| {
        let mut response = ic_resp();
        change(&mut response);
        host_refused(fresh(), response.bytes())
    };
    assert_eq!(check(&|r| r.pfv = 7.into()), (6, 8));
    assert_eq!(check(&|r| r.cpda = 32), (1, 10));
    assert_eq!(check(&|r| r.dgst = 1), (1, 11));
    assert_eq!(check(&|r| r.maxh2cdata = 4095.into()), (1, 12));
    assert_eq!(host_refused(host(), ic_resp().bytes()), (2, 0));
    let early = CapsuleResp {
        common: common(5, 0, 24, 0, 24),
        cqe: Cqe::default(),
    };
    assert_eq!(host_refused(fresh(), early.bytes()), (2, 0));
    assert_eq!(host_refused(host(), ic_req().bytes()), (1, 0));
}

/// A host with a write of 16 KiB (CID 0, by R2T) and a read of 4 KiB (CID 1) in flight.
fn busy_host() -> Host {
    let mut host = host();
    let rw = Rw::new(0, 32);
    let write = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Write(rw),
    }
    .to_sqe();
    let data = IoBuf::from_slice(&[3; 16 << 10]);
    assert_eq!(
        host.submit(write, Payload::ToController(data))
            .expect("no rule is broken"),
        0
    );
    let read = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Read(Rw::new(0, 8)),
    }
    .to_sqe();
    assert_eq!(
        host.submit(read, Payload::ToHost(IoBuf::alloc(4096)))
            .expect("no rule is broken"),
        1
    );
    host.transmit(&mut Gather::new());
    host
}

fn r2t(cid: u16, ttag: u16, offset: u32, len: u32) -> R2t {
    R2t {
        common: common(9, 0, 24, 0, 24),
        cccid: cid.into(),
        ttag: ttag.into(),
        r2to: offset.into(),
        r2tl: len.into(),
        ..R2t::default()
    }
}

fn c2h(cid: u16, offset: u32, len: u32, flags: u8) -> DataPdu {
    let common = common(7, flags, 24, 24, 24 + len);
    DataPdu {
        common,
        cccid: cid.into(),
        datao: offset.into(),
        datal: len.into(),
        ..h2c(0, 0, 1, 0)
    }
}

#[test]
fn a_host_points_at_what_is_wrong_with_r2ts_and_data() {
    assert_eq!(host_refused(busy_host(), r2t(1, 5, 0, 512).bytes()), (1, 8));
    assert_eq!(host_refused(busy_host(), r2t(2, 5, 0, 512).bytes()), (1, 8));
    assert_eq!(
        host_refused(busy_host(), r2t(999, 5, 0, 512).bytes()),
        (1, 8)
    );
    assert_eq!(host_refused(busy_host(), r2t(0, 5, 0, 0).bytes()), (1, 16));
    assert_eq!(
        host_refused(busy_host(), r2t(0, 5, 512, 512).bytes()),
        (4, 0)
    );
    assert_eq!(
        host_refused(busy_host(), r2t(0, 5, 0, (16 << 10) + 4).bytes()),
        (4, 0)
    );
    assert_eq!(
        host_refused(busy_host(), r2t(0, 5, 0, u32::MAX).bytes()),
        (4, 0)
    );
    let three: Vec<u8> = (0..3)
        .flat_map(|n| r2t(0, n, u32::from(n) * 512, 512).bytes().to_vec())
        .collect();
    assert_eq!(host_refused(busy_host(), &three), (5, 0));

    assert_eq!(host_refused(busy_host(), c2h(0, 0, 512, 0).bytes()), (1, 8));
    assert_eq!(host_refused(busy_host(), c2h(7, 0, 512, 0).bytes()), (1, 8));
    assert_eq!(
        host_refused(busy_host(), c2h(1, 512, 512, 0).bytes()),
        (4, 0)
    );
    assert_eq!(
        host_refused(busy_host(), c2h(1, 0, 4097, 0).bytes()),
        (4, 0)
    );
    assert_eq!(
        host_refused(busy_host(), c2h(1, 0, 512, SUCCESS).bytes()),
        (1, 1)
    );
    let mut odd = c2h(1, 0, 512, 0);
    odd.datal = 508.into();
    assert_eq!(host_refused(busy_host(), odd.bytes()), (1, 16));
    let cqe = Cqe::new(77, 0, Status::SUCCESS);
    let stray = CapsuleResp {
        common: common(5, 0, 24, 0, 24),
        cqe,
    };
    assert_eq!(host_refused(busy_host(), stray.bytes()), (1, 20));
}

#[test]
fn a_host_answers_r2ts_for_parts_in_the_order_they_came() {
    let mut host = busy_host();
    let two = [r2t(0, 0x21, 0, 10_240), r2t(0, 0x22, 10_240, 6144)];
    host.receive(&[two[0].bytes(), two[1].bytes()].concat(), NOW)
        .unwrap();
    let mut out = Gather::new();
    host.transmit(&mut out);
    let sent = out.to_vec();
    let mut rest = sent.as_slice();
    let mut seen = Vec::new();
    while !rest.is_empty() {
        let pdu = DataPdu::from_prefix(rest).unwrap();
        let last = pdu.common.flags & LAST_PDU != 0;
        seen.push((pdu.ttag.get(), pdu.datao.get(), pdu.datal.get(), last));
        assert!(
            rest[24..][..pdu.datal.get() as usize]
                .iter()
                .all(|&byte| byte == 3)
        );
        rest = &rest[pdu.common.plen.get() as usize..];
    }
    // MAXH2CDATA is 8192.
    let wanted = [
        (0x21, 0, 8192, false),
        (0x21, 8192, 2048, true),
        (0x22, 10_240, 6144, true),
    ];
    assert_eq!(seen, wanted);
}

#[test]
fn a_write_answered_before_its_data_were_sent_sends_them_no_more() {
    let mut host = busy_host();
    host.receive(r2t(0, 1, 0, 4096).bytes(), NOW).unwrap();
    let cqe = Cqe::new(0, 0, Status::WRITE_FAULT);
    let response = CapsuleResp {
        common: common(5, 0, 24, 0, 24),
        cqe,
    };
    host.receive(response.bytes(), NOW).unwrap();
    let mut out = Gather::new();
    host.transmit(&mut out);
    assert!(out.is_empty());
    let Some(HostEvent::Completed(done)) = host.next_event() else {
        panic!("completed")
    };
    assert_eq!((done.cid, done.cqe.status()), (0, Status::WRITE_FAULT));
}

#[test]
fn a_write_does_not_succeed_before_all_its_data_were_asked_for_and_sent() {
    let success = CapsuleResp {
        common: common(5, 0, 24, 0, 24),
        cqe: Cqe::new(0, 0, Status::SUCCESS),
    };
    // None was asked for; a part was; all was, and none of it is on its way.
    for asked in [0, 4096, 16 << 10] {
        let mut bytes = Vec::new();
        if asked > 0 {
            bytes.extend_from_slice(r2t(0, 1, 0, asked).bytes());
        }
        bytes.extend_from_slice(success.bytes());
        assert_eq!(host_refused(busy_host(), &bytes), (2, 0), "{asked}");
    }
    let mut host = busy_host();
    host.receive(r2t(0, 1, 0, 16 << 10).bytes(), NOW).unwrap();
    host.transmit(&mut Gather::new());
    host.receive(success.bytes(), NOW).unwrap();
    assert!(matches!(host.next_event(), Some(HostEvent::Completed(done)) if done.cid == 0));
}

#[test]
fn a_read_that_got_less_than_it_asked_for_says_how_much() {
    let mut host = busy_host();
    host.receive(c2h(1, 0, 512, LAST_PDU | SUCCESS).bytes(), NOW)
        .unwrap();
    host.receive(&[8; 512], NOW).unwrap();
    let Some(HostEvent::Completed(done)) = host.next_event() else {
        panic!("completed")
    };
    assert_eq!((done.cid, done.data.to_vec()), (1, vec![8; 512]));
}

#[test]
fn a_controller_that_terminates_is_believed_and_commands_fail() {
    let mut host = busy_host();
    let term = TermReq {
        common: common(3, 0, 24, 0, 24),
        fes: 2.into(),
        ..TermReq::default()
    };
    host.receive(term.bytes(), NOW).unwrap();
    for _ in 0..2 {
        let Some(HostEvent::Completed(done)) = host.next_event() else {
            panic!("completed")
        };
        assert_eq!(done.cqe.status(), Status::HOST_PATHING_ERROR);
    }
    let Some(HostEvent::Closed(why)) = host.next_event() else {
        panic!("closed")
    };
    assert_eq!(why, Closed::ByPeer(FatalStatus::Sequence, 0));
}

#[test]
fn digests_the_controller_does_not_have_are_not_used() {
    let limits = Limits {
        digests: Digests {
            header: true,
            data: false,
        },
        ..Limits::default()
    };
    let mut controller = Controller::new(limits, NOW);
    let mut request = ic_req();
    request.dgst = 0xff;
    controller.receive(request.bytes(), NOW).unwrap();
    let mut out = Gather::new();
    controller.transmit(&mut out);
    assert_eq!(IcResp::from_prefix(&out.to_vec()).unwrap().dgst, 1);
}
