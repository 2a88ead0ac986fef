//! [`Volumes`]: the handler of any kind whose resources are one volume each.
//!
//! A type of back end says how its volumes are checked, opened and changed ([`Kind`]); the table,
//! the counting and the repeated calls after a crash are here, once for all.

use api::error::Result;
use api::handler::{Handler, Health, Job, Observed, Resource};
use api::names::ResourceName;
use blk::{Counted, State, Stats, Volume};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// A type of volume.
pub(crate) trait Kind: Send + Sync + 'static {
    /// Its message.
    type Spec: Resource;
    /// What it makes.
    type Volume: Volume;

    /// Checks a wish: a new resource, or a change of `old`. Quick and without effects.
    ///
    /// # Errors
    /// INVALID_ARGUMENT or FAILED_PRECONDITION with the field.
    fn admit(&self, new: &Self::Spec, old: Option<&Self::Spec>) -> Result<()>;

    /// Makes the volume, and returns the resource to store: with what the server chose.
    ///
    /// # Errors
    /// Why there can be no such volume (now).
    fn open(&self, job: &Job, spec: Self::Spec) -> Result<(Self::Volume, Self::Spec)>;

    /// Changes the volume in place from `old` to what is set in `new`; never loses data. Returns
    /// the resource to store. Repeating a change does nothing.
    ///
    /// # Errors
    /// FAILED_PRECONDITION with the field for what cannot be changed in place.
    fn change(
        &self,
        volume: &Self::Volume,
        old: Self::Spec,
        new: &Self::Spec,
    ) -> Result<Self::Spec>;

    /// How the volume is doing.
    fn health(&self, volume: &Self::Volume) -> Health {
        match volume.state() {
            State::Online => Health::Online,
            State::Offline(reason) => Health::Offline(reason),
        }
    }

    /// Fills in what is not stored but known while the volume is open.
    fn show(&self, volume: &Self::Volume, resource: &mut Self::Spec) {
        let _ = (volume, resource);
    }
}

struct Entry<K: Kind> {
    volume: Arc<K::Volume>,
    /// The same, as users get it.
    counted: Arc<dyn Volume>,
    stats: Arc<Stats>,
    /// As returned last.
    resource: K::Spec,
}

/// The handler of one kind of volume.
pub(crate) struct Volumes<K: Kind> {
    kind: K,
    open: Mutex<HashMap<ResourceName, Entry<K>>>,
}

impl<K: Kind> Volumes<K> {
    /// No volumes yet.
    pub(crate) fn new(kind: K) -> Self {
        Self {
            kind,
            open: Mutex::default(),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<ResourceName, Entry<K>>> {
        self.open.lock().expect("no holder of the table panics")
    }

    /// Opens a volume that is not open. The catalogue runs one job per resource at a time, so the
    /// table need not stay locked while a file is looked for.
    fn make(&self, job: &Job, spec: K::Spec) -> Result<K::Spec> {
        let (volume, resource) = self.kind.open(job, spec)?;
        let volume = Arc::new(volume);
        let stats = Arc::new(Stats::default());
        let counted = Arc::new(Counted::new(volume.clone(), stats.clone()));
        let entry = Entry {
            volume,
            counted,
            stats,
            resource: resource.clone(),
        };
        self.open().insert(job.name.clone(), entry);
        Ok(resource)
    }

    /// Changes a volume that is open; `None` if it is not.
    fn alter(&self, job: &Job, new: &K::Spec) -> Option<Result<K::Spec>> {
        let (volume, old) = {
            let open = self.open();
            let entry = open.get(&job.name)?;
            (entry.volume.clone(), entry.resource.clone())
        };
        let changed = self.kind.change(&volume, old, new);
        if let Ok(resource) = &changed
            && let Some(entry) = self.open().get_mut(&job.name)
        {
            entry.resource = resource.clone();
        }
        Some(changed)
    }
}

impl<K: Kind> Handler<K::Spec> for Volumes<K> {
    fn admit(&self, _: &ResourceName, new: &K::Spec, old: Option<&K::Spec>) -> Result<()> {
        self.kind.admit(new, old)
    }

    async fn create(&self, job: Job, spec: K::Spec) -> Result<K::Spec> {
        match self.alter(&job, &spec) {
            Some(answer) => answer,
            None => self.make(&job, spec),
        }
    }

    async fn update(&self, job: Job, old: K::Spec, new: K::Spec) -> Result<K::Spec> {
        if let Some(answer) = self.alter(&job, &new) {
            return answer;
        }
        // It could not be opened so far. What it was must exist before it can change.
        let again = Job {
            replay: true,
            ..job
        };
        let same = self.make(&again, old)?;
        self.alter(&again, &new).unwrap_or(Ok(same))
    }

    /// The catalogue lets go of a volume only when nothing refers to it, so no lane is open and
    /// no I/O is under way: dropping it is all there is to do.
    async fn delete(&self, name: ResourceName) -> Result<()> {
        let entry = self.open().remove(&name);
        drop(entry);
        Ok(())
    }

    fn observe(&self, name: &ResourceName, resource: &mut K::Spec) -> Observed {
        let open = self.open();
        let Some(entry) = open.get(name) else {
            let health = Health::Offline("the volume could not be opened yet".to_owned());
            return Observed {
                health,
                stats: None,
                ..Default::default()
            };
        };
        self.kind.show(&entry.volume, resource);
        Observed {
            health: self.kind.health(&entry.volume),
            stats: Some(entry.stats.tally()),
            ..Default::default()
        }
    }

    fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
        self.open().get(name).map(|entry| entry.counted.clone())
    }
}
