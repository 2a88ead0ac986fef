//! Where records are kept: the only part of this crate that does I/O.

mod disk;
mod key_file;
mod lock;
mod memory;
mod sealed;

pub use disk::DiskStore;
pub use key_file::read_key_file;
pub use memory::MemoryStore;

use api::error::Result;
use std::collections::BTreeMap;
use zeroize::Zeroizing;

use crate::record::Stored;

/// One change of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// Stores the record of a resource.
    Put {
        /// Name of the resource.
        name: String,
        /// The encoded record.
        record: Vec<u8>,
    },
    /// Forgets the record of a resource.
    Delete {
        /// Name of the resource.
        name: String,
    },
    /// Stores a small value that is no resource, or forgets it.
    Keep {
        /// Its key.
        key: String,
        /// The value; `None` forgets it.
        value: Option<Vec<u8>>,
    },
}

/// A secret to be sealed into a file.
#[derive(Clone, Eq, PartialEq)]
pub struct Seal {
    /// Name of the file.
    pub file: String,
    /// What it holds.
    pub secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seal({})", self.file)
    }
}

/// Changes that become durable together or not at all.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Batch {
    /// Files sealed before the writes.
    pub seal: Vec<Seal>,
    /// The writes, in order.
    pub writes: Vec<Write>,
    /// Files erased after the writes.
    pub erase: Vec<String>,
}

impl Batch {
    /// Puts a later batch behind this one, so that both take one trip to the disk.
    pub fn append(&mut self, later: Self) {
        // A file that the later batch seals again must outlive the erasure asked for before.
        self.erase
            .retain(|file| !later.seal.iter().any(|s| s.file == *file));
        self.seal.extend(later.seal);
        self.writes.extend(later.writes);
        self.erase.extend(later.erase);
    }
}

/// Everything that was durable when the store was opened.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The resources.
    pub resources: Vec<Stored>,
    /// The small values.
    pub keep: BTreeMap<String, Vec<u8>>,
}

/// A place where records survive.
pub trait Store: Send {
    /// Reads everything.
    ///
    /// # Errors
    /// Something in it cannot be read: FAILED_PRECONDITION with the way out.
    fn load(&mut self) -> Result<Loaded>;

    /// Makes a batch durable before it returns.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the disk is full, INTERNAL when it fails. The batch may or may not
    /// survive a crash then; later commits are tried afresh.
    fn commit(&mut self, batch: &Batch) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_sealed_again_in_the_same_trip_is_not_erased() {
        let seal = Seal {
            file: "f".to_owned(),
            secret: Zeroizing::new(vec![1]),
        };
        let mut first = Batch {
            erase: vec!["f".to_owned(), "g".to_owned()],
            ..Default::default()
        };
        first.append(Batch {
            seal: vec![seal],
            ..Default::default()
        });
        assert_eq!(first.erase, ["g"]);
        first.append(Batch {
            erase: vec!["f".to_owned()],
            ..Default::default()
        });
        assert_eq!(first.erase, ["g", "f"]);
    }
}
