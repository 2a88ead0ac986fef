//! The road from a volume to a disk, laid through REST: what most tests begin with.

use std::path::Path;

use serde_json::{Value, json};

use crate::net::Family;
use crate::scenario::PORT;
use crate::server::Server;

impl Server<'_> {
    /// Makes a memory volume of 4096-byte blocks.
    #[track_caller]
    pub fn create_malloc(&self, id: &str, blocks: u64) -> Value {
        let body = json!({"blockSize": "4096", "blocksCount": blocks.to_string()});
        self.post(&format!("/v1/mallocVolumes?malloc_volume_id={id}"), &body)
            .ok()
    }

    /// Makes a volume of 4096-byte blocks in a file, which is created.
    #[track_caller]
    pub fn create_aio(&self, id: &str, file: &Path, blocks: u64) -> Value {
        let body = json!({
            "blockSize": "4096",
            "blocksCount": blocks.to_string(),
            "filename": file.display().to_string(),
        });
        self.post(&format!("/v1/aioVolumes?aio_volume_id={id}"), &body)
            .ok()
    }

    /// Makes a subsystem any host may use.
    #[track_caller]
    pub fn create_subsystem(&self, id: &str, nqn: &str) -> Value {
        self.create_subsystem_with(id, &json!({"nqn": nqn}))
    }

    /// Makes a subsystem as this `spec` says.
    #[track_caller]
    pub fn create_subsystem_with(&self, id: &str, spec: &Value) -> Value {
        let path = format!("/v1/nvmeSubsystems?nvme_subsystem_id={id}");
        self.post(&path, &json!({"spec": spec})).ok()
    }

    /// Makes a subsystem listen on this side of the bridge, port [`PORT`].
    #[track_caller]
    pub fn create_listener(&self, subsystem: &str, id: &str, family: Family) -> Value {
        self.create_listener_at(subsystem, id, (family.server(), family))
    }

    /// The same at another address.
    #[track_caller]
    pub fn create_listener_at(
        &self,
        subsystem: &str,
        id: &str,
        (address, family): (&str, Family),
    ) -> Value {
        let path =
            format!("/v1/nvmeSubsystems/{subsystem}/nvmeControllers?nvme_controller_id={id}");
        let body = json!({"spec": {
            "trtype": "NVME_TRANSPORT_TYPE_TCP",
            "fabricsId": {
                "traddr": address,
                "trsvcid": PORT.to_string(),
                "adrfam": family.adrfam(),
            },
        }});
        self.post(&path, &body).ok()
    }

    /// Puts a volume into a subsystem under this namespace id.
    #[track_caller]
    pub fn create_namespace(&self, subsystem: &str, id: &str, volume: &str, nsid: u32) -> Value {
        let path = format!("/v1/nvmeSubsystems/{subsystem}/nvmeNamespaces?nvme_namespace_id={id}");
        self.post(
            &path,
            &json!({"spec": {"volumeNameRef": volume, "hostNsid": nsid}}),
        )
        .ok()
    }

    /// Makes a remote controller that uses all its paths at once.
    #[track_caller]
    pub fn create_remote(&self, id: &str) -> Value {
        let path = format!("/v1/nvmeRemoteControllers?nvme_remote_controller_id={id}");
        let spec = json!({"multipath": "NVME_MULTIPATH_MULTIPATH"});
        self.post(&path, &spec).ok()
    }

    /// Gives a remote controller a path to a subsystem at this address, port [`PORT`].
    #[track_caller]
    pub fn create_path(
        &self,
        controller: &str,
        id: &str,
        (address, family): (&str, Family),
        nqn: &str,
    ) -> Value {
        let path = format!("/v1/nvmeRemoteControllers/{controller}/nvmePaths?nvme_path_id={id}");
        let spec = json!({
            "trtype": "NVME_TRANSPORT_TYPE_TCP",
            "traddr": address,
            "fabrics": {
                "trsvcid": PORT.to_string(),
                "subnqn": nqn,
                "adrfam": family.adrfam(),
            },
        });
        self.post(&path, &spec).ok()
    }

    /// A subsystem `id` with listeners of both families and one volume as namespace 1.
    #[track_caller]
    pub fn export(&self, id: &str, nqn: &str, volume: &str) {
        self.create_subsystem(id, nqn);
        self.create_listener(id, "v4", Family::V4);
        self.create_listener(id, "v6", Family::V6);
        self.create_namespace(id, "n1", volume, 1);
    }
}
