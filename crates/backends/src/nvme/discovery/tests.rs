//! Visits to a scripted controller that is honest or not, and tours over referrals.

use super::Tour;
use super::actor::{DiscoveryActor, Outcome};
use super::exchange::{Exchange, Page};
use super::terms::place;
use crate::nvme::association::Names;
use crate::nvme::socket::Place;
use api::error::Code;
use api::ext::v1::DiscoverNvmeSubsystemsRequest;
use api::storage::v1::{NvmeAddressFamily, NvmeTransportType};
use blk::{Gather, IoBuf, Nanos};
use engine::{Options, Reactors};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use wire::nvme::cmds::GetLog;
use wire::nvme::identify::{ControllerType, IdentifyController};
use wire::nvme::log::{AddressFamily, DiscoveryEntry, DiscoveryRecord, SubsystemType};
use wire::nvme::log::{discovery, window};
use wire::nvme::property::ControllerStatus;
use wire::nvme::{AdminCmd, Cqe, FabricsCmd, Nqn, Status};
use wire::nvme_tcp::{Command, Controller, Event, Limits};

const NOW: Nanos = Nanos::from_secs(1);

fn names() -> Names {
    Names {
        subnqn: Nqn::discovery(),
        hostnqn: Nqn::from_uuid(&[1; 16]),
        hostid: [1; 16],
    }
}

fn entry(subtype: SubsystemType, number: usize) -> DiscoveryEntry {
    let nqn = Nqn::parse(&format!("nqn.2026-01.org.example:s{number}")).unwrap();
    let address = format!("192.0.2.{number}");
    DiscoveryEntry::tcp(subtype, &nqn, AddressFamily::Ipv4, &address, 4420)
}

fn entries(count: usize) -> Vec<DiscoveryEntry> {
    (0..count).map(|n| entry(SubsystemType::Nvm, n)).collect()
}

fn records(entries: &[DiscoveryEntry]) -> Vec<DiscoveryRecord> {
    entries.iter().map(|e| e.record().unwrap()).collect()
}

/// A discovery controller: its identity, and its page at each Get Log Page.
struct Scripted<F> {
    identity: IdentifyController,
    /// How often CSTS is read before it is what it will be.
    polls: u32,
    status: ControllerStatus,
    /// Bytes that Get Log Page does not send.
    withheld: usize,
    refuse_connect: bool,
    /// The page as the n-th Get Log Page finds it.
    page: F,
    logs: Vec<GetLog>,
}

impl<F: FnMut(usize) -> Vec<u8>> Scripted<F> {
    fn new(page: F) -> Self {
        let identity = IdentifyController {
            cntrltype: ControllerType::Discovery as u8,
            ..IdentifyController::default()
        };
        Self {
            identity,
            polls: 3,
            status: ControllerStatus::READY,
            withheld: 0,
            refuse_connect: false,
            page,
            logs: Vec::new(),
        }
    }

    fn answer(&mut self, command: &Command) -> (Status, u32, Vec<u8>) {
        let good = |value: u32, data| (Status::SUCCESS, value, data);
        if FabricsCmd::is(&command.sqe) {
            return match FabricsCmd::parse(&command.sqe).unwrap() {
                FabricsCmd::Connect(connect) => {
                    assert_eq!((connect.qid, connect.kato_ms), (0, 0));
                    match self.refuse_connect {
                        true => (Status::CONNECT_INVALID_PARAMETERS, 0, Vec::new()),
                        false => good(7, Vec::new()),
                    }
                }
                FabricsCmd::PropertyGet { .. } if self.polls > 0 => {
                    self.polls -= 1;
                    good(0, Vec::new())
                }
                FabricsCmd::PropertyGet { .. } => good(self.status.bits(), Vec::new()),
                _ => good(0, Vec::new()),
            };
        }
        match AdminCmd::parse(&command.sqe).unwrap() {
            AdminCmd::Identify(_) => good(0, self.identity.bytes().to_vec()),
            AdminCmd::GetLogPage(log) => {
                let page = (self.page)(self.logs.len());
                self.logs.push(log);
                match window(&page, log.offset, log.len as usize) {
                    Ok(mut part) => {
                        part.truncate(part.len() - self.withheld);
                        good(0, part)
                    }
                    Err(status) => (status, 0, Vec::new()),
                }
            }
            other => panic!("{other:?} was not to be expected"),
        }
    }

    /// A whole visit.
    fn visit(&mut self) -> Result<Page, String> {
        let mut exchange = Exchange::new(names(), NOW);
        let mut controller = Controller::new(Limits::default(), NOW);
        let mut now = NOW;
        for _ in 0..100_000 {
            if let Some(page) = exchange.work(now)? {
                return Ok(page);
            }
            let out = exchange.link().outgoing();
            let (bytes, len) = (out.to_vec(), out.len());
            out.advance(len);
            controller.receive(&bytes, now).unwrap();
            while let Some(event) = controller.next_event() {
                let Event::Command(command) = event else {
                    continue;
                };
                let (status, value, data) = self.answer(&command);
                let cqe = Cqe::new(0, 0, status).with_dw0(value);
                controller.respond_data(command.slot, IoBuf::from_slice(&data), cqe);
            }
            let mut back = Gather::new();
            controller.transmit(&mut back);
            if exchange.link().receive(&back.to_vec(), now).is_err() {
                return exchange.work(now).map(Option::unwrap_or_default);
            }
            if back.is_empty()
                && len == 0
                && let Some(at) = exchange.deadline()
            {
                now = at;
            }
        }
        panic!("the visit has no end");
    }
}

/// A controller whose page stays as it is.
fn steady(page: Vec<u8>) -> Scripted<impl FnMut(usize) -> Vec<u8>> {
    Scripted::new(move |_| page.clone())
}

#[track_caller]
fn refused<F: FnMut(usize) -> Vec<u8>>(mut controller: Scripted<F>, hint: &str) {
    let why = controller.visit().unwrap_err();
    assert!(why.contains(hint), "{why}");
}

#[test]
fn a_page_is_read_in_pieces_that_the_controller_allows() {
    for (mdts, pieces) in [(0, 3), (1, 19), (3, 5)] {
        let all = entries(150);
        let mut controller = steady(discovery(9, &all));
        controller.identity.mdts = mdts;
        let page = controller.visit().unwrap();
        assert_eq!((page.generation, &page.entries), (9, &records(&all)));
        // The head comes first, and last.
        assert_eq!(controller.logs.len(), 2 + pieces, "mdts {mdts}");
        let most = controller.identity.data_max().unwrap_or(usize::MAX) as u64;
        assert!(controller.logs.iter().all(|log| log.len <= most));
    }
    assert_eq!(steady(discovery(3, &[])).visit().unwrap().generation, 3);
}

#[test]
fn a_page_that_changes_while_it_is_read_is_read_anew() {
    // With 100 entries: head, two pieces, head.
    let (old, grown, shrunk) = (entries(100), entries(140), entries(10));
    for (changed_at, new) in [
        (1, &grown),
        (2, &grown),
        (3, &grown),
        (1, &shrunk),
        (2, &shrunk),
    ] {
        let mut controller = Scripted::new(|log| match log < changed_at {
            true => discovery(1, &old),
            false => discovery(2, new),
        });
        let page = controller.visit().unwrap();
        assert_eq!(page.generation, 2, "changed at {changed_at}");
        assert_eq!(page.entries, records(new), "changed at {changed_at}");
    }
    let mut always = Scripted::new(|log| discovery(log as u64, &entries(2)));
    let why = always.visit().unwrap_err();
    assert!(why.contains("changed 10 times"), "{why}");
}

#[test]
fn a_page_that_lies_is_refused_with_the_reason() {
    let good = discovery(1, &entries(3));
    let with = |at: usize, bytes: &[u8]| {
        let mut page = good.clone();
        page[at..at + bytes.len()].copy_from_slice(bytes);
        steady(page)
    };
    refused(with(8, &u64::MAX.to_le_bytes()), "4096 at most");
    refused(with(8, &4097_u64.to_le_bytes()), "4096 at most");
    // More entries than there are: the rest is zeroes, or beyond the page.
    refused(with(8, &4_u64.to_le_bytes()), "entry 3: SUBNQN");
    refused(with(8, &200_u64.to_le_bytes()), "entry 3: SUBNQN");
    refused(with(16, &[1, 0]), "RECFMT");
    refused(with(1024 + 256, b"no name"), "entry 0: SUBNQN");
    refused(with(2048 + 512, b"\x1b[2J"), "entry 1: TRADDR");
    let mut short = steady(good.clone());
    short.withheld = 4;
    refused(short, "discovery log page");
}

#[test]
fn what_is_no_discovery_controller_is_refused_with_the_reason() {
    let controller = || steady(discovery(1, &entries(1)));
    let mut io = controller();
    io.identity.cntrltype = ControllerType::Io as u8;
    refused(io, "no discovery controller");
    let mut closed = controller();
    closed.refuse_connect = true;
    refused(closed, "Connect was refused: Connect Invalid Parameters");
    let mut broken = controller();
    broken.status = ControllerStatus::FATAL;
    refused(broken, "CSTS.CFS");
    // Before NVMe 1.4 a controller did not say what it is.
    let mut old = controller();
    old.identity.cntrltype = 0;
    assert_eq!(old.visit().unwrap().entries.len(), 1);
}

fn request(traddr: &str) -> DiscoverNvmeSubsystemsRequest {
    DiscoverNvmeSubsystemsRequest {
        trtype: NvmeTransportType::Tcp.into(),
        traddr: traddr.to_owned(),
        follow_referrals: true,
        ..DiscoverNvmeSubsystemsRequest::default()
    }
}

fn tour(request: DiscoverNvmeSubsystemsRequest) -> Tour {
    Tour::new(place(&request).unwrap(), request)
}

/// Takes the next controller of a tour, which has these entries.
fn next(tour: &mut Tour, entries: &[DiscoveryEntry]) -> Option<Place> {
    let stop = tour.left.pop_front()?;
    let place = stop.place.clone();
    let page = Page {
        generation: 1,
        entries: records(entries),
    };
    tour.visited(stop, Ok(page)).unwrap();
    Some(place)
}

#[test]
fn referrals_are_followed_once_each_and_never_in_a_circle() {
    use SubsystemType::{Nvm, Referral};
    let mut tour = tour(request("192.0.2.0"));
    tour.places[0].port = 4420;
    // 0 refers to 1 twice and to itself; 1 refers back, and to 2, which cannot be reached.
    let first = [0, 1, 1].map(|n| entry(Referral, n));
    let second = [entry(Nvm, 7), entry(Referral, 0), entry(Referral, 2)];
    assert_eq!(next(&mut tour, &first).unwrap().host, "192.0.2.0");
    let place = next(&mut tour, &second).unwrap();
    assert_eq!((&*place.host, place.port), ("192.0.2.1", 4420));
    let stop = tour.left.pop_front().unwrap();
    tour.visited(stop, Err("it is silent".to_owned())).unwrap();
    assert!(tour.left.is_empty());
    let failed = &tour.response.failed_referrals;
    assert_eq!(failed.len(), 1);
    assert_eq!(
        (&*failed[0].traddr, &*failed[0].reason),
        ("192.0.2.2", "it is silent")
    );
    let found: Vec<&str> = tour.response.entries.iter().map(|e| &*e.traddr).collect();
    assert_eq!(found, ["192.0.2.0", "192.0.2.1", "192.0.2.7", "192.0.2.2"]);
}

#[test]
fn referrals_without_end_are_followed_to_a_limit() {
    let mut tour = tour(request("198.51.100.1"));
    let mut asked = 0;
    while let Some(_place) = next(&mut tour, &[entry(SubsystemType::Referral, asked)]) {
        asked += 1;
    }
    assert_eq!(asked, super::CONTROLLERS_MAX);
    assert_eq!(tour.response.failed_referrals.len(), 1);

    let mut alone = Tour::new(place(&request("a")).unwrap(), {
        let mut request = request("a");
        request.follow_referrals = false;
        request
    });
    next(&mut alone, &[entry(SubsystemType::Referral, 1)]);
    assert!(alone.left.is_empty() && alone.response.entries.len() == 1);
}

#[test]
fn the_first_controller_has_to_answer() {
    let mut tour = tour(request("192.0.2.9"));
    let stop = tour.left.pop_front().unwrap();
    let error = tour
        .visited(stop, Err("it is silent".to_owned()))
        .unwrap_err();
    assert_eq!(error.code, Code::Unavailable);
    assert!(
        error.message.contains("192.0.2.9 port 8009: it is silent"),
        "{error}"
    );
}

#[test]
fn a_question_that_makes_no_sense_is_refused_with_the_field() {
    let good = request("192.0.2.1");
    let refused = |spoil: &dyn Fn(&mut DiscoverNvmeSubsystemsRequest), field: &str| {
        let mut request = good.clone();
        spoil(&mut request);
        let error = place(&request).unwrap_err();
        assert_eq!(error.field.as_deref(), Some(field), "{error}");
    };
    refused(&|r| r.trtype = NvmeTransportType::Rdma.into(), "trtype");
    refused(&|r| r.traddr.clear(), "traddr");
    refused(&|r| r.traddr = "x".repeat(254), "traddr");
    refused(&|r| r.trsvcid = 65_536, "trsvcid");
    refused(&|r| r.trsvcid = -1, "trsvcid");
    refused(&|r| r.adrfam = NvmeAddressFamily::Ipv6.into(), "adrfam");
    refused(&|r| r.adrfam = NvmeAddressFamily::Ib.into(), "adrfam");
    refused(&|r| r.source_traddr = "::1".to_owned(), "source_traddr");
    refused(&|r| r.source_traddr = "here".to_owned(), "source_traddr");
    let six = place(&request("2001:db8::1")).unwrap();
    assert_eq!((six.ipv6, six.port), (true, 8009));
}

/// Visits a real address with little patience.
fn visit(port: u16) -> String {
    let reactors = Reactors::start(&Options::default()).unwrap();
    let mut place = place(&request("127.0.0.1")).unwrap();
    place.port = port;
    let outcome = Arc::new(Outcome::default());
    let of_actor = outcome.clone();
    let until = engine::now() + Nanos::from_millis(100);
    reactors
        .least_loaded()
        .spawn(move || Box::new(DiscoveryActor::new(place, names(), until, of_actor)));
    crate::testing::block_on(outcome.get()).unwrap_err()
}

#[test]
fn who_is_silent_or_away_is_given_up_in_time() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let why = visit(port);
    assert_eq!(why, "no answer to ICReq in time");
    drop(listener);
    let why = visit(port);
    assert!(why.contains("refused"), "{why}");
}
