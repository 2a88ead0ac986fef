//! Loads against a target in memory that is honest, and against ones that are not.

use crate::fake::{Fake, Fault, nqn};
use bench::host::{HostError, Options};
use bench::{Address, Load, Mismatch, MismatchKind, Order, Report, Responder, Shape};
use std::time::Duration;

const BLOCKS: usize = 512;

fn run(fake: &Fake, load: &Load) -> Result<Report, HostError> {
    let address = Address {
        socket: fake.address,
        subnqn: nqn(),
    };
    let options = Options {
        timeout: Duration::from_secs(20),
        ..Options::default()
    };
    load.run(&address, 1, &options, &mut |_| ())
}

fn verified(fault: Fault) -> Report {
    let fake = Fake::start(BLOCKS, 4096, 0, fault);
    let load = Load {
        depth: 8,
        read_percent: 50,
        verify: true,
        ios: Some(1000),
        ..Load::default()
    };
    run(&fake, &load).unwrap()
}

#[test]
fn a_counted_load_does_exactly_what_was_asked() {
    let fake = Fake::start(BLOCKS, 4096, 0, Fault::None);
    let load = Load {
        ios: Some(1001),
        connections: 3,
        threads: 2,
        depth: 4,
        ..Load::default()
    };
    let report = run(&fake, &load).unwrap();
    assert_eq!((report.read.ios, report.write.ios), (1001, 0));
    assert_eq!(report.total.bytes, 1001 * 4096);
    assert_eq!(fake.counts(), (1001, 0));
    assert!(report.is_good() && report.total.ios_per_second > 0.0);
    let latency = report.read.latency;
    assert!(
        latency.min_us > 0.0 && latency.p50_us <= latency.p99_us,
        "{latency:?}"
    );
    assert!(latency.p99_us <= latency.max_us, "{latency:?}");
}

#[test]
fn a_timed_load_ends_and_mixes() {
    let fake = Fake::start(BLOCKS, 512, 0, Fault::None);
    let load = Load {
        io_bytes: 512,
        read_percent: 70,
        time: Duration::from_millis(200),
        ramp: Duration::from_millis(50),
        ..Load::default()
    };
    let report = run(&fake, &load).unwrap();
    assert!((report.seconds - 0.2).abs() < 1e-6, "{}", report.seconds);
    let share = report.read.ios as f64 / report.total.ios as f64;
    assert!((0.6..0.8).contains(&share), "{share}");
}

#[test]
fn large_sequential_loads_visit_everything_once() {
    let fake = Fake::start(BLOCKS, 4096, 0, Fault::None);
    let load = Load {
        io_bytes: 128 << 10,
        order: Order::Sequential,
        read_percent: 0,
        depth: 4,
        ios: Some(16),
        ..Load::default()
    };
    let report = run(&fake, &load).unwrap();
    assert_eq!(report.write.bytes, BLOCKS as u64 * 4096);
}

#[test]
fn an_honest_target_passes_verification() {
    let report = verified(Fault::None);
    let found = report.verified.as_ref().unwrap();
    assert_eq!(found.mismatches, 0, "{:?}", found.first);
    // Everything is read back in the end, beside what the load itself read.
    assert!(found.blocks > BLOCKS as u64);
    assert!(report.is_good());
}

#[test]
fn verification_works_with_metadata_and_large_blocks() {
    let fake = Fake::start(BLOCKS, 512, 8, Fault::None);
    let load = Load {
        io_bytes: 2048,
        depth: 4,
        connections: 2,
        read_percent: 30,
        verify: true,
        ios: Some(500),
        ..Load::default()
    };
    assert!(run(&fake, &load).unwrap().is_good());
}

/// Stamps everything, writes everything once more in order, and checks.
fn written_twice(fault: Fault) -> Vec<Mismatch> {
    let fake = Fake::start(BLOCKS, 4096, 0, fault);
    let load = Load {
        order: Order::Sequential,
        read_percent: 0,
        depth: 8,
        verify: true,
        ios: Some(BLOCKS as u64),
        ..Load::default()
    };
    let report = run(&fake, &load).unwrap();
    assert!(!report.is_good());
    report.verified.unwrap().first
}

#[test]
fn a_lost_write_is_found_stale() {
    let found = written_twice(Fault::Lose(600));
    let kind = MismatchKind::Stale { found: 1 };
    assert_eq!(
        found,
        [Mismatch {
            lba: 600 - 1 - BLOCKS as u64,
            expected: 2,
            kind
        }]
    );
}

#[test]
fn a_misplaced_write_is_found_in_both_places() {
    // The last write goes to the first block instead.
    let last = BLOCKS as u64 - 1;
    let found = written_twice(Fault::Misplace(2 * BLOCKS as u64));
    let there = MismatchKind::Misplaced { found: last };
    let here = MismatchKind::Stale { found: 1 };
    assert!(
        found.contains(&Mismatch {
            lba: 0,
            expected: 2,
            kind: there
        }),
        "{found:?}"
    );
    assert!(
        found.contains(&Mismatch {
            lba: last,
            expected: 2,
            kind: here
        }),
        "{found:?}"
    );
}

#[test]
fn a_torn_write_is_found_torn() {
    let found = written_twice(Fault::Tear(600));
    let kind = MismatchKind::Torn { offset: 2048 };
    assert_eq!(
        found,
        [Mismatch {
            lba: 600 - 1 - BLOCKS as u64,
            expected: 2,
            kind
        }]
    );
}

#[test]
fn a_load_checks_what_it_reads() {
    let fake = Fake::start(BLOCKS, 4096, 0, Fault::Lose(10));
    let load = Load {
        depth: 8,
        verify: true,
        ios: Some(2000),
        ..Load::default()
    };
    let found = run(&fake, &load).unwrap().verified.unwrap();
    // Reads alone meet the block more than once.
    assert!(found.mismatches > 1, "{found:?}");
    assert!(
        found
            .first
            .iter()
            .all(|m| m.lba == 9 && m.kind == MismatchKind::Zeroes)
    );
}

#[test]
fn failed_ios_are_counted_by_their_status() {
    let fake = Fake::start(BLOCKS, 4096, 0, Fault::Fail(5));
    let report = run(
        &fake,
        &Load {
            ios: Some(100),
            ..Load::default()
        },
    )
    .unwrap();
    assert!(!report.is_good());
    assert_eq!(report.read.ios, 99);
    let (status, count) = report.errors.first_key_value().unwrap();
    assert!(status.contains("Internal Error") && *count == 1, "{status}");
    assert!(report.text().contains("failed 1 times: Internal Error"));
}

#[test]
fn a_connection_that_ends_ends_the_load() {
    let fake = Fake::start(BLOCKS, 4096, 0, Fault::Hang(50));
    let load = Load {
        connections: 2,
        threads: 2,
        verify: true,
        depth: 4,
        ..Load::default()
    };
    let error = run(&fake, &load).unwrap_err();
    assert!(
        matches!(error, HostError::Closed { .. } | HostError::Io { .. }),
        "{error}"
    );
}

#[test]
fn a_load_that_makes_no_sense_is_refused() {
    let fake = Fake::start(BLOCKS, 4096, 0, Fault::None);
    let wrong = |load: Load| {
        let error = run(&fake, &load).unwrap_err();
        assert!(matches!(error, HostError::Invalid(_)), "{error}");
        error.to_string()
    };
    assert!(
        wrong(Load {
            io_bytes: 512,
            ..Load::default()
        })
        .contains("whole blocks")
    );
    assert!(
        wrong(Load {
            io_bytes: 1 << 20,
            ..Load::default()
        })
        .contains("262144")
    );
    assert!(
        wrong(Load {
            depth: 0,
            ..Load::default()
        })
        .contains("at least 1")
    );
    assert!(
        wrong(Load {
            read_percent: 101,
            ..Load::default()
        })
        .contains("100")
    );
    let narrow = Load {
        range_bytes: Some(4096),
        verify: true,
        ..Load::default()
    };
    assert!(wrong(narrow).contains("too few"));
}

#[test]
fn the_json_form_has_its_fields() {
    let report = verified(Fault::None);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], "opi-bench/1");
    assert_eq!(json["load"]["depth"], 8);
    assert_eq!(json["verified"]["mismatches"], 0);
    for path in [
        "/read/latency/p99_us",
        "/total/ios_per_second",
        "/cpu/load_us_per_io",
    ] {
        assert!(
            json.pointer(path).unwrap().as_f64().unwrap() > 0.0,
            "{path}"
        );
    }
}

#[test]
fn the_minimal_responder_ends_when_told() {
    let shape = Shape {
        io_bytes: 4096,
        write: false,
        memory_bytes: 1 << 20,
    };
    let responder = Responder::start(shape, 1, None).unwrap();
    assert_ne!(responder.address().port(), 0);
    responder.stop().unwrap();
}
