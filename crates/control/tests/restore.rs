//! Starting with what was recorded: order, failures, retries, and what a lost base means.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::storage::v1::{EncryptedVolume, MallocVolume};
use common::{Bench, create, encrypted, malloc, namespace, resource, subsystem, update};
use control::{Condition, Settings};
use prost::Message as _;

fn stack() -> Bench {
    let mut bench = Bench::new();
    bench.change(create("", "m", &malloc())).unwrap();
    bench
        .change(create("", "e", &encrypted("m", b"k")))
        .unwrap();
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    bench.change(create("s", "n", &namespace("e"))).unwrap();
    bench
}

fn again(bench: &Bench) -> Bench {
    Bench::over(bench.store.after_crash(), Settings::default())
}

fn condition(bench: &Bench, name: &str) -> Condition {
    bench.catalogue.sight(name).unwrap().condition
}

const N: &str = "nvmeSubsystems/s/nvmeNamespaces/n";

#[test]
fn everything_is_driven_again_parents_and_bases_first() {
    let mut bench = again(&stack());
    assert!(bench.catalogue.is_restoring());
    bench.run();
    assert!(bench.restored && !bench.catalogue.is_restoring());
    let log = bench.log();
    let place = |what: &str| {
        log.iter()
            .position(|l| l.starts_with(&format!("create {what}")))
    };
    assert!(place("mallocVolumes/m") < place("encryptedVolumes/e"));
    assert!(place("encryptedVolumes/e") < place(N));
    assert!(place("nvmeSubsystems/s ") < place(N));
    assert!(log.iter().all(|l| l.contains(" replay")), "{log:?}");
    let key = bench.world.lock().unwrap().things["encryptedVolumes/e"].clone();
    let volume = EncryptedVolume::decode(&*key).unwrap();
    assert_eq!(volume.key, b"k");
}

#[test]
fn what_cannot_be_brought_back_stays_listed_with_its_reason_and_the_rest_comes_up() {
    let mut bench = again(&stack());
    bench.fault("create mallocVolumes/m", 1);
    bench.run();
    assert!(bench.restored);
    assert_eq!(bench.names().len(), 4);
    let reason = "create mallocVolumes/m fails".to_owned();
    assert_eq!(
        condition(&bench, "mallocVolumes/m"),
        Condition::Failed(reason)
    );
    assert_eq!(condition(&bench, "nvmeSubsystems/s"), Condition::Ready);
    // Its users were driven without it.
    let log = bench.log();
    assert!(
        log.contains(&"create encryptedVolumes/e replay".to_owned()),
        "{log:?}"
    );
    // A second later it comes back, and its users are told.
    bench.run_for_a_minute();
    assert_eq!(condition(&bench, "mallocVolumes/m"), Condition::Ready);
    let log = bench.log();
    assert!(
        log.contains(&"create encryptedVolumes/e replay volume_name_ref".to_owned()),
        "{log:?}"
    );
}

#[test]
fn nothing_new_is_built_on_what_failed() {
    let mut bench = again(&stack());
    bench.fault("create mallocVolumes/m", usize::MAX);
    bench.run();
    let error = bench
        .change(create("", "f", &encrypted("m", b"k")))
        .unwrap_err();
    assert_eq!(error.code, api::error::Code::FailedPrecondition);
    assert!(
        error.message.contains("create mallocVolumes/m fails"),
        "{error}"
    );
}

#[test]
fn retries_become_rarer_and_never_end() {
    let mut bench = again(&stack());
    bench.fault("create mallocVolumes/m", usize::MAX);
    bench.run();
    bench.log();
    bench.run_for_a_minute();
    let tries = bench
        .log()
        .iter()
        .filter(|l| l.starts_with("create mallocVolumes/m"))
        .count();
    assert_eq!(tries, 5, "after 1, 2, 4, 8, 16 seconds");
    assert!(bench.catalogue.deadline().is_some());
}

#[test]
fn a_child_of_a_failed_parent_waits_for_it() {
    let mut bench = again(&stack());
    bench.fault("create nvmeSubsystems/s", 1);
    bench.run();
    let Condition::Failed(why) = condition(&bench, N) else {
        panic!("it has no parent");
    };
    assert!(why.contains("nvmeSubsystems/s is not up"), "{why}");
    assert!(!bench.log().iter().any(|l| l.contains(N)));
    bench.run_for_a_minute();
    assert_eq!(condition(&bench, N), Condition::Ready);
}

#[test]
fn a_new_identity_at_the_start_is_stored() {
    let first = stack();
    let mut bench = again(&first);
    // The fake handler keeps what it is given, so the identity stays; an update may change it.
    bench.run();
    let before = bench.get::<MallocVolume>("m").unwrap();
    let wish = MallocVolume {
        name: "m".to_owned(),
        ..malloc()
    };
    let after: MallocVolume = resource(bench.change(update(&wish, &["uuid"])).unwrap());
    assert_eq!(before.uuid, first.get::<MallocVolume>("m").unwrap().uuid);
    assert!(after.uuid.is_empty());
    let mut bench = again(&bench);
    bench.run();
    assert_eq!(
        bench.get::<MallocVolume>("m").unwrap().uuid,
        "00000000-0000-4000-8000-000000000001"
    );
    let mut third = again(&bench);
    third.run();
    assert_eq!(
        third.get::<MallocVolume>("m").unwrap(),
        bench.get::<MallocVolume>("m").unwrap()
    );
}

#[test]
fn a_change_that_comes_before_the_resource_is_restored_waits() {
    let mut bench = again(&stack());
    let wish = EncryptedVolume {
        name: "e".to_owned(),
        ..encrypted("m", b"new")
    };
    let ticket = bench.submit(update(&wish, &["key"]));
    assert!(bench.replies.is_empty());
    bench.run();
    bench.replies.remove(&ticket).unwrap().unwrap();
    assert!(bench.restored);
}

#[test]
fn a_failed_resource_can_be_updated_back_to_life_and_deleted() {
    let mut bench = again(&stack());
    bench.fault("create encryptedVolumes/e", 1);
    bench.run();
    let wish = EncryptedVolume {
        name: "e".to_owned(),
        ..encrypted("m", b"new")
    };
    bench.change(update(&wish, &["key"])).unwrap();
    assert_eq!(condition(&bench, "encryptedVolumes/e"), Condition::Ready);
    assert_eq!(condition(&bench, N), Condition::Ready);
}

#[test]
fn a_failed_resource_is_tried_again_by_an_update_that_changes_nothing() {
    let mut bench = again(&stack());
    bench.fault("create encryptedVolumes/e", 2);
    bench.run();
    let same = EncryptedVolume {
        name: "e".to_owned(),
        ..encrypted("m", b"")
    };
    let error = bench.change(update(&same, &["cipher"])).unwrap_err();
    assert_eq!(error.message, "create encryptedVolumes/e fails");
    bench.change(update(&same, &["cipher"])).unwrap();
    assert_eq!(condition(&bench, "encryptedVolumes/e"), Condition::Ready);
    assert_eq!(condition(&bench, N), Condition::Ready);
}

#[test]
fn a_change_of_a_failed_resource_that_cannot_be_stored_does_not_end_its_attempts() {
    let mut bench = again(&stack());
    bench.fault("create mallocVolumes/m", 1);
    bench.run();
    bench
        .store
        .fail_with(Some(api::Error::unavailable("the disk is away")));
    let same = MallocVolume {
        name: "m".to_owned(),
        ..malloc()
    };
    bench.change(update(&same, &["blocks_count"])).unwrap_err();
    bench.store.fail_with(None);
    bench.run_for_a_minute();
    assert_eq!(condition(&bench, "mallocVolumes/m"), Condition::Ready);
}

#[test]
fn a_secret_whose_file_was_lost_is_sealed_again_when_the_same_is_sent() {
    let first = stack();
    let (_, files) = first.store.names();
    for update_fails in [false, true] {
        let mut store = first.store.after_crash();
        let lost = control::store::Batch {
            erase: files.clone(),
            ..Default::default()
        };
        control::store::Store::commit(&mut store, &lost).unwrap();
        let mut bench = Bench::over(store, Settings::default());
        bench.run();
        let Condition::Failed(why) = condition(&bench, "encryptedVolumes/e") else {
            panic!("its key is lost");
        };
        assert!(why.contains("send key again"), "{why}");
        let same = EncryptedVolume {
            name: "e".to_owned(),
            ..encrypted("m", b"k")
        };
        bench.fault("create encryptedVolumes/e", usize::from(update_fails));
        let sent = bench.change(update(&same, &["key"]));
        assert_eq!(sent.is_err(), update_fails);
        bench.run_for_a_minute();
        assert_eq!(condition(&bench, "encryptedVolumes/e"), Condition::Ready);
        assert_eq!(bench.store.names().1, files);
        let mut bench = again(&bench);
        bench.run();
        assert_eq!(condition(&bench, "encryptedVolumes/e"), Condition::Ready);
    }
}

#[test]
fn a_thousand_resources_are_driven_in_a_blink() {
    let mut bench = Bench::new();
    for n in 0..1000 {
        bench
            .change(create("", &format!("m{n}"), &malloc()))
            .unwrap();
    }
    let start = std::time::Instant::now();
    let mut bench = again(&bench);
    bench.run();
    assert_eq!(bench.catalogue.len(), 1000);
    assert!(start.elapsed().as_secs() < 2, "{:?}", start.elapsed());
}
