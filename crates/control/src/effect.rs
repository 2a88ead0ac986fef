//! What goes into the catalogue and what comes out of it.

use api::error::Result;
use api::handler::Settings;
use api::kinds::Kind;
use api::names::ResourceName;
use blk::Nanos;
use prost_reflect::DynamicMessage;
use std::fmt;

use crate::store::Batch;

/// The time at which something happens, read by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// On the monotonic clock: for waiting.
    pub mono: Nanos,
    /// Nanoseconds since the Unix epoch: for showing.
    pub unix_ns: u64,
}

/// Who waits for an answer; the caller's to choose.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(pub u64);

/// Which outcome belongs to which effect.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Operation(pub u64);

/// A change that a client wants. Its resource may hold secrets, which `Debug` leaves out.
#[derive(Clone)]
pub enum Change {
    /// AIP-133.
    Create {
        /// What to make.
        kind: &'static Kind,
        /// Name of the parent; ignored for kinds without.
        parent: String,
        /// The id wished for; empty for one chosen by the server.
        id: String,
        /// A fresh UUIDv4 in lower case, used when `id` is empty.
        fresh_id: String,
        /// The resource as sent.
        resource: DynamicMessage,
    },
    /// AIP-134.
    Update {
        /// What to change.
        kind: &'static Kind,
        /// The resource as sent; its name says which.
        resource: DynamicMessage,
        /// Paths of the update mask.
        mask: Vec<String>,
        /// Create it if it is not there.
        allow_missing: bool,
    },
    /// AIP-156: of what is set beside the fields of a resource.
    UpdateSettings {
        /// Whose settings.
        kind: &'static Kind,
        /// The settings as sent; their name says of which one.
        settings: DynamicMessage,
        /// Paths of the update mask.
        mask: Vec<String>,
    },
    /// AIP-135.
    Delete {
        /// What to remove.
        kind: &'static Kind,
        /// Its name, in any form.
        name: String,
        /// Succeed if it is not there.
        allow_missing: bool,
    },
    /// `Reset` of the kinds that have it (AIP-136): nothing of it is recorded.
    Reset {
        /// What to reset.
        kind: &'static Kind,
        /// Its name, in any form.
        name: String,
    },
}

/// What a change answers with.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The resource as it is now, without secrets; its settings, if those were changed.
    Resource(DynamicMessage),
    /// It is gone.
    Gone,
    /// It is done, and there is nothing to show.
    Done,
}

/// A volume that a job refers to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Base {
    /// Path of the referring field, as in `spec.volume_name_ref`.
    pub field: String,
    /// The volume.
    pub name: ResourceName,
}

/// What a handler is to do. Encoded resources hold secrets, which `Debug` leaves out.
#[derive(Clone)]
pub enum Call {
    /// `Handler::create`.
    Create {
        /// The resource.
        name: ResourceName,
        /// True when what existed is to be brought back.
        replay: bool,
        /// The volumes it refers to that can be used now.
        bases: Vec<Base>,
        /// The encoded resource, with its secrets.
        spec: Vec<u8>,
        /// Its settings.
        settings: Settings,
    },
    /// `Handler::update`.
    Update {
        /// The resource.
        name: ResourceName,
        /// The volumes that the new form refers to and that can be used now.
        bases: Vec<Base>,
        /// The encoded resource as it is, with its secrets.
        old: Vec<u8>,
        /// The encoded resource as it shall be, with its secrets.
        new: Vec<u8>,
        /// Its settings as they shall be.
        settings: Settings,
    },
    /// `Handler::delete`.
    Delete {
        /// The resource.
        name: ResourceName,
    },
    /// `Handler::reset`.
    Reset {
        /// The resource.
        name: ResourceName,
    },
}

/// What the owner of the catalogue has to do. Effects are carried out in their order; calls need
/// not be waited for.
#[derive(Debug)]
pub enum Effect {
    /// Make this durable and report [`Outcome::Written`]. Writes become durable in their order.
    Write(Operation, Batch),
    /// Call the handler of the resource's collection and report [`Outcome::Called`].
    Call(Operation, Call),
    /// Answer the one who waits.
    Reply(Ticket, Result<Answer>),
    /// Everything that was recorded has been driven once: listeners may open.
    Restored,
}

/// How an effect ended. What a handler returns may hold secrets, which `Debug` leaves out.
pub enum Outcome {
    /// A write is durable, or none of it is.
    Written(Operation, Result<()>),
    /// A handler returned; for `create` and `update` with the resource as it is now.
    Called(Operation, Result<Vec<u8>>),
}

impl fmt::Debug for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create {
                kind, parent, id, ..
            } => {
                write!(f, "Create({} {parent} {id})", kind.singular)
            }
            Self::Update { kind, mask, .. } => write!(f, "Update({} {mask:?})", kind.singular),
            Self::UpdateSettings { kind, mask, .. } => {
                write!(f, "UpdateSettings({} {mask:?})", kind.singular)
            }
            Self::Delete { name, .. } => write!(f, "Delete({name})"),
            Self::Reset { name, .. } => write!(f, "Reset({name})"),
        }
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { name, replay, .. } if *replay => write!(f, "Create({name} replay)"),
            Self::Create { name, .. } => write!(f, "Create({name})"),
            Self::Update { name, .. } => write!(f, "Update({name})"),
            Self::Delete { name } => write!(f, "Delete({name})"),
            Self::Reset { name } => write!(f, "Reset({name})"),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Written(operation, result) => write!(f, "Written({operation:?} {result:?})"),
            Self::Called(operation, result) => {
                let result = result.as_ref().map(|made| made.len());
                write!(f, "Called({operation:?} {result:?})")
            }
        }
    }
}
