//! What a crash leaves: stop after every effect, restart from what was durable, compare.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::storage::v1::{
    EncryptedVolume, MallocVolume, NvmeNamespace, NvmeRemoteController, NvmeSubsystem,
};
use common::{
    Bench, create, delete, encrypted, malloc, namespace, remote, set, settings, subsystem, update,
};
use control::{Change, Settings};
use prost_reflect::ReflectMessage as _;
use std::collections::BTreeMap;

/// What clients can see, without what is new at every start.
type Seen = BTreeMap<String, String>;

fn seen(bench: &Bench) -> Seen {
    let names: Vec<_> = bench.catalogue.names(None).collect();
    let shown = names.into_iter().map(|name| {
        let mut message = bench.catalogue.get(name.kind(), name.as_str()).unwrap();
        if message.descriptor().name() == "MallocVolume" {
            message.clear_field_by_name("uuid");
        }
        let kind = name.kind();
        let settings = kind.settings.is_some().then(|| {
            let name = format!("{name}/settings");
            bench.catalogue.settings(kind, &name).unwrap()
        });
        (name.to_string(), format!("{message:?} {settings:?}"))
    });
    shown.collect()
}

/// A life: every kind of change, some of which fail. The number says which call is to fail.
fn script() -> Vec<Change> {
    let mut serial = subsystem("nqn.2024-01.org.example:s");
    serial.name = "nvmeSubsystems/s".to_owned();
    serial.spec.as_mut().unwrap().serial_number = "SN2".to_owned();
    let mut rekeyed = encrypted("mallocVolumes/m", b"fedcba9876543210");
    rekeyed.name = "encryptedVolumes/e".to_owned();
    let mut refused = malloc();
    refused.name = "mallocVolumes/m".to_owned();
    refused.blocks_count = 99;
    let mut grown = malloc();
    grown.name = "mallocVolumes/grows".to_owned();
    grown.blocks_count = 16;
    let mut renamed = remote(2);
    renamed.name = "nvmeRemoteControllers/r".to_owned();
    vec![
        create("", "r", &remote(1)),
        set(&settings("r", Some(700)), &[]),
        update(&renamed, &["multipath"]),
        set(&settings("r", None), &["*"]),
        create("", "stubborn", &remote(1)),
        set(&settings("stubborn", Some(9)), &["connect_timeout_ms"]),
        delete::<NvmeRemoteController>("nvmeRemoteControllers/r"),
        create("", "grows", &malloc()),
        update(&grown, &["blocks_count"]),
        create("", "m", &malloc()),
        create("", "bad", &malloc()),
        create("", "e", &encrypted("m", b"0123456789abcdef")),
        create("", "s", &subsystem("nqn.2024-01.org.example:s")),
        create("nvmeSubsystems/s", "n", &namespace("encryptedVolumes/e")),
        update(&serial, &["spec.serial_number"]),
        update(&rekeyed, &["key"]),
        update(&refused, &["blocks_count"]),
        delete::<NvmeNamespace>("nvmeSubsystems/s/nvmeNamespaces/n"),
        delete::<EncryptedVolume>("encryptedVolumes/e"),
        create("", "e", &encrypted("m", b"0123456789abcdef")),
        delete::<NvmeSubsystem>("nvmeSubsystems/s"),
        delete::<EncryptedVolume>("encryptedVolumes/e"),
        delete::<MallocVolume>("mallocVolumes/m"),
    ]
}

fn plant(bench: &Bench) {
    bench.fault("create mallocVolumes/bad", usize::MAX);
    bench.fault("update mallocVolumes/m", usize::MAX);
    bench.fault("update nvmeRemoteControllers/stubborn", usize::MAX);
}

/// Plays the script until so many effects are done. Returns the state after each change that was
/// answered, and whether the script ended.
fn play(bench: &mut Bench, effects: usize) -> (Vec<Seen>, bool) {
    plant(bench);
    let mut states = vec![seen(bench)];
    let mut done = 0;
    for change in script() {
        let ticket = bench.submit(change);
        while !bench.replies.contains_key(&ticket) {
            if done == effects {
                return (states, false);
            }
            assert!(bench.step(), "a change is stuck");
            done += 1;
        }
        states.push(seen(bench));
    }
    (states, true)
}

/// Everything a restarted server must be, whatever happened before.
fn check(bench: &mut Bench, allowed: &[&Seen], when: &str) {
    bench.run_for_a_minute();
    assert!(bench.restored, "{when}: never restored");
    assert!(bench.catalogue.is_settled(), "{when}: not settled");
    let now = seen(bench);
    assert!(
        allowed.contains(&&now),
        "{when}: {now:#?} is none of {allowed:#?}"
    );
    let things: Vec<_> = bench.world.lock().unwrap().things.keys().cloned().collect();
    assert_eq!(
        now.keys().cloned().collect::<Vec<_>>(),
        things,
        "{when}: half-made things"
    );
    bench.check_world(when);
    let (records, sealed) = bench.store.names();
    assert_eq!(records, things, "{when}: stray records");
    let secrets = now
        .keys()
        .filter(|n| n.starts_with("encryptedVolumes/"))
        .count();
    assert!(sealed.len() >= secrets, "{when}: a secret is lost");
}

#[test]
fn a_crash_after_any_effect_loses_nothing_acknowledged_and_leaves_nothing_half_made() {
    let (states, ended) = play(&mut Bench::new(), usize::MAX);
    assert!(ended);
    for effects in 0.. {
        let mut bench = Bench::new();
        let (answered, ended) = play(&mut bench, effects);
        let before = answered.len() - 1;
        assert_eq!(
            answered[..],
            states[..=before],
            "the same effects in the same order"
        );
        if ended {
            assert!(effects > 40, "the script has few effects");
            return;
        }
        // The change that was under way may have happened or not.
        let allowed = [&states[before], &states[before + 1]];
        let store = bench.store.after_crash();
        let when = format!("after {effects} effects");
        let restart = || {
            let bench = Bench::over(store.after_crash(), Settings::default());
            plant(&bench);
            bench
        };
        check(&mut restart(), &allowed, &when);
        // A second crash, during the recovery from the first one.
        for more in 0..12 {
            let mut second = restart();
            for _ in 0..more {
                second.step();
            }
            let mut third = Bench::over(second.store.after_crash(), Settings::default());
            plant(&third);
            check(&mut third, &allowed, &format!("{when} and {more}"));
        }
    }
}

#[test]
fn a_store_that_fails_at_any_time_leaves_memory_and_disk_in_agreement() {
    let full = api::error::Error::new(api::error::Code::ResourceExhausted, "the disk is full");
    for from in 0..90 {
        let mut bench = Bench::new();
        plant(&bench);
        let mut done = 0;
        for change in script() {
            let ticket = bench.submit(change);
            while bench.step() {
                done += 1;
                let failing = (from..from + 3).contains(&done);
                bench.store.fail_with(failing.then(|| full.clone()));
            }
            assert!(bench.replies.contains_key(&ticket), "a change is stuck");
        }
        bench.store.fail_with(None);
        bench.run_for_a_minute();
        let now = seen(&bench);
        let when = format!("failing at {from}");
        check(&mut bench, &[&now], &when);
        let mut restarted = Bench::over(bench.store.after_crash(), Settings::default());
        plant(&restarted);
        check(&mut restarted, &[&now], &when);
    }
}
