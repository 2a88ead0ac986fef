//! A deterministic simulation of the initiator, the network and the array on virtual time: seeded
//! delays, paths that go silent, break and come back, slow commands, changing ANA states.
//!
//! It checks, for every seed, that each I/O completes, that no read returns what a completed write
//! had replaced, and that nothing lands after it was overtaken.

mod array;
mod check;
mod dice;
mod world;

/// The array's subsystem.
const NQN: &str = "nqn.2026-01.org.example:array";

/// Seeds that every run of the suite tries.
const SEEDS: u64 = 1_500;

#[test]
fn whatever_becomes_of_paths_nothing_is_lost_or_late() {
    let (mut reconnects, mut ghosts) = (0, 0);
    for seed in 0..SEEDS {
        let end = world::World::new(seed, world::Story::Everything).run();
        reconnects += end.reconnects;
        ghosts += end.ghosts;
    }
    println!("{reconnects} reconnections, {ghosts} connections lost with writes in doubt");
    assert!(
        reconnects > SEEDS && ghosts > SEEDS / 4,
        "too little happens: {reconnects} {ghosts}"
    );
}

#[test]
fn without_faults_nothing_is_sent_twice_and_nobody_waits() {
    for seed in 0..50 {
        let end = world::World::new(seed, world::Story::Calm).run();
        assert_eq!(end.reconnects, 0, "seed {seed}");
        assert!(
            end.slowest < blk::Nanos::from_secs(1),
            "seed {seed}: {:?}",
            end.slowest
        );
    }
}

#[test]
fn a_read_waits_for_a_silent_path_less_than_one_and_a_half_keep_alive_times() {
    let mut slowest = blk::Nanos(0);
    for seed in 0..200 {
        slowest = slowest.max(
            world::World::new(seed, world::Story::OneSilence)
                .run()
                .slowest_read,
        );
    }
    assert!(slowest < blk::Nanos::from_millis(7_500), "{slowest:?}");
    assert!(
        slowest > blk::Nanos::from_millis(1_000),
        "no path went silent: {slowest:?}"
    );
}

#[test]
fn when_the_array_closes_a_path_io_goes_on_within_a_tenth_of_a_second() {
    let (mut slowest, mut reconnects) = (blk::Nanos(0), 0);
    for seed in 0..200 {
        let end = world::World::new(seed, world::Story::OneReset).run();
        slowest = slowest.max(end.slowest);
        reconnects += end.reconnects;
    }
    assert!(reconnects >= 150, "paths were lost {reconnects} times");
    assert!(slowest < blk::Nanos::from_millis(100), "{slowest:?}");
}
