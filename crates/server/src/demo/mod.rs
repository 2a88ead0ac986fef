//! `opi serve --demo`: a chain that a person can look at, built from nothing and checked.

mod disk;
mod picture;
mod text;
mod xpu;

use api::Error;
use api::kinds;
use clap::ValueEnum;
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::calls::{Dispatch, Meta};
use crate::service::Service;

/// Where the demo disk is exported. The port is NVMe/TCP's own (IANA).
const DATA_ADDR: ([u8; 4], u16) = ([127, 0, 0, 1], 4420);
/// The NQN of the demo's subsystem.
const NQN: &str = "nqn.2026-01.org.opiproject:demo";
const BLOCK_BYTES: u64 = 4096;
/// 1 GiB: enough for a file system; memory is taken only for what is written.
const BLOCKS: u64 = (1 << 30) / BLOCK_BYTES;

/// Which chain the demo builds.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Demo {
    /// A disk from memory on 127.0.0.1:4420
    Disk,
    /// The same disk kept on a second server, an array with two paths (ports 4421 and 4422), one of
    /// which is cut under load
    Xpu,
}

/// What the check of the disk found.
#[derive(Clone, Copy, Debug)]
pub struct Checked {
    /// MiB written, and as many read.
    pub mib: usize,
    /// How long both took.
    pub seconds: f64,
}

/// How a load is going.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// False while the blocks are filled before, or read again after the load itself.
    pub measuring: bool,
    /// What it is doing.
    pub stage: &'static str,
    /// I/Os per second at the host.
    pub rate: f64,
}

/// What a verified load found.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// I/Os that succeeded while the load was measured.
    pub ios: u64,
    /// Blocks compared with what was written last.
    pub checked: u64,
    /// Blocks that held something else, and I/Os that failed, in words; empty if all was well.
    pub wrong: String,
    /// The longest that any I/O took.
    pub longest: Duration,
}

/// Hears how a load is going.
pub type Listener<'a> = &'a mut dyn FnMut(Pace);

/// A host for the demo: the server has none, so the program that has one brings it. Both work on
/// namespace 1 of the subsystem at an address, and say what went wrong.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// Writes the beginning and reads it back.
    pub check: fn(SocketAddr, &str) -> Result<Checked, String>,
    /// Reads and writes for some time and verifies all that is read.
    pub load: fn(SocketAddr, &str, Duration, Listener<'_>) -> Result<Loaded, String>,
}

/// A server of the demo.
pub(crate) struct Site {
    pub(crate) dispatch: Dispatch,
    pub(crate) service: Service,
    /// Its addresses for gRPC and HTTP, in this order.
    pub(crate) management: Vec<SocketAddr>,
}

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

    /// The state directory and the key file of one of the demo's servers.
    pub(crate) fn of(&self, server: &str) -> (PathBuf, PathBuf) {
        (self.0.join(server), self.0.join(format!("{server}.key")))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the demo's directory stays behind");
        }
    }
}

/// Builds the chain, checks it, says what runs where, and then waits for ever. `array` is there for
/// the demos that have one.
///
/// # Errors
/// What went wrong; the demo does not go on without a part.
pub(crate) async fn run(site: &Site, array: Option<&Site>, host: Host) -> Result<(), Error> {
    site.service.restored().await;
    match array {
        None => disk::run(site, host).await?,
        Some(array) => {
            array.service.restored().await;
            xpu::run(site, array, host).await?;
        }
    }
    std::future::pending().await
}

/// A call of the API, with what it does in words.
struct Step {
    says: &'static str,
    method: &'static str,
    request: Value,
}

impl Step {
    fn new(says: &'static str, method: &'static str, request: Value) -> Self {
        Self {
            says,
            method,
            request,
        }
    }
}

/// Does what the steps say, and says it.
async fn build(dispatch: &Dispatch, steps: impl IntoIterator<Item = Step>) -> Result<(), Error> {
    for step in steps {
        println!("  {}", step.says);
        call(dispatch, step.method, step.request).await?;
    }
    Ok(())
}

/// A listener for NVMe/TCP on this address.
fn listener(id: &str, ([a, b, c, d], port): ([u8; 4], u16)) -> Value {
    json!({
        "parent": "nvmeSubsystems/demo",
        "nvmeControllerId": id,
        "nvmeController": {"spec": {
            "trtype": "NVME_TRANSPORT_TYPE_TCP",
            "fabricsId": {
                "traddr": format!("{a}.{b}.{c}.{d}"),
                "trsvcid": port.to_string(),
                "adrfam": "NVME_ADDRESS_FAMILY_IPV4",
            },
        }},
    })
}

/// Runs what blocks on a thread of its own.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    let done = done.map_err(|e| Error::internal("the demo's host panicked").caused_by(e))?;
    done.map_err(|e| Error::internal(format!("the demo's host: {e}")))
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
        let all = disk::steps().into_iter().chain(xpu::steps());
        for step in all {
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
