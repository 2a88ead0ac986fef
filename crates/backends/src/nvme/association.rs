//! What the pure parts of the initiator tell each other: how to reach an array, what it granted,
//! and which namespaces are there.

use blk::{Geometry, Identity, Nanos};
use std::fmt;
use wire::nvme::Nqn;
use wire::nvme::log::AnaState;
use wire::nvme_tcp::Digests;

/// Who connects to what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Names {
    /// The array's subsystem.
    pub(super) subnqn: Nqn,
    /// Who we say we are.
    pub(super) hostnqn: Nqn,
    /// HOSTID: the same for all paths, so that the array takes them for one host.
    pub(super) hostid: [u8; 16],
}

/// Times that decide when a path is lost.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Times {
    /// KATO: the array ends an association that is silent for so long, and so do we.
    pub(super) keep_alive: Nanos,
    /// How long a connection or an admin command may take.
    pub(super) admin: Nanos,
    /// How long an I/O may take on a path that answers otherwise.
    pub(super) io: Nanos,
    /// The first pause before a lost path is tried again; it doubles from there.
    pub(super) reconnect_min: Nanos,
    /// The longest such pause.
    pub(super) reconnect_max: Nanos,
    /// How long I/O waits without any path before it fails.
    pub(super) loss: Nanos,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            keep_alive: Nanos::from_secs(5),
            admin: Nanos::from_secs(10),
            io: Nanos::from_secs(30),
            reconnect_min: Nanos::from_millis(50),
            reconnect_max: Nanos::from_secs(10),
            loss: Nanos::from_secs(600),
        }
    }
}

/// What the array granted when an association was made.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Association {
    /// The controller that it made for us.
    pub(super) cntlid: u16,
    /// I/O queues, at most.
    pub(super) queues: u16,
    /// Commands in flight on each, at most.
    pub(super) depth: u16,
    /// Digests to ask for on each.
    pub(super) digests: Digests,
    /// Data that may travel in a command capsule, in bytes.
    pub(super) in_capsule_bytes: u32,
    /// Most data of one command, in bytes.
    pub(super) data_bytes_max: usize,
    /// What the array can do beside reading and writing.
    pub(super) abilities: Abilities,
    /// After a loss, how long commands may still be executed by the array (NVMe Base 2.1, 9.6).
    pub(super) quiesce: Nanos,
    /// Who is connected to what.
    pub(super) names: Names,
}

/// Optional commands (ONCS) and the write cache of an array.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Abilities {
    pub(super) compare: bool,
    pub(super) write_zeroes: bool,
    pub(super) dataset_management: bool,
    pub(super) write_cache: bool,
}

/// Tells namespaces apart, over all paths.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Key {
    /// By the identifiers it carries: UUID, NGUID, EUI-64.
    Global([u8; 16], [u8; 16], [u8; 8]),
    /// It carries none: by its number, which means something within one subsystem only.
    Numbered(String, u32),
}

/// A namespace as one path shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Found {
    /// NSID on this path.
    pub(super) nsid: u32,
    /// Which namespace it is.
    pub(super) key: Key,
    /// Its size, format and identity; or why it cannot be used.
    pub(super) shape: Result<Shape, String>,
    /// Its ANA group, 0 without one.
    pub(super) ana_group: u32,
}

/// What users of a namespace must know about it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Shape {
    pub(super) geometry: Geometry,
    /// An I/O should not cross multiples of so many blocks; 0 for no such bound.
    pub(super) boundary_blocks: u32,
    /// Deallocated blocks read as zeroes.
    pub(super) deallocated_zeroes: bool,
}

impl Key {
    /// The key of a namespace with these identifiers.
    pub(super) fn new(identity: &Identity, subnqn: &Nqn, nsid: u32) -> Self {
        if *identity == Identity::default() {
            return Self::Numbered(subnqn.as_str().to_owned(), nsid);
        }
        Self::Global(identity.uuid, identity.nguid, identity.eui64)
    }

    /// The identifiers.
    pub(super) fn identity(&self) -> Identity {
        match *self {
            Self::Global(uuid, nguid, eui64) => Identity { uuid, nguid, eui64 },
            Self::Numbered(..) => Identity::default(),
        }
    }
}

/// Why a path does not serve, in words for a person.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Loss {
    pub(super) why: String,
    /// The array closed the connection itself: it does nothing more with what it had.
    pub(super) by_array: bool,
}

impl Loss {
    /// A loss of which the array may know nothing.
    pub(super) fn new(why: impl Into<String>) -> Self {
        let why = why.into();
        Self {
            why,
            by_array: false,
        }
    }

    /// The array closed the connection.
    pub(super) fn closed() -> Self {
        Self {
            why: "the array closed the connection".to_owned(),
            by_array: true,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

/// How well a namespace is reached through a path: the lower the better.
pub(super) const fn rank(state: AnaState) -> Option<u8> {
    match state {
        AnaState::Optimized => Some(0),
        AnaState::NonOptimized => Some(1),
        AnaState::Inaccessible | AnaState::PersistentLoss | AnaState::Change => None,
    }
}
