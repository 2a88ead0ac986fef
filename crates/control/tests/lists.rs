//! Lists, pages and observations.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::Code;
use api::kinds;
use api::storage::v1::{AioVolume, MallocVolume, NvmeNamespace, QosVolume};
use common::{Bench, create, encrypted, malloc, namespace, subsystem};
use control::{Condition, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX};
use prost_reflect::DynamicMessage;

fn bench(volumes: usize) -> Bench {
    let mut bench = Bench::new();
    for n in 0..volumes {
        bench
            .change(create("", &format!("m{n:03}"), &malloc()))
            .unwrap();
    }
    bench
}

fn names(page: &[DynamicMessage]) -> Vec<String> {
    let name = |m: &DynamicMessage| {
        m.get_field_by_name("name")
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    page.iter().map(name).collect()
}

#[test]
fn pages_follow_each_other_in_order_and_leave_nothing_out() {
    let bench = bench(7);
    let kind = kinds::of::<MallocVolume>();
    let (mut seen, mut token) = (Vec::new(), String::new());
    loop {
        let (page, next) = bench.catalogue.list(kind, "", 3, &token).unwrap();
        seen.extend(names(&page));
        token = next;
        if token.is_empty() {
            break;
        }
        assert_eq!(page.len(), 3);
    }
    let expected: Vec<_> = (0..7).map(|n| format!("mallocVolumes/m{n:03}")).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_page_has_fifty_unless_told_and_never_more_than_the_cap() {
    let bench = bench(300);
    let kind = kinds::of::<MallocVolume>();
    let len = |size| bench.catalogue.list(kind, "", size, "").unwrap().0.len();
    assert_eq!(len(0), PAGE_SIZE_DEFAULT);
    assert_eq!(len(1000), PAGE_SIZE_MAX);
    let error = bench.catalogue.list(kind, "", -1, "").unwrap_err();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::InvalidArgument, Some("page_size"))
    );
}

#[test]
fn a_page_that_ends_exactly_at_the_end_has_no_next() {
    let bench = bench(3);
    let kind = kinds::of::<MallocVolume>();
    assert_eq!(bench.catalogue.list(kind, "", 3, "").unwrap().1, "");
    assert_ne!(bench.catalogue.list(kind, "", 2, "").unwrap().1, "");
}

#[test]
fn a_token_works_after_its_last_resource_is_gone_and_not_for_another_list() {
    let mut bench = bench(4);
    let kind = kinds::of::<MallocVolume>();
    let (_, token) = bench.catalogue.list(kind, "", 2, "").unwrap();
    bench
        .change(common::delete::<MallocVolume>("m001"))
        .unwrap();
    let (page, _) = bench.catalogue.list(kind, "", 2, &token).unwrap();
    assert_eq!(names(&page), ["mallocVolumes/m002", "mallocVolumes/m003"]);
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    let other = kinds::by_collection("nvmeSubsystems").unwrap();
    for token in [token.as_str(), "x", "00"] {
        let error = bench.catalogue.list(other, "", 2, token).unwrap_err();
        assert_eq!(
            (error.code, error.field.as_deref()),
            (Code::InvalidArgument, Some("page_token"))
        );
    }
}

#[test]
fn children_are_listed_below_their_parent_only() {
    let mut bench = bench(1);
    for s in ["s", "s-1"] {
        bench
            .change(create(
                "",
                s,
                &subsystem(&format!("nqn.2024-01.org.example:{s}")),
            ))
            .unwrap();
        bench.change(create(s, "n", &namespace("m000"))).unwrap();
    }
    let kind = kinds::of::<NvmeNamespace>();
    let list = |parent: &str| {
        bench
            .catalogue
            .list(kind, parent, 0, "")
            .map(|(p, _)| names(&p))
    };
    assert_eq!(
        list("nvmeSubsystems/s").unwrap(),
        ["nvmeSubsystems/s/nvmeNamespaces/n"]
    );
    assert_eq!(list("s").unwrap(), ["nvmeSubsystems/s/nvmeNamespaces/n"]);
    assert_eq!(list("nvmeSubsystems/-").unwrap().len(), 2);
    assert_eq!(list("nvmeSubsystems/no").unwrap_err().code, Code::NotFound);
    assert_eq!(list("").unwrap_err().code, Code::InvalidArgument);
}

#[test]
fn a_parent_that_means_nothing_is_accepted_whatever_it_says() {
    let mut bench = bench(1);
    bench
        .change(create("", "e", &encrypted("m000", b"k")))
        .unwrap();
    let kind = kinds::by_collection("encryptedVolumes").unwrap();
    for parent in ["todo", "volumes", "", "a/b/c"] {
        assert_eq!(
            bench.catalogue.list(kind, parent, 0, "").unwrap().0.len(),
            1
        );
    }
}

#[test]
fn kinds_that_nobody_serves_say_so() {
    let bench = bench(0);
    let unimplemented = |r: Result<_, api::Error>| r.unwrap_err().code == Code::Unimplemented;
    assert!(unimplemented(
        bench
            .catalogue
            .list(kinds::of::<AioVolume>(), "", 0, "")
            .map(|_| ())
    ));
    assert!(unimplemented(
        bench
            .catalogue
            .get(kinds::of::<QosVolume>(), "q")
            .map(|_| ())
    ));
    assert!(unimplemented(
        bench
            .catalogue
            .stats(kinds::of::<QosVolume>(), "q")
            .map(|_| ())
    ));
}

#[test]
fn a_sight_shows_chain_and_users() {
    let mut bench = bench(1);
    bench
        .change(create("", "e", &encrypted("m000", b"k")))
        .unwrap();
    bench
        .change(create("", "s", &subsystem("nqn.2024-01.org.example:s")))
        .unwrap();
    bench.change(create("s", "n", &namespace("e"))).unwrap();
    let text = |names: &[api::names::ResourceName]| {
        names.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let sight = bench
        .catalogue
        .sight("nvmeSubsystems/s/nvmeNamespaces/n")
        .unwrap();
    assert_eq!(
        text(&sight.chain),
        ["encryptedVolumes/e", "mallocVolumes/m000"]
    );
    assert_eq!(sight.condition, Condition::Ready);
    let sight = bench.catalogue.sight("m000").unwrap();
    assert_eq!(text(&sight.users), ["encryptedVolumes/e"]);
    assert_eq!(
        bench.catalogue.sight("nope").unwrap_err().code,
        Code::InvalidArgument
    );
    assert_eq!(
        bench.catalogue.sight("mallocVolumes/no").unwrap_err().code,
        Code::NotFound
    );
    let (page, token) = bench.catalogue.sights("", None, 3, "").unwrap();
    assert_eq!(page.len(), 3);
    let (rest, token) = bench.catalogue.sights("", None, 3, &token).unwrap();
    assert_eq!((rest.len(), token.as_str()), (1, ""));
    assert_eq!(
        bench
            .catalogue
            .sights("nvmeSubsystems/s", None, 0, "")
            .unwrap()
            .0
            .len(),
        1
    );
}
