//! A store in memory, for tests of what a crash leaves, and for servers that shall forget.

use api::error::{Error, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use zeroize::Zeroizing;

use super::{Batch, Loaded, Store, Write};
use crate::record;

/// What is durable. A copy taken at any moment is what a crash at that moment would leave.
#[derive(Clone, Debug, Default)]
struct Durable {
    records: BTreeMap<String, Vec<u8>>,
    keep: BTreeMap<String, Vec<u8>>,
    sealed: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

/// A store in memory. Clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    durable: Arc<Mutex<Durable>>,
    failure: Arc<Mutex<Option<Error>>>,
}

impl MemoryStore {
    /// A store that holds what this one holds now, and goes its own way: the state after a crash.
    #[must_use]
    pub fn after_crash(&self) -> Self {
        let durable = self.durable.lock().expect("no holder panics").clone();
        Self {
            durable: Arc::new(Mutex::new(durable)),
            failure: Arc::default(),
        }
    }

    /// Makes every commit fail with this error until `None` is set.
    pub fn fail_with(&self, error: Option<Error>) {
        *self.failure.lock().expect("no holder panics") = error;
    }

    /// Names of the records and of the sealed files, for comparison.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let durable = self.durable.lock().expect("no holder panics");
        (
            durable.records.keys().cloned().collect(),
            durable.sealed.keys().cloned().collect(),
        )
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Loaded> {
        let durable = self.durable.lock().expect("no holder panics");
        let open = |file: &str| durable.sealed.get(file).cloned();
        let resources = durable.records.iter().map(|(name, bytes)| {
            record::read(name, bytes, &open).map_err(|damage| Error::precondition(damage.0))
        });
        let resources = resources.collect::<Result<_>>()?;
        Ok(Loaded {
            resources,
            keep: durable.keep.clone(),
        })
    }

    fn commit(&mut self, batch: &Batch) -> Result<()> {
        if let Some(error) = self.failure.lock().expect("no holder panics").clone() {
            return Err(error);
        }
        let mut durable = self.durable.lock().expect("no holder panics");
        for seal in &batch.seal {
            durable
                .sealed
                .insert(seal.file.clone(), seal.secret.clone());
        }
        for write in &batch.writes {
            match write.clone() {
                Write::Put { name, record } => drop(durable.records.insert(name, record)),
                Write::Delete { name } => drop(durable.records.remove(&name)),
                Write::Keep {
                    key,
                    value: Some(value),
                } => drop(durable.keep.insert(key, value)),
                Write::Keep { key, value: None } => drop(durable.keep.remove(&key)),
            }
        }
        for file in &batch.erase {
            durable.sealed.remove(file);
        }
        Ok(())
    }
}
