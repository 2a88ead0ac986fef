//! Discovery over real sockets: who is told of what, and when.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod support;

use api::storage::v1::NvmeSubsystemSpec;
use std::net::SocketAddr;
use support::host::{Queue, Session, Who};
use support::{HOST, NQN, Site, controller_name};
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::fabrics::InvalidParameter;
use wire::nvme::log::{DiscoveryEntry, parse_discovery};
use wire::nvme::nqn::DISCOVERY;
use wire::nvme::{CNTLID_DYNAMIC, Status, text};

fn page(session: &mut Session) -> (u64, Vec<DiscoveryEntry>) {
    let head = session.admin.log(0x70, 1024);
    let records = u64::from_le_bytes(head[8..16].try_into().unwrap()) as usize;
    parse_discovery(&session.admin.log(0x70, 1024 * (records + 1))).unwrap()
}

fn names(entries: &[DiscoveryEntry]) -> Vec<(String, String, String)> {
    let row = |entry: &DiscoveryEntry| {
        let [nqn, address] = [&entry.subnqn, &entry.traddr].map(|field| text::trimmed(field));
        (nqn, address, text::trimmed(&entry.trsvcid))
    };
    entries.iter().map(row).collect()
}

fn discover(address: SocketAddr, who: Who) -> Session {
    Session::connect(address, DISCOVERY, who).unwrap()
}

#[test]
fn each_listener_is_an_entry_and_private_subsystems_are_hidden_from_others() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let private = "nqn.2024-01.org.example:private";
    let spec = NvmeSubsystemSpec {
        nqn: private.into(),
        hostnqn: HOST.into(),
        ..NvmeSubsystemSpec::default()
    };
    site.subsystem_with("p", spec).unwrap();
    let first = site.controller("s/c");
    let second = site.controller("p/c");
    // The same socket serves a second subsystem.
    let mut shared = support::listen(first);
    shared.max_nsq = 1;
    site.controller_with("p/d", shared).unwrap();
    let mut own = discover(first, Who::default());
    let (_, entries) = page(&mut own);
    let port = |address: SocketAddr| address.port().to_string();
    let ip = "127.0.0.1".to_owned();
    let mut expected = vec![
        (private.to_owned(), ip.clone(), port(first)),
        (private.to_owned(), ip.clone(), port(second)),
        (NQN.to_owned(), ip, port(first)),
    ];
    let mut told = names(&entries);
    expected.sort();
    told.sort();
    assert_eq!(told, expected);
    for entry in &entries {
        assert_eq!((entry.trtype, entry.adrfam, entry.subtype), (3, 1, 2));
        assert_eq!(
            (entry.cntlid.get(), entry.asqsz.get()),
            (CNTLID_DYNAMIC, 128)
        );
    }
    let mut other = discover(first, Who::other());
    assert_eq!(page(&mut other).1.len(), 1);
}

#[test]
fn a_wildcard_listener_is_told_as_the_address_the_host_used() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let address = support::free_address("0.0.0.0");
    site.controller_with("s/c", support::listen(address))
        .unwrap();
    let via: SocketAddr = ([127, 0, 0, 1], address.port()).into();
    let (_, entries) = page(&mut discover(via, Who::default()));
    assert_eq!(names(&entries)[0].1, "127.0.0.1");
}

#[test]
fn a_persistent_discovery_controller_is_told_of_changes() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let address = site.controller("s/c");
    let who = Who {
        kato_ms: 30_000,
        ..Who::default()
    };
    let mut session = discover(address, who);
    session
        .admin
        .set_feature(0x0b, 0, EventMask::DISCOVERY_CHANGE.bits());
    let (before, _) = page(&mut session);
    let cid = session.admin.ask_event();
    site.subsystem("t", "nqn.2024-01.org.example:other");
    assert!(
        !session.admin.completes(cid),
        "nothing a host can use has changed"
    );
    site.controller("t/c");
    let done = session.admin.wait(cid);
    let event = AsyncEvent::from_dw0(done.cqe.dw0.get());
    assert_eq!(event, Some(AsyncEvent::DiscoveryChange));
    let (after, entries) = page(&mut session);
    assert!(after > before);
    assert_eq!(entries.len(), 2);
    let cid = session.admin.ask_event();
    site.delete(&controller_name("t/c")).unwrap();
    session.admin.wait(cid);
    assert_eq!(page(&mut session).1.len(), 1);
}

#[test]
fn a_discovery_controller_does_nothing_else() {
    let site = Site::default();
    site.subsystem("s", NQN);
    let address = site.controller("s/c");
    let mut session = discover(address, Who::default());
    let id = session.admin.identify_controller();
    assert_eq!((id.cntrltype, id.nn.get(), id.oncs.get()), (2, 0, 0));
    assert_eq!(text::trimmed(&id.subnqn), DISCOVERY);
    assert_eq!(
        session.admin.identify(2, 0),
        Err(Status::INVALID_FIELD.dnr())
    );
    assert_eq!(
        session.admin.log_at(2, 0, 512),
        Err(Status::INVALID_LOG_PAGE.dnr())
    );
    let Err(cqe) = Queue::connect(address, DISCOVERY, &Who::default(), 1, 1) else {
        panic!()
    };
    assert_eq!(cqe.status(), Status::CONNECT_INVALID_PARAMETERS.dnr());
    assert_eq!(cqe.dw0.get(), InvalidParameter::QUEUE_ID.dw0());
}
