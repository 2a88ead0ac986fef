//! `opi serve --demo`: a disk from memory that a Linux host can connect to, checked end to end.

mod text;

use api::Error;
use api::kinds;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::calls::{Dispatch, Meta};
use crate::service::Service;

/// Where the demo disk is exported. The port is NVMe/TCP's own (IANA).
pub(crate) const DATA_ADDR: ([u8; 4], u16) = ([127, 0, 0, 1], 4420);
/// The NQN of the demo's subsystem.
pub(crate) const NQN: &str = "nqn.2026-01.org.opiproject:demo";
const BLOCK_BYTES: u64 = 4096;
/// 1 GiB: enough for a file system; memory is taken only for what is written.
const BLOCKS: u64 = (1 << 30) / BLOCK_BYTES;

/// What the check of the disk found. The program that has a host brings the check: the server has
/// none.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// MiB written, and as many read.
    pub mib: usize,
    /// How long both took.
    pub seconds: f64,
}

/// Writes namespace 1 of a subsystem at an address and reads it back, or says what went wrong.
pub type Check = fn(SocketAddr, &str) -> Result<Checked, String>;

/// A throw-away place for the demo's state; gone when dropped.
pub(crate) struct Place(PathBuf);

impl Place {
    /// A fresh directory that only this user can look into.
    pub(crate) fn make() -> Result<Self, Error> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("opi-demo-{}", uuid::Uuid::new_v4()));
        let made = std::fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| {
            let shown = path.display();
            Error::unavailable(format!("the demo's directory {shown} cannot be made: {e}"))
        })?;
        Ok(Self(path))
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.0.join("state")
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.0.join("seal.key")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the demo's directory stays behind");
        }
    }
}

/// Builds the chain, checks it, says what runs where, and then waits for ever.
///
/// # Errors
/// What went wrong; the demo does not go on without a part.
pub(crate) async fn run(
    dispatch: Dispatch,
    management: Vec<SocketAddr>,
    service: Service,
    check: Check,
) -> Result<(), Error> {
    service.restored().await;
    for step in steps() {
        println!("  {}", step.says);
        call(&dispatch, step.method, step.request).await?;
    }
    let address = SocketAddr::from(DATA_ADDR);
    let checked = tokio::task::spawn_blocking(move || check(address, NQN)).await;
    let checked = checked.map_err(|e| Error::internal("the check panicked").caused_by(e))?;
    let checked = checked.map_err(|e| Error::internal(format!("the check of the disk: {e}")))?;
    print!("{}", text::what_runs(&management, address, &checked));
    std::future::pending().await
}

struct Step {
    says: &'static str,
    method: &'static str,
    request: Value,
}

fn steps() -> [Step; 4] {
    let (ip, port) = DATA_ADDR;
    let address = ip.map(|part| part.to_string()).join(".");
    [
        Step {
            says: "back-end:   mallocVolumes/demo       1 GiB of memory, taken as it is written",
            method: "CreateMallocVolume",
            request: json!({
                "mallocVolumeId": "demo",
                "mallocVolume": {"blockSize": BLOCK_BYTES, "blocksCount": BLOCKS},
            }),
        },
        Step {
            says: "front-end:  nvmeSubsystems/demo      nqn.2026-01.org.opiproject:demo",
            method: "CreateNvmeSubsystem",
            request: json!({
                "nvmeSubsystemId": "demo",
                "nvmeSubsystem": {"spec": {"nqn": NQN, "modelNumber": "OPI demo disk"}},
            }),
        },
        Step {
            says: "            .../nvmeNamespaces/disk  shows the volume to hosts as namespace 1",
            method: "CreateNvmeNamespace",
            request: json!({
                "parent": "nvmeSubsystems/demo",
                "nvmeNamespaceId": "disk",
                "nvmeNamespace": {
                    "spec": {"volumeNameRef": "mallocVolumes/demo", "hostNsid": 1},
                },
            }),
        },
        Step {
            says: "            .../nvmeControllers/tcp  listens on 127.0.0.1:4420",
            method: "CreateNvmeController",
            request: json!({
                "parent": "nvmeSubsystems/demo",
                "nvmeControllerId": "tcp",
                "nvmeController": {"spec": {
                    "trtype": "NVME_TRANSPORT_TYPE_TCP",
                    "fabricsId": {
                        "traddr": address,
                        "trsvcid": port.to_string(),
                        "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
                    },
                }},
            }),
        },
    ]
}

/// One call of the API, as any client would make it.
async fn call(dispatch: &Dispatch, method: &str, request: Value) -> Result<DynamicMessage, Error> {
    let found = kinds::methods()
        .iter()
        .find(|m| m.descriptor.name() == method);
    let method = found.expect("the demo calls methods of the API");
    let request = DynamicMessage::deserialize(method.descriptor.input(), request);
    let request = request.map_err(|e| Error::internal("a request of the demo").caused_by(e))?;
    dispatch.call(method, request, Meta::default()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_a_request_of_the_api() {
        for step in steps() {
            let method = kinds::methods()
                .iter()
                .find(|m| m.descriptor.name() == step.method);
            let input = method.unwrap().descriptor.input();
            DynamicMessage::deserialize(input, step.request).unwrap();
        }
    }

    #[test]
    fn the_place_is_private_and_goes_away() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = Place::make().unwrap();
        let path = place.0.clone();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o700
        );
        drop(place);
        assert!(!path.exists());
    }
}
