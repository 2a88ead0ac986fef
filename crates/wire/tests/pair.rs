//! Host against controller on virtual time: every PDU type, digest combination and way of moving
//! data, with the streams cut whole, byte by byte, and anywhere.

mod link;

use blk::{IoBuf, Nanos};
use link::{BLOCK, Cut, Dice, Link};
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::{
    Closed, Controller, Digests, Event, Host, HostConfig, Limits, Payload, UnsentReason,
};

const DIGESTS: [Digests; 4] = [
    Digests {
        header: false,
        data: false,
    },
    Digests {
        header: true,
        data: false,
    },
    Digests {
        header: false,
        data: true,
    },
    Digests {
        header: true,
        data: true,
    },
];

fn small_limits() -> Limits {
    Limits {
        h2c_data_bytes: 4096,
        c2h_data_bytes: 4096,
        ..Limits::default()
    }
}

/// Writes and reads back one range of each length that takes another road.
fn round_trips(link: &mut Link, lengths: &[usize]) {
    for (nth, &blocks) in lengths.iter().enumerate() {
        let data = link.dice.bytes(blocks * BLOCK);
        let slba = nth as u64 * 3;
        let write = link.write(slba, &data);
        let done = link.finish(write);
        assert!(done.cqe.status().is_success(), "{}", done.cqe.status());
        let read = link.read(slba, blocks);
        let done = link.finish(read);
        assert!(done.cqe.status().is_success(), "{}", done.cqe.status());
        assert!(
            done.data.to_vec() == data,
            "{blocks} blocks read back as written"
        );
    }
    let flush = link.flush();
    assert!(link.finish(flush).cqe.status().is_success());
    assert_eq!(link.controller.in_flight(), 0);
    assert_eq!(link.host.in_flight(), 0);
}

#[test]
fn data_come_back_as_written_for_every_digest_alignment_and_cut() {
    for digests in DIGESTS {
        for (hpda, cpda) in [(0, 0), (7, 3), (31, 31)] {
            for cut in [Cut::Whole, Cut::Single, Cut::Random] {
                for limits in [Limits::default(), small_limits()] {
                    let config = HostConfig {
                        digests,
                        hpda,
                        ..HostConfig::default()
                    };
                    let limits = Limits { cpda, ..limits };
                    let seed = u64::from(hpda) << 8 | u64::from(digests.bits());
                    let mut link = Link::new(config, limits, 256, cut, Dice::seeded(seed));
                    link.connect();
                    // In the capsule, the most a capsule takes, one block more, and many PDUs.
                    round_trips(&mut link, &[1, 8, 16, 17, 200]);
                }
            }
        }
    }
}

#[test]
fn the_largest_transfer_fits_one_pdu_and_many() {
    for limits in [Limits::default(), small_limits()] {
        let config = HostConfig {
            digests: DIGESTS[3],
            ..HostConfig::default()
        };
        let mut link = Link::new(config, limits, 4096, Cut::Random, Dice::seeded(9));
        link.connect();
        round_trips(&mut link, &[2048]);
    }
}

#[test]
fn without_sq_flow_control_a_read_completes_by_its_flag() {
    for digests in DIGESTS {
        let config = HostConfig {
            digests,
            ..HostConfig::default()
        };
        let mut link = Link::new(config, small_limits(), 64, Cut::Random, Dice::seeded(3));
        link.connect();
        link.controller.set_sq_flow_control(false);
        round_trips(&mut link, &[1, 8, 32]);
        let before = link.bytes_to_host;
        let read = link.read(0, 8);
        link.finish(read);
        // One C2HData and nothing behind it.
        let extra = 4 * usize::from(digests.header) + 4 * usize::from(digests.data);
        assert_eq!(link.bytes_to_host - before, 24 + 4096 + extra);
    }
}

#[test]
fn many_commands_at_once_are_answered_in_any_order() {
    for seed in 0..20 {
        let digests = DIGESTS[seed as usize % 4];
        let config = HostConfig {
            digests,
            queue_depth: 64,
            ..HostConfig::default()
        };
        let limits = Limits {
            r2t_bytes: 64 << 10,
            queue_depth: 64,
            ..small_limits()
        };
        let mut link = Link::new(config, limits, 64 * 40, Cut::Random, Dice::seeded(seed));
        link.connect();
        link.hold = 7;
        let mut model = link.memory.clone();
        for _ in 0..10 {
            // Ranges of one round do not overlap, so any order of execution is right.
            for lane in 0..40_u64 {
                let blocks = 1 + link.dice.below(40);
                let data = link.dice.bytes(blocks * BLOCK);
                link.write(lane * 64, &data);
                let start = lane as usize * 64 * BLOCK;
                model[start..start + data.len()].copy_from_slice(&data);
            }
            link.run();
            assert_eq!(link.completed.len(), 40);
            assert!(
                link.completed
                    .drain(..)
                    .all(|done| done.cqe.status().is_success())
            );
            assert!(link.memory == model, "seed {seed}");
            let reads: Vec<u16> = (0..40).map(|lane| link.read(lane * 64, 40)).collect();
            link.run();
            for done in link.completed.drain(..) {
                let lane = reads
                    .iter()
                    .position(|&cid| cid == done.cid)
                    .expect("a read");
                let start = lane * 64 * BLOCK;
                assert!(
                    done.data.to_vec() == model[start..start + 40 * BLOCK],
                    "seed {seed}"
                );
            }
        }
    }
}

#[test]
fn a_cid_is_used_again_as_late_as_can_be() {
    let config = HostConfig {
        queue_depth: 3,
        ..HostConfig::default()
    };
    let mut link = Link::new(config, Limits::default(), 8, Cut::Whole, Dice::seeded(1));
    link.connect();
    let cids: Vec<u16> = (0..6)
        .map(|_| {
            let cid = link.flush();
            link.finish(cid).cid
        })
        .collect();
    assert_eq!(cids, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_full_queue_hands_the_command_back() {
    let config = HostConfig {
        queue_depth: 2,
        ..HostConfig::default()
    };
    let limits = Limits {
        queue_depth: 2,
        ..Limits::default()
    };
    let mut link = Link::new(config, limits, 8, Cut::Whole, Dice::seeded(1));
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::Normal,
        op: IoOp::Flush,
    }
    .to_sqe();
    let early = link.host.submit(sqe, Payload::None).unwrap_err();
    assert_eq!(early.reason, UnsentReason::NotReady);
    link.connect();
    link.flush();
    link.flush();
    let payload = Payload::ToController(IoBuf::from_slice(b"kept"));
    let full = link.host.submit(sqe, payload).unwrap_err();
    assert_eq!(full.reason, UnsentReason::Full);
    assert!(matches!(full.payload, Payload::ToController(data) if data.to_vec() == b"kept"));
    link.run();
    assert_eq!(link.completed.len(), 2);
}

#[test]
fn more_commands_than_the_queue_is_long_end_the_connection() {
    let config = HostConfig {
        queue_depth: 9,
        ..HostConfig::default()
    };
    let limits = Limits {
        queue_depth: 16,
        ..Limits::default()
    };
    let mut link = Link::new(config, limits, 8, Cut::Random, Dice::seeded(1));
    link.connect();
    link.controller.set_depth(8);
    link.hold = 100;
    for _ in 0..9 {
        link.flush();
    }
    link.run();
    assert!(matches!(link.host_closed, Some(Closed::ByPeer(fes, _)) if fes.value() == 2));
    assert_eq!(link.completed.len(), 9);
    let lost = Status::HOST_PATHING_ERROR;
    assert!(link.completed.iter().all(|done| done.cqe.status() == lost));
}

/// Waits until a stream is `len` bytes long, then flips one bit in it.
fn broken_write(digests: Digests, blocks: usize, at: usize) -> Link {
    let config = HostConfig {
        digests,
        ..HostConfig::default()
    };
    let mut link = Link::new(config, Limits::default(), 64, Cut::Random, Dice::seeded(5));
    link.connect();
    let data = link.dice.bytes(blocks * BLOCK);
    link.write(0, &data);
    link.corrupt_to_controller(at);
    link.run();
    link
}

#[test]
fn broken_data_cost_the_command_and_not_the_connection() {
    let both = DIGESTS[3];
    let mut link = broken_write(both, 8, 76 + 1000);
    assert_eq!(link.refused, 1);
    assert_eq!(link.completed.len(), 1);
    assert_eq!(
        link.completed.pop().unwrap().cqe.status(),
        Status::TRANSIENT_TRANSPORT
    );
    assert!(
        link.memory.iter().all(|&byte| byte == 0),
        "nothing unverified is stored"
    );
    round_trips(&mut link, &[8, 40]);
}

#[test]
fn broken_data_after_an_r2t_cost_the_command_and_not_the_connection() {
    let config = HostConfig {
        digests: DIGESTS[3],
        ..HostConfig::default()
    };
    let mut link = Link::new(config, small_limits(), 64, Cut::Whole, Dice::seeded(5));
    link.connect();
    let data = link.dice.bytes(40 * BLOCK);
    link.write(0, &data);
    // Until the host has the R2T and its answer waits to be sent.
    while !link.host.wants_transmit() {
        link.step();
    }
    link.step();
    while !link.host.wants_transmit() {
        link.step();
    }
    link.corrupt_to_controller(5000);
    link.run();
    assert_eq!(
        link.completed.pop().unwrap().cqe.status(),
        Status::TRANSIENT_TRANSPORT
    );
    assert!(link.memory.iter().all(|&byte| byte == 0));
    round_trips(&mut link, &[8, 40]);
}

#[test]
fn broken_data_to_the_host_fail_the_read() {
    let config = HostConfig {
        digests: DIGESTS[3],
        ..HostConfig::default()
    };
    for by_flag in [false, true] {
        let mut link = Link::new(config, Limits::default(), 64, Cut::Whole, Dice::seeded(5));
        link.connect();
        link.controller.set_sq_flow_control(!by_flag);
        link.read(0, 8);
        while !link.controller.wants_transmit() {
            link.step();
        }
        link.corrupt_to_host(28 + 77);
        link.run();
        assert_eq!(
            link.completed.pop().unwrap().cqe.status(),
            Status::TRANSIENT_TRANSPORT
        );
        round_trips(&mut link, &[8]);
    }
}

#[test]
fn a_broken_header_ends_the_connection_with_the_digest_received() {
    let link = broken_write(DIGESTS[1], 8, 20);
    let Some(Closed::ByPeer(fes, fei)) = link.host_closed else {
        panic!("the host is told")
    };
    assert_eq!(fes.value(), 3);
    assert_ne!(fei, 0);
    assert_eq!(link.completed.len(), 1);
}

#[test]
fn one_command_larger_than_the_room_for_data_still_passes() {
    let limits = Limits {
        r2t_bytes: 4096,
        ..small_limits()
    };
    let mut link = Link::new(
        HostConfig::default(),
        limits,
        256,
        Cut::Random,
        Dice::seeded(1),
    );
    link.connect();
    round_trips(&mut link, &[100]);
    for lane in 0..10 {
        let data = link.dice.bytes(20 * BLOCK);
        link.write(lane * 20, &data);
    }
    link.run();
    assert!(
        link.completed
            .iter()
            .all(|done| done.cqe.status().is_success())
    );
    assert_eq!(link.completed.len(), 10);
}

#[test]
fn a_command_larger_than_mdts_is_refused_before_its_data_are_asked_for() {
    let limits = Limits {
        mdts_bytes: 16 << 10,
        ..Limits::default()
    };
    let mut link = Link::new(
        HostConfig::default(),
        limits,
        256,
        Cut::Random,
        Dice::seeded(1),
    );
    link.connect();
    let data = vec![7; 33 * BLOCK];
    let write = link.write(0, &data);
    assert_eq!(link.finish(write).cqe.status(), Status::INVALID_FIELD.dnr());
    let read = link.read(0, 33);
    assert_eq!(link.finish(read).cqe.status(), Status::INVALID_FIELD.dnr());
    round_trips(&mut link, &[32]);
}

/// A fused pair of Compare and Write of `blocks` blocks.
fn fused(link: &mut Link, blocks: usize) {
    let rw = Rw::new(0, blocks as u32);
    for (fuse, op) in [
        (Fuse::First, IoOp::Compare(rw)),
        (Fuse::Second, IoOp::Write(rw)),
    ] {
        let sqe = IoCmd { nsid: 1, fuse, op }.to_sqe();
        let payload = Payload::ToController(IoBuf::zeroes(blocks * BLOCK));
        link.host.submit(sqe, payload).expect("there is room");
    }
}

#[test]
fn the_halves_of_a_fused_pair_follow_each_other_whatever_their_data_do() {
    for (blocks, seed) in [(1, 1), (17, 2), (64, 3)] {
        // Room for the data of one half only: the second must not wait for the first.
        let limits = Limits {
            r2t_bytes: 64 * BLOCK as u32,
            ..small_limits()
        };
        let mut link = Link::new(
            HostConfig::default(),
            limits,
            256,
            Cut::Random,
            Dice::seeded(seed),
        );
        link.connect();
        for _ in 0..5 {
            let data = link.dice.bytes(20 * BLOCK);
            link.write(64, &data);
        }
        fused(&mut link, blocks);
        for _ in 0..5 {
            link.flush();
        }
        link.run();
        assert_eq!(link.completed.len(), 12);
        let first = link.order.iter().position(|(fuse, _)| *fuse == Fuse::First);
        let first = first.expect("the first half is handed out");
        assert_eq!(
            link.order[first..first + 2],
            [(Fuse::First, 5), (Fuse::Second, 1)]
        );
    }
}

#[test]
fn a_first_half_alone_is_refused_when_the_next_command_is_no_second() {
    let mut link = Link::new(
        HostConfig::default(),
        Limits::default(),
        8,
        Cut::Whole,
        Dice::seeded(1),
    );
    link.connect();
    let sqe = IoCmd {
        nsid: 1,
        fuse: Fuse::First,
        op: IoOp::Flush,
    }
    .to_sqe();
    let alone = link.host.submit(sqe, Payload::None).unwrap();
    link.run();
    assert!(link.completed.is_empty(), "the second half may still come");
    link.flush();
    link.run();
    assert_eq!((link.completed.len(), link.refused), (2, 1));
    let status = link.finish(alone).cqe.status();
    assert_eq!(status, Status::ABORTED_MISSING_FUSED.dnr());
}

#[test]
fn two_halves_with_a_command_between_them_are_no_pair_although_it_waits_for_its_data() {
    for blocks in [1, 17] {
        let mut link = Link::new(
            HostConfig::default(),
            small_limits(),
            256,
            Cut::Whole,
            Dice::seeded(1),
        );
        link.connect();
        let half = |link: &mut Link, fuse, op| {
            let sqe = IoCmd { nsid: 1, fuse, op }.to_sqe();
            let payload = Payload::ToController(IoBuf::zeroes(blocks * BLOCK));
            link.host.submit(sqe, payload).unwrap()
        };
        let rw = Rw::new(0, blocks as u32);
        let first = half(&mut link, Fuse::First, IoOp::Compare(rw));
        let between = link.write(100, &[7; 64 * BLOCK]);
        let second = half(&mut link, Fuse::Second, IoOp::Write(rw));
        link.run();
        assert_eq!(link.order, [(Fuse::Normal, 1)], "only the one between");
        for cid in [first, second] {
            let status = link.finish(cid).cqe.status();
            assert_eq!(status, Status::ABORTED_MISSING_FUSED.dnr());
        }
        assert_eq!(link.finish(between).cqe.status(), Status::SUCCESS);
    }
}

#[test]
fn each_end_gives_up_on_a_peer_that_does_not_initialise() {
    let start = Nanos::from_secs(1);
    let mut controller = Controller::new(Limits::default(), start);
    let deadline = controller.deadline().expect("it waits for ICReq");
    controller.expire(Nanos(deadline.0 - 1));
    assert!(!controller.is_closed());
    controller.expire(deadline);
    assert!(controller.is_closed());
    assert!(matches!(
        controller.next_event(),
        Some(Event::Closed(Closed::InitTimeout))
    ));

    let mut host = Host::new(HostConfig::default(), start);
    host.expire(host.deadline().expect("it waits for ICResp"));
    assert!(host.is_closed());
}

#[test]
fn a_terminated_connection_closes_after_its_linger_and_answers_are_dropped() {
    let mut link = Link::new(
        HostConfig::default(),
        Limits::default(),
        8,
        Cut::Whole,
        Dice::seeded(1),
    );
    link.connect();
    link.hold = usize::MAX;
    link.flush();
    while link.executing.is_empty() {
        link.step();
    }
    link.inject_to_controller(&[0xff; 8]);
    let now = link.now;
    while link.host_closed.is_none() {
        link.step();
    }
    let deadline = link.controller.deadline().expect("it lingers");
    assert!(deadline > now);
    link.controller.expire(deadline);
    assert!(link.controller.is_closed());
    assert_eq!(link.completed[0].cqe.status(), Status::HOST_PATHING_ERROR);
}

#[test]
fn a_lost_socket_fails_every_command_in_flight() {
    let mut link = Link::new(
        HostConfig::default(),
        Limits::default(),
        64,
        Cut::Whole,
        Dice::seeded(1),
    );
    link.connect();
    link.read(0, 8);
    link.write(0, &[1; 512]);
    link.host.close();
    link.controller.close();
    link.run();
    assert_eq!(link.completed.len(), 2);
    // What was to be read into goes back whole, for another try.
    let mut buffers: Vec<usize> = link.completed.iter().map(|done| done.data.len()).collect();
    buffers.sort_unstable();
    assert_eq!(buffers, [0, 8 * BLOCK]);
    assert!(!link.host.is_open());
    assert_eq!(link.host_closed, Some(Closed::Lost));
    assert_eq!(link.controller_closed, Some(Closed::Lost));
}

#[test]
fn commands_submitted_before_the_capsule_size_is_known_keep_their_road() {
    let config = HostConfig {
        in_capsule_bytes: 1024,
        ..HostConfig::default()
    };
    let mut link = Link::new(config, Limits::default(), 64, Cut::Whole, Dice::seeded(1));
    link.connect();
    let large = link.write(0, &[1; 4096]);
    let small = link.write(8, &[2; 512]);
    link.host.set_in_capsule_bytes(4096);
    assert!(link.finish(large).cqe.status().is_success());
    link.host.set_in_capsule_bytes(0);
    assert!(link.completed.iter().any(|done| done.cid == small));
    let by_r2t = link.write(16, &[3; 512]);
    assert!(link.finish(by_r2t).cqe.status().is_success());
    assert_eq!(
        (
            link.memory[0],
            link.memory[8 * BLOCK],
            link.memory[16 * BLOCK]
        ),
        (1, 2, 3)
    );
}
