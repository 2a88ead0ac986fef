//! The service from request to store and back, with real volumes.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use api::error::Code;
use api::ext::v1 as ext;
use api::inventory::v1 as inventory;
use api::kinds;
use api::storage::v1 as storage;
use common::{Server, start};
use prost_reflect::DynamicMessage;
use server::calls::{Calls as _, Meta};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_stream::StreamExt as _;

fn malloc() -> storage::MallocVolume {
    storage::MallocVolume {
        block_size: 512,
        blocks_count: 64,
        ..Default::default()
    }
}

async fn create(server: &Server, id: &str) -> api::error::Result<storage::MallocVolume> {
    let request = storage::CreateMallocVolumeRequest {
        malloc_volume: Some(malloc()),
        malloc_volume_id: id.to_owned(),
    };
    server
        .call("MallocVolumeService/CreateMallocVolume", &request)
        .await
}

async fn delete(server: &Server, name: &str) -> api::error::Result<()> {
    let request = storage::DeleteMallocVolumeRequest {
        name: name.to_owned(),
        allow_missing: false,
    };
    server
        .call("MallocVolumeService/DeleteMallocVolume", &request)
        .await
}

async fn subsystem(server: &Server, id: &str) -> storage::NvmeSubsystem {
    let nqn = format!("nqn.2024-01.org.example:{id}");
    let spec = storage::NvmeSubsystemSpec {
        nqn,
        max_namespaces: 2048,
        ..Default::default()
    };
    let request = storage::CreateNvmeSubsystemRequest {
        nvme_subsystem: Some(storage::NvmeSubsystem {
            spec: Some(spec),
            ..Default::default()
        }),
        nvme_subsystem_id: id.to_owned(),
    };
    server
        .call("FrontendNvmeService/CreateNvmeSubsystem", &request)
        .await
        .unwrap()
}

async fn export(server: &Server, id: &str) -> api::error::Result<storage::NvmeNamespace> {
    let spec = storage::NvmeNamespaceSpec {
        volume_name_ref: id.to_owned(),
        ..Default::default()
    };
    let request = storage::CreateNvmeNamespaceRequest {
        parent: "nvmeSubsystems/s".to_owned(),
        nvme_namespace: Some(storage::NvmeNamespace {
            spec: Some(spec),
            ..Default::default()
        }),
        nvme_namespace_id: id.to_owned(),
    };
    server
        .call("FrontendNvmeService/CreateNvmeNamespace", &request)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_six_verbs_work_and_outlive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    server.service.restored().await;
    let made = create(&server, "m0").await.unwrap();
    assert_eq!(made.name, "mallocVolumes/m0");
    assert_eq!(made.uuid.len(), 36);
    create(&server, "m1").await.unwrap();
    delete(&server, "m1").await.unwrap();
    assert_eq!(
        delete(&server, "m1").await.unwrap_err().code,
        Code::NotFound
    );
    server.stop(dir.path()).await;

    let server = start(dir.path());
    server.service.restored().await;
    assert!(server.world.restored.is_open());
    let request = storage::ListMallocVolumesRequest::default();
    let list: storage::ListMallocVolumesResponse = server
        .call("MallocVolumeService/ListMallocVolumes", &request)
        .await
        .unwrap();
    assert_eq!(list.malloc_volumes.len(), 1);
    assert_eq!(list.malloc_volumes[0].blocks_count, 64);
    let request = storage::StatsMallocVolumeRequest {
        name: "m0".to_owned(),
    };
    let stats: storage::StatsMallocVolumeResponse = server
        .call("MallocVolumeService/StatsMallocVolume", &request)
        .await
        .unwrap();
    assert_eq!(stats.stats, Some(storage::VolumeStats::default()));
    server.stop(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_checked_and_what_nobody_serves_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let request = storage::CreateMallocVolumeRequest::default();
    let error = server
        .call::<_, ()>("MallocVolumeService/CreateMallocVolume", &request)
        .await;
    let error = error.unwrap_err();
    assert_eq!(
        (error.code, error.field.as_deref()),
        (Code::InvalidArgument, Some("malloc_volume"))
    );
    let request = storage::CreateMallocVolumeRequest {
        malloc_volume: Some(storage::MallocVolume {
            block_size: 100,
            ..malloc()
        }),
        malloc_volume_id: String::new(),
    };
    let error = server
        .call::<_, ()>("MallocVolumeService/CreateMallocVolume", &request)
        .await;
    assert_eq!(
        error.unwrap_err().field.as_deref(),
        Some("malloc_volume.block_size")
    );
    let request = storage::ListQosVolumesRequest::default();
    let error = server
        .call::<_, ()>("MiddleendQosVolumeService/ListQosVolumes", &request)
        .await;
    let error = error.unwrap_err();
    assert_eq!(error.code, Code::Unimplemented);
    assert!(error.message.contains("qosVolumes"), "{error}");
    let request = storage::ResetNvmeRemoteControllerRequest {
        name: "x".to_owned(),
    };
    let path = "NvmeRemoteControllerService/ResetNvmeRemoteController";
    let error = server.call::<_, ()>(path, &request).await.unwrap_err();
    assert_eq!(error.code, Code::NotFound);
    server.stop(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_is_that_of_this_machine() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let request = inventory::GetInventoryRequest {
        name: "inventory/1/inventory/1".to_owned(),
    };
    let machine: inventory::Inventory = server
        .call("InventoryService/GetInventory", &request)
        .await
        .unwrap();
    assert!(machine.processor.unwrap().total_threads > 0);
    server.stop(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observation_shows_state_chain_and_users() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    create(&server, "m0").await.unwrap();
    subsystem(&server, "s").await;
    let namespace = export(&server, "m0").await.unwrap();
    let request = ext::GetObservationRequest {
        name: namespace.name.clone(),
    };
    let seen: ext::Observation = server
        .call("ObservationService/GetObservation", &request)
        .await
        .unwrap();
    assert_eq!(seen.state(), ext::State::Ready, "{}", seen.reason);
    assert_eq!(seen.chain[0].name, "mallocVolumes/m0");
    assert!(seen.since.unwrap().seconds > 1_700_000_000);
    let request = ext::ListObservationsRequest {
        kind: "mallocVolumes".to_owned(),
        ..Default::default()
    };
    let list: ext::ListObservationsResponse = server
        .call("ObservationService/ListObservations", &request)
        .await
        .unwrap();
    assert_eq!(list.observations.len(), 1);
    assert_eq!(list.observations[0].users, [namespace.name]);
    assert!(list.observations[0].stats.as_ref().unwrap().read.is_some());
    let request = ext::ListObservationsRequest {
        kind: "nope".to_owned(),
        ..Default::default()
    };
    let error = server
        .call::<_, ()>("ObservationService/ListObservations", &request)
        .await;
    assert_eq!(error.unwrap_err().field.as_deref(), Some("kind"));
    server.stop(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_kind_is_answered_by_the_platform() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    let method = "NvmeDiscoveryService/DiscoverNvmeSubsystems";
    // A port that was free a moment ago: nobody answers there.
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let mut request = ext::DiscoverNvmeSubsystemsRequest {
        trtype: storage::NvmeTransportType::Tcp.into(),
        traddr: "127.0.0.1".to_owned(),
        trsvcid: port.into(),
        ..Default::default()
    };
    let error = server.call::<_, ()>(method, &request).await.unwrap_err();
    assert_eq!(error.code, Code::Unavailable, "{error}");
    request.traddr.clear();
    let error = server.call::<_, ()>(method, &request).await.unwrap_err();
    assert_eq!(error.field.as_deref(), Some("traddr"), "{error}");
    server.stop(dir.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_is_there_what_comes_and_what_goes() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path());
    create(&server, "m0").await.unwrap();
    let path = "/opi_ext.storage.v1.ObservationService/WatchObservations";
    let method = kinds::method_by_path(path).unwrap();
    let request = DynamicMessage::new(method.descriptor.input());
    let mut news = server
        .service
        .watch(method, request, Meta::default())
        .await
        .unwrap();
    let mut next = async || {
        let reply = tokio::time::timeout(Duration::from_secs(20), news.next()).await;
        let reply: ext::WatchObservationsResponse =
            reply.unwrap().unwrap().unwrap().transcode_to().unwrap();
        (reply.event(), reply.observation.unwrap_or_default().name)
    };
    use ext::watch_observations_response::Event;
    assert_eq!(
        next().await,
        (Event::Present, "mallocVolumes/m0".to_owned())
    );
    assert_eq!(next().await, (Event::Synced, String::new()));
    create(&server, "m1").await.unwrap();
    assert_eq!(
        next().await,
        (Event::Present, "mallocVolumes/m1".to_owned())
    );
    delete(&server, "m0").await.unwrap();
    assert_eq!(next().await, (Event::Gone, "mallocVolumes/m0".to_owned()));
    server.stop(dir.path()).await;
}

/// Clients that work at the same time; changes that wait together become durable together.
const CLIENTS: usize = 8;

/// Runs `work` for 0 to 999, in the hands of several clients.
async fn by_clients<F: Future<Output = ()> + Send + 'static>(
    server: &Arc<Server>,
    work: fn(Arc<Server>, usize) -> F,
) -> Duration {
    let begin = Instant::now();
    let clients = (0..CLIENTS).map(|client| {
        let server = server.clone();
        tokio::spawn(async move {
            for n in (client..1000).step_by(CLIENTS) {
                work(server.clone(), n).await;
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    begin.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_volumes_are_made_exported_restored_and_deleted_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Arc::new(start(dir.path()));
    subsystem(&server, "s").await;
    let made = by_clients(&server, |server, n| async move {
        create(&server, &format!("m{n}")).await.unwrap();
        export(&server, &format!("m{n}")).await.unwrap();
    });
    let made = made.await;
    Arc::into_inner(server).unwrap().stop(dir.path()).await;

    let restart = Instant::now();
    let server = Arc::new(start(dir.path()));
    server.service.restored().await;
    let restored = restart.elapsed();
    assert_eq!(server.service.read(|c| Ok(c.len())).await.unwrap(), 2001);

    let deleted = by_clients(&server, |server, n| async move {
        let name = format!("nvmeSubsystems/s/nvmeNamespaces/m{n}");
        let request = storage::DeleteNvmeNamespaceRequest {
            name,
            allow_missing: false,
        };
        server
            .call::<_, ()>("FrontendNvmeService/DeleteNvmeNamespace", &request)
            .await
            .unwrap();
        delete(&server, &format!("m{n}")).await.unwrap();
    });
    let total = made + deleted.await;
    println!("restored in {restored:?}, made and deleted in {total:?}");
    // The limits that the project promises.
    assert!(total < Duration::from_secs(10), "{total:?}");
    assert!(restored < Duration::from_secs(2), "{restored:?}");
    Arc::into_inner(server).unwrap().stop(dir.path()).await;
}
