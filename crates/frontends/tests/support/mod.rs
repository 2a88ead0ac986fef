//! What the tests of the front-end share: a target on real reactors and sockets, volumes in
//! memory, and a host.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

pub mod host;
pub mod memory;

use api::error::{Error, Result};
use api::handler::{Handlers, Job, Observed, Settings, SettingsMessage};
use api::names::ResourceName;
use api::storage::v1::nvme_controller_spec::Endpoint;
use api::storage::v1::{
    FabricsEndpoint, NvmeAddressFamily, NvmeController, NvmeControllerSpec, NvmeNamespace,
    NvmeNamespaceSpec, NvmeSubsystem, NvmeSubsystemSpec, NvmeTransportType,
};
use blk::Volume;
use engine::{Backend, Keep, KeepDone, Latch, Options, Reactors, World};
use prost::Message;
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

/// Keeps values in memory, at once.
#[derive(Default)]
pub struct MemoryKeep(pub Mutex<HashMap<String, Vec<u8>>>);

impl Keep for MemoryKeep {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(key).cloned()
    }
    fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone) {
        let mut all = self.0.lock().unwrap();
        match value {
            Some(value) => all.insert(key.to_owned(), value),
            None => all.remove(key),
        };
        drop(all);
        done(Ok(()));
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A target with its handlers, as the program would run it.
pub struct Site {
    pub handlers: Handlers,
    pub keep: Arc<MemoryKeep>,
    pub restored: Arc<Latch>,
    reactors: Reactors,
}

pub const NQN: &str = "nqn.2024-01.org.example:subsystem";
pub const HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-1111-1111-111111111111";
pub const OTHER_HOST: &str = "nqn.2014-08.org.nvmexpress:uuid:22222222-2222-2222-2222-222222222222";

pub fn name(text: &str) -> ResourceName {
    ResourceName::parse(text, "name").unwrap()
}

/// An address on which nobody listens.
pub fn free_address(ip: &str) -> SocketAddr {
    let ip: IpAddr = ip.parse().unwrap();
    TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

impl Default for Site {
    fn default() -> Self {
        Self::start(Arc::default(), true)
    }
}

impl Site {
    /// A target on two reactors. `restored` says whether hosts may come in at once.
    pub fn start(keep: Arc<MemoryKeep>, restored: bool) -> Self {
        let backend = Backend::Epoll;
        let spin_max = blk::Nanos(0);
        let options = Options {
            cores: Vec::new(),
            backend,
            spin_max,
        };
        let reactors = Reactors::start(&options).unwrap();
        let latch = Arc::new(Latch::default());
        if restored {
            latch.open();
        }
        let world = World {
            reactors: reactors.clone(),
            keep: keep.clone(),
            restored: latch.clone(),
        };
        let mut handlers = Handlers::default();
        for one in frontends::TYPES {
            one.install(&world, &mut handlers).unwrap();
        }
        Self {
            handlers,
            keep,
            restored: latch,
            reactors,
        }
    }

    fn create<R: Message + Default>(
        &self,
        resource_name: &str,
        volumes: BTreeMap<String, Arc<dyn Volume>>,
        replay: bool,
        resource: &R,
    ) -> Result<R> {
        let name = name(resource_name);
        let handler = self.handlers.of(&name.kind().collection)?;
        let bytes = resource.encode_to_vec();
        handler.admit(&name, &bytes, None)?;
        let job = Job {
            name,
            replay,
            volumes,
            settings: Settings::default(),
        };
        let made = block_on(handler.create(job, bytes))?;
        Ok(R::decode(&made[..]).unwrap())
    }

    pub fn update<R: Message + Default>(
        &self,
        resource_name: &str,
        volume: Option<Arc<dyn Volume>>,
        old: &R,
        new: &R,
    ) -> Result<R> {
        let name = name(resource_name);
        let handler = self.handlers.of(&name.kind().collection)?;
        let (old, new) = (old.encode_to_vec(), new.encode_to_vec());
        handler.admit(&name, &new, Some(&old))?;
        let volumes = volume.map(|volume| ("spec.volume_name_ref".to_owned(), volume));
        let job = Job {
            name,
            replay: false,
            volumes: volumes.into_iter().collect(),
            settings: Settings::default(),
        };
        let made = block_on(handler.update(job, old, new))?;
        Ok(R::decode(&made[..]).unwrap())
    }

    /// Changes the settings of a resource, all of them.
    pub fn set<R: Message + Default>(
        &self,
        resource_name: &str,
        resource: &R,
        settings: &impl SettingsMessage,
    ) -> Result<()> {
        let name = name(resource_name);
        let handler = self.handlers.of(&name.kind().collection)?;
        let (bytes, settings) = (resource.encode_to_vec(), Settings::new(settings));
        handler.admit_settings(&name, &bytes, &settings)?;
        let job = Job {
            name,
            replay: false,
            volumes: BTreeMap::new(),
            settings,
        };
        block_on(handler.update(job, bytes.clone(), bytes)).map(drop)
    }

    pub fn delete(&self, resource_name: &str) -> Result<()> {
        let name = name(resource_name);
        let handler = self.handlers.of(&name.kind().collection)?;
        block_on(handler.delete(name))
    }

    pub fn observe<R: Message + Default>(
        &self,
        resource_name: &str,
        resource: &R,
    ) -> (R, Observed) {
        let name = name(resource_name);
        let handler = self.handlers.of(&name.kind().collection).unwrap();
        let (bytes, observed) = handler.observe(&name, &resource.encode_to_vec()).unwrap();
        (R::decode(&bytes[..]).unwrap(), observed)
    }

    pub fn subsystem_with(&self, id: &str, spec: NvmeSubsystemSpec) -> Result<NvmeSubsystem> {
        let resource = NvmeSubsystem {
            spec: Some(spec),
            ..NvmeSubsystem::default()
        };
        self.create(
            &format!("nvmeSubsystems/{id}"),
            BTreeMap::new(),
            false,
            &resource,
        )
    }

    pub fn subsystem(&self, id: &str, nqn: &str) -> NvmeSubsystem {
        let spec = NvmeSubsystemSpec {
            nqn: nqn.to_owned(),
            ..NvmeSubsystemSpec::default()
        };
        self.subsystem_with(id, spec).unwrap()
    }

    pub fn controller_with(&self, id: &str, spec: NvmeControllerSpec) -> Result<NvmeController> {
        let resource = NvmeController {
            spec: Some(spec),
            ..NvmeController::default()
        };
        self.create(&controller_name(id), BTreeMap::new(), false, &resource)
    }

    /// A listener on a free loopback port.
    pub fn controller(&self, id: &str) -> SocketAddr {
        let address = free_address("127.0.0.1");
        self.controller_with(id, listen(address)).unwrap();
        address
    }

    pub fn namespace_with(
        &self,
        id: &str,
        volume: Option<Arc<dyn Volume>>,
        spec: NvmeNamespaceSpec,
        replay: bool,
    ) -> Result<NvmeNamespace> {
        let volumes = volume.map(|volume| ("spec.volume_name_ref".to_owned(), volume));
        let resource = NvmeNamespace {
            spec: Some(spec),
            ..NvmeNamespace::default()
        };
        self.create(
            &namespace_name(id),
            volumes.into_iter().collect(),
            replay,
            &resource,
        )
    }

    pub fn namespace(&self, id: &str, volume: Arc<dyn Volume>) -> u32 {
        let made = self
            .namespace_with(id, Some(volume), shows("mallocVolumes/m"), false)
            .unwrap();
        made.spec.unwrap().host_nsid as u32
    }

    /// A subsystem `s` with a listener `c` and a namespace `n` of the volume.
    pub fn with_volume(&self, volume: Arc<dyn Volume>) -> SocketAddr {
        self.subsystem("s", NQN);
        self.namespace("s/n", volume);
        self.controller("s/c")
    }
}

/// `s/c` as a resource name.
pub fn controller_name(id: &str) -> String {
    let (subsystem, id) = id.split_once('/').unwrap();
    format!("nvmeSubsystems/{subsystem}/nvmeControllers/{id}")
}

/// `s/n` as a resource name.
pub fn namespace_name(id: &str) -> String {
    let (subsystem, id) = id.split_once('/').unwrap();
    format!("nvmeSubsystems/{subsystem}/nvmeNamespaces/{id}")
}

pub fn shows(volume: &str) -> NvmeNamespaceSpec {
    NvmeNamespaceSpec {
        volume_name_ref: volume.to_owned(),
        ..NvmeNamespaceSpec::default()
    }
}

pub fn listen(address: SocketAddr) -> NvmeControllerSpec {
    let family = match address {
        SocketAddr::V4(_) => NvmeAddressFamily::Ipv4,
        SocketAddr::V6(_) => NvmeAddressFamily::Ipv6,
    };
    NvmeControllerSpec {
        trtype: NvmeTransportType::Tcp.into(),
        endpoint: Some(Endpoint::FabricsId(FabricsEndpoint {
            traddr: address.ip().to_string(),
            trsvcid: address.port().to_string(),
            adrfam: family.into(),
        })),
        ..NvmeControllerSpec::default()
    }
}

pub fn code<T>(result: Result<T>) -> (&'static str, Option<String>, String) {
    match result {
        Ok(_) => ("OK", None, String::new()),
        Err(Error {
            code,
            field,
            message,
            ..
        }) => (code.name(), field, message),
    }
}
