//! The vocabulary of the control plane: OPI messages, the table of kinds, resource names, field
//! masks, errors, and what a `Handler` is.

#[cfg(feature = "grpc")]
pub mod codec;
pub mod comments;
pub mod error;
pub mod fields;
pub mod handler;
pub mod kinds;
pub mod mask;
pub mod names;
pub mod units;

use std::sync::OnceLock;

use prost_reflect::DescriptorPool;

pub use error::{Code, Error};
pub use handler::Resource;

/// Every `.proto` file of the project with its imports and comments, as an encoded
/// `FileDescriptorSet` with all options in it.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use opi_api::{inventory, storage};
pub use opi_ext::storage as ext;

/// The modules are those of the packages, since generated code names types of one package in
/// another by way of them.
mod opi_api {
    /// Package `opi_api.storage`.
    pub mod storage {
        /// Package `opi_api.storage.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/opi_api.storage.v1.rs"));
        }
    }

    /// Package `opi_api.inventory`.
    pub mod inventory {
        /// Package `opi_api.inventory.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/opi_api.inventory.v1.rs"));
        }
    }
}

mod opi_ext {
    /// What OPI names but has not specified: package `opi_ext.storage`.
    pub mod storage {
        /// Package `opi_ext.storage.v1`.
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/opi_ext.storage.v1.rs"));
        }
    }
}

/// Package `google.rpc`: what a failed call answers.
pub mod rpc {
    include!(concat!(env!("OUT_DIR"), "/google.rpc.rs"));
}

/// `impl Resource` for every message with a `google.api.resource` option.
mod resources {
    include!(concat!(env!("OUT_DIR"), "/resources.rs"));
}

/// The descriptors of every message and service, decoded once.
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).expect("build.rs encoded it"))
}
