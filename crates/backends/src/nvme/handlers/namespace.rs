//! The handler of `NvmeRemoteNamespace`: what the array shows. Found, never created.

use super::Remotes;
use api::error::{Error, Result};
use api::handler::{Handler, Health, Job, Observed};
use api::names::ResourceName;
use api::storage::v1::NvmeRemoteNamespace;
use blk::{State, Volume};
use std::sync::Arc;
use uuid::Uuid;

/// See the file's head.
pub(in crate::nvme) struct NamespaceHandler(pub(in crate::nvme) Arc<Remotes>);

fn found_only() -> Error {
    Error::unimplemented("remote namespaces are found, and made or removed at their array")
}

/// Digits of an identifier; nothing if there is none.
fn hex(bytes: &[u8]) -> String {
    if bytes.iter().all(|&byte| byte == 0) {
        return String::new();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Handler<NvmeRemoteNamespace> for NamespaceHandler {
    async fn create(&self, _: Job, _: NvmeRemoteNamespace) -> Result<NvmeRemoteNamespace> {
        Err(found_only())
    }

    async fn delete(&self, _: ResourceName) -> Result<()> {
        Err(found_only())
    }

    fn observe(&self, name: &ResourceName, _: &mut NvmeRemoteNamespace) -> Observed {
        let Some(namespace) = self.0.namespace(name) else {
            return Observed {
                health: Health::Offline("the array has it no more".to_owned()),
                stats: None,
                ..Default::default()
            };
        };
        let health = match namespace.state {
            State::Online => Health::Online,
            State::Offline(why) => Health::Offline(why),
        };
        Observed {
            health,
            stats: Some(namespace.stats),
            ..Default::default()
        }
    }

    fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
        self.0.namespace(name)?.volume
    }

    fn discovered(&self, parent: &ResourceName) -> Vec<(String, NvmeRemoteNamespace)> {
        let one = |namespace: crate::nvme::remote::Namespace| {
            let identity = namespace.identity;
            let uuid = match identity.uuid {
                [0, ..] if identity.uuid == [0; 16] => String::new(),
                bytes => Uuid::from_bytes(bytes).to_string(),
            };
            let message = NvmeRemoteNamespace {
                name: String::new(),
                nsid: namespace.nsid.cast_signed(),
                nguid: hex(&identity.nguid),
                eui64: i64::from_be_bytes(identity.eui64),
                uuid,
            };
            (namespace.id, message)
        };
        self.0.namespaces(parent).into_iter().map(one).collect()
    }
}
