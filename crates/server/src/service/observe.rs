//! `ObservationService`: how resources are doing, once or as a stream of changes.

use api::error::{Code, Error, Result};
use api::ext::v1 as ext;
use api::kinds::{self, Kind, Method};
use api::names::ResourceName;
use control::{Catalogue, Condition, Sight};
use ext::watch_observations_response::Event;
use prost_reflect::DynamicMessage;
use prost_types::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::owner::moment;
use super::{Service, stats};
use crate::calls::Replies;

/// How often a watch looks. Most changes of health happen in the data plane, which tells nobody
/// but the next one who asks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// News that wait for a slow reader; one that is further behind is cut off.
const NEWS_MAX: usize = 1024;
/// Resources named in one watch at most.
const NAMES_MAX: usize = 256;

/// When each resource that is offline was first seen so: the data plane does not say when it lost
/// something, so the first sight counts.
#[derive(Default)]
pub(super) struct Sightings(Mutex<HashMap<ResourceName, u64>>);

impl Sightings {
    /// Since when a resource has been as it is now, in nanoseconds since the Unix epoch.
    fn since(&self, sight: &Sight) -> u64 {
        let mut seen = self.0.lock().expect("no holder panics");
        if !matches!(sight.condition, Condition::Offline(_)) {
            seen.remove(&sight.name);
            return sight.since_ns;
        }
        *seen
            .entry(sight.name.clone())
            .or_insert_with(|| moment().unix_ns)
    }

    fn forget(&self, name: &ResourceName) {
        self.0.lock().expect("no holder panics").remove(name);
    }
}

/// A resource with the volumes below it.
struct View {
    sight: Sight,
    chain: Vec<Sight>,
}

impl View {
    fn of(catalogue: &Catalogue, sight: Sight) -> Self {
        let chain = sight
            .chain
            .iter()
            .filter_map(|n| catalogue.sight(n.as_str()).ok());
        Self {
            chain: chain.collect(),
            sight,
        }
    }
}

impl Service {
    pub(super) async fn get_observation(&self, request: &DynamicMessage) -> Result<DynamicMessage> {
        let request: ext::GetObservationRequest = typed(request)?;
        let look = move |catalogue: &Catalogue| {
            let sight = catalogue.sight(&request.name)?;
            Ok(View::of(catalogue, sight))
        };
        let view = self.read(look).await?;
        Ok(untyped(
            &self.observation(&view),
            "opi_ext.storage.v1.Observation",
        ))
    }

    pub(super) async fn list_observations(
        &self,
        method: &Method,
        request: &DynamicMessage,
    ) -> Result<DynamicMessage> {
        let request: ext::ListObservationsRequest = typed(request)?;
        let kind = kind_named(&request.kind)?;
        let look = move |catalogue: &Catalogue| {
            let (parent, token) = (&request.parent, &request.page_token);
            let (sights, next) = catalogue.sights(parent, kind, request.page_size, token)?;
            let views: Vec<_> = sights.into_iter().map(|s| View::of(catalogue, s)).collect();
            Ok((views, next))
        };
        let (views, next_page_token) = self.read(look).await?;
        let observations = views.iter().map(|v| self.observation(v)).collect();
        let reply = ext::ListObservationsResponse {
            observations,
            next_page_token,
        };
        Ok(untyped(&reply, method.descriptor.output().full_name()))
    }

    pub(super) async fn watch_observations(
        &self,
        method: &'static Method,
        request: &DynamicMessage,
    ) -> Result<Replies> {
        let request: ext::WatchObservationsRequest = typed(request)?;
        if request.names.len() > NAMES_MAX {
            let text = format!(
                "{} names are given, at most {NAMES_MAX} may be",
                request.names.len()
            );
            return Err(Error::invalid("names", text));
        }
        let filter = Arc::new(Filter {
            names: request
                .names
                .iter()
                .map(|n| full_name(n))
                .collect::<Result<_>>()?,
            kind: kind_named(&request.kind)?,
        });
        let (sender, receiver) = mpsc::channel(NEWS_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let end = service.tell_news(method, &filter, &sender).await;
            if let Err(error) = end {
                // When the queue is full, or the reader has left, the end of the stream says it.
                let _ = sender.try_send(Err(error));
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    /// Sends what changes until the reader leaves or falls behind.
    async fn tell_news(
        &self,
        method: &'static Method,
        filter: &Arc<Filter>,
        sender: &mpsc::Sender<Result<DynamicMessage>>,
    ) -> Result<()> {
        let mut known: BTreeMap<String, Essence> = BTreeMap::new();
        let mut pause = tokio::time::interval(LOOK_EVERY);
        let mut synced = false;
        loop {
            tokio::select! {
                _ = pause.tick() => {}
                () = sender.closed() => return Ok(()),
            }
            let mut news = Vec::new();
            let views = self.views(filter.clone()).await?;
            let names: BTreeSet<_> = views.iter().map(|v| v.sight.name.to_string()).collect();
            for view in &views {
                let essence = Essence::of(view);
                let name = view.sight.name.to_string();
                if known.get(&name) != Some(&essence) {
                    news.push((Event::Present, Some(self.observation(view))));
                    known.insert(name, essence);
                }
            }
            known.retain(|name, _| {
                let there = names.contains(name);
                if !there {
                    let gone = ext::Observation {
                        name: name.clone(),
                        ..Default::default()
                    };
                    news.push((Event::Gone, Some(gone)));
                    if let Ok(name) = ResourceName::parse(name, "name") {
                        self.sightings.forget(&name);
                    }
                }
                there
            });
            if !synced {
                news.push((Event::Synced, None));
                synced = true;
            }
            let news = news.into_iter().map(|(event, observation)| {
                let reply = ext::WatchObservationsResponse {
                    event: event.into(),
                    observation,
                };
                Ok(untyped(&reply, method.descriptor.output().full_name()))
            });
            if !hand_over(sender, news).await {
                return Err(behind());
            }
        }
    }

    async fn views(&self, filter: Arc<Filter>) -> Result<Vec<View>> {
        let look = move |catalogue: &Catalogue| {
            let names = catalogue.names(filter.kind);
            let names: Vec<_> = names.filter(|n| filter.admits(n)).collect();
            let sights = names
                .iter()
                .filter_map(|n| catalogue.sight(n.as_str()).ok());
            Ok(sights.map(|s| View::of(catalogue, s)).collect())
        };
        self.read(look).await
    }

    fn observation(&self, view: &View) -> ext::Observation {
        let (state, reason) = state(&view.sight.condition);
        let since_ns = self.sightings.since(&view.sight);
        let chain = view.chain.iter().map(|link| ext::ChainLink {
            name: link.name.to_string(),
            state: self::state(&link.condition).0.into(),
            stats: link.stats.as_ref().map(stats::io_stats),
        });
        ext::Observation {
            name: view.sight.name.to_string(),
            state: state.into(),
            reason,
            since: Some(Timestamp {
                seconds: (since_ns / 1_000_000_000).cast_signed(),
                nanos: (since_ns % 1_000_000_000) as i32,
            }),
            stats: view.sight.stats.as_ref().map(stats::io_stats),
            facts: view.sight.facts.iter().map(stats::fact).collect(),
            chain: chain.collect(),
            users: view.sight.users.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Which resources a watch follows.
struct Filter {
    names: BTreeSet<ResourceName>,
    kind: Option<&'static Kind>,
}

impl Filter {
    fn admits(&self, name: &ResourceName) -> bool {
        self.names.is_empty() || self.names.contains(name)
    }
}

/// What of an observation is news; counters alone are not.
#[derive(Eq, PartialEq)]
struct Essence {
    condition: Condition,
    chain: Vec<(ResourceName, Condition)>,
    users: Vec<ResourceName>,
}

impl Essence {
    fn of(view: &View) -> Self {
        let chain = view
            .chain
            .iter()
            .map(|link| (link.name.clone(), link.condition.clone()));
        Self {
            condition: view.sight.condition.clone(),
            chain: chain.collect(),
            users: view.sight.users.clone(),
        }
    }
}

/// Gives the news of one look to the reader; false if it is behind, or has left. News that are
/// more than the queue holds, as those of a first look may be, wait for their reader instead: that
/// the queue is full then is not its fault.
async fn hand_over<T>(sender: &mpsc::Sender<T>, news: impl ExactSizeIterator<Item = T>) -> bool {
    let waits = news.len() > sender.max_capacity();
    for one in news {
        let sent = match waits {
            true => sender.send(one).await.is_ok(),
            false => sender.try_send(one).is_ok(),
        };
        if !sent {
            return false;
        }
    }
    true
}

fn behind() -> Error {
    let text = format!("the reader is more than {NEWS_MAX} messages behind: start again");
    Error::new(Code::ResourceExhausted, text)
}

fn state(condition: &Condition) -> (ext::State, String) {
    match condition {
        Condition::Pending => (ext::State::Pending, String::new()),
        Condition::Ready => (ext::State::Ready, String::new()),
        Condition::Offline(why) => (ext::State::Offline, why.clone()),
        Condition::Failed(why) => (ext::State::Failed, why.clone()),
        Condition::Deleting => (ext::State::Deleting, String::new()),
    }
}

fn full_name(name: &str) -> Result<ResourceName> {
    ResourceName::parse(name, "names")
}

fn kind_named(collection: &str) -> Result<Option<&'static Kind>> {
    if collection.is_empty() {
        return Ok(None);
    }
    let unknown = || {
        let all: Vec<_> = kinds::all().iter().map(|k| k.collection.as_str()).collect();
        let text = format!(
            "`{collection}` is not a kind; use one of {}",
            all.join(", ")
        );
        Error::invalid("kind", text)
    };
    kinds::by_collection(collection)
        .map(Some)
        .ok_or_else(unknown)
}

/// A request as its generated type.
fn typed<T: prost::Message + Default>(request: &DynamicMessage) -> Result<T> {
    let wrong = |e| Error::internal("a request is not of its method's type").caused_by(e);
    request.transcode_to().map_err(wrong)
}

/// An answer as a reflective message.
pub(super) fn untyped(reply: &impl prost::Message, full_name: &str) -> DynamicMessage {
    let descriptor = api::pool().get_message_by_name(full_name);
    let mut message =
        DynamicMessage::new(descriptor.expect("its type was generated from the pool"));
    message.transcode_from(reply).expect("it is of this type");
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn news_beyond_the_queue_wait_for_their_reader_and_only_those() {
        let (sender, mut receiver) = mpsc::channel(4);
        let read = async {
            let mut read = Vec::new();
            for _ in 0..10 {
                read.push(receiver.recv().await.unwrap());
            }
            read
        };
        // However few resources there are, and however many: what counts is the news.
        let (sent, read) = tokio::join!(hand_over(&sender, 0..10), read);
        assert!(sent);
        assert_eq!(read, (0..10).collect::<Vec<_>>());
        assert!(hand_over(&sender, 0..4).await);
        assert!(!hand_over(&sender, 0..1).await, "the reader is behind");
    }
}
