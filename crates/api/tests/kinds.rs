//! The table of kinds, as it is read from the descriptors.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

use api::kinds::{Target, Verb, all, by_collection, method_by_path, methods};
use prost_reflect::FieldDescriptor;

#[test]
fn every_storage_kind_is_in_the_table() {
    assert_eq!(
        all()
            .iter()
            .filter(|k| k.resource_type.starts_with("opi_api."))
            .count(),
        15
    );
    assert_eq!(
        methods()
            .iter()
            .filter(|m| m.path.starts_with("/opi_api."))
            .count(),
        88
    );
}

#[test]
fn eighty_six_methods_are_the_six_verbs_and_one_is_reset() {
    let storage = methods()
        .iter()
        .filter(|m| m.path.starts_with("/opi_api.storage."));
    let custom: Vec<_> = storage
        .filter(|m| matches!(m.verb, Verb::Custom(_)))
        .map(|m| {
            (
                m.verb.clone(),
                m.kind().expect("reset has a kind").collection.clone(),
            )
        })
        .collect();
    let reset = Verb::Custom("reset".to_owned());
    assert_eq!(custom, [(reset, "nvmeRemoteControllers".to_owned())]);
}

#[test]
fn a_child_knows_its_parent() {
    let kind = by_collection("nvmeControllers").unwrap();
    assert_eq!(kind.parent().unwrap().collection, "nvmeSubsystems");
    assert_eq!(
        kind.pattern_text(),
        "nvmeSubsystems/{subsystem}/nvmeControllers/{controller}"
    );
    assert!(by_collection("mallocVolumes").unwrap().parent().is_none());
}

#[test]
fn every_kind_but_the_observed_one_can_be_created() {
    for kind in all() {
        let has = kind.method(&Verb::Create).is_some();
        assert_eq!(
            has,
            kind.collection != "nvmeRemoteNamespaces",
            "{}",
            kind.collection
        );
        assert!(kind.method(&Verb::Get).is_some());
        assert!(kind.method(&Verb::List).unwrap().fields.items.is_some());
    }
}

#[test]
fn settings_are_no_kind_but_belong_to_one() {
    let kind = by_collection("nvmeRemoteControllers").unwrap();
    let settings = kind.settings.as_ref().unwrap();
    assert_eq!(settings.name(), "NvmeRemoteControllerSettings");
    let get = kind.method(&Verb::GetSettings).unwrap();
    assert_eq!(get.kind(), Some(kind));
    assert_eq!(
        get.http[0].template,
        "/ext/v1/{name=nvmeRemoteControllers/*/settings}"
    );
    let update = kind.method(&Verb::UpdateSettings).unwrap();
    let field = update.fields.resource.as_ref().unwrap();
    assert_eq!(field.name(), "nvme_remote_controller_settings");
    assert!(update.fields.mask.is_some() && update.fields.allow_missing.is_none());
}

#[test]
fn settings_can_be_kept_and_shown_by_everyone_and_have_both_methods() {
    for kind in all() {
        let Some(settings) = &kind.settings else {
            continue;
        };
        let name = settings.full_name();
        // What is found and never stored has no record that could hold settings.
        assert!(kind.method(&Verb::Create).is_some(), "{name}");
        for verb in [Verb::GetSettings, Verb::UpdateSettings] {
            assert!(kind.method(&verb).is_some(), "{name} has no {verb:?}");
        }
        assert!(api::fields::secret_paths(settings).is_empty(), "{name}");
        let refers = |f: FieldDescriptor| f.name().ends_with("_name_ref");
        assert!(!settings.fields().any(refers), "{name}");
    }
}

#[test]
fn requests_know_their_fields() {
    let create = method_by_path("/opi_api.storage.v1.FrontendNvmeService/CreateNvmeController");
    let fields = &create.unwrap().fields;
    assert_eq!(fields.resource.as_ref().unwrap().name(), "nvme_controller");
    assert_eq!(fields.id.as_ref().unwrap().name(), "nvme_controller_id");
    assert_eq!(fields.parent.as_ref().unwrap().name(), "parent");
    assert!(fields.mask.is_none());
}

#[test]
fn references_are_found_inside_messages() {
    let kind = by_collection("nvmeNamespaces").unwrap();
    let found: Vec<_> = kind
        .references
        .iter()
        .map(|r| (&*r.dotted, r.target))
        .collect();
    assert_eq!(found, [("spec.volume_name_ref", Target::Volume)]);
    let lun = by_collection("virtioScsiLuns").unwrap();
    assert_eq!(
        lun.references[0].target,
        Target::Collection("virtioScsiTargets")
    );
}

#[test]
fn volumes_are_what_others_can_stand_on() {
    let volumes: Vec<_> = all()
        .iter()
        .filter(|k| k.is_volume)
        .map(|k| &*k.collection)
        .collect();
    let expected = [
        "aioVolumes",
        "mallocVolumes",
        "nullVolumes",
        "nvmeRemoteNamespaces",
    ];
    assert!(expected.iter().all(|e| volumes.contains(e)), "{volumes:?}");
    assert_eq!(volumes.len(), 6);
}

#[test]
fn routes_come_from_the_annotations() {
    let path = "/opi_api.storage.v1.NvmeRemoteControllerService/ResetNvmeRemoteController";
    let rule = &method_by_path(path).unwrap().http[0];
    assert_eq!(rule.verb, "POST");
    assert_eq!(rule.template, "/v1/{name=nvmeRemoteControllers/*}:reset");
    assert_eq!(rule.body.as_deref(), Some("*"));
}
