//! Many changes at once, handlers that end in any order and sometimes fail, a disk that is
//! sometimes full, and a crash at any moment: whatever happens, what is listed, what is stored and
//! what is there agree, and nothing that a client was told is forgotten.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::{Code, Error};
use api::storage::v1::{
    EncryptedVolume, MallocVolume, NvmeNamespace, NvmeRemoteController, NvmeSubsystem,
};
use common::{
    Bench, create, delete, encrypted, malloc, namespace, remote, set, settings, subsystem, update,
};
use control::{Change, Settings, Ticket};
use std::collections::BTreeMap;

/// Lives that are tried; each number is a seed, and a failure names it.
const SEEDS: u64 = 1500;
/// Changes in one life.
const CHANGES: usize = 40;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }
}

/// Some change, and the name of what it is about.
fn some_change(random: &mut Random) -> (Change, String) {
    let n = random.next(3);
    let (m, e) = (format!("m{n}"), format!("e{n}"));
    let child = format!("nvmeSubsystems/s/nvmeNamespaces/n{n}");
    let base = ["m0", "m1", "m2", "e0", "e1", "e2"][random.next(6)];
    let key = [&b"one"[..], b"two", b"three"][random.next(3)];
    let blocks_count = 8 + random.next(3) as i64;
    let (m_name, e_name) = (
        format!("mallocVolumes/{m}"),
        format!("encryptedVolumes/{e}"),
    );
    let s_name = "nvmeSubsystems/s".to_owned();
    let (r, r_name) = (format!("r{n}"), format!("nvmeRemoteControllers/r{n}"));
    let timeout = [None, Some(0), Some(7), Some(8)][random.next(4)];
    match random.next(16) {
        0 | 1 => (create("", &m, &malloc()), m_name),
        2 | 3 => (create("", &e, &encrypted(base, key)), e_name),
        4 => (
            create("", "s", &subsystem("nqn.2024-01.org.example:s")),
            s_name,
        ),
        5 | 6 => (
            create("nvmeSubsystems/s", &format!("n{n}"), &namespace(base)),
            child,
        ),
        7 => {
            let wish = MallocVolume {
                name: m,
                blocks_count,
                ..malloc()
            };
            (update(&wish, &["blocks_count"]), m_name)
        }
        8 => {
            let wish = EncryptedVolume {
                name: e,
                ..encrypted(base, key)
            };
            (update(&wish, &["key"]), e_name)
        }
        12 => (create("", &r, &remote(1)), r_name),
        13 => (delete::<NvmeRemoteController>(&r), r_name),
        14 => (set(&settings(&r, timeout), &["*"]), r_name),
        15 => (set(&settings(&r, timeout), &[]), r_name),
        9 => (delete::<MallocVolume>(&m), m_name),
        10 => (delete::<EncryptedVolume>(&e), e_name),
        _ if n == 0 => (delete::<NvmeSubsystem>("s"), s_name),
        _ => (delete::<NvmeNamespace>(&child), child),
    }
}

/// What must be true whenever nothing is under way.
fn check(bench: &Bench, when: &str) {
    assert!(bench.catalogue.is_settled(), "{when}: not settled");
    let names: Vec<_> = bench.names().into_iter().collect();
    bench.check_world(when);
    let world = bench.world.lock().unwrap();
    let things: Vec<_> = world.things.keys().cloned().collect();
    assert_eq!(names, things, "{when}: listed and there");
    let (records, sealed) = bench.store.names();
    assert_eq!(names, records, "{when}: listed and stored");
    let secrets = names
        .iter()
        .filter(|n| n.starts_with("encryptedVolumes/"))
        .count();
    assert!(sealed.len() >= secrets, "{when}: a secret is lost");
    for name in names.iter().filter(|n| n.starts_with("encryptedVolumes/")) {
        let volume: EncryptedVolume = bench.get(name).unwrap();
        assert!(
            names.contains(&volume.volume_name_ref),
            "{when}: {name} has lost its base"
        );
        let there = <EncryptedVolume as prost::Message>::decode(&*world.things[name]).unwrap();
        assert!(!there.key.is_empty(), "{when}: {name} has lost its key");
    }
}

/// Whether each resource exists, as far as clients were told and nothing is under way for it.
#[derive(Default)]
struct Told {
    open: BTreeMap<Ticket, (String, bool)>,
    unsure: BTreeMap<String, usize>,
    exists: BTreeMap<String, bool>,
}

impl Told {
    fn asked(&mut self, ticket: Ticket, name: String, creates: bool) {
        *self.unsure.entry(name.clone()).or_default() += 1;
        self.open.insert(ticket, (name, creates));
    }

    fn hear(&mut self, bench: &mut Bench) {
        for (ticket, reply) in std::mem::take(&mut bench.replies) {
            let (name, creates) = self.open.remove(&ticket).unwrap();
            *self.unsure.get_mut(&name).unwrap() -= 1;
            if reply.is_ok() {
                self.exists.insert(name, creates);
            }
        }
    }

    fn check(&self, bench: &Bench, when: &str) {
        let names = bench.names();
        for (name, exists) in &self.exists {
            if self.unsure[name] == 0 {
                assert_eq!(names.contains(name), *exists, "{when}: {name}");
            }
        }
    }
}

fn live(seed: u64) {
    let mut random = Random(seed);
    let mut bench = Bench::new();
    bench.run();
    let mut told = Told::default();
    let crash = (!seed.is_multiple_of(3)).then(|| random.next(CHANGES * 4));
    let full = Error::new(Code::ResourceExhausted, "the disk is full");
    let mut steps = 0;
    let mut changes = 0;
    while changes < CHANGES || !bench.pending.is_empty() {
        if Some(steps) == crash {
            let mut next = Bench::over(bench.store.after_crash(), Settings::default());
            next.run_for_a_minute();
            let when = format!("seed {seed}, crash at {steps}");
            check(&next, &when);
            return told.check(&next, &when);
        }
        steps += 1;
        if changes < CHANGES && random.next(4) == 0 {
            let (change, name) = some_change(&mut random);
            let creates = !matches!(change, Change::Delete { .. });
            if random.next(8) == 0 {
                let verb = ["create", "update", "delete"][random.next(3)];
                bench.fault(&format!("{verb} {name}"), 1);
            }
            let ticket = bench.submit(change);
            told.asked(ticket, name, creates);
            changes += 1;
        }
        if seed.is_multiple_of(5) {
            bench
                .store
                .fail_with((random.next(10) == 0).then(|| full.clone()));
        }
        bench.step_any(random.next(1000));
        told.hear(&mut bench);
    }
    bench.store.fail_with(None);
    bench.run_for_a_minute();
    told.hear(&mut bench);
    assert!(
        told.open.is_empty(),
        "seed {seed}: a change was not answered"
    );
    let when = format!("seed {seed}");
    check(&bench, &when);
    told.check(&bench, &when);
    let mut next = Bench::over(bench.store.after_crash(), Settings::default());
    next.run_for_a_minute();
    check(&next, &when);
    told.check(&next, &when);
    assert_eq!(next.names(), bench.names(), "{when}: after a restart");
}

#[test]
fn whatever_happens_list_store_and_world_agree() {
    (0..SEEDS).for_each(live);
}
