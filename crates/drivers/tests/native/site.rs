//! A native platform without a server: resources are made by calling handlers.

use api::error::Result;
use api::handler::{
    Erased, FactValue, Handlers, Health, Job, Observed, Resource, Settings, SettingsMessage,
};
use api::names::ResourceName;
use blk::Volume;
use engine::{Keep, KeepDone, Latch, Options, Reactors, World};
use prost::Message;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// How long anything may take on a slow machine; past it something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is kept, in memory.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<String, Vec<u8>>>);

impl Keep for Kept {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.0.lock().unwrap().get(key).cloned()
    }

    fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone) {
        let mut kept = self.0.lock().unwrap();
        match value {
            Some(value) => drop(kept.insert(key.to_owned(), value)),
            None => drop(kept.remove(key)),
        }
        drop(kept);
        done(Ok(()));
    }
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(answer) => return answer,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Waits until something is so.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what} takes too long");
        std::thread::yield_now();
    }
}

/// A loopback address of the caller's own. Connections come from 127.0.0.1, so a port that was
/// listened at there once can be listened at again: nobody else takes it meanwhile.
pub(crate) fn own_address() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let process = std::process::id();
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let (high, low) = (1 + process / 256 % 250, process % 256);
    format!("127.{high}.{low}.{number}")
}

/// A platform with its reactors.
pub(crate) struct Site {
    handlers: Handlers,
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(Arc::new(Kept::default()))
    }

    /// A platform that remembers what an earlier one kept.
    pub(crate) fn with(keep: Arc<Kept>) -> Self {
        let restored = Arc::new(Latch::default());
        restored.open();
        let options = Options {
            backend: engine::Backend::Auto,
            ..Options::default()
        };
        let world = World {
            reactors: Reactors::start(&options).unwrap(),
            keep,
            restored,
        };
        let handlers = drivers::platform("native", &world).unwrap();
        Self { handlers }
    }

    fn handler(&self, name: &str) -> (ResourceName, Arc<dyn Erased>) {
        let name = ResourceName::parse(name, "name").unwrap();
        let handler = self.handlers.of(&name.kind().collection).unwrap();
        (name, handler)
    }

    /// Makes a resource on these volumes, by the fields that refer to them.
    pub(crate) fn try_make<R: Resource>(
        &self,
        name: &str,
        spec: &R,
        volumes: &[(&str, Arc<dyn Volume>)],
        replay: bool,
    ) -> Result<R> {
        let (name, handler) = self.handler(name);
        let spec = spec.encode_to_vec();
        handler.admit(&name, &spec, None)?;
        let volumes = volumes
            .iter()
            .map(|(field, v)| ((*field).to_owned(), v.clone()));
        let job = Job {
            name,
            replay,
            volumes: volumes.collect(),
            settings: Settings::default(),
        };
        let made = block_on(handler.create(job, spec))?;
        Ok(R::decode(&made[..]).unwrap())
    }

    #[track_caller]
    pub(crate) fn make<R: Resource>(&self, name: &str, spec: &R) -> R {
        self.try_make(name, spec, &[], false).unwrap()
    }

    /// Changes the settings of a resource that was made so.
    pub(crate) fn set<R: Resource, S: SettingsMessage>(&self, name: &str, spec: &R, settings: &S) {
        let (name, handler) = self.handler(name);
        let (spec, settings) = (spec.encode_to_vec(), Settings::new(settings));
        handler.admit_settings(&name, &spec, &settings).unwrap();
        let job = Job {
            name,
            replay: false,
            volumes: BTreeMap::new(),
            settings,
        };
        block_on(handler.update(job, spec.clone(), spec)).unwrap();
    }

    pub(crate) fn delete(&self, name: &str) {
        let (name, handler) = self.handler(name);
        block_on(handler.delete(name)).unwrap();
    }

    pub(crate) fn reset(&self, name: &str) {
        let (name, handler) = self.handler(name);
        block_on(handler.reset(name)).unwrap();
    }

    pub(crate) fn volume(&self, name: &str) -> Option<Arc<dyn Volume>> {
        let (name, handler) = self.handler(name);
        handler.volume(&name)
    }

    /// The discovered resources below a parent.
    pub(crate) fn discovered<R: Resource>(&self, parent: &str) -> Vec<(String, R)> {
        let parent = ResourceName::parse(parent, "name").unwrap();
        let handler = self.handlers.of(R::COLLECTION).unwrap();
        let found = handler.discovered(&parent).into_iter();
        found
            .map(|(id, bytes)| (id, R::decode(&bytes[..]).unwrap()))
            .collect()
    }

    /// Asks the platform something.
    pub(crate) fn ask<Q: Message, A: Message + Default>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A> {
        let query = self.handlers.query(method)?;
        let answer = block_on(query.answer(request.encode_to_vec()))?;
        Ok(A::decode(&answer[..]).unwrap())
    }

    pub(crate) fn observe<R: Resource>(&self, name: &str) -> Observed {
        let (name, handler) = self.handler(name);
        handler
            .observe(&name, &R::default().encode_to_vec())
            .unwrap()
            .1
    }

    /// The one fact of a resource with this name.
    #[track_caller]
    pub(crate) fn fact<R: Resource>(&self, name: &str, fact: &str) -> FactValue {
        let facts = self.observe::<R>(name).facts;
        let found: Vec<_> = facts.iter().filter(|f| f.name == fact).collect();
        assert_eq!(found.len(), 1, "{fact} in {facts:?}");
        found[0].value
    }

    /// Why a resource does not serve; `None` if it does.
    pub(crate) fn trouble<R: Resource>(&self, name: &str) -> Option<String> {
        match self.observe::<R>(name).health {
            Health::Online => None,
            Health::Offline(why) => Some(why),
        }
    }
}
