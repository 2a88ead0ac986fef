//! What is known of the resources, and nothing of what they are made of.
//!
//! The [`Catalogue`] is pure: commands and outcomes go in, [`Effect`]s come out, and time, random
//! numbers and I/O are somebody else's. [`store`] is the only part that does I/O.

mod catalogue;
mod effect;
mod keys;
mod page;
mod record;
pub mod store;

pub use catalogue::{
    CHANGES_QUEUED_MAX, Catalogue, Condition, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Settings, Sight,
};
pub use effect::{Answer, Base, Call, Change, Effect, Moment, Operation, Outcome, Ticket};
pub use keys::{KEY_BYTES, Keys};
pub use record::{Damage, Form, Phase, Record, Secret, Stored};
