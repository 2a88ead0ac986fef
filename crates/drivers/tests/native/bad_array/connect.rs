//! Lies while a path is made.

use super::array::{Asked, At, BadArray, Lie, group, stranger};
use super::pdu::{ic_resp, pdu, r2t, success};
use super::{Host, Job, terminated};
use wire::nvme::Status;
use wire::nvme::log::ana;
use wire::nvme_tcp::PduType;

/// A lie, what the path says of it, and the FES of the TermReq that the array gets.
type Case = (&'static str, At, Lie, &'static str, Option<u16>);

/// ICResp with one byte changed.
fn ic_resp_with(at: usize, byte: u8) -> Vec<u8> {
    let mut bytes = ic_resp(0);
    bytes[at] = byte;
    bytes
}

/// Has each array lie, looks what comes of it, and has it behave.
fn check(cases: &[Case]) {
    let host = Host::new();
    let honest = BadArray::start();
    let other = host.connect("honest", false, &[&honest]);
    let witness = other.serves("n1");
    for (number, (name, at, lie, hint, fes)) in cases.iter().enumerate() {
        let array = BadArray::start();
        array.lie(*at, *lie);
        let remote = host.connect(&format!("bad{number}"), false, &[&array]);
        remote.says(hint);
        assert!(array.told() > 0, "{name}: the lie was told");
        if let Some(fes) = fes {
            terminated(name, &array, *fes);
        }
        array.behave();
        Job::reads(&remote.serves("n1")).finish_reads();
        remote.recovers();
        remote.delete();
        Job::reads(&witness).finish_reads();
    }
    assert_eq!(other.trouble(), None);
    other.delete();
}

/// Lies told while a connection is initialised.
const INIT_LIES: &[Case] = &[
    (
        "PFV",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(8, 1)),
        "PFV is not 0",
        Some(6),
    ),
    (
        "CPDA",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(10, 32)),
        "CPDA",
        Some(1),
    ),
    (
        "DGST",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(11, 3)),
        "DGST",
        Some(1),
    ),
    (
        "MAXH2CDATA",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(13, 0)),
        "MAXH2CDATA",
        Some(1),
    ),
    (
        "HLEN",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(2, 24)),
        "HLEN",
        Some(1),
    ),
    (
        "PLEN",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(4, 129)),
        "PLEN must be 128",
        Some(1),
    ),
    (
        "type",
        At::Init,
        Lie::Bytes(stranger),
        "type of PDU",
        Some(1),
    ),
    (
        "ICReq back",
        At::Init,
        Lie::Bytes(|_| ic_resp_with(0, 0)),
        "type of PDU",
        Some(1),
    ),
    (
        "early",
        At::Init,
        Lie::Bytes(|_| success(0)),
        "not initialised",
        Some(2),
    ),
    (
        "twice",
        At::Init,
        Lie::Bytes(|_| [ic_resp(0), ic_resp(0)].concat()),
        "initialised already",
        Some(2),
    ),
    (
        "TermReq",
        At::Init,
        Lie::Bytes(term_req),
        "the array ended the connection",
        None,
    ),
    (
        "cut",
        At::Init,
        Lie::Cut,
        "the array closed the connection",
        None,
    ),
    (
        "I/O queue",
        At::QueueInit,
        Lie::Bytes(|_| ic_resp_with(8, 1)),
        "PFV is not 0",
        Some(6),
    ),
];

#[test]
fn a_connection_that_is_initialised_wrongly_is_terminated() {
    check(INIT_LIES);
}

/// C2HTermReq about byte 8 of a header.
fn term_req(_: &Asked) -> Vec<u8> {
    pdu(PduType::C2hTermReq, 0, &[1, 0, 8, 0, 0, 0], &[])
}

#[test]
fn a_refused_connect_says_with_which_status() {
    let cases = [
        (
            Status::CONNECT_INVALID_PARAMETERS.dnr(),
            "Connect Invalid Parameters",
        ),
        (Status::CONNECT_INVALID_HOST.dnr(), "Connect Invalid Host"),
        (
            Status::CONNECT_RESTART_DISCOVERY,
            "Connect Restart Discovery",
        ),
        (Status::CONTROLLER_BUSY, "Controller Busy"),
        (Status::INCOMPATIBLE_FORMAT, "Incompatible Format"),
        (Status::AUTHENTICATION_REQUIRED, "Authentication Required"),
        (Status::INTERNAL_ERROR, "Internal Error"),
        (Status::new(7, 0xc1), "7h/c1h"),
    ];
    let mut all: Vec<Case> = Vec::new();
    for (status, hint) in cases {
        all.push((hint, At::Connect, Lie::Status(status), hint, None));
    }
    let busy = Lie::Status(Status::CONTROLLER_BUSY);
    all.push(("I/O queue", At::QueueConnect, busy, "Controller Busy", None));
    check(&all);
}

/// Lies of a controller about itself.
const CONTROLLER_LIES: &[Case] = &[
    (
        "CFS",
        At::ControllerStatus,
        Lie::Result(2),
        "CSTS.CFS",
        None,
    ),
    (
        "all ones",
        At::ControllerStatus,
        Lie::Result(u64::MAX),
        "CSTS.CFS",
        None,
    ),
    ("CAP", At::Capabilities, Lie::Result(0), "CAP.MQES", None),
    (
        "CNTLID",
        At::Connect,
        Lie::Result(0xfff0),
        "controller ID",
        None,
    ),
    (
        "another",
        At::Connect,
        Lie::Result(8),
        "controller ID",
        None,
    ),
    (
        "ATR",
        At::Connect,
        Lie::Result(0x2_0007),
        "authentication",
        None,
    ),
    (
        "short",
        At::Controller,
        Lie::Data(|page| page.truncate(4095)),
        "cut short",
        None,
    ),
    (
        "nothing",
        At::Controller,
        Lie::Data(Vec::clear),
        "cut short",
        None,
    ),
    (
        "NQN",
        At::Controller,
        Lie::Data(|page| page[770] ^= 1),
        "the array says it is",
        None,
    ),
    (
        "type",
        At::Controller,
        Lie::Data(|page| page[111] = 2),
        "no controller for I/O",
        None,
    ),
    (
        "status",
        At::Queues,
        Lie::Status(Status::INTERNAL_ERROR),
        "Number of Queues was refused: Internal Error",
        None,
    ),
];

#[test]
fn a_controller_that_talks_nonsense_of_itself_is_not_used() {
    check(CONTROLLER_LIES);
}

#[test]
fn what_is_no_answer_to_an_admin_command_is_terminated() {
    let bytes = Lie::Bytes;
    check(&[
        (
            "unknown CID",
            At::Controller,
            bytes(|_| success(0x4000)),
            "CID names no",
            Some(1),
        ),
        (
            "free CID",
            At::Controller,
            bytes(|a| success(a.cid + 1)),
            "CID names no",
            Some(1),
        ),
        (
            "R2T for a read",
            At::Controller,
            bytes(|a| r2t(a.cid, 0, 8)),
            "CCCID names no",
            Some(1),
        ),
        (
            "cut",
            At::Controller,
            Lie::Cut,
            "the array closed the connection",
            None,
        ),
        (
            "no data",
            At::Controller,
            bytes(|a| success(a.cid)),
            "cut short",
            None,
        ),
    ]);
}

/// Lists and log pages that cannot be.
const PAGE_LIES: &[Case] = &[
    (
        "twice",
        At::List,
        Lie::Data(|page| page[4] = 1),
        "names 1 after 1",
        None,
    ),
    (
        "descending",
        At::List,
        Lie::Data(|page| page[0] = 9),
        "names 2 after 9",
        None,
    ),
    (
        "all",
        At::List,
        Lie::Data(|page| page[4..8].fill(0xff)),
        "names 4294967295",
        None,
    ),
    (
        "list",
        At::List,
        Lie::Data(|page| page.truncate(4)),
        "Active Namespaces: the data are",
        None,
    ),
    (
        "data",
        At::Namespace,
        Lie::Data(|page| page.truncate(100)),
        "Namespace: the data are",
        None,
    ),
    (
        "ids",
        At::Descriptors,
        Lie::Data(|page| page.truncate(40)),
        "Descriptors: the data are",
        None,
    ),
    (
        "NIDL",
        At::Descriptors,
        Lie::Data(|page| page[1] = 15),
        "identifiers of namespace 1",
        None,
    ),
    (
        "later",
        At::Namespace,
        Lie::Status(Status::TRANSIENT_TRANSPORT),
        "Identify Namespace was refused: Transient Transport Error",
        None,
    ),
    (
        "garbage",
        At::Ana,
        Lie::Data(|page| page.fill(0xff)),
        "the ANA log page",
        None,
    ),
    (
        "too many",
        At::Ana,
        Lie::Data(|page| page[8] = 200),
        "the ANA log page",
        None,
    ),
    (
        "NSIDs",
        At::Ana,
        Lie::Data(|page| page[20] = 200),
        "the ANA log page",
        None,
    ),
    (
        "state",
        At::Ana,
        Lie::Data(|page| page[32] = 7),
        "ANA state",
        None,
    ),
    (
        "empty",
        At::Ana,
        Lie::Data(Vec::clear),
        "the ANA log page",
        None,
    ),
    (
        "group twice",
        At::Ana,
        Lie::Data(|page| page[48] = 1),
        "ANA group 1 twice",
        None,
    ),
];

#[test]
fn lists_and_log_pages_that_cannot_be_are_refused_by_name() {
    check(PAGE_LIES);
}

#[test]
fn ana_groups_in_any_order_are_found() {
    let host = Host::new();
    let array = BadArray::start();
    let backwards = Lie::Data(|page| {
        let all = ana(1, &[group(2), group(1)], true);
        page[..all.len()].copy_from_slice(&all);
    });
    array.lie(At::Ana, backwards);
    let remote = host.connect("rc", false, &[&array]);
    Job::reads(&remote.serves("n1")).finish_reads();
    remote.delete();
}

/// Those that only the time shows run side by side.
#[test]
fn silence_is_noticed_in_time() {
    let cases: [(&str, At, Lie, &str); 6] = [
        (
            "init",
            At::Init,
            Lie::Silence,
            "does not initialise the connection",
        ),
        (
            "half-init",
            At::Init,
            Lie::Half,
            "does not initialise the connection",
        ),
        (
            "ready",
            At::ControllerStatus,
            Lie::Result(0),
            "does not become ready",
        ),
        ("half", At::Controller, Lie::Half, "no answer to keep-alive"),
        (
            "queue",
            At::QueueInit,
            Lie::Silence,
            "does not initialise the connection",
        ),
        (
            "connect",
            At::QueueConnect,
            Lie::Half,
            "an I/O queue in time",
        ),
    ];
    let host = Host::new();
    std::thread::scope(|scope| {
        for (name, at, lie, hint) in cases {
            let host = &host;
            scope.spawn(move || {
                let array = BadArray::start();
                array.lie(at, lie);
                let remote = host.connect(name, false, &[&array]);
                remote.says(hint);
                array.behave();
                Job::reads(&remote.serves("n1")).finish_reads();
                remote.delete();
            });
        }
    });
}
