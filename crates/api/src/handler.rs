//! The seam of the control plane: a [`Handler`] makes resources of one kind real.
//!
//! Back-ends, middle-ends, front-ends and platform drivers all [`Install`] handlers, so the
//! catalogue never learns what stands behind a kind.

use crate::error::{Code, Error, Result};
use crate::names::ResourceName;
use blk::{Tally, Volume};
use prost::Message as _;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// A message that is a resource. Implemented by the build script for every message with a
/// `google.api.resource` option.
pub trait Resource: prost::Message + Default + Clone + Send + Sync + 'static {
    /// The collection, as in `nullVolumes`.
    const COLLECTION: &'static str;
    /// The resource type, as in `opi_api.storage.v1/NullVolume`.
    const TYPE: &'static str;
}

/// A message that holds the settings of the resources of one kind (AIP-156). Implemented by the
/// build script for every resource message whose pattern ends in `/settings`.
pub trait SettingsMessage: prost::Message + Default + Clone + Send + Sync + 'static {
    /// The collection of the resources that have them, as in `nvmeRemoteControllers`.
    const COLLECTION: &'static str;
}

/// The settings of one resource, in their encoded form and without a name. Empty stands for all
/// defaults.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Settings(Vec<u8>);

impl Settings {
    /// Settings that were stored.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The encoded message.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Encodes settings.
    pub fn new<S: SettingsMessage>(settings: &S) -> Self {
        Self(settings.encode_to_vec())
    }

    /// The settings as their message.
    ///
    /// # Errors
    /// They are those of another kind.
    pub fn read<S: SettingsMessage>(&self) -> Result<S> {
        S::decode(self.0.as_slice()).map_err(|e| {
            let text = format!("stored settings of {} cannot be decoded", S::COLLECTION);
            Error::internal(text).caused_by(e)
        })
    }
}

/// What a handler is asked to work on.
#[derive(Clone)]
pub struct Job {
    /// The resource.
    pub name: ResourceName,
    /// True when the server starts, or brings back what a lost base took along: data that
    /// existed must exist, and is never made anew.
    pub replay: bool,
    /// The volumes that the resource refers to, by the path of the referring field (as in
    /// `spec.volume_name_ref`). One that is referred to and cannot be used now is absent.
    pub volumes: BTreeMap<String, Arc<dyn Volume>>,
    /// How it shall be set, beside its own fields.
    pub settings: Settings,
}

impl Job {
    /// The settings, for kinds that have some.
    ///
    /// # Errors
    /// They are those of another kind.
    pub fn settings<S: SettingsMessage>(&self) -> Result<S> {
        self.settings.read()
    }

    /// The volume behind a field, if it can be used now.
    pub fn volume(&self, field: &str) -> Option<Arc<dyn Volume>> {
        self.volumes.get(field).cloned()
    }
}

/// How a resource is doing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Health {
    /// It serves.
    #[default]
    Online,
    /// It does not, for the reason given, and is expected back.
    Offline(String),
}

/// Something that is known of a resource beside its I/O, as a family of its own in `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// In snake case and without the unit, as in `nvme_path_reconnects`.
    pub name: &'static str,
    /// What it says, in one sentence.
    pub help: &'static str,
    /// The base unit, as in `seconds` or `bytes`; empty for a plain number.
    pub unit: &'static str,
    /// What tells the facts of one name and one resource apart, as in `nsid`.
    pub labels: Vec<(&'static str, String)>,
    /// What is known.
    pub value: FactValue,
}

/// The value of a [`Fact`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FactValue {
    /// It only grows while the service runs.
    Counter(u64),
    /// It goes up and down.
    Gauge(f64),
    /// One of a few words.
    State {
        /// The one that is true now.
        now: &'static str,
        /// Every one that there is.
        all: &'static [&'static str],
    },
}

/// What can be seen of a resource at one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// How it is doing.
    pub health: Health,
    /// What it counted; `None` for kinds that do no I/O.
    pub stats: Option<Tally>,
    /// What else is known of it.
    pub facts: Vec<Fact>,
}

/// How a kind uses the volumes it refers to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Claim {
    /// Others may use the volume too: front-ends.
    #[default]
    Shared,
    /// Nobody else may: middle-ends.
    Exclusive,
}

/// Makes resources of one kind real. Every method is idempotent: after a crash it is called again.
pub trait Handler<R: Resource>: Send + Sync + 'static {
    /// How this kind uses the volumes it refers to.
    const CLAIM: Claim = Claim::Shared;

    /// Checks a wish before anything is written. `old` is what exists, for an update. Must be
    /// quick and without effects; runs on the catalogue's task.
    fn admit(&self, name: &ResourceName, new: &R, old: Option<&R>) -> Result<()> {
        let _ = (name, new, old);
        Ok(())
    }

    /// Checks new settings of `resource`, which is as it is recorded, before anything is written.
    /// Must be quick and without effects; runs on the catalogue's task. A handler that knows the
    /// settings of its kind says so here, and then gets them with every job: to `create`, and in
    /// an `update` whose `old` and `new` are equal if nothing else is changed.
    fn admit_settings(&self, name: &ResourceName, resource: &R, settings: &Settings) -> Result<()> {
        let _ = (name, resource, settings);
        let text = format!("settings of {} are not implemented here", R::COLLECTION);
        Err(Error::unimplemented(text))
    }

    /// The settings in force: with the value of each field that nobody chose. Must be quick; runs
    /// on the catalogue's task.
    fn settings_in_force(
        &self,
        name: &ResourceName,
        resource: &R,
        settings: &Settings,
    ) -> Result<Settings> {
        let _ = (name, resource);
        Ok(settings.clone())
    }

    /// Makes it so, and returns the resource with assigned fields filled in; that is what is
    /// stored. Called for something that exists already (after a crash, or when a base came
    /// back), it adjusts.
    fn create(&self, job: Job, spec: R) -> impl Future<Output = Result<R>> + Send;

    /// Changes it in place, and returns it as it is now.
    fn update(&self, job: Job, old: R, new: R) -> impl Future<Output = Result<R>> + Send {
        let _ = (old, new);
        let name = job.name.to_string();
        async move {
            let text = format!("{name} cannot be changed in place: delete it and create it anew");
            Err(Error::precondition(text).about(name))
        }
    }

    /// Makes it gone; all I/O has ended when this returns. Removing what is gone succeeds.
    fn delete(&self, name: ResourceName) -> impl Future<Output = Result<()>> + Send;

    /// Puts it back to how it was when it was made, without changing what is recorded: the `Reset`
    /// of OPI. Called only while it is up, and never beside another call for the same resource.
    fn reset(&self, name: ResourceName) -> impl Future<Output = Result<()>> + Send {
        async move {
            let text = format!("reset of {} is not implemented here", R::COLLECTION);
            Err(Error::unimplemented(text).about(name.as_str()))
        }
    }

    /// Fills the output-only fields of `resource` and tells how it is doing. Must be quick.
    fn observe(&self, name: &ResourceName, resource: &mut R) -> Observed;

    /// The volume behind a resource of this kind, for kinds that are volumes.
    fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
        let _ = name;
        None
    }

    /// The resources of this kind that are there below `parent`, each with its id, for kinds that
    /// nobody creates: they are found and never stored. Must be quick.
    fn discovered(&self, parent: &ResourceName) -> Vec<(String, R)> {
        let _ = parent;
        Vec::new()
    }
}

/// Answers a method that belongs to no kind of resource: a question about the world outside the
/// catalogue, such as what an array has to offer.
pub trait Query: Send + Sync + 'static {
    /// The gRPC path of the method, as in `/package.Service/Method`.
    const METHOD: &'static str;
    /// What it is asked with.
    type Request: prost::Message + Default;
    /// What it answers.
    type Response: prost::Message;

    /// Answers. It has its own time limit: nobody takes the question back.
    fn answer(&self, request: Self::Request)
    -> impl Future<Output = Result<Self::Response>> + Send;
}

/// A query whose messages travel in their encoded form.
pub trait ErasedQuery: Send + Sync {
    /// [`Query::answer`].
    fn answer(&self, request: Vec<u8>) -> Reply<'_, Vec<u8>>;
}

impl<Q: Query> ErasedQuery for Q {
    fn answer(&self, request: Vec<u8>) -> Reply<'_, Vec<u8>> {
        Box::pin(async move {
            let request = Q::Request::decode(&request[..]).map_err(|e| {
                Error::internal(format!("a request of {} cannot be decoded", Q::METHOD))
                    .caused_by(e)
            })?;
            Ok(Query::answer(self, request).await?.encode_to_vec())
        })
    }
}

/// Something that brings handlers: a volume type, a front-end, a platform driver.
pub trait Install<W>: Sync {
    /// Adds its handlers. `world` is what they work on.
    fn install(&self, world: &W, handlers: &mut Handlers) -> Result<()>;
}

type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A handler whose resources travel in their encoded form.
pub trait Erased: Send + Sync {
    /// [`Handler::CLAIM`].
    fn claim(&self) -> Claim;
    /// [`Handler::admit`].
    fn admit(&self, name: &ResourceName, new: &[u8], old: Option<&[u8]>) -> Result<()>;
    /// [`Handler::admit_settings`].
    fn admit_settings(
        &self,
        name: &ResourceName,
        resource: &[u8],
        settings: &Settings,
    ) -> Result<()>;
    /// [`Handler::settings_in_force`].
    fn settings_in_force(
        &self,
        name: &ResourceName,
        resource: &[u8],
        settings: &Settings,
    ) -> Result<Settings>;
    /// [`Handler::create`].
    fn create(&self, job: Job, spec: Vec<u8>) -> Reply<'_, Vec<u8>>;
    /// [`Handler::update`].
    fn update(&self, job: Job, old: Vec<u8>, new: Vec<u8>) -> Reply<'_, Vec<u8>>;
    /// [`Handler::delete`].
    fn delete(&self, name: ResourceName) -> Reply<'_, ()>;
    /// [`Handler::reset`].
    fn reset(&self, name: ResourceName) -> Reply<'_, ()>;
    /// [`Handler::observe`]; also returns the resource with its output-only fields.
    fn observe(&self, name: &ResourceName, resource: &[u8]) -> Result<(Vec<u8>, Observed)>;
    /// [`Handler::volume`].
    fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>>;
    /// [`Handler::discovered`].
    fn discovered(&self, parent: &ResourceName) -> Vec<(String, Vec<u8>)>;
}

struct Typed<R, H>(H, std::marker::PhantomData<fn() -> R>);

fn decode<R: Resource>(bytes: &[u8]) -> Result<R> {
    R::decode(bytes).map_err(|e| {
        Error::internal(format!("a stored {} cannot be decoded", R::TYPE)).caused_by(e)
    })
}

impl<R: Resource, H: Handler<R>> Erased for Typed<R, H> {
    fn claim(&self) -> Claim {
        H::CLAIM
    }
    fn admit(&self, name: &ResourceName, new: &[u8], old: Option<&[u8]>) -> Result<()> {
        let old = old.map(decode::<R>).transpose()?;
        self.0.admit(name, &decode::<R>(new)?, old.as_ref())
    }
    fn admit_settings(
        &self,
        name: &ResourceName,
        resource: &[u8],
        settings: &Settings,
    ) -> Result<()> {
        self.0
            .admit_settings(name, &decode::<R>(resource)?, settings)
    }
    fn settings_in_force(
        &self,
        name: &ResourceName,
        resource: &[u8],
        settings: &Settings,
    ) -> Result<Settings> {
        let resource = decode::<R>(resource)?;
        self.0.settings_in_force(name, &resource, settings)
    }
    fn create(&self, job: Job, spec: Vec<u8>) -> Reply<'_, Vec<u8>> {
        Box::pin(async move {
            Ok(self
                .0
                .create(job, decode::<R>(&spec)?)
                .await?
                .encode_to_vec())
        })
    }
    fn update(&self, job: Job, old: Vec<u8>, new: Vec<u8>) -> Reply<'_, Vec<u8>> {
        Box::pin(async move {
            let (old, new) = (decode::<R>(&old)?, decode::<R>(&new)?);
            Ok(self.0.update(job, old, new).await?.encode_to_vec())
        })
    }
    fn delete(&self, name: ResourceName) -> Reply<'_, ()> {
        Box::pin(self.0.delete(name))
    }
    fn reset(&self, name: ResourceName) -> Reply<'_, ()> {
        Box::pin(self.0.reset(name))
    }
    fn observe(&self, name: &ResourceName, resource: &[u8]) -> Result<(Vec<u8>, Observed)> {
        let mut resource = decode::<R>(resource)?;
        let observed = self.0.observe(name, &mut resource);
        Ok((resource.encode_to_vec(), observed))
    }
    fn volume(&self, name: &ResourceName) -> Option<Arc<dyn Volume>> {
        self.0.volume(name)
    }
    fn discovered(&self, parent: &ResourceName) -> Vec<(String, Vec<u8>)> {
        let found = self.0.discovered(parent).into_iter();
        found.map(|(id, r)| (id, r.encode_to_vec())).collect()
    }
}

/// Which handler serves which collection, and which query which method.
#[derive(Default)]
pub struct Handlers {
    kinds: BTreeMap<&'static str, Arc<dyn Erased>>,
    queries: BTreeMap<&'static str, Arc<dyn ErasedQuery>>,
}

impl Handlers {
    /// Adds the handler of one kind. Two for one kind is a mistake in the configuration.
    pub fn add<R: Resource>(&mut self, handler: impl Handler<R>) -> Result<()> {
        let typed = Arc::new(Typed(handler, std::marker::PhantomData));
        match self.kinds.insert(R::COLLECTION, typed) {
            None => Ok(()),
            Some(_) => {
                let text = format!("two drivers bring a handler for {}", R::COLLECTION);
                Err(Error::new(Code::AlreadyExists, text))
            }
        }
    }

    /// The collections that are served.
    pub fn collections(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.kinds.keys().copied()
    }

    /// The handler of a collection, or UNIMPLEMENTED.
    pub fn of(&self, collection: &str) -> Result<Arc<dyn Erased>> {
        self.kinds.get(collection).cloned().ok_or_else(|| {
            let text = format!("{collection} are not implemented on this platform");
            Error::unimplemented(text)
        })
    }

    /// Adds what answers one method. Two for one method is a mistake in the configuration.
    pub fn add_query<Q: Query>(&mut self, query: Q) -> Result<()> {
        match self.queries.insert(Q::METHOD, Arc::new(query)) {
            None => Ok(()),
            Some(_) => {
                let text = format!("two drivers answer {}", Q::METHOD);
                Err(Error::new(Code::AlreadyExists, text))
            }
        }
    }

    /// What answers the method at a gRPC path, or UNIMPLEMENTED.
    pub fn query(&self, path: &str) -> Result<Arc<dyn ErasedQuery>> {
        self.queries.get(path).cloned().ok_or_else(|| {
            let text = format!("{path} is not implemented on this platform");
            Error::unimplemented(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ext::v1 as ext;

    /// Answers with what it was asked.
    struct Echo;

    impl Query for Echo {
        const METHOD: &'static str = "/a.Service/Echo";
        type Request = ext::GetObservationRequest;
        type Response = ext::Observation;

        async fn answer(&self, request: Self::Request) -> Result<Self::Response> {
            let name = request.name;
            Ok(ext::Observation {
                name,
                ..Default::default()
            })
        }
    }

    #[test]
    fn a_query_has_one_answerer_and_without_one_it_is_unimplemented() {
        let mut handlers = Handlers::default();
        let error = handlers.query(Echo::METHOD).err().unwrap();
        assert_eq!(error.code, Code::Unimplemented);
        handlers.add_query(Echo).unwrap();
        let again = handlers.add_query(Echo).unwrap_err();
        assert_eq!(again.code, Code::AlreadyExists);

        let query = handlers.query(Echo::METHOD).unwrap();
        let ask = |bytes: Vec<u8>| {
            let mut answer = query.answer(bytes);
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            match answer.as_mut().poll(&mut cx) {
                std::task::Poll::Ready(answer) => answer,
                std::task::Poll::Pending => panic!("it has nothing to wait for"),
            }
        };
        let name = "mallocVolumes/m0".to_owned();
        let request = ext::GetObservationRequest { name: name.clone() };
        let answer = ask(request.encode_to_vec()).unwrap();
        assert_eq!(ext::Observation::decode(&answer[..]).unwrap().name, name);
        assert_eq!(ask(vec![0xff]).unwrap_err().code, Code::Internal);
    }
}
