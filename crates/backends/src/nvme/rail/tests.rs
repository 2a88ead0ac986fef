//! A rail by itself; with paths and an array it runs in the simulation.

use super::*;
use crate::nvme::association::{Abilities, Association, Names};
use crate::nvme::routes::{LivePath, Route};
use blk::{Geometry, IoBuf, Lba};
use wire::nvme::Nqn;
use wire::nvme::log::AnaState;
use wire::nvme_tcp::Digests;

const TICKET: Ticket = Ticket {
    lane: 5,
    handle: Handle(0),
    stride: 4096,
};

/// Routes over one path that has so many I/O queues.
fn routes(queues: u16) -> Arc<Routes> {
    let nqn = Nqn::parse("nqn.2026-01.org.example:array").unwrap();
    let association = Association {
        cntlid: 1,
        queues,
        depth: 4,
        digests: Digests::default(),
        in_capsule_bytes: 8192,
        data_bytes_max: 1 << 20,
        abilities: Abilities::default(),
        quiesce: Nanos::from_secs(1),
        names: Names {
            subnqn: nqn.clone(),
            hostnqn: nqn,
            hostid: [1; 16],
        },
    };
    let path = LivePath {
        id: PathId(0),
        epoch: 1,
        association: Arc::new(association),
        stats: Arc::default(),
    };
    let shape = Shape {
        geometry: Geometry::new(4096, 64),
        boundary_blocks: 0,
        deallocated_zeroes: false,
    };
    let way = Way {
        path: PathId(0),
        nsid: 1,
        state: AnaState::Optimized,
    };
    Arc::new(Routes {
        paths: vec![path],
        namespaces: vec![Route {
            handle: Handle(0),
            shape,
            ways: vec![way],
        }],
        ..Routes::default()
    })
}

fn read() -> Io {
    Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 7)
}

#[test]
fn a_rail_without_a_queue_gives_up_what_waits() {
    let mut rail = Rail::new(2, Times::default());
    assert!(
        rail.is_served(),
        "nobody knows better while there is no path"
    );
    rail.submit(TICKET, read(), Nanos(0));
    rail.set_routes(routes(1), Nanos(0));
    assert!(!rail.is_served());
    assert_eq!(
        rail.wishes().count(),
        0,
        "no connection is made that the array refuses"
    );
    let given = rail.surrender();
    assert_eq!((given.len(), rail.in_flight()), (1, 0));
    for (ticket, io) in given {
        assert_eq!((ticket, io.tag), (TICKET, 7));
        let _ = io.finish(Ok(()));
    }
    rail.set_routes(routes(2), Nanos(0));
    assert!(rail.is_served());
    assert_eq!(rail.wishes().count(), 1);
}

#[test]
fn io_for_a_namespace_that_is_gone_fails_at_once_and_without_a_path_after_the_loss_time() {
    let times = Times::default();
    let mut rail = Rail::new(1, times);
    rail.set_routes(routes(1), Nanos(0));
    let stranger = Ticket {
        handle: Handle(9),
        ..TICKET
    };
    rail.submit(stranger, read(), Nanos(0));
    rail.submit(TICKET, read(), Nanos(0));
    rail.dispatch(Nanos(0));
    let ended = |rail: &mut Rail| -> Vec<(u64, Result<(), IoError>)> {
        let reports = rail.reports().filter_map(|report| match report {
            Report::Done(_, done) => Some((done.tag, done.result)),
            _ => None,
        });
        reports.collect()
    };
    assert_eq!(ended(&mut rail), [(7, Err(IoError::Offline))]);
    let late = times.loss + Nanos(1);
    assert!(rail.deadline().is_some_and(|at| at <= late));
    rail.expire(late);
    assert_eq!(ended(&mut rail), [(7, Err(IoError::Transport))]);
    assert_eq!(rail.in_flight(), 0);
}

#[test]
fn io_for_blocks_of_another_size_fails_instead_of_meeting_others() {
    let mut rail = Rail::new(1, Times::default());
    rail.set_routes(routes(1), Nanos(0));
    let all = [
        Io::new(Op::Write, Lba(0), 1, IoBuf::from_slice(&[1; 512]), 1),
        Io::new(Op::Unmap, Lba(8), 8, IoBuf::empty(), 2),
        Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 3),
    ];
    for io in all {
        let small = Ticket {
            stride: 512,
            ..TICKET
        };
        rail.submit(small, io, Nanos(0));
    }
    rail.dispatch(Nanos(0));
    let results: Vec<_> = rail
        .reports()
        .map(|report| match report {
            Report::Done(_, done) => done.result,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(results, [Err(IoError::Misaligned); 3]);
}
