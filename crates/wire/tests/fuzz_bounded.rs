//! Every fuzz target over a bounded number of inputs: golden PDUs and structures, mutated.
//!
//! The inputs depend on nothing but the seed, so a failure names the one to repeat.

mod link;
#[path = "../../../fuzz/src/targets.rs"]
mod targets;

use link::Dice;

/// Inputs per seed file and target: seconds in all, which is what a normal test run can spend.
const ROUNDS: u64 = 3_000;

const STREAMS: &[&[u8]] = &[
    include_bytes!("golden/mixed.host.bin"),
    include_bytes!("golden/mixed.target.bin"),
    include_bytes!("golden/mixed-digests.host.bin"),
    include_bytes!("golden/mixed-digests.target.bin"),
];

const STRUCTURES: &[&[u8]] = &[
    include_bytes!("golden/identify_controller.bin"),
    include_bytes!("golden/identify_namespace.bin"),
    include_bytes!("golden/namespace_descriptors.bin"),
    include_bytes!("golden/discovery_log.bin"),
    include_bytes!("golden/command_effects.bin"),
    include_bytes!("golden/smart.bin"),
];

/// Runs `target` over `rounds` inputs made from each seed, and over bytes that nobody meant.
fn run(target: fn(&[u8]), seeds: &[&[u8]], rounds: u64) {
    for (nth, seed) in seeds.iter().enumerate() {
        target(seed);
        for round in 0..rounds {
            let number = (nth as u64) << 32 | round;
            let input = mutated(seed, &mut Dice::seeded(number));
            let result = std::panic::catch_unwind(|| target(&input));
            assert!(result.is_ok(), "input {number:#x} ({} bytes)", input.len());
        }
    }
    for round in 0..rounds {
        let mut dice = Dice::seeded(u64::MAX - round);
        let len = dice.below(300);
        target(&dice.bytes(len));
    }
}

/// A copy of `seed`, cut short, with some bytes changed, moved, repeated or left out.
fn mutated(seed: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut input = seed[..seed.len().min(64 + dice.below(8192))].to_vec();
    for _ in 0..1 + dice.below(6) {
        // Headers are where decisions are made: half of the changes go to the front.
        let reach = if dice.one_in(2) {
            input.len().min(256)
        } else {
            input.len()
        };
        let at = dice.below(reach);
        match dice.below(6) {
            0 => input[at] = dice.next() as u8,
            1 => input[at] ^= 1 << dice.below(8),
            2 => input[at] = [0, 1, 0x7f, 0x80, 0xff][dice.below(5)],
            3 => input.truncate(at.max(1)),
            4 => {
                let end = (at + 1 + dice.below(64)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            _ => {
                let end = (at + 1 + dice.below(16)).min(input.len());
                input.drain(at..end);
                if input.is_empty() {
                    input.push(0);
                }
            }
        }
    }
    input
}

#[test]
fn parsers_of_commands_take_any_bytes() {
    // The entries of the recorded capsules, and every opcode with every low byte of dword 10.
    let entries: Vec<&[u8]> = STREAMS.iter().map(|stream| &stream[136..200]).collect();
    run(targets::commands, &entries, ROUNDS * 10);
    for opcode in 0..=255_u8 {
        for low in 0..=255_u8 {
            let mut entry = [0x5a; 64];
            (entry[0], entry[1], entry[4], entry[40]) = (opcode, low & 0xc3, low, low);
            targets::commands(&entry);
        }
    }
}

#[test]
fn readers_of_structures_take_any_bytes() {
    run(targets::structures, STRUCTURES, ROUNDS);
}

#[test]
fn the_rules_of_nqns_take_any_bytes() {
    let seeds: &[&[u8]] = &[
        b"nqn.2014-08.org.nvmexpress.discovery",
        b"nqn.2014-08.org.nvmexpress:uuid:feb98abe-d51f-40c8-b348-2753f3571d3c",
        b"nqn.2016-06.io.spdk:cnode1",
    ];
    run(targets::nqn, seeds, ROUNDS * 10);
}

#[test]
fn a_controller_takes_any_bytes() {
    run(targets::controller, STREAMS, ROUNDS);
}

#[test]
fn a_host_takes_any_bytes() {
    run(targets::host, STREAMS, ROUNDS);
}

#[test]
fn sequences_of_operations_keep_to_the_model() {
    // What the recorded traffic says means nothing as a sequence of choices; noise does.
    let noise: Vec<Vec<u8>> = (0..4).map(|seed| Dice::seeded(seed).bytes(2000)).collect();
    let seeds: Vec<&[u8]> = noise.iter().map(Vec::as_slice).collect();
    run(targets::pair, &seeds, ROUNDS);
}
