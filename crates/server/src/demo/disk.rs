//! The plain demo: a disk from memory that a Linux host can connect to.

use api::Error;
use serde_json::json;
use std::net::SocketAddr;

use super::{
    BLOCK_BYTES, BLOCKS, DATA_ADDR, Host, NQN, Site, Step, blocking, build, listener, text,
};

/// Builds the chain, checks it and says what runs where.
pub(super) async fn run(site: &Site, host: Host) -> Result<(), Error> {
    build(&site.dispatch, steps()).await?;
    let address = SocketAddr::from(DATA_ADDR);
    let checked = blocking(move || (host.check)(address, NQN)).await?;
    print!("{}", text::what_runs(&site.management, address, &checked));
    Ok(())
}

pub(super) fn steps() -> [Step; 4] {
    [
        Step::new(
            "back-end:   mallocVolumes/demo       1 GiB of memory, taken as it is written",
            "CreateMallocVolume",
            json!({
                "mallocVolumeId": "demo",
                "mallocVolume": {"blockSize": BLOCK_BYTES, "blocksCount": BLOCKS},
            }),
        ),
        Step::new(
            "front-end:  nvmeSubsystems/demo      nqn.2026-01.org.opiproject:demo",
            "CreateNvmeSubsystem",
            json!({
                "nvmeSubsystemId": "demo",
                "nvmeSubsystem": {"spec": {"nqn": NQN, "modelNumber": "OPI demo disk"}},
            }),
        ),
        Step::new(
            "            .../nvmeNamespaces/disk  shows the volume to hosts as namespace 1",
            "CreateNvmeNamespace",
            json!({
                "parent": "nvmeSubsystems/demo",
                "nvmeNamespaceId": "disk",
                "nvmeNamespace": {
                    "spec": {"volumeNameRef": "mallocVolumes/demo", "hostNsid": 1},
                },
            }),
        ),
        Step::new(
            "            .../nvmeControllers/tcp  listens on 127.0.0.1:4420",
            "CreateNvmeController",
            listener("tcp", DATA_ADDR),
        ),
    ]
}
