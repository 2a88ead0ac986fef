//! The rules of changes: names, references, claims, masks, idempotence, and what is refused.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::{Code, Error, Result};
use api::storage::v1::{
    AioVolume, EncryptedVolume, MallocVolume, NvmeNamespace, NvmeRemoteController, NvmeSubsystem,
};
use common::{
    Bench, create, delete, encrypted, malloc, namespace, reset, resource, subsystem, update,
};
use control::{Answer, CHANGES_QUEUED_MAX, Change, Settings};

fn refused(result: Result<Answer>) -> Error {
    match result {
        Ok(answer) => panic!("{answer:?} was not refused"),
        Err(error) => error,
    }
}

fn bench(ids: &[&str]) -> Bench {
    let mut bench = Bench::new();
    bench.run();
    for id in ids {
        bench.change(create("", id, &malloc())).unwrap();
    }
    bench.log();
    bench
}

#[test]
fn a_create_answers_with_the_full_name_and_what_the_handler_filled_in() {
    let made: MallocVolume = resource(bench(&[]).change(create("", "m0", &malloc())).unwrap());
    assert_eq!(made.name, "mallocVolumes/m0");
    assert_eq!(made.uuid, "00000000-0000-4000-8000-000000000001");
}

#[test]
fn the_server_chooses_an_id_when_the_client_does_not() {
    let made: MallocVolume = resource(bench(&[]).change(create("", "", &malloc())).unwrap());
    assert_eq!(
        made.name,
        "mallocVolumes/1b4e28ba-2fa1-41d2-883f-b9a761bde3fb"
    );
}

#[test]
fn a_name_in_the_body_is_ignored() {
    let named = MallocVolume {
        name: "mallocVolumes/other".to_owned(),
        ..malloc()
    };
    let mut bench = bench(&[]);
    let made: MallocVolume = resource(bench.change(create("", "m0", &named)).unwrap());
    assert_eq!(made.name, "mallocVolumes/m0");
    bench.change(create("", "m0", &malloc())).unwrap();
}

#[test]
fn a_kind_that_nobody_serves_is_unimplemented() {
    let volume = AioVolume {
        filename: "/f".to_owned(),
        ..Default::default()
    };
    let error = refused(bench(&[]).change(create("", "a", &volume)));
    assert_eq!(error.code, Code::Unimplemented);
}

#[test]
fn a_bad_id_and_a_missing_field_are_named() {
    let mut bench = bench(&[]);
    let error = refused(bench.change(create("", "Big", &malloc())));
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::InvalidArgument, Some("malloc_volume_id"))
    );
    let error = refused(bench.change(create("", "m", &MallocVolume::default())));
    assert_eq!(error.field.as_deref(), Some("malloc_volume.block_size"));
    assert_eq!(error.message, "malloc_volume.block_size: is required");
    assert!(bench.names().is_empty() && bench.store.names().0.is_empty());
}

#[test]
fn the_same_create_again_is_fine_and_another_one_is_not() {
    let mut bench = bench(&["m"]);
    let again: MallocVolume = resource(bench.change(create("", "m", &malloc())).unwrap());
    assert_eq!(again.uuid, "00000000-0000-4000-8000-000000000001");
    assert!(bench.log().is_empty());
    let other = MallocVolume {
        blocks_count: 9,
        ..malloc()
    };
    let error = refused(bench.change(create("", "m", &other)));
    assert_eq!(error.code, Code::AlreadyExists);
    assert_eq!(error.field.as_deref(), Some("malloc_volume.blocks_count"));
    assert!(error.message.contains("another blocks_count"), "{error}");
}

#[test]
fn a_create_with_another_secret_is_another_create_and_no_secret_comes_back() {
    let mut bench = bench(&["m"]);
    let made = bench
        .change(create("", "e", &encrypted("m", b"0123456789abcdef")))
        .unwrap();
    assert!(resource::<EncryptedVolume>(made).key.is_empty());
    let same = encrypted("mallocVolumes/m", b"0123456789abcdef");
    bench.change(create("", "e", &same)).unwrap();
    let error = refused(bench.change(create("", "e", &encrypted("m", b"0123456789abcdeX"))));
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::AlreadyExists, Some("encrypted_volume.key"))
    );
    assert!(!format!("{error:?}").contains("0123"));
    assert!(bench.get::<EncryptedVolume>("e").unwrap().key.is_empty());
}

#[test]
fn no_secret_is_in_what_is_printed_for_debugging() {
    let mut bench = bench(&["m"]);
    let key = b"0123456789abcdef";
    let change = create("", "e", &encrypted("m", key));
    let mut seen = format!("{change:?}");
    bench.submit(change);
    loop {
        seen.push_str(&format!("{:?}", bench.pending));
        if !bench.step() {
            break;
        }
    }
    let outcome = control::Outcome::Called(control::Operation(1), Ok(key.to_vec()));
    seen.push_str(&format!("{outcome:?}"));
    assert!(seen.contains("Create(encryptedVolumes/e)"), "{seen}");
    // As text, and as the numbers that derived implementations print.
    assert!(
        !seen.contains("0123456789") && !seen.contains("48, 49, 50"),
        "{seen}"
    );
}

#[test]
fn references_are_understood_in_every_form_and_stored_in_one() {
    for form in [
        "m",
        "volumes/m",
        "mallocVolumes/m",
        "00000000-0000-4000-8000-000000000001",
    ] {
        let mut bench = bench(&["m"]);
        let made = bench
            .change(create("", "e", &encrypted(form, b"k")))
            .unwrap();
        assert_eq!(
            resource::<EncryptedVolume>(made).volume_name_ref,
            "mallocVolumes/m"
        );
    }
}

#[test]
fn an_ambiguous_reference_names_the_candidates() {
    let mut bench = bench(&["m", "x"]);
    bench
        .change(create("", "x", &encrypted("m", b"k")))
        .unwrap();
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    let error = refused(bench.change(create("s", "n", &namespace("x"))));
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(
        error
            .message
            .contains("encryptedVolumes/x, mallocVolumes/x"),
        "{error}"
    );
    assert_eq!(
        error.field.as_deref(),
        Some("nvme_namespace.spec.volume_name_ref")
    );
}

#[test]
fn a_reference_to_nothing_is_not_found_and_names_its_field() {
    let mut bench = bench(&["m"]);
    for form in ["nope", "mallocVolumes/nope"] {
        let error = refused(bench.change(create("", "e", &encrypted(form, b"k"))));
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(
            error.field.as_deref(),
            Some("encrypted_volume.volume_name_ref")
        );
    }
    let error = refused(bench.change(create("", "e", &encrypted("nvmeSubsystems/s", b"k"))));
    assert_eq!(error.code, Code::InvalidArgument);
}

#[test]
fn a_child_needs_its_parent() {
    let mut bench = bench(&["m"]);
    let error = refused(bench.change(create("nvmeSubsystems/s", "n", &namespace("m"))));
    assert_eq!(
        (error.code, error.resource.as_deref()),
        (Code::NotFound, Some("nvmeSubsystems/s"))
    );
}

#[test]
fn what_is_in_use_or_has_children_is_not_deleted() {
    let mut bench = bench(&["m"]);
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    bench
        .change(create("nvmeSubsystems/s", "n", &namespace("m")))
        .unwrap();
    for change in [delete::<MallocVolume>("m"), delete::<NvmeSubsystem>("s")] {
        let error = refused(bench.change(change));
        assert_eq!(error.code, Code::FailedPrecondition);
        assert_eq!(error.in_use_by, ["nvmeSubsystems/s/nvmeNamespaces/n"]);
    }
    bench
        .change(delete::<NvmeNamespace>("nvmeSubsystems/s/nvmeNamespaces/n"))
        .unwrap();
    bench.change(delete::<MallocVolume>("m")).unwrap();
    bench.change(delete::<NvmeSubsystem>("s")).unwrap();
    assert!(bench.store.names().0.is_empty());
}

#[test]
fn a_middle_end_claims_its_base_alone_and_front_ends_share() {
    let mut bench = bench(&["m"]);
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    bench.change(create("s", "n1", &namespace("m"))).unwrap();
    bench.change(create("s", "n2", &namespace("m"))).unwrap();
    let error = refused(bench.change(create("", "e", &encrypted("m", b"k"))));
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.in_use_by, ["nvmeSubsystems/s/nvmeNamespaces/n1"]);
    for n in ["n1", "n2"] {
        let name = format!("nvmeSubsystems/s/nvmeNamespaces/{n}");
        bench.change(delete::<NvmeNamespace>(&name)).unwrap();
    }
    bench
        .change(create("", "e", &encrypted("m", b"k")))
        .unwrap();
    let error = refused(bench.change(create("s", "n1", &namespace("m"))));
    assert_eq!(error.in_use_by, ["encryptedVolumes/e"]);
}

#[test]
fn deleting_what_is_not_there_is_not_found_unless_allowed() {
    let mut bench = bench(&[]);
    assert_eq!(
        refused(bench.change(delete::<MallocVolume>("m"))).code,
        Code::NotFound
    );
    let kind = api::kinds::of::<MallocVolume>();
    let change = Change::Delete {
        kind,
        name: "m".to_owned(),
        allow_missing: true,
    };
    assert_eq!(bench.change(change).unwrap(), Answer::Gone);
}

#[test]
fn a_failed_create_is_rolled_back() {
    let mut bench = bench(&["m"]);
    bench.fault("create encryptedVolumes/e", 1);
    let error = refused(bench.change(create("", "e", &encrypted("m", b"k"))));
    assert_eq!(error.code, Code::Unavailable);
    assert_eq!(
        bench.log(),
        [
            "create encryptedVolumes/e volume_name_ref",
            "delete encryptedVolumes/e"
        ]
    );
    assert_eq!(
        bench.store.names(),
        (vec!["mallocVolumes/m".to_owned()], Vec::new())
    );
    bench.change(delete::<MallocVolume>("m")).unwrap();
}

#[test]
fn an_update_changes_what_the_mask_says() {
    let mut bench = bench(&["m"]);
    let wish = MallocVolume {
        name: "m".to_owned(),
        block_size: 4096,
        blocks_count: 16,
        ..Default::default()
    };
    let made: MallocVolume = resource(bench.change(update(&wish, &["blocks_count"])).unwrap());
    assert_eq!((made.block_size, made.blocks_count), (512, 16));
    assert_eq!(bench.log(), ["update mallocVolumes/m"]);
    assert_eq!(bench.get::<MallocVolume>("m").unwrap(), made);
    let error = refused(bench.change(update(&wish, &["nope"])));
    assert_eq!(error.field.as_deref(), Some("update_mask"));
    // What exists now is what a repeated create is compared with.
    let now = MallocVolume {
        blocks_count: 16,
        ..malloc()
    };
    bench.change(create("", "m", &now)).unwrap();
    assert_eq!(
        refused(bench.change(create("", "m", &malloc()))).code,
        Code::AlreadyExists
    );
}

#[test]
fn an_update_that_changes_nothing_calls_nobody() {
    let mut bench = bench(&["m"]);
    let same = MallocVolume {
        name: "m".to_owned(),
        ..malloc()
    };
    bench.change(update(&same, &[])).unwrap();
    assert!(bench.log().is_empty());
}

#[test]
fn a_reference_outside_the_mask_is_not_looked_at() {
    let mut bench = bench(&["m"]);
    bench
        .change(create("", "e", &encrypted("m", b"k")))
        .unwrap();
    let wish = EncryptedVolume {
        name: "e".to_owned(),
        cipher: 2,
        ..encrypted("mallocVolumes/gone", b"")
    };
    let made: EncryptedVolume = resource(bench.change(update(&wish, &["cipher"])).unwrap());
    assert_eq!(
        (made.cipher, &*made.volume_name_ref),
        (2, "mallocVolumes/m")
    );
    let error = refused(bench.change(update(&wish, &["volume_name_ref"])));
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::NotFound, Some("encrypted_volume.volume_name_ref"))
    );
}

#[test]
fn a_star_keeps_a_secret_that_was_not_sent() {
    let mut bench = bench(&["m", "m2"]);
    bench
        .change(create("", "e", &encrypted("m", b"k")))
        .unwrap();
    let (_, sealed) = bench.store.names();
    let wish = EncryptedVolume {
        name: "e".to_owned(),
        cipher: 2,
        ..encrypted("m", b"")
    };
    bench.change(update(&wish, &["*"])).unwrap();
    assert_eq!(bench.store.names().1, sealed);
    let stored = bench.world.lock().unwrap().things["encryptedVolumes/e"].clone();
    let stored: EncryptedVolume = prost_decode(&stored);
    assert_eq!((stored.key, stored.cipher), (b"k".to_vec(), 2));
}

fn prost_decode<R: api::Resource>(bytes: &[u8]) -> R {
    R::decode(bytes).unwrap()
}

#[test]
fn a_new_secret_is_sealed_and_the_old_one_erased() {
    let mut bench = bench(&["m"]);
    bench
        .change(create("", "e", &encrypted("m", b"old")))
        .unwrap();
    let (_, before) = bench.store.names();
    let wish = EncryptedVolume {
        name: "e".to_owned(),
        ..encrypted("m", b"new")
    };
    bench.change(update(&wish, &["key"])).unwrap();
    let (_, after) = bench.store.names();
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after);
    bench.change(delete::<EncryptedVolume>("e")).unwrap();
    assert!(bench.store.names().1.is_empty());
}

#[test]
fn a_refused_update_leaves_everything_as_it_was() {
    let mut bench = bench(&["m"]);
    let before = bench.get::<MallocVolume>("m").unwrap();
    bench.fault("update mallocVolumes/m", 1);
    let wish = MallocVolume {
        name: "m".to_owned(),
        blocks_count: 16,
        ..malloc()
    };
    assert_eq!(
        refused(bench.change(update(&wish, &["blocks_count"]))).code,
        Code::Unavailable
    );
    assert_eq!(bench.get::<MallocVolume>("m").unwrap(), before);
    // The handler may have done half of it, so it is asked to make it as it was.
    assert_eq!(
        bench.log(),
        ["update mallocVolumes/m", "create mallocVolumes/m replay"]
    );
}

#[test]
fn an_update_of_what_is_missing_creates_it_when_allowed() {
    let mut bench = bench(&[]);
    let resource = MallocVolume {
        name: "mallocVolumes/m".to_owned(),
        ..malloc()
    };
    assert_eq!(
        refused(bench.change(update(&resource, &[]))).code,
        Code::NotFound
    );
    let change = |name: &str| Change::Update {
        kind: api::kinds::of::<MallocVolume>(),
        resource: api::fields::to_dynamic(&MallocVolume {
            name: name.to_owned(),
            ..malloc()
        }),
        mask: vec!["blocks_count".to_owned()],
        allow_missing: true,
    };
    bench.change(change("mallocVolumes/m")).unwrap();
    assert_eq!(bench.get::<MallocVolume>("m").unwrap().block_size, 512);
    let error = refused(bench.change(change("mallocVolumes/Big")));
    assert_eq!(error.field.as_deref(), Some("malloc_volume.name"));
}

#[test]
fn a_volume_cannot_stand_on_itself() {
    let mut bench = bench(&["m"]);
    bench
        .change(create("", "a", &encrypted("m", b"k")))
        .unwrap();
    bench
        .change(create("", "b", &encrypted("a", b"k")))
        .unwrap();
    let circle = EncryptedVolume {
        name: "a".to_owned(),
        ..encrypted("b", b"k")
    };
    let error = refused(bench.change(update(&circle, &["volume_name_ref"])));
    assert_eq!(error.code, Code::InvalidArgument);
    assert!(
        error
            .message
            .contains("stands on encryptedVolumes/a itself"),
        "{error}"
    );
}

#[test]
fn changes_of_one_resource_wait_for_each_other_and_are_bounded() {
    let mut bench = bench(&[]);
    let first = bench.submit(create("", "m", &malloc()));
    let mut tickets = Vec::new();
    for n in 0..CHANGES_QUEUED_MAX {
        let blocks_count = 9 + n as i64;
        let wish = MallocVolume {
            name: "m".to_owned(),
            blocks_count,
            ..malloc()
        };
        tickets.push(bench.submit(update(&wish, &["blocks_count"])));
    }
    let overflow = bench.submit(delete::<MallocVolume>("m"));
    let elsewhere = bench.submit(create("", "other", &malloc()));
    bench.run();
    assert_eq!(
        bench.replies.remove(&overflow).unwrap().unwrap_err().code,
        Code::ResourceExhausted
    );
    for ticket in [first, elsewhere].into_iter().chain(tickets) {
        bench.replies.remove(&ticket).unwrap().unwrap();
    }
    let last = 8 + CHANGES_QUEUED_MAX as i64;
    assert_eq!(bench.get::<MallocVolume>("m").unwrap().blocks_count, last);
}

#[test]
fn what_is_still_being_created_is_neither_seen_nor_usable() {
    let mut bench = bench(&[]);
    bench.submit(create("", "m", &malloc()));
    assert!(bench.names().is_empty());
    let ticket = bench.submit(create("", "e", &encrypted("m", b"k")));
    let early = bench.step() && bench.step() && bench.replies.contains_key(&ticket);
    assert!(early, "the answer does not wait");
    assert_eq!(
        bench.replies.remove(&ticket).unwrap().unwrap_err().code,
        Code::Aborted
    );
    bench.run();
    assert_eq!(bench.names().len(), 1);
}

#[test]
fn a_full_disk_makes_nothing_and_the_server_goes_on() {
    let mut bench = bench(&["m"]);
    let full = Error::new(Code::ResourceExhausted, "the disk is full");
    bench.store.fail_with(Some(full));
    for change in [
        create("", "e", &encrypted("m", b"k")),
        delete::<MallocVolume>("m"),
        update(
            &MallocVolume {
                name: "m".to_owned(),
                blocks_count: 16,
                ..malloc()
            },
            &["blocks_count"],
        ),
    ] {
        assert_eq!(refused(bench.change(change)).code, Code::ResourceExhausted);
    }
    assert_eq!(bench.names().len(), 1);
    assert_eq!(bench.get::<MallocVolume>("m").unwrap().blocks_count, 8);
    bench.store.fail_with(None);
    bench.run_for_a_minute();
    assert!(bench.catalogue.is_settled());
    bench
        .change(create("", "e", &encrypted("m", b"k")))
        .unwrap();
    assert_eq!(bench.store.names().0.len(), 2);
}

fn grown(id: &str) -> MallocVolume {
    MallocVolume {
        name: id.to_owned(),
        blocks_count: 16,
        ..malloc()
    }
}

#[test]
fn an_update_that_is_made_and_cannot_be_stored_stays_and_is_success_only_once_it_is_stored() {
    let mut bench = bench(&["m"]);
    let ticket = bench.submit(update(&grown("m"), &["blocks_count"]));
    assert!(
        bench.step() && bench.step(),
        "the intent is stored and the volume has grown"
    );
    let full = Error::new(Code::ResourceExhausted, "the disk is full");
    bench.store.fail_with(Some(full));
    bench.run();
    let error = bench.replies.remove(&ticket).unwrap().unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("is changed already"), "{error}");
    // What is there cannot shrink, so it is neither tried nor claimed.
    assert_eq!(bench.log(), ["update mallocVolumes/m"]);
    assert_eq!(bench.get::<MallocVolume>("m").unwrap().blocks_count, 16);
    // It is so by now, and still not stored.
    let error = refused(bench.change(update(&grown("m"), &["blocks_count"])));
    assert_eq!(error.code, Code::ResourceExhausted);
    let mut restarted = Bench::over(bench.store.after_crash(), Settings::default());
    restarted.run();
    assert_eq!(restarted.get::<MallocVolume>("m").unwrap().blocks_count, 16);
    restarted.check_world("after a restart");
    bench.store.fail_with(None);
    bench
        .change(update(&grown("m"), &["blocks_count"]))
        .unwrap();
    let mut restarted = Bench::over(bench.store.after_crash(), Settings::default());
    restarted.run();
    assert_eq!(restarted.log(), ["create mallocVolumes/m replay"]);
    assert_eq!(restarted.get::<MallocVolume>("m").unwrap().blocks_count, 16);
}

#[test]
fn the_record_of_an_update_follows_by_itself() {
    let mut bench = bench(&["m"]);
    bench.submit(update(&grown("m"), &["blocks_count"]));
    assert!(bench.step() && bench.step());
    bench
        .store
        .fail_with(Some(Error::unavailable("the disk is away")));
    bench.run();
    bench.store.fail_with(None);
    bench.run_for_a_minute();
    assert!(bench.catalogue.is_settled());
    let mut restarted = Bench::over(bench.store.after_crash(), Settings::default());
    restarted.run();
    assert_eq!(restarted.log(), ["create mallocVolumes/m replay"]);
    assert_eq!(restarted.get::<MallocVolume>("m").unwrap().blocks_count, 16);
}

#[test]
fn a_reset_is_the_handlers_and_waits_for_its_turn() {
    let mut bench = bench(&["m"]);
    let remote = NvmeRemoteController {
        multipath: 1,
        ..Default::default()
    };
    let error = refused(bench.change(reset::<NvmeRemoteController>("c")));
    assert_eq!(error.code, Code::NotFound);
    // It comes while the create is under way.
    let created = bench.submit(create("", "c", &remote));
    let done = bench.submit(reset::<NvmeRemoteController>("c"));
    bench.run();
    bench.replies.remove(&created).unwrap().unwrap();
    assert_eq!(bench.replies.remove(&done).unwrap().unwrap(), Answer::Done);
    let name = "nvmeRemoteControllers/c";
    assert_eq!(
        bench.log(),
        [format!("create {name}"), format!("reset {name}")]
    );
    // What it says goes to the client, and the resource is as it was.
    bench.fault(&format!("reset {name}"), 1);
    let error = refused(bench.change(reset::<NvmeRemoteController>("c")));
    assert_eq!(error.message, format!("reset {name} fails"));
    bench.change(reset::<NvmeRemoteController>(name)).unwrap();
    // Other kinds have a handler without it.
    let error = refused(bench.change(reset::<MallocVolume>("m")));
    assert_eq!(error.code, Code::Unimplemented);
    assert_eq!(error.resource.as_deref(), Some("mallocVolumes/m"));
    bench.change(delete::<NvmeRemoteController>("c")).unwrap();
}

#[test]
fn legacy_names_are_answered_and_capitals_admitted_when_asked_for() {
    let mut bench = Bench::over(Default::default(), Settings { legacy_names: true });
    let made: MallocVolume = resource(bench.change(create("", "Malloc1", &malloc())).unwrap());
    assert_eq!(made.name, "volumes/Malloc1");
    let made = bench
        .change(create("", "e", &encrypted("Malloc1", b"k")))
        .unwrap();
    assert_eq!(
        resource::<EncryptedVolume>(made).volume_name_ref,
        "volumes/Malloc1"
    );
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    assert_eq!(
        bench.get::<NvmeSubsystem>("s").unwrap().name,
        "nvmeSubsystems/s"
    );
    bench
        .change(delete::<EncryptedVolume>("volumes/e"))
        .unwrap();
}
