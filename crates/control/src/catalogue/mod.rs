//! The catalogue: which resources there are, what stands on what, and what is being done.
//!
//! Everything that decides by names, references and claims is decided here and nowhere else.
//! A change takes these steps, each an effect whose outcome leads to the next: the intent is
//! written, the handler is called, the result is written, the client is answered.

mod change;
mod discovered;
mod drive;
mod mend;
mod refs;
mod restore;
mod settings;
mod view;

pub use view::{Condition, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, Sight};

use api::error::{Code, Error, Result};
use api::handler::{Claim, Handlers};
use api::kinds;
use api::names::ResourceName;
use blk::Nanos;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::effect::{Answer, Base, Call, Change, Effect, Moment, Operation, Outcome, Ticket};
use crate::keys::Keys;
use crate::record::{self, Form, Phase, Secret};
use crate::store::{Batch, Seal, Write};

/// Changes that may wait for one resource: more than a sane client sends, few enough to be bounded.
pub const CHANGES_QUEUED_MAX: usize = 16;
/// Resources in all. Each takes a few KiB of memory and a record; far above what one xPU serves.
const RESOURCES_MAX: usize = 100_000;

/// What the user chose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// Answer with the names of the reference bridge, and admit its ids.
    pub legacy_names: bool,
}

/// How a resource is doing, as far as handlers told.
#[derive(Clone, Debug, Eq, PartialEq)]
enum State {
    /// Being made, or not driven yet since the start.
    Pending,
    /// Its handler made it.
    Up,
    /// Its handler could not bring it back, for this reason.
    Failed(String),
}

struct Entry {
    name: ResourceName,
    phase: Phase,
    form: Form,
    next: Option<Form>,
    /// False while it is made for the first time.
    visible: bool,
    state: State,
    /// When it came into this state, in nanoseconds since the Unix epoch.
    since_ns: u64,
    /// What it refers to, in `form` and in `next`.
    bases: Vec<Base>,
    /// Its UUID, as it is in the index of volumes.
    uuid: Option<String>,
    /// Failed attempts in a row.
    attempts: u32,
    /// When it is tried again.
    retry: Option<Nanos>,
}

/// What is being done to one resource, waiting for an outcome.
enum Step {
    CreateIntent,
    CreateCall,
    CreateStore,
    CreateUndo(Error),
    CreateForget(Error),
    CreateAbandon(Error),
    UpdateIntent,
    UpdateCall,
    /// With the secrets of the form that was.
    UpdateStore(Vec<Secret>),
    UpdateRevert(Error),
    DeleteIntent,
    DeleteCall,
    DeleteRevert(Error),
    ResetCall,
    Replay,
    ReplayUpdate,
    ReplayStore,
}

struct Task {
    step: Step,
    ticket: Option<Ticket>,
    /// What the one who waits is answered with.
    wanted: Wanted,
}

/// What a change answers with when it has succeeded.
#[derive(Clone, Copy, Default)]
enum Wanted {
    /// The resource.
    #[default]
    Resource,
    /// Its settings.
    Settings,
}

/// The catalogue. One task owns it.
pub struct Catalogue {
    settings: Settings,
    keys: Arc<Keys>,
    handlers: Arc<Handlers>,
    /// Resources by collection and name.
    shelves: BTreeMap<&'static str, BTreeMap<String, Entry>>,
    count: usize,
    /// Volumes by id, for references by a bare id.
    ids: HashMap<String, BTreeSet<ResourceName>>,
    /// Volumes by UUID, for references by UUID.
    uuids: HashMap<String, BTreeSet<ResourceName>>,
    /// Who refers to a resource, and how it uses it.
    users: HashMap<ResourceName, BTreeMap<ResourceName, Claim>>,
    tasks: HashMap<ResourceName, Task>,
    running: HashMap<Operation, ResourceName>,
    queues: HashMap<ResourceName, VecDeque<(Ticket, Change)>>,
    /// Driven again when the task that is running ends.
    again: HashSet<ResourceName>,
    retries: BTreeSet<(Nanos, ResourceName)>,
    restoring: restore::Restoring,
    mend: mend::Mend,
    operations: u64,
}

impl Catalogue {
    /// An empty catalogue over these handlers.
    pub fn new(settings: Settings, keys: Arc<Keys>, handlers: Arc<Handlers>) -> Self {
        Self {
            settings,
            keys,
            handlers,
            shelves: BTreeMap::new(),
            count: 0,
            ids: HashMap::new(),
            uuids: HashMap::new(),
            users: HashMap::new(),
            tasks: HashMap::new(),
            running: HashMap::new(),
            queues: HashMap::new(),
            again: HashSet::new(),
            retries: BTreeSet::new(),
            restoring: restore::Restoring::default(),
            mend: mend::Mend::default(),
            operations: 0,
        }
    }

    /// A client wants a change. The ticket gets exactly one reply, now or later.
    pub fn change(&mut self, ticket: Ticket, change: Change, now: Moment) -> Vec<Effect> {
        let mut fx = Vec::new();
        match self.target(&change) {
            Err(error) => fx.push(Effect::Reply(ticket, Err(error))),
            Ok(name) if self.is_busy(&name) => {
                let queue = self.queues.entry(name.clone()).or_default();
                if queue.len() < CHANGES_QUEUED_MAX {
                    queue.push_back((ticket, change));
                } else {
                    let text = format!(
                        "{CHANGES_QUEUED_MAX} changes of {name} are waiting: try again later"
                    );
                    let error = Error::new(Code::ResourceExhausted, text).about(name.as_str());
                    fx.push(Effect::Reply(ticket, Err(error)));
                }
            }
            Ok(name) => self.begin(ticket, &name, change, now, &mut fx),
        }
        fx
    }

    /// An effect has ended.
    pub fn finish(&mut self, outcome: Outcome, now: Moment) -> Vec<Effect> {
        let mut fx = Vec::new();
        let (operation, result) = match outcome {
            Outcome::Written(operation, result) => (operation, result.map(|()| Vec::new())),
            Outcome::Called(operation, result) => (operation, result),
        };
        if self.mended(operation, &result, now, &mut fx) {
            return fx;
        }
        let name = self.running.remove(&operation);
        let name = name.expect("every outcome belongs to an effect that was given out");
        self.advance(&name, result, now, &mut fx);
        fx
    }

    /// Time has passed. To be called at [`Catalogue::deadline`].
    pub fn tick(&mut self, now: Moment) -> Vec<Effect> {
        let mut fx = Vec::new();
        while let Some((at, _)) = self.retries.first() {
            if *at > now.mono {
                break;
            }
            let (_, name) = self.retries.pop_first().expect("there is a first");
            if let Some(entry) = self.entry_mut(&name) {
                entry.retry = None;
            }
            self.redrive(&name, now, &mut fx);
        }
        self.mend_due(now, &mut fx);
        fx
    }

    /// When to call [`Catalogue::tick`] next.
    pub fn deadline(&self) -> Option<Nanos> {
        let retry = self.retries.first().map(|(at, _)| *at);
        [retry, self.mend.deadline()].into_iter().flatten().min()
    }

    /// True until everything that was recorded has been driven once.
    pub fn is_restoring(&self) -> bool {
        !self.restoring.is_done()
    }

    /// True when nothing is being done and nothing waits, apart from retries.
    pub fn is_settled(&self) -> bool {
        self.tasks.is_empty() && self.queues.is_empty() && self.mend.is_done()
    }

    /// What makes resources real.
    pub fn handlers(&self) -> &Arc<Handlers> {
        &self.handlers
    }

    /// How many resources there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// True if a change of this resource has to wait.
    fn is_busy(&self, name: &ResourceName) -> bool {
        self.tasks.contains_key(name) || self.queues.contains_key(name) || self.awaits_start(name)
    }

    fn entry(&self, name: &ResourceName) -> Option<&Entry> {
        self.shelves
            .get(name.kind().collection.as_str())?
            .get(name.as_str())
    }

    fn entry_mut(&mut self, name: &ResourceName) -> Option<&mut Entry> {
        self.shelves
            .get_mut(name.kind().collection.as_str())?
            .get_mut(name.as_str())
    }

    /// The entry of a resource that a task works on.
    fn held(&mut self, name: &ResourceName) -> &mut Entry {
        self.entry_mut(name)
            .expect("a resource with a task is in the catalogue")
    }

    fn insert(&mut self, entry: Entry) {
        let name = entry.name.clone();
        let shelf = self.shelves.entry(&name.kind().collection).or_default();
        let before = shelf.insert(name.to_string(), entry);
        assert!(before.is_none(), "{name} is entered twice");
        self.count += 1;
        if name.kind().is_volume {
            self.ids
                .entry(name.id().to_owned())
                .or_default()
                .insert(name.clone());
        }
        self.index_uuid(&name);
        self.link(&name);
    }

    fn remove(&mut self, name: &ResourceName) {
        self.unlink(name);
        self.unschedule(name);
        let shelf = self.shelves.get_mut(name.kind().collection.as_str());
        let entry = shelf
            .and_then(|s| s.remove(name.as_str()))
            .expect("it was there");
        self.count -= 1;
        forget(&mut self.ids, name.id(), name);
        if let Some(uuid) = &entry.uuid {
            forget(&mut self.uuids, uuid, name);
        }
        self.again.remove(name);
        self.users.remove(name);
    }

    /// Enters the UUID that a volume has now into the index.
    fn index_uuid(&mut self, name: &ResourceName) {
        let entry = self.entry(name).expect("it was just entered");
        let uuid = name
            .kind()
            .is_volume
            .then(|| refs::uuid_of(name.kind(), &entry.form.spec));
        let (old, new) = (entry.uuid.clone(), uuid.flatten());
        if old == new {
            return;
        }
        if let Some(old) = &old {
            forget(&mut self.uuids, old, name);
        }
        if let Some(new) = &new {
            self.uuids
                .entry(new.clone())
                .or_default()
                .insert(name.clone());
        }
        self.held(name).uuid = new;
    }

    fn operation(&mut self) -> Operation {
        self.operations += 1;
        Operation(self.operations)
    }

    /// Writes the record of a resource as it is in memory, as the next step of its task.
    fn write(&mut self, name: &ResourceName, step: Step, batch: Batch, fx: &mut Vec<Effect>) {
        let operation = self.take_step(name, step);
        fx.push(Effect::Write(operation, batch));
    }

    /// Calls the handler, as the next step of the resource's task.
    fn call(&mut self, name: &ResourceName, step: Step, call: Call, fx: &mut Vec<Effect>) {
        let operation = self.take_step(name, step);
        fx.push(Effect::Call(operation, call));
    }

    fn take_step(&mut self, name: &ResourceName, step: Step) -> Operation {
        let operation = self.operation();
        self.running.insert(operation, name.clone());
        match self.tasks.get_mut(name) {
            Some(task) => task.step = step,
            None => {
                let (ticket, wanted) = (None, Wanted::default());
                let task = Task {
                    step,
                    ticket,
                    wanted,
                };
                self.tasks.insert(name.clone(), task);
            }
        }
        operation
    }

    /// The task of a resource has ended: answers, and goes on with what waits.
    fn end(
        &mut self,
        name: &ResourceName,
        reply: impl FnOnce(&Self) -> Result<Answer>,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let task = self.tasks.remove(name);
        if let Some(ticket) = task.and_then(|t| t.ticket) {
            fx.push(Effect::Reply(ticket, reply(self)));
        }
        if self.again.remove(name) {
            self.redrive(name, now, fx);
        }
        while !self.tasks.contains_key(name) {
            let Some((ticket, change)) = self.queues.get_mut(name).and_then(VecDeque::pop_front)
            else {
                break;
            };
            self.begin(ticket, name, change, now, fx);
        }
        if self.queues.get(name).is_some_and(VecDeque::is_empty) {
            self.queues.remove(name);
        }
    }

    /// The batch that stores a resource as it is in memory. `seal` are secrets that are new.
    fn record(&self, name: &ResourceName, seal: &[Secret]) -> Batch {
        let entry = self.entry(name).expect("only what is entered is stored");
        let record = record::write(entry.phase, &entry.form, entry.next.as_ref());
        let seal = seal.iter().filter_map(|s| {
            let secret = s.value.clone()?;
            Some(Seal {
                file: s.file(),
                secret,
            })
        });
        Batch {
            seal: seal.collect(),
            writes: vec![Write::Put {
                name: name.to_string(),
                record,
            }],
            erase: Vec::new(),
        }
    }

    /// The children of a resource, at most `most`.
    fn children(&self, name: &ResourceName, most: usize) -> Vec<ResourceName> {
        let mut found = Vec::new();
        for kind in kinds::all()
            .iter()
            .filter(|k| k.parent() == Some(name.kind()))
        {
            let Some(shelf) = self.shelves.get(kind.collection.as_str()) else {
                continue;
            };
            let prefix = format!("{name}/");
            let below = shelf
                .range(prefix.clone()..)
                .take_while(|(n, _)| n.starts_with(&prefix));
            found.extend(below.take(most - found.len()).map(|(_, e)| e.name.clone()));
        }
        found
    }
}

fn forget(index: &mut HashMap<String, BTreeSet<ResourceName>>, key: &str, name: &ResourceName) {
    if let Some(names) = index.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            index.remove(key);
        }
    }
}
