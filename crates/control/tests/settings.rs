//! The settings of a resource: shown, changed, refused, kept over a restart, gone with it.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::{Code, Error, Result};
use api::ext::v1::NvmeRemoteControllerSettings;
use api::kinds;
use api::storage::v1::{MallocVolume, NvmeRemoteController};
use common::{
    Bench, CONNECT_TIMEOUT_MS_DEFAULT, create, delete, dynamic, malloc, remote, set, settings,
    update,
};
use control::{Answer, Settings};

const NAME: &str = "nvmeRemoteControllers/r/settings";

/// A bench with the remote controller `r`.
fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.change(create("", "r", &remote(1))).unwrap();
    bench.log();
    bench
}

fn get(bench: &Bench, name: &str) -> Result<NvmeRemoteControllerSettings> {
    let kind = kinds::of::<NvmeRemoteController>();
    let shown = bench.catalogue.settings(kind, name)?;
    Ok(shown.transcode_to().unwrap())
}

fn timeout(bench: &Bench) -> u32 {
    get(bench, NAME).unwrap().connect_timeout_ms.unwrap()
}

fn refused(answer: Result<Answer>, code: Code, field: &str) -> Error {
    let error = answer.unwrap_err();
    assert_eq!(error.code, code, "{error}");
    assert_eq!(error.field.as_deref().unwrap_or_default(), field, "{error}");
    error
}

#[test]
fn what_was_not_chosen_is_shown_as_it_is_in_force() {
    let bench = bench();
    let shown = get(&bench, "r/settings").unwrap();
    assert_eq!(shown, settings("r", Some(CONNECT_TIMEOUT_MS_DEFAULT)));
}

#[test]
fn a_change_reaches_the_handler_as_an_update_and_answers_with_the_settings() {
    let mut bench = bench();
    let answer = bench.change(set(&settings("r", Some(700)), &[])).unwrap();
    let answer: NvmeRemoteControllerSettings = dynamic(answer).transcode_to().unwrap();
    assert_eq!(answer, settings("r", Some(700)));
    assert_eq!(bench.log(), ["update nvmeRemoteControllers/r"]);
    assert_eq!(timeout(&bench), 700);
    bench.check_world("after the change");
    // What is so already is no work for the handler.
    bench.change(set(&settings("r", Some(700)), &[])).unwrap();
    assert_eq!(bench.log(), [""; 0]);
}

#[test]
fn masks_do_what_they_do_everywhere() {
    let mut bench = bench();
    let mut wish = settings("r", Some(700));
    wish.io_timeout_ms = Some(9);
    bench.change(set(&wish, &["io_timeout_ms"])).unwrap();
    let shown = get(&bench, NAME).unwrap();
    assert_eq!(shown.io_timeout_ms, Some(9));
    assert_eq!(shown.connect_timeout_ms, Some(CONNECT_TIMEOUT_MS_DEFAULT));
    // Without a mask: what is set.
    bench.change(set(&settings("r", Some(1)), &[])).unwrap();
    assert_eq!(get(&bench, NAME).unwrap().io_timeout_ms, Some(9));
    // A path that is not sent goes back to its default, and `*` does so with all.
    let gone = set(&settings("r", None), &["io_timeout_ms"]);
    bench.change(gone).unwrap();
    assert_eq!(get(&bench, NAME).unwrap().io_timeout_ms, None);
    bench.change(set(&settings("r", None), &["*"])).unwrap();
    assert_eq!(timeout(&bench), CONNECT_TIMEOUT_MS_DEFAULT);
    let wrong = bench.change(set(&settings("r", None), &["nope"]));
    refused(wrong, Code::InvalidArgument, "update_mask");
}

#[test]
fn names_that_fit_nothing_are_refused_with_their_field() {
    let mut bench = bench();
    let error = get(&bench, "nvmeRemoteControllers/x/settings").unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    for name in [
        "",
        "r",
        "nvmeRemoteControllers/r",
        "mallocVolumes/m/settings",
    ] {
        let error = get(&bench, name).unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{name}");
        assert_eq!(error.field.as_deref(), Some("name"), "{name}");
        let mut wish = settings("r", Some(1));
        wish.name = name.to_owned();
        let field = "nvme_remote_controller_settings.name";
        refused(bench.change(set(&wish, &[])), Code::InvalidArgument, field);
    }
    let missing = bench.change(set(&settings("x", Some(1)), &[]));
    refused(missing, Code::NotFound, "");
    // Other kinds have none.
    assert!(kinds::of::<MallocVolume>().settings.is_none());
}

#[test]
fn what_the_handler_does_not_admit_changes_nothing() {
    let mut bench = bench();
    let field = "nvme_remote_controller_settings.connect_timeout_ms";
    let error = bench.change(set(&settings("r", Some(0)), &[]));
    let error = refused(error, Code::InvalidArgument, field);
    assert_eq!(error.message, format!("{field}: must be 1 or more"));
    assert_eq!(bench.log(), [""; 0]);
    assert_eq!(timeout(&bench), CONNECT_TIMEOUT_MS_DEFAULT);
}

#[test]
fn a_change_that_fails_is_taken_back() {
    let mut bench = bench();
    bench.change(set(&settings("r", Some(5)), &[])).unwrap();
    bench.fault("update nvmeRemoteControllers/r", 1);
    let failed = bench.change(set(&settings("r", Some(6)), &[]));
    refused(failed, Code::Unavailable, "");
    assert_eq!(timeout(&bench), 5);
    bench.check_world("after a failure");
    let mut next = Bench::over(bench.store.after_crash(), Settings::default());
    next.run();
    assert_eq!(timeout(&next), 5);
}

#[test]
fn they_outlive_a_restart_and_updates_of_the_resource_but_not_the_resource() {
    let mut bench = bench();
    bench.change(set(&settings("r", Some(5)), &[])).unwrap();
    let mut renamed = remote(2);
    renamed.name = "r".to_owned();
    bench.change(update(&renamed, &["multipath"])).unwrap();
    assert_eq!(timeout(&bench), 5);
    bench.check_world("after an update");
    // The same create again asks for nothing new, whatever the settings are.
    bench.change(create("", "r", &remote(2))).unwrap();
    let mut next = Bench::over(bench.store.after_crash(), Settings::default());
    next.run();
    assert_eq!(timeout(&next), 5);
    next.check_world("after a restart");
    next.change(delete::<NvmeRemoteController>("r")).unwrap();
    let gone = get(&next, NAME).unwrap_err();
    assert_eq!(gone.code, Code::NotFound);
    next.change(create("", "r", &remote(1))).unwrap();
    assert_eq!(timeout(&next), CONNECT_TIMEOUT_MS_DEFAULT);
}

#[test]
fn a_change_wakes_what_could_not_be_brought_back() {
    let mut bench = bench();
    bench.change(set(&settings("r", Some(5)), &[])).unwrap();
    let mut next = Bench::over(bench.store.after_crash(), Settings::default());
    next.fault("create nvmeRemoteControllers/r", 1);
    next.run();
    // The same settings again are worth another attempt.
    next.change(set(&settings("r", Some(5)), &[])).unwrap();
    let log = next.log();
    assert_eq!(
        log, ["create nvmeRemoteControllers/r replay"; 2],
        "made as it shall be"
    );
    next.check_world("after the second attempt");
}

#[test]
fn what_is_being_deleted_is_not_set() {
    let mut bench = bench();
    let delete = bench.submit(delete::<NvmeRemoteController>("r"));
    let set = bench.submit(set(&settings("r", Some(5)), &[]));
    bench.run();
    assert!(bench.replies.remove(&delete).unwrap().is_ok());
    let refusal = bench.replies.remove(&set).unwrap();
    refused(refusal, Code::NotFound, "");
}

#[test]
fn a_handler_that_knows_no_settings_refuses_them() {
    use api::handler::{Handler, Handlers, Job, Observed};
    use api::names::ResourceName;
    struct Plain;
    impl Handler<NvmeRemoteController> for Plain {
        async fn create(&self, _: Job, r: NvmeRemoteController) -> Result<NvmeRemoteController> {
            Ok(r)
        }
        async fn delete(&self, _: ResourceName) -> Result<()> {
            Ok(())
        }
        fn observe(&self, _: &ResourceName, _: &mut NvmeRemoteController) -> Observed {
            Observed::default()
        }
    }
    let mut handlers = Handlers::default();
    handlers.add::<NvmeRemoteController>(Plain).unwrap();
    let handler = handlers.of("nvmeRemoteControllers").unwrap();
    let name = ResourceName::parse("nvmeRemoteControllers/r", "name").unwrap();
    let wish = api::handler::Settings::new(&settings("r", Some(5)));
    let error = handler.admit_settings(&name, &[], &wish).unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
    // A kind without settings is not even asked.
    let mut bench = bench();
    bench.change(create("", "m", &malloc())).unwrap();
    let kind = kinds::of::<MallocVolume>();
    assert!(bench.catalogue.settings(kind, "m/settings").is_err());
}
