//! A rail by itself; with paths and an array it runs in the simulation.

use super::*;
use crate::nvme::association::{Abilities, Association, Names};
use crate::nvme::routes::{LivePath, Policy, Route, Way};
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
    Arc::new(routes_over(1, queues))
}

/// Routes over so many paths, each with so many I/O queues.
fn routes_over(paths: u32, queues: u16) -> Routes {
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
    let path = |id| LivePath {
        id: PathId(id),
        epoch: 1,
        association: Arc::new(association.clone()),
        stats: Arc::default(),
    };
    let shape = Shape {
        geometry: Geometry::new(4096, 64),
        boundary_blocks: 0,
        deallocated_zeroes: false,
    };
    let way = |id| Way {
        path: PathId(id),
        nsid: 1,
        state: AnaState::Optimized,
    };
    Routes {
        paths: (0..paths).map(path).collect(),
        namespaces: vec![Route {
            handle: Handle(0),
            shape,
            ways: (0..paths).map(way).collect(),
        }],
        ..Routes::default()
    }
}

/// A rail over these routes whose queues are connected.
fn connected(routes: Routes) -> Rail {
    let mut rail = Rail::new(1);
    rail.set_routes(Arc::new(routes), Nanos(0));
    let ids: Vec<ConnId> = rail.conns.iter().map(|conn| conn.id).collect();
    for id in ids {
        rail.opened(id, Nanos(0));
        // ICResp without digests, MAXH2CDATA 128 KiB (NVMe TCP 1.1, 3.6.2.3).
        let mut answer = [0; 128];
        answer[..8].copy_from_slice(&[1, 0, 128, 0, 128, 0, 0, 0]);
        answer[12..16].copy_from_slice(&(128u32 << 10).to_le_bytes());
        let link = rail.link(id).unwrap();
        link.receive(&answer, Nanos(0)).unwrap();
        assert!(matches!(link.next_event(), Some(HostEvent::Ready(_))));
        let at = rail.conns.iter().position(|conn| conn.id == id).unwrap();
        rail.connected(at);
    }
    rail.wishes().for_each(drop);
    rail
}

/// How many commands each path has.
fn depths(rail: &Rail) -> Vec<usize> {
    rail.conns.iter().map(|conn| conn.in_flight).collect()
}

fn ended(rail: &mut Rail) -> Vec<(u64, Result<(), IoError>)> {
    let reports = rail.reports().filter_map(|report| match report {
        Report::Done(_, done) => Some((done.tag, done.result)),
        _ => None,
    });
    reports.collect()
}

fn read() -> Io {
    Io::new(Op::Read, Lba(0), 1, IoBuf::empty(), 7)
}

#[test]
fn a_rail_without_a_queue_gives_up_what_waits() {
    let mut rail = Rail::new(2);
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
    let mut rail = Rail::new(1);
    rail.set_routes(routes(1), Nanos(0));
    let stranger = Ticket {
        handle: Handle(9),
        ..TICKET
    };
    rail.submit(stranger, read(), Nanos(0));
    rail.submit(TICKET, read(), Nanos(0));
    rail.dispatch(Nanos(0));
    assert_eq!(ended(&mut rail), [(7, Err(IoError::Offline))]);
    let late = times.loss + Nanos(1);
    assert!(rail.deadline().is_some_and(|at| at <= late));
    rail.expire(late);
    assert_eq!(ended(&mut rail), [(7, Err(IoError::Transport))]);
    assert_eq!(rail.in_flight(), 0);
}

#[test]
fn io_for_blocks_of_another_size_fails_instead_of_meeting_others() {
    let mut rail = Rail::new(1);
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
    let results = ended(&mut rail).into_iter().map(|(_, result)| result);
    assert!(results.eq([Err(IoError::Misaligned); 3]));
}

#[test]
fn round_robin_takes_turns_whatever_is_in_flight_and_passes_full_queues() {
    let over = |policy| Routes {
        policy,
        ..routes_over(2, 1)
    };
    let submitted = |policy, busy: usize, count| {
        let mut rail = connected(over(policy));
        rail.conns[0].in_flight = busy;
        for _ in 0..count {
            rail.submit(TICKET, read(), Nanos(0));
        }
        rail.dispatch(Nanos(0));
        let mut depths = depths(&rail);
        depths[0] -= busy;
        (depths, rail.waiting.len())
    };
    // One path has more to do than the other, and gets its turn all the same.
    assert_eq!(submitted(Policy::RoundRobin, 2, 4), (vec![2, 2], 0));
    assert_eq!(submitted(Policy::LeastDepth, 2, 4), (vec![1, 3], 0));
    assert_eq!(submitted(Policy::Failover, 0, 3), (vec![3, 0], 0));
    // Queues have room for four.
    assert_eq!(submitted(Policy::RoundRobin, 0, 9), (vec![4, 4], 1));
}

#[test]
fn io_that_waits_for_room_is_not_given_up_however_short_the_loss_time_is() {
    let mut routes = routes_over(1, 1);
    routes.times.loss = Nanos(0);
    let mut rail = connected(routes.clone());
    for _ in 0..5 {
        rail.submit(TICKET, read(), Nanos(0));
    }
    rail.dispatch(Nanos(0));
    assert_eq!((depths(&rail), rail.waiting.len()), (vec![4], 1));
    let later = Times::default().io - Nanos(1);
    rail.expire(later);
    assert_eq!(ended(&mut rail), []);
    assert!(
        rail.deadline().is_some_and(|at| at > later),
        "nothing is due"
    );
    // Once no path serves any more, it has waited long enough.
    routes.paths.clear();
    routes.hopeless = true;
    rail.set_routes(Arc::new(routes), later);
    rail.expire(later);
    assert_eq!(ended(&mut rail), [(7, Err(IoError::Transport)); 5]);
}

#[test]
fn a_shorter_time_out_counts_for_what_was_sent_before() {
    let mut rail = connected(routes_over(1, 1));
    rail.submit(TICKET, read(), Nanos(0));
    rail.dispatch(Nanos(0));
    let mut routes = routes_over(1, 1);
    routes.times.io = Nanos::from_millis(200);
    rail.set_routes(Arc::new(routes), Nanos::from_millis(1));
    let mut now = Nanos(0);
    while rail
        .conns
        .iter()
        .any(|conn| matches!(conn.state, State::Ready))
    {
        now = rail.deadline().unwrap().max(now + Nanos(1));
        assert!(now < Nanos::from_millis(300), "{now:?}");
        rail.expire(now);
    }
    assert!(now >= Nanos::from_millis(200), "{now:?}");
}

#[test]
fn a_path_that_refused_is_asked_again_even_if_nothing_is_heard_of_its_states() {
    let mut rail = connected(routes_over(1, 1));
    rail.refused.add(PathId(0), TICKET.handle, Nanos(0));
    rail.submit(TICKET, read(), Nanos(0));
    rail.dispatch(Nanos(0));
    assert_eq!((depths(&rail), rail.waiting.len()), (vec![0], 1));
    let again = rail.deadline().unwrap();
    assert!(again <= Nanos::from_secs(1), "{again:?}");
    rail.expire(again);
    assert_eq!((depths(&rail), rail.waiting.len()), (vec![1], 0));
}

#[test]
fn failover_stays_with_the_path_that_was_ready_first() {
    let routes = Routes {
        policy: Policy::Failover,
        ..routes_over(2, 1)
    };
    let mut rail = connected(routes);
    rail.conns[0].state = State::Making(Nanos(u64::MAX));
    let late = rail.conns[0].id;
    let send = |rail: &mut Rail| {
        rail.submit(TICKET, read(), Nanos(0));
        rail.dispatch(Nanos(0));
        let conn = rail.conns.iter().find(|conn| conn.id == late).unwrap();
        conn.in_flight
    };
    assert_eq!(send(&mut rail), 0);
    rail.connected(0);
    assert_eq!(send(&mut rail), 0, "the other path is used and serves");
}
