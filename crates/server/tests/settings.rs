//! Settings and facts through the whole service, with real handlers and a store on disk.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::{Code, Result};
use api::ext::v1 as ext;
use api::storage::v1 as storage;
use common::{Server, start};
use server::metrics::{Process, Row, render};

const NAME: &str = "nvmeRemoteControllers/r/settings";
const PATH: &str = "nvmeRemoteControllers/r/nvmePaths/p";

async fn get(server: &Server) -> ext::NvmeRemoteControllerSettings {
    let request = ext::GetNvmeRemoteControllerSettingsRequest {
        name: NAME.to_owned(),
    };
    let method = "NvmeRemoteControllerSettingsService/GetNvmeRemoteControllerSettings";
    server.call(method, &request).await.unwrap()
}

async fn set(
    server: &Server,
    settings: ext::NvmeRemoteControllerSettings,
) -> Result<ext::NvmeRemoteControllerSettings> {
    let request = ext::UpdateNvmeRemoteControllerSettingsRequest {
        nvme_remote_controller_settings: Some(ext::NvmeRemoteControllerSettings {
            name: NAME.to_owned(),
            ..settings
        }),
        update_mask: None,
    };
    let method = "NvmeRemoteControllerSettingsService/UpdateNvmeRemoteControllerSettings";
    server.call(method, &request).await
}

/// Makes the controller `r`.
async fn controller(server: &Server) {
    let request = storage::CreateNvmeRemoteControllerRequest {
        nvme_remote_controller: Some(storage::NvmeRemoteController {
            multipath: storage::NvmeMultipath::Multipath.into(),
            ..Default::default()
        }),
        nvme_remote_controller_id: "r".to_owned(),
    };
    let method = "NvmeRemoteControllerService/CreateNvmeRemoteController";
    let _: storage::NvmeRemoteController = server.call(method, &request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_a_remote_controller_are_shown_changed_checked_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    controller(&server).await;
    let shown = get(&server).await;
    assert_eq!(shown.name, NAME);
    assert_eq!(shown.controller_loss_timeout_s, Some(600));
    assert_eq!(shown.io_policy(), ext::NvmeIoPolicy::QueueDepth);
    let wish = ext::NvmeRemoteControllerSettings {
        controller_loss_timeout_s: Some(-1),
        io_policy: ext::NvmeIoPolicy::RoundRobin.into(),
        ..Default::default()
    };
    let answer = set(&server, wish).await.unwrap();
    assert_eq!(answer.controller_loss_timeout_s, Some(-1));
    assert_eq!(answer.keep_alive_timeout_ms, Some(5_000));
    let wrong = ext::NvmeRemoteControllerSettings {
        keep_alive_timeout_ms: Some(1),
        ..Default::default()
    };
    let error = set(&server, wrong).await.unwrap_err();
    let field = "nvme_remote_controller_settings.keep_alive_timeout_ms";
    assert_eq!(error.code, Code::InvalidArgument);
    assert_eq!(error.field.as_deref(), Some(field));
    server.stop(dir.path()).await;

    let server = start(dir.path());
    server.service.restored().await;
    assert_eq!(get(&server).await, answer);
    server.stop(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_else_a_path_counts_is_observed_and_measured() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    controller(&server).await;
    // Nobody listens there: discard, a port that only root could take.
    let request = storage::CreateNvmePathRequest {
        parent: "nvmeRemoteControllers/r".to_owned(),
        nvme_path_id: "p".to_owned(),
        nvme_path: Some(storage::NvmePath {
            trtype: storage::NvmeTransportType::Tcp.into(),
            traddr: "127.0.0.1".to_owned(),
            fabrics: Some(storage::FabricsPath {
                trsvcid: 9,
                subnqn: "nqn.2026-01.org.example:array".to_owned(),
                adrfam: storage::NvmeAddressFamily::Ipv4.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
    };
    let method = "NvmeRemoteControllerService/CreateNvmePath";
    let _: storage::NvmePath = server.call(method, &request).await.unwrap();
    let request = ext::GetObservationRequest {
        name: PATH.to_owned(),
    };
    let seen: ext::Observation = server
        .call("ObservationService/GetObservation", &request)
        .await
        .unwrap();
    let value = |name: &str| {
        let fact = seen.facts.iter().find(|fact| fact.name == name);
        fact.and_then(|fact| fact.value.clone()).unwrap()
    };
    let lost = ext::fact::Value::State("lost".to_owned());
    assert_eq!(value("nvme_path_state"), lost);
    assert_eq!(value("nvme_path_reconnects"), ext::fact::Value::Counter(0));
    assert!(seen.stats.is_some());

    let sight = server.service.read(|catalogue| catalogue.sight(PATH)).await;
    let process = Process {
        version: "1",
        io_engine: "uring",
        reactors: 1,
        pool_bytes: 0,
    };
    let page = render(&[Row::from(sight.unwrap())], &process);
    let labels = format!("kind=\"nvmePaths\",name=\"{PATH}\"");
    for line in [
        format!("opi_nvme_path_state{{{labels},state=\"lost\"}} 1"),
        format!("opi_nvme_path_state{{{labels},state=\"live\"}} 0"),
        format!("opi_nvme_path_reconnects_total{{{labels}}} 0"),
    ] {
        assert!(page.lines().any(|one| one == line), "{line}\n{page}");
    }
    server.stop(dir.path()).await;
}
