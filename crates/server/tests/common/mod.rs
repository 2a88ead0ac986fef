//! A whole service in this process: real handlers, real reactors, a store on disk.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test file uses its part"
)]

use api::error::Result;
use api::kinds;
use control::store::{DiskStore, Store as _};
use control::{Keys, Settings};
use engine::{Options, Reactors, World};
use prost::Message;
use prost_reflect::DynamicMessage;
use server::calls::{Calls as _, Meta};
use server::service::{Service, Start, Writer};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A service over a state directory.
pub struct Server {
    pub service: Service,
    pub world: World,
}

/// Starts a service on `dir` and returns before everything is restored.
pub fn start(dir: &Path) -> Server {
    let keys = Arc::new(Keys::derive(&[1; 32]));
    let mut store = DiskStore::open(dir, keys.clone()).unwrap();
    let loaded = store.load().unwrap();
    let writer = Writer::start(Box::new(store), loaded.keep).unwrap();
    let reactors = Reactors::start(&Options {
        cores: vec![0],
        ..Options::default()
    })
    .unwrap();
    let restored = Arc::default();
    let world = World {
        reactors,
        keep: Arc::new(writer.clone()),
        restored,
    };
    let service = Service::start(Start {
        settings: Settings::default(),
        keys,
        handlers: drivers::platform("native", &world).unwrap(),
        writer,
        stored: loaded.resources,
        restored: world.restored.clone(),
        root: PathBuf::from("/"),
    });
    Server {
        service: service.unwrap(),
        world,
    }
}

impl Server {
    /// Ends the service in good order, so that the next one can have its directory.
    pub async fn stop(self, dir: &Path) {
        self.service.close().await;
        drop(self.service);
        drop(self.world);
        // The thread of the store lets go of its lock as its last deed.
        let lock = std::fs::File::open(dir.join("lock")).unwrap();
        tokio::task::spawn_blocking(move || lock.lock().unwrap())
            .await
            .unwrap();
    }

    /// Calls a method by its short path, as in `NullVolumeService/GetNullVolume`.
    pub async fn call<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A> {
        let packages = [
            "opi_api.storage.v1",
            "opi_ext.storage.v1",
            "opi_api.inventory.v1",
        ];
        let paths = packages.iter().map(|p| format!("/{p}.{method}"));
        let method = paths
            .filter_map(|p| kinds::method_by_path(&p))
            .next()
            .unwrap();
        let mut message = DynamicMessage::new(method.descriptor.input());
        message.transcode_from(request).unwrap();
        let reply = self.service.call(method, message, Meta::default()).await?;
        Ok(reply.transcode_to().unwrap())
    }
}
