//! Kinds that nobody creates: found below a parent, listed, referred to, and never stored.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::Code;
use api::handler::Resource;
use api::kinds;
use api::storage::v1::{NvmeMultipath, NvmeNamespace, NvmeRemoteController, NvmeRemoteNamespace};
use common::{Bench, create, delete, namespace, subsystem};
use control::{Condition, Settings};
use prost::Message as _;
use prost_reflect::DynamicMessage;

const UUID: &str = "6f2c1a44-2fa1-41d2-883f-b9a761bde3fb";
const FIRST: &str = "nvmeRemoteControllers/rc/nvmeRemoteNamespaces/n1";

/// Puts a namespace into what the array shows.
fn show(bench: &Bench, name: &str, nsid: i32, uuid: &str) {
    let found = NvmeRemoteNamespace {
        nsid,
        uuid: uuid.to_owned(),
        ..NvmeRemoteNamespace::default()
    };
    let mut world = bench.world.lock().unwrap();
    world.things.insert(name.to_owned(), found.encode_to_vec());
}

fn remote() -> NvmeRemoteController {
    NvmeRemoteController {
        multipath: NvmeMultipath::Failover.into(),
        ..NvmeRemoteController::default()
    }
}

/// Two controllers with a namespace each, and a subsystem.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.change(create("", "rc", &remote())).unwrap();
    bench.change(create("", "other", &remote())).unwrap();
    bench
        .change(create("", "s0", &subsystem("nqn.2026-01.org.example:s0")))
        .unwrap();
    show(&bench, FIRST, 1, UUID);
    show(
        &bench,
        "nvmeRemoteControllers/other/nvmeRemoteNamespaces/n1",
        1,
        "",
    );
    show(
        &bench,
        "nvmeRemoteControllers/other/nvmeRemoteNamespaces/n2",
        2,
        "",
    );
    bench
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message
        .get_field_by_name(field)
        .unwrap()
        .as_str()
        .unwrap()
        .to_owned()
}

#[test]
fn what_was_found_is_listed_page_by_page_below_its_parent_or_below_all() {
    let bench = bench();
    let kind = kinds::of::<NvmeRemoteNamespace>();
    let list = |parent, size, token: &str| {
        let (page, next) = bench.catalogue.list(kind, parent, size, token).unwrap();
        let names: Vec<String> = page.iter().map(|one| text(one, "name")).collect();
        (names, next)
    };
    assert_eq!(
        list("nvmeRemoteControllers/rc", 0, ""),
        (vec![FIRST.to_owned()], String::new())
    );
    let (page, next) = list("-", 2, "");
    assert_eq!(page.len(), 2);
    let (rest, end) = list("-", 2, &next);
    assert_eq!((rest, end), (vec![FIRST.to_owned()], String::new()));
    let shown = bench.catalogue.get(kind, FIRST).unwrap();
    assert_eq!(
        (text(&shown, "name"), text(&shown, "uuid")),
        (FIRST.to_owned(), UUID.to_owned())
    );
    let missing = bench
        .catalogue
        .get(kind, "nvmeRemoteControllers/rc/nvmeRemoteNamespaces/n7");
    assert_eq!(missing.unwrap_err().code, Code::NotFound);
    let orphan = bench
        .catalogue
        .list(kind, "nvmeRemoteControllers/nobody", 0, "");
    assert_eq!(orphan.unwrap_err().code, Code::NotFound);
    let sight = bench.catalogue.sight(FIRST).unwrap();
    assert_eq!(sight.condition, Condition::Ready);
    assert!(
        bench
            .catalogue
            .names(None)
            .any(|name| name.as_str() == FIRST)
    );
}

#[test]
fn a_found_volume_is_meant_by_its_name_its_identifiers_and_its_joined_ids() {
    let mut bench = bench();
    let texts = [FIRST, UUID, "6F2C1A442FA141D2883FB9A761BDE3FB", "rcn1"];
    for (number, reference) in texts.into_iter().enumerate() {
        let id = format!("n{number}");
        let parent = "nvmeSubsystems/s0";
        bench
            .change(create(parent, &id, &namespace(reference)))
            .unwrap();
        let name = format!("{parent}/nvmeNamespaces/{id}");
        let shown = bench
            .catalogue
            .get(kinds::of::<NvmeNamespace>(), &name)
            .unwrap();
        let spec = shown.get_field_by_name("spec").unwrap();
        assert_eq!(text(spec.as_message().unwrap(), "volume_name_ref"), FIRST);
    }
    let error = bench
        .change(create("nvmeSubsystems/s0", "nx", &namespace("rcn9")))
        .unwrap_err();
    assert_eq!(error.code, Code::NotFound);
}

#[test]
fn a_controller_stays_while_something_found_below_it_is_used() {
    let mut bench = bench();
    bench
        .change(create("nvmeSubsystems/s0", "n0", &namespace(FIRST)))
        .unwrap();
    let error = bench
        .change(delete::<NvmeRemoteController>("nvmeRemoteControllers/rc"))
        .unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert_eq!(error.in_use_by, ["nvmeSubsystems/s0/nvmeNamespaces/n0"]);
    assert_eq!(bench.catalogue.sight(FIRST).unwrap().users.len(), 1);
    bench
        .change(delete::<NvmeNamespace>(
            "nvmeSubsystems/s0/nvmeNamespaces/n0",
        ))
        .unwrap();
    bench
        .change(delete::<NvmeRemoteController>("nvmeRemoteControllers/rc"))
        .unwrap();
}

#[test]
fn after_a_start_what_stands_on_it_waits_for_the_controller_that_knows_it() {
    let mut before = bench();
    before
        .change(create("nvmeSubsystems/s0", "n0", &namespace(FIRST)))
        .unwrap();
    let mut after = Bench::over(before.store, Settings::default());
    // The handler remembers it.
    show(&after, FIRST, 1, UUID);
    after.run();
    let log = after.log();
    let at = |call: &str| log.iter().position(|line| line.starts_with(call)).unwrap();
    let namespace = at("create nvmeSubsystems/s0/nvmeNamespaces/n0");
    assert!(at("create nvmeRemoteControllers/rc") < namespace, "{log:?}");
    assert!(log[namespace].contains("spec.volume_name_ref"), "{log:?}");
}

#[test]
fn nobody_creates_what_is_found() {
    let kind = kinds::of::<NvmeRemoteNamespace>();
    assert_eq!(kind.collection, NvmeRemoteNamespace::COLLECTION);
    assert!(kind.method(&kinds::Verb::Create).is_none());
}
