//! The blocking host against a target in memory.

use crate::fake::{Fake, Fault, nqn};
use bench::host::{HostError, Options, Session};
use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;
use wire::nvme::Status;
use wire::nvme_tcp::Digests;

fn connect(fake: &Fake, options: Options) -> Session {
    Session::connect(fake.address, &nqn(), options).unwrap()
}

#[test]
fn what_is_written_is_read_with_every_digest() {
    for (header, data) in [(false, false), (true, false), (false, true), (true, true)] {
        let fake = Fake::start(2048, 4096, 0, Fault::None);
        let digests = Digests { header, data };
        let mut session = connect(
            &fake,
            Options {
                digests,
                queues: 2,
                ..Options::default()
            },
        );
        assert_eq!(session.namespaces().unwrap(), [1]);
        assert_eq!(session.cntlid(), 7);
        let ns = session.namespace(1).unwrap();
        assert_eq!(
            (ns.blocks, ns.block_bytes, ns.metadata_bytes),
            (2048, 4096, 0)
        );
        // 1 MiB is four commands of what this controller takes at once, and needs R2Ts.
        let bytes: Vec<u8> = (0..1 << 20).map(|i: u32| (i / 7) as u8).collect();
        session.write(&ns, 100, &bytes).unwrap();
        session.flush(&ns).unwrap();
        assert!(session.read(&ns, 100, 256).unwrap() == bytes);
        session.write_zeroes(&ns, 100, 1).unwrap();
        assert_eq!(session.read(&ns, 100, 1).unwrap(), [0; 4096]);
        session.close().unwrap();
    }
}

#[test]
fn blocks_with_metadata_travel_whole() {
    let fake = Fake::start(64, 512, 8, Fault::None);
    let mut session = connect(&fake, Options::default());
    let ns = session.namespace(1).unwrap();
    assert_eq!(
        (ns.block_bytes, ns.metadata_bytes, ns.stride()),
        (512, 8, 520)
    );
    let bytes: Vec<u8> = (0..520 * 3).map(|i| (i % 251) as u8).collect();
    session.write(&ns, 5, &bytes).unwrap();
    assert_eq!(session.read(&ns, 5, 3).unwrap(), bytes);
    let error = session.write(&ns, 5, &[0; 512]).unwrap_err();
    assert!(error.to_string().contains("520"), "{error}");
}

#[test]
fn a_refusal_carries_its_status() {
    let fake = Fake::start(64, 512, 0, Fault::None);
    let mut session = connect(&fake, Options::default());
    let ns = session.namespace(1).unwrap();
    let error = session.read(&ns, 64, 1).unwrap_err();
    assert!(
        error.status().unwrap().is(Status::LBA_OUT_OF_RANGE),
        "{error}"
    );
    // The session goes on.
    assert!(session.read(&ns, 63, 1).is_ok());
    let error = session.namespace(2).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[test]
fn more_than_the_controller_grants_is_refused_with_its_limit() {
    let fake = Fake::start(64, 512, 0, Fault::None);
    let many = Options {
        queues: 5,
        ..Options::default()
    };
    let error = Session::connect(fake.address, &nqn(), many).unwrap_err();
    assert!(error.to_string().contains("grants 4"), "{error}");
    let deep = Options {
        depth: 129,
        ..Options::default()
    };
    let error = Session::connect(fake.address, &nqn(), deep).unwrap_err();
    assert!(error.to_string().contains("128"), "{error}");
}

#[test]
fn a_target_that_goes_away_or_never_answers_is_an_error() {
    let fake = Fake::start(64, 512, 0, Fault::Hang(1));
    let mut session = connect(&fake, Options::default());
    let ns = session.namespace(1).unwrap();
    assert!(matches!(
        session.read(&ns, 0, 1),
        Err(HostError::Closed { .. })
    ));

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = listener.local_addr().unwrap();
    let options = Options {
        timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let error = Session::connect(silent, &nqn(), options.clone()).unwrap_err();
    assert!(matches!(error, HostError::Timeout { .. }), "{error}");
    drop(listener);
    let error = Session::connect(silent, &nqn(), options).unwrap_err();
    assert!(matches!(error, HostError::Io { .. }), "{error}");
}
