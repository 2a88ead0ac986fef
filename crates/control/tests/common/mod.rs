//! A catalogue on a bench: a world of fake handlers, a store in memory, and effects that are
//! carried out one at a time, so that a test can stop between any two.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test file uses its part"
)]

use api::error::{Code, Error, Result};
use api::ext::v1::NvmeRemoteControllerSettings;
use api::fields;
use api::handler::{
    Claim, Handler, Handlers, Job, Observed, Resource, Settings as HandlerSettings,
};
use api::kinds;
use api::names::ResourceName;
use api::storage::v1::{
    EncryptedVolume, MallocVolume, NvmeController, NvmeNamespace, NvmeRemoteController,
    NvmeRemoteNamespace, NvmeSubsystem,
};
use blk::{Geometry, Home, Lane, Nanos, Volume};
use control::store::{MemoryStore, Store as _};
use control::{Answer, Call, Catalogue, Change, Effect, Keys, Moment, Outcome, Settings, Ticket};
use prost::Message as _;
use prost_reflect::DynamicMessage;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// What handlers made, by name, and which of their calls fail.
#[derive(Default)]
pub struct World {
    /// The encoded resources that exist.
    pub things: BTreeMap<String, Vec<u8>>,
    /// The settings that handlers were given, by name.
    pub settings: BTreeMap<String, HandlerSettings>,
    /// Calls such as `create mallocVolumes/m0` that fail, and how often.
    pub faults: BTreeMap<String, usize>,
    /// Every call in order, with what could be seen in it.
    pub log: Vec<String>,
    made: u32,
}

/// A world that tests and handlers share.
pub type Shared = Arc<Mutex<World>>;

/// What the fake remote controllers have without settings.
pub const CONNECT_TIMEOUT_MS_DEFAULT: u32 = 10_000;

struct Fake {
    world: Shared,
}

/// A volume that says that it is there.
struct Place;

impl Volume for Place {
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 8)
    }
    fn open_lane(&self, _: &mut dyn Home) -> Box<dyn Lane> {
        unreachable!("no test does I/O")
    }
}

impl Fake {
    fn call(&self, verb: &str, name: &ResourceName, more: &str) -> Result<()> {
        let mut world = self.world.lock().unwrap();
        let key = format!("{verb} {name}");
        world.log.push(format!("{key}{more}"));
        if let Some(times) = world.faults.get_mut(&key)
            && *times > 0
        {
            *times -= 1;
            return Err(Error::new(Code::Unavailable, format!("{key} fails")));
        }
        Ok(())
    }

    fn make<R: Resource>(&self, job: &Job, spec: R) -> Result<R> {
        let replay = if job.replay { " replay" } else { "" };
        let bases: Vec<_> = job.volumes.keys().map(|k| format!(" {k}")).collect();
        self.call("create", &job.name, &format!("{replay}{}", bases.concat()))?;
        self.keep(job, &spec);
        Ok(spec)
    }

    /// As real volumes: what is there may grow, and never shrinks.
    fn remake<R: Resource>(&self, job: &Job, old: &R, new: R) -> Result<R> {
        self.call("update", &job.name, "")?;
        let blocks = |resource: &R| {
            fields::to_dynamic(resource)
                .get_field_by_name("blocks_count")?
                .as_i64()
        };
        if blocks(&new) < blocks(old) {
            return Err(Error::precondition(format!("{} does not shrink", job.name)));
        }
        self.keep(job, &new);
        Ok(new)
    }

    fn keep<R: Resource>(&self, job: &Job, resource: &R) {
        let mut world = self.world.lock().unwrap();
        let name = job.name.to_string();
        world.things.insert(name.clone(), resource.encode_to_vec());
        world.settings.insert(name, job.settings.clone());
    }

    fn unmake(&self, name: &ResourceName) -> Result<()> {
        self.call("delete", name, "")?;
        let mut world = self.world.lock().unwrap();
        world.things.remove(name.as_str());
        world.settings.remove(name.as_str());
        Ok(())
    }

    fn place(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
        let there = self
            .world
            .lock()
            .unwrap()
            .things
            .contains_key(name.as_str());
        there.then(|| Arc::new(Place) as Arc<dyn Volume>)
    }
}

macro_rules! fake {
    ($kind:ident, $claim:expr, $fill:expr $(, $more:item)*) => {
        impl Handler<$kind> for Fake {
            const CLAIM: Claim = $claim;
            async fn create(&self, job: Job, mut spec: $kind) -> Result<$kind> {
                let fill: fn(&mut World, &mut $kind) = $fill;
                fill(&mut self.world.lock().unwrap(), &mut spec);
                self.make(&job, spec)
            }
            async fn update(&self, job: Job, old: $kind, new: $kind) -> Result<$kind> {
                self.remake(&job, &old, new)
            }
            async fn delete(&self, name: ResourceName) -> Result<()> {
                self.unmake(&name)
            }
            fn observe(&self, _: &ResourceName, _: &mut $kind) -> Observed {
                Observed::default()
            }
            fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
                self.place(name)
            }
            $($more)*
        }
    };
}

fake!(MallocVolume, Claim::Shared, |world, volume| {
    if volume.uuid.is_empty() {
        world.made += 1;
        volume.uuid = format!("00000000-0000-4000-8000-{:012}", world.made);
    }
});
fake!(EncryptedVolume, Claim::Exclusive, |_, _| {});
fake!(NvmeSubsystem, Claim::Shared, |_, _| {});
fake!(NvmeController, Claim::Shared, |_, _| {});
fake!(NvmeNamespace, Claim::Shared, |_, _| {});
fake!(
    NvmeRemoteController,
    Claim::Shared,
    |_, _| {},
    async fn reset(&self, name: ResourceName) -> Result<()> {
        self.call("reset", &name, "")
    },
    fn admit_settings(
        &self,
        _: &ResourceName,
        _: &NvmeRemoteController,
        settings: &HandlerSettings,
    ) -> Result<()> {
        let wished: NvmeRemoteControllerSettings = settings.read()?;
        if wished.connect_timeout_ms == Some(0) {
            return Err(Error::invalid("connect_timeout_ms", "must be 1 or more"));
        }
        Ok(())
    },
    fn settings_in_force(
        &self,
        _: &ResourceName,
        _: &NvmeRemoteController,
        settings: &HandlerSettings,
    ) -> Result<HandlerSettings> {
        let mut shown: NvmeRemoteControllerSettings = settings.read()?;
        shown
            .connect_timeout_ms
            .get_or_insert(CONNECT_TIMEOUT_MS_DEFAULT);
        Ok(HandlerSettings::new(&shown))
    }
);

/// Namespaces that an array shows: those that a test put into the world, while the controller is.
impl Handler<NvmeRemoteNamespace> for Fake {
    async fn create(&self, _: Job, _: NvmeRemoteNamespace) -> Result<NvmeRemoteNamespace> {
        Err(Error::unimplemented("found only"))
    }
    async fn delete(&self, _: ResourceName) -> Result<()> {
        Err(Error::unimplemented("found only"))
    }
    fn observe(&self, _: &ResourceName, _: &mut NvmeRemoteNamespace) -> Observed {
        Observed::default()
    }
    fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
        let parent = name.parent()?;
        self.place(&parent)?;
        self.place(name)
    }
    fn discovered(&self, parent: &ResourceName) -> Vec<(String, NvmeRemoteNamespace)> {
        let world = self.world.lock().unwrap();
        let prefix = format!("{parent}/nvmeRemoteNamespaces/");
        let found = world.things.iter().filter_map(|(name, bytes)| {
            let id = name.strip_prefix(&prefix)?.to_owned();
            Some((id, NvmeRemoteNamespace::decode(&bytes[..]).unwrap()))
        });
        found.collect()
    }
}

/// Handlers of seven kinds over one world.
pub fn handlers(world: &Shared) -> Arc<Handlers> {
    let mut handlers = Handlers::default();
    let fake = || Fake {
        world: world.clone(),
    };
    handlers.add::<MallocVolume>(fake()).unwrap();
    handlers.add::<EncryptedVolume>(fake()).unwrap();
    handlers.add::<NvmeSubsystem>(fake()).unwrap();
    handlers.add::<NvmeController>(fake()).unwrap();
    handlers.add::<NvmeNamespace>(fake()).unwrap();
    handlers.add::<NvmeRemoteController>(fake()).unwrap();
    handlers.add::<NvmeRemoteNamespace>(fake()).unwrap();
    Arc::new(handlers)
}

/// Runs a future that never waits.
pub fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("fake handlers never wait"),
    }
}

/// A catalogue, its store and its world.
pub struct Bench {
    pub catalogue: Catalogue,
    pub store: MemoryStore,
    pub world: Shared,
    pub handlers: Arc<Handlers>,
    pub replies: BTreeMap<Ticket, Result<Answer>>,
    pub restored: bool,
    pub pending: VecDeque<Effect>,
    pub now: Moment,
    tickets: u64,
}

impl Bench {
    pub fn new() -> Self {
        Self::over(MemoryStore::default(), Settings::default())
    }

    /// A server that starts with what a store holds, in a fresh world; not driven yet.
    pub fn over(mut store: MemoryStore, settings: Settings) -> Self {
        let world = Shared::default();
        let handlers = handlers(&world);
        let keys = Arc::new(Keys::derive(&[42; 32]));
        let mut catalogue = Catalogue::new(settings, keys, handlers.clone());
        let now = Moment {
            mono: Nanos::from_secs(100),
            unix_ns: 1_700_000_000_000_000_000,
        };
        let loaded = store.load().unwrap();
        let pending = catalogue.restore(loaded.resources, now).unwrap().into();
        let (replies, restored, tickets) = (BTreeMap::new(), false, 0);
        Self {
            catalogue,
            store,
            world,
            handlers,
            replies,
            restored,
            pending,
            now,
            tickets,
        }
    }

    /// Hands a change in, without carrying out any effect.
    pub fn submit(&mut self, change: Change) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let effects = self.catalogue.change(ticket, change, self.now);
        self.pending.extend(effects);
        ticket
    }

    /// Carries out one effect; false if there is none.
    pub fn step(&mut self) -> bool {
        self.step_at(0)
    }

    /// Carries out one of the effects that are due: handlers end in any order, writes and
    /// replies in theirs.
    pub fn step_any(&mut self, choice: usize) -> bool {
        let free: Vec<_> = (0..self.pending.len())
            .filter(|i| {
                let mut earlier = self.pending.range(..*i);
                match self.pending[*i] {
                    Effect::Write(..) => !earlier.any(|e| matches!(e, Effect::Write(..))),
                    Effect::Reply(..) => !earlier.any(|e| matches!(e, Effect::Reply(..))),
                    _ => true,
                }
            })
            .collect();
        !free.is_empty() && self.step_at(free[choice % free.len()])
    }

    fn step_at(&mut self, index: usize) -> bool {
        let Some(effect) = self.pending.remove(index) else {
            return false;
        };
        let outcome = match effect {
            Effect::Write(operation, batch) => {
                Outcome::Written(operation, self.store.commit(&batch))
            }
            Effect::Call(operation, call) => Outcome::Called(operation, self.call(call)),
            Effect::Reply(ticket, reply) => {
                assert!(self.replies.insert(ticket, reply).is_none(), "two replies");
                return true;
            }
            Effect::Restored => {
                assert!(!self.restored, "restored twice");
                self.restored = true;
                return true;
            }
        };
        let effects = self.catalogue.finish(outcome, self.now);
        self.pending.extend(effects);
        true
    }

    fn call(&self, call: Call) -> Result<Vec<u8>> {
        let of = |name: &ResourceName| self.handlers.of(&name.kind().collection);
        let job = |name: ResourceName, replay, bases: Vec<control::Base>, settings| {
            let volumes = bases.into_iter().filter_map(|base| {
                let volume = of(&base.name).ok()?.volume(&base.name)?;
                Some((base.field, volume))
            });
            Job {
                name,
                replay,
                volumes: volumes.collect(),
                settings,
            }
        };
        match call {
            Call::Create {
                name,
                replay,
                bases,
                spec,
                settings,
            } => ready(of(&name)?.create(job(name, replay, bases, settings), spec)),
            Call::Update {
                name,
                bases,
                old,
                new,
                settings,
            } => ready(of(&name)?.update(job(name, false, bases, settings), old, new)),
            Call::Delete { name } => ready(of(&name)?.delete(name)).map(|()| Vec::new()),
            Call::Reset { name } => ready(of(&name)?.reset(name)).map(|()| Vec::new()),
        }
    }

    /// Carries out everything.
    pub fn run(&mut self) {
        while self.step() {}
        assert!(self.catalogue.is_settled() || self.catalogue.deadline().is_some());
    }

    /// Lets time pass until nothing is to be tried again, or a minute is over.
    pub fn run_for_a_minute(&mut self) {
        self.run();
        let end = self.now.mono + Nanos::from_secs(61);
        while let Some(at) = self.catalogue.deadline().filter(|at| *at <= end) {
            self.now.mono = at;
            let effects = self.catalogue.tick(self.now);
            self.pending.extend(effects);
            self.run();
        }
    }

    /// Hands a change in and carries everything out.
    pub fn change(&mut self, change: Change) -> Result<Answer> {
        let ticket = self.submit(change);
        self.run();
        self.replies
            .remove(&ticket)
            .expect("every change is answered")
    }

    pub fn fault(&self, call: &str, times: usize) {
        self.world
            .lock()
            .unwrap()
            .faults
            .insert(call.to_owned(), times);
    }

    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.world.lock().unwrap().log)
    }

    pub fn names(&self) -> BTreeSet<String> {
        self.catalogue
            .names(None)
            .map(|name| name.to_string())
            .collect()
    }

    /// Checks that what handlers made is what the catalogue shows, secrets aside.
    pub fn check_world(&self, when: &str) {
        let world = self.world.lock().unwrap();
        for (name, made) in &world.things {
            let name = ResourceName::parse(name, "name").unwrap();
            let kind = name.kind();
            let mut made = DynamicMessage::decode(kind.message.clone(), &**made).unwrap();
            fields::clear_secrets(&mut made);
            let shown = self.catalogue.get(kind, name.as_str()).unwrap();
            assert_eq!(made, shown, "{when}: {name} is not what it is said to be");
            let stands = &world.settings[name.as_str()];
            // The other fake handlers know no settings, whether their kinds have some or not.
            if kind.collection != "nvmeRemoteControllers" {
                assert_eq!(*stands, HandlerSettings::default(), "{when}: {name}");
                continue;
            }
            let mut stands: NvmeRemoteControllerSettings = stands.read().unwrap();
            stands.name = format!("{name}/settings");
            stands
                .connect_timeout_ms
                .get_or_insert(CONNECT_TIMEOUT_MS_DEFAULT);
            let shown = self.catalogue.settings(kind, &stands.name).unwrap();
            let shown: NvmeRemoteControllerSettings = shown.transcode_to().unwrap();
            assert_eq!(
                stands, shown,
                "{when}: {name} is not set as it is said to be"
            );
        }
    }

    pub fn get<R: Resource>(&self, name: &str) -> Result<R> {
        let message = self.catalogue.get(kinds::of::<R>(), name)?;
        Ok(fields::from_dynamic(&message).unwrap())
    }
}

pub fn create<R: Resource>(parent: &str, id: &str, resource: &R) -> Change {
    Change::Create {
        kind: kinds::of::<R>(),
        parent: parent.to_owned(),
        id: id.to_owned(),
        fresh_id: "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb".to_owned(),
        resource: fields::to_dynamic(resource),
    }
}

pub fn update<R: Resource>(resource: &R, mask: &[&str]) -> Change {
    Change::Update {
        kind: kinds::of::<R>(),
        resource: fields::to_dynamic(resource),
        mask: mask.iter().map(|m| (*m).to_owned()).collect(),
        allow_missing: false,
    }
}

pub fn settings(id: &str, connect_timeout_ms: Option<u32>) -> NvmeRemoteControllerSettings {
    NvmeRemoteControllerSettings {
        name: format!("nvmeRemoteControllers/{id}/settings"),
        connect_timeout_ms,
        ..Default::default()
    }
}

pub fn set(settings: &NvmeRemoteControllerSettings, mask: &[&str]) -> Change {
    let kind = kinds::of::<NvmeRemoteController>();
    let mut message = DynamicMessage::new(kind.settings.clone().unwrap());
    message.transcode_from(settings).unwrap();
    Change::UpdateSettings {
        kind,
        settings: message,
        mask: mask.iter().map(|m| (*m).to_owned()).collect(),
    }
}

pub fn delete<R: Resource>(name: &str) -> Change {
    let kind = kinds::of::<R>();
    Change::Delete {
        kind,
        name: name.to_owned(),
        allow_missing: false,
    }
}

pub fn reset<R: Resource>(name: &str) -> Change {
    let kind = kinds::of::<R>();
    let name = name.to_owned();
    Change::Reset { kind, name }
}

pub fn resource<R: Resource>(answer: Answer) -> R {
    match answer {
        Answer::Resource(message) => fields::from_dynamic(&message).unwrap(),
        Answer::Gone | Answer::Done => panic!("a resource was expected"),
    }
}

pub fn dynamic(answer: Answer) -> DynamicMessage {
    match answer {
        Answer::Resource(message) => message,
        Answer::Gone | Answer::Done => panic!("a resource was expected"),
    }
}

pub fn remote(multipath: i32) -> NvmeRemoteController {
    NvmeRemoteController {
        multipath,
        ..Default::default()
    }
}

pub fn malloc() -> MallocVolume {
    MallocVolume {
        block_size: 512,
        blocks_count: 8,
        ..Default::default()
    }
}

pub fn encrypted(base: &str, key: &[u8]) -> EncryptedVolume {
    EncryptedVolume {
        volume_name_ref: base.to_owned(),
        key: key.to_vec(),
        cipher: 1,
        ..Default::default()
    }
}

pub fn subsystem(nqn: &str) -> NvmeSubsystem {
    let spec = api::storage::v1::NvmeSubsystemSpec {
        nqn: nqn.to_owned(),
        ..Default::default()
    };
    NvmeSubsystem {
        spec: Some(spec),
        ..Default::default()
    }
}

pub fn namespace(volume: &str) -> NvmeNamespace {
    let spec = api::storage::v1::NvmeNamespaceSpec {
        volume_name_ref: volume.to_owned(),
        ..Default::default()
    };
    NvmeNamespace {
        spec: Some(spec),
        ..Default::default()
    }
}
