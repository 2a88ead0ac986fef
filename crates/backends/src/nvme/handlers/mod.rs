//! The handlers of `NvmeRemoteController`, `NvmePath` and `NvmeRemoteNamespace`.

mod controller;
mod namespace;
mod path;
mod settings;

pub(super) use controller::ControllerHandler;
pub(super) use namespace::NamespaceHandler;
pub(super) use path::{HOST_MAX, PathHandler};

use super::association::Times;
use super::pcie::{Drive, Trouble};
use super::remote::{Namespace, Remote};
use super::routes::{PathId, Policy};
use super::session::Wish;
use super::socket::Place;
use api::error::{Error, Result};
use api::ext::v1::{NvmeIoPolicy, NvmeRemoteControllerSettings};
use api::names::ResourceName;
use api::storage::v1::{NvmeMultipath, NvmePath, NvmeRemoteController};
use engine::{Errand, Reactors, World};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use uuid::Uuid;
use wire::nvme::Nqn;
use wire::nvme_tcp::Digests;

/// Under which key the name that this host goes by is kept.
const HOST_KEY: &str = "nvme/host";
/// Commands in flight on each I/O queue, unless the user says otherwise.
const DEPTH: u16 = 128;

/// What a path became.
#[derive(Clone, Copy)]
enum Way {
    /// A path of the [`Remote`].
    Tcp(PathId),
    /// The one to the [`Drive`].
    Pcie,
}

/// A path that was made.
struct Made {
    way: Way,
    spec: NvmePath,
}

impl Made {
    /// The path of the [`Remote`], if it is one.
    fn path(&self) -> Option<PathId> {
        match self.way {
            Way::Tcp(id) => Some(id),
            Way::Pcie => None,
        }
    }
}

/// A remote controller that was made, with its paths.
struct Entry {
    remote: Arc<Remote>,
    /// What is behind a PCIe path; such a controller has no other.
    drive: Arc<Drive>,
    spec: NvmeRemoteController,
    settings: NvmeRemoteControllerSettings,
    paths: BTreeMap<String, Made>,
}

/// All remote controllers.
pub(super) struct Remotes {
    world: World,
    /// Who this host is where a path does not say.
    host: Uuid,
    all: Mutex<BTreeMap<String, Entry>>,
}

impl Remotes {
    /// None yet. Without a name for this host, one is made and kept.
    pub(super) fn new(world: &World) -> Self {
        let kept = world.keep.get(HOST_KEY);
        let kept = kept.and_then(|bytes| Uuid::from_slice(&bytes).ok());
        let host = kept.unwrap_or_else(|| {
            let host = Uuid::new_v4();
            let told = |stored: std::result::Result<(), String>| {
                if let Err(error) = stored {
                    tracing::warn!(error, "the name of this host cannot be kept");
                }
            };
            let bytes = host.as_bytes().to_vec();
            world.keep.put(HOST_KEY, Some(bytes), Box::new(told));
            host
        });
        Self {
            world: world.clone(),
            host,
            all: Mutex::default(),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.all.lock().expect("no holder of the table panics")
    }

    /// The threads that do the I/O.
    pub(super) fn reactors(&self) -> &Reactors {
        &self.world.reactors
    }

    /// The namespaces that are known of a controller.
    pub(super) fn namespaces(&self, controller: &ResourceName) -> Vec<Namespace> {
        let found = {
            let all = self.all();
            let entry = all.get(controller.as_str());
            entry.map(|entry| (entry.remote.clone(), entry.drive.clone()))
        };
        let Some((remote, drive)) = found else {
            return Vec::new();
        };
        let mut namespaces = remote.namespaces();
        namespaces.extend(drive.namespaces());
        namespaces
    }

    /// One of them.
    pub(super) fn namespace(&self, name: &ResourceName) -> Option<Namespace> {
        let all = self.namespaces(&name.parent()?);
        all.into_iter().find(|one| one.id == name.id())
    }

    /// What a path of this controller asks the array for.
    fn wish(
        &self,
        controller: &NvmeRemoteController,
        path: &NvmePath,
        queues: u16,
        times: Times,
    ) -> Result<Wish> {
        let fabrics = path.fabrics.clone().unwrap_or_default();
        let (hostnqn, hostid) = self.host(&fabrics.hostnqn)?;
        let names = super::association::Names {
            subnqn: nqn(path::SUBNQN, &fabrics.subnqn)?,
            hostnqn,
            hostid,
        };
        let tcp = controller.tcp.clone().unwrap_or_default();
        let depth = match controller.queue_size {
            0 => DEPTH,
            size => u16::try_from(size).unwrap_or(DEPTH),
        };
        Ok(Wish {
            names,
            times,
            digests: Digests {
                header: tcp.hdgst,
                data: tcp.ddgst,
            },
            queues,
            depth,
        })
    }

    /// Host NQN and host identifier. One NQN always has the same identifier, so that an array
    /// takes all paths with it for one host.
    pub(super) fn host(&self, hostnqn: &str) -> Result<(Nqn, [u8; 16])> {
        if hostnqn.is_empty() {
            let id = *self.host.as_bytes();
            return Ok((Nqn::from_uuid(&id), id));
        }
        let name = nqn(path::HOSTNQN, hostnqn)?;
        let own = name.as_str().rsplit_once(":uuid:");
        let own = own.and_then(|(_, uuid)| Uuid::parse_str(uuid).ok());
        let id = own.unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_URL, hostnqn.as_bytes()));
        Ok((name, *id.as_bytes()))
    }

    /// Starts a path, and waits until it has connected or failed for the first time.
    async fn start_path(
        &self,
        remote: &Arc<Remote>,
        wish: Wish,
        place: Place,
        wait: bool,
    ) -> PathId {
        let id = remote.add_path(&self.world.reactors, wish, place);
        if wait && let Some(path) = remote.path(id) {
            path.tried.opened().await;
        }
        id
    }

    /// Ends a path, and waits until it has ended.
    async fn stop_path(remote: &Remote, id: PathId) {
        if let Some(path) = remote.path(id) {
            path.mail.order(super::remote::Order::Stop);
            path.ended.opened().await;
        }
    }
}

/// Work on a drive, which may have to wait for it.
async fn wait_for<F>(work: F) -> Result<()>
where
    F: FnOnce() -> std::result::Result<(), Trouble> + Send + 'static,
{
    let failed = |error: std::io::Error| Error::unavailable(format!("no thread for it: {error}"));
    let errand = Errand::start("drive", work).map_err(failed)?;
    let done = errand.finished().await.map_err(failed)?;
    done.map_err(|trouble| trouble.at(path::TRADDR))
}

/// The NQN in a field.
pub(super) fn nqn(field: &str, text: &str) -> Result<Nqn> {
    Nqn::parse(text).map_err(|e| Error::invalid(field, format!("{text:?} is no NQN: {e}")))
}

/// How paths are chosen. With one path there is nothing to choose.
fn policy(spec: &NvmeRemoteController, settings: &NvmeRemoteControllerSettings) -> Policy {
    match (spec.multipath(), settings.io_policy()) {
        (NvmeMultipath::Multipath, NvmeIoPolicy::RoundRobin) => Policy::RoundRobin,
        (NvmeMultipath::Multipath, _) => Policy::LeastDepth,
        (NvmeMultipath::Failover | NvmeMultipath::Disable | NvmeMultipath::Unspecified, _) => {
            Policy::Failover
        }
    }
}
