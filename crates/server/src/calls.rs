//! The seam between the protocols and the catalogue: every RPC, from gRPC or REST, is one
//! [`Calls::call`] on reflective messages.

use std::any::Any;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::kinds::Method;
use api::{Code, Error};
use axum::body::{Body, Bytes};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use prost_reflect::DynamicMessage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt as _, wrappers::ReceiverStream};

/// Calls worked on at once; more wait for a place until their deadline. Each holds its request
/// and its answer in memory, at most 8 MiB together.
const CALLS_MAX: usize = 256;
/// Watches open at once; each costs a task and a queue for as long as its client likes.
const WATCHES_MAX: usize = 256;
/// Answers of a watch that wait for a slow reader before the source is held back.
const WATCH_QUEUE_MAX: usize = 64;
/// Longest time for a client to send the body of a call.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest time for a call whatever its client says; draining a busy volume takes seconds.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(120);

/// What a call answers in the end.
pub type Reply<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;
/// The answers of a watch.
pub type Replies = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Error>> + Send>>;

/// What is known about a call beside its request.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// The other end of the connection.
    pub peer: Option<SocketAddr>,
    /// The client's certificate in DER form, where TLS asked for one.
    pub certificate: Option<Arc<[u8]>>,
    /// How long the client is willing to wait.
    pub time: Option<Duration>,
    /// The place that its body was read in, and that the call goes on in.
    pub place: Option<Place>,
}

/// A place among the [`CALLS_MAX`] that are worked on at once; free again when the last clone is
/// dropped.
pub type Place = Arc<OwnedSemaphorePermit>;

/// Serves RPCs. The futures own what they need: a call goes on when its client has left.
pub trait Calls: Send + Sync + 'static {
    /// Serves a method with one answer, which must be of the method's output type.
    fn call(
        &self,
        method: &'static Method,
        request: DynamicMessage,
        meta: Meta,
    ) -> Reply<DynamicMessage>;

    /// Serves a method with a stream of answers.
    fn watch(&self, method: &'static Method, request: DynamicMessage, meta: Meta)
    -> Reply<Replies>;
}

/// Runs calls under limits, and keeps a defect in one of them from touching the others.
#[derive(Clone)]
pub struct Dispatch {
    calls: Arc<dyn Calls>,
    places: Arc<Semaphore>,
    watches: Arc<Semaphore>,
}

impl Dispatch {
    /// Runs calls on `calls`.
    pub fn new(calls: Arc<dyn Calls>) -> Self {
        let places = Arc::new(Semaphore::new(CALLS_MAX));
        let watches = Arc::new(Semaphore::new(WATCHES_MAX));
        Self {
            calls,
            places,
            watches,
        }
    }

    /// Reads the body of a call, under the same limit as the call itself: what has come of it takes
    /// memory, and a client that stops in the middle must not keep it. Takes what this lasted off
    /// the client's time.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED when the client's time is up before there is a place, or it takes too long
    /// to send; RESOURCE_EXHAUSTED for more than `bytes_max`; CANCELLED for a body that is cut off.
    pub async fn read(
        &self,
        body: Body,
        bytes_max: usize,
        meta: &mut Meta,
    ) -> Result<Bytes, Error> {
        let started = Instant::now();
        let time = meta.time.map_or(CALL_TIME_MAX, |t| t.min(CALL_TIME_MAX));
        let late = |what: &str, time: Duration| {
            Error::new(Code::DeadlineExceeded, format!("{what} within {time:?}"))
        };
        let place = Arc::clone(&self.places).acquire_owned();
        let place = tokio::time::timeout(time, place).await;
        let place = place.map_err(|_| late("there was no place for this call", time))?;
        let place = place.map_err(|_| Error::unavailable("the server is shutting down"))?;
        meta.place = Some(Arc::new(place));
        let time = time.saturating_sub(started.elapsed()).min(BODY_TIME_MAX);
        let whole = Limited::new(body, bytes_max).collect();
        let bytes = match tokio::time::timeout(time, whole).await {
            Ok(Ok(whole)) => whole.to_bytes(),
            Ok(Err(e)) if e.is::<LengthLimitError>() => {
                let text = format!("the body has more than {bytes_max} bytes");
                return Err(Error::new(Code::ResourceExhausted, text));
            }
            Ok(Err(e)) => {
                let text = format!("the body is cut off: {e}");
                return Err(Error::new(Code::Cancelled, text));
            }
            Err(_) => return Err(late("the body did not arrive", time)),
        };
        meta.time = meta.time.map(|t| t.saturating_sub(started.elapsed()));
        Ok(bytes)
    }

    /// Runs a call with one answer, in a task of its own.
    ///
    /// # Errors
    /// What the call answers; DEADLINE_EXCEEDED when time is up (the call goes on); INTERNAL when
    /// it panics.
    pub async fn call(
        &self,
        method: &'static Method,
        request: DynamicMessage,
        mut meta: Meta,
    ) -> Result<DynamicMessage, Error> {
        let time = meta.time.map_or(CALL_TIME_MAX, |t| t.min(CALL_TIME_MAX));
        let (calls, places) = (Arc::clone(&self.calls), Arc::clone(&self.places));
        let work = async move {
            let place = match meta.place.take() {
                Some(place) => Some(place),
                None => places.acquire_owned().await.ok().map(Arc::new),
            };
            let task = tokio::spawn(async move {
                let reply = calls.call(method, request, meta).await;
                drop(place);
                reply
            });
            task.await.unwrap_or_else(|e| Err(defect(method, e)))
        };
        match tokio::time::timeout(time, work).await {
            Ok(reply) => reply,
            Err(_) => {
                let text = format!(
                    "{} did not end within {time:?}; it goes on, so ask for its result later",
                    method.path
                );
                Err(Error::new(Code::DeadlineExceeded, text))
            }
        }
    }

    /// Starts a watch; its answers come from a task of its own, until the stream is dropped.
    ///
    /// # Errors
    /// What the watch answers; RESOURCE_EXHAUSTED when too many are open.
    pub async fn watch(
        &self,
        method: &'static Method,
        request: DynamicMessage,
        mut meta: Meta,
    ) -> Result<Replies, Error> {
        // Watches are counted for themselves.
        meta.place = None;
        let Ok(place) = Arc::clone(&self.watches).try_acquire_owned() else {
            let text = format!("{WATCHES_MAX} watches are open; close one of them first");
            return Err(Error::new(Code::ResourceExhausted, text));
        };
        let calls = Arc::clone(&self.calls);
        let start = tokio::spawn(async move { calls.watch(method, request, meta).await });
        let replies = start.await.unwrap_or_else(|e| Err(defect(method, e)))?;
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE_MAX);
        tokio::spawn(async move {
            let forward = tokio::spawn(forward(replies, sender.clone(), place));
            if let Err(e) = forward.await {
                // The reader may be gone as well; then nobody needs to know.
                let _gone = sender.send(Err(defect(method, e))).await;
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }
}

/// Hands answers on until the source ends or the reader leaves.
async fn forward(
    mut replies: Replies,
    sender: mpsc::Sender<Result<DynamicMessage, Error>>,
    _place: OwnedSemaphorePermit,
) {
    loop {
        let reply = tokio::select! {
            () = sender.closed() => return,
            reply = replies.next() => reply,
        };
        let Some(reply) = reply else { return };
        if sender.send(reply).await.is_err() {
            return;
        }
    }
}

/// A task that ended by itself: a panic, or the runtime going down.
fn defect(method: &Method, error: tokio::task::JoinError) -> Error {
    if !error.is_panic() {
        return Error::unavailable("the server is shutting down");
    }
    let payload = error.into_panic();
    tracing::error!(
        method = method.path,
        panic = panic_text(&*payload),
        "a call panicked"
    );
    Error::internal("a defect of the server stopped this call; its log says more")
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
pub(crate) mod fake {
    //! A [`Calls`] for the tests of the protocols: answers by script and remembers requests.

    use super::{Calls, Meta, Replies, Reply};
    use api::Error;
    use api::kinds::{Method, Verb};
    use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
    use std::sync::{Arc, Mutex, PoisonError};

    /// Answers with the resource sent, or with an empty answer. An id or a name that ends in
    /// `panic`, `slow` or `error` does what it says.
    #[derive(Default)]
    pub(crate) struct Fake {
        /// Method names and requests, in order of arrival.
        pub(crate) seen: Arc<Mutex<Vec<(String, DynamicMessage)>>>,
        /// The error for names that end in `error`.
        pub(crate) error: Option<Error>,
    }

    impl Fake {
        pub(crate) fn last(
            seen: &Mutex<Vec<(String, DynamicMessage)>>,
        ) -> (String, DynamicMessage) {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.last().cloned().expect("a call has arrived")
        }
    }

    fn text(request: &DynamicMessage, field: &str) -> String {
        let value = request.get_field_by_name(field);
        value
            .as_deref()
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    }

    impl Calls for Fake {
        fn call(
            &self,
            method: &'static Method,
            request: DynamicMessage,
            _meta: Meta,
        ) -> Reply<DynamicMessage> {
            let name = method.descriptor.name().to_owned();
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.push((name, request.clone()));
            let error = self.error.clone();
            Box::pin(async move {
                let id = method.fields.id.as_ref().map(|f| text(&request, f.name()));
                let name = id.unwrap_or_else(|| text(&request, "name"));
                assert!(!name.ends_with("panic"), "as asked for");
                if name.ends_with("slow") {
                    std::future::pending::<()>().await;
                }
                if name.ends_with("error") {
                    return Err(error.unwrap_or_else(|| Error::not_found(name)));
                }
                let resource = method.fields.resource.as_ref();
                let resource = resource.map(|f| request.get_field(f).into_owned());
                if let Some(Value::Message(mut resource)) = resource {
                    resource.set_field_by_name("name", Value::String(format!("made/{name}")));
                    return Ok(resource);
                }
                let mut reply = DynamicMessage::new(method.descriptor.output());
                if method.verb == Verb::Get
                    && reply.descriptor().get_field_by_name("name").is_some()
                {
                    reply.set_field_by_name("name", Value::String(name));
                }
                Ok(reply)
            })
        }

        fn watch(
            &self,
            method: &'static Method,
            request: DynamicMessage,
            _meta: Meta,
        ) -> Reply<Replies> {
            let kind = text(&request, "kind");
            Box::pin(async move {
                if kind == "error" {
                    return Err(Error::invalid("kind", "is not a kind"));
                }
                let reply = DynamicMessage::new(method.descriptor.output());
                let end = move |i: u32| match i {
                    3 if kind == "broken" => Err(Error::unavailable("gone")),
                    3 if kind == "panic" => panic!("as asked for"),
                    _ => Ok(reply.clone()),
                };
                let replies: Replies = Box::pin(tokio_stream::iter(1..4).map_with(end));
                Ok(replies)
            })
        }
    }

    /// `StreamExt::map` under a name that says whose it is.
    trait MapWith: tokio_stream::Stream + Sized {
        fn map_with<T, F: FnMut(Self::Item) -> T>(
            self,
            f: F,
        ) -> impl tokio_stream::Stream<Item = T> {
            tokio_stream::StreamExt::map(self, f)
        }
    }

    impl<S: tokio_stream::Stream> MapWith for S {}
}

#[cfg(test)]
mod tests {
    use super::fake::Fake;
    use super::*;
    use api::kinds;
    use prost_reflect::Value;

    fn get(name: &str) -> (&'static Method, DynamicMessage) {
        let path = "/opi_api.storage.v1.NullVolumeService/GetNullVolume";
        let method = kinds::method_by_path(path).unwrap();
        let mut request = DynamicMessage::new(method.descriptor.input());
        request.set_field_by_name("name", Value::String(name.to_owned()));
        (method, request)
    }

    fn watch(kind: &str) -> (&'static Method, DynamicMessage) {
        let path = "/opi_ext.storage.v1.ObservationService/WatchObservations";
        let method = kinds::method_by_path(path).unwrap();
        let mut request = DynamicMessage::new(method.descriptor.input());
        request.set_field_by_name("kind", Value::String(kind.to_owned()));
        (method, request)
    }

    #[tokio::test]
    async fn a_panic_in_a_call_is_internal_and_the_next_call_works() {
        let dispatch = Dispatch::new(Arc::new(Fake::default()));
        let (method, request) = get("panic");
        let error = dispatch
            .call(method, request, Meta::default())
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::Internal);
        let (method, request) = get("a");
        assert!(
            dispatch
                .call(method, request, Meta::default())
                .await
                .is_ok()
        );
    }

    #[tokio::test]
    async fn a_call_that_never_ends_is_given_up_at_the_clients_deadline() {
        let dispatch = Dispatch::new(Arc::new(Fake::default()));
        let (method, request) = get("slow");
        let meta = Meta {
            time: Some(Duration::from_millis(30)),
            ..Meta::default()
        };
        let error = dispatch.call(method, request, meta).await.unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        assert!(error.message.contains("30ms"), "{}", error.message);
    }

    /// A body of which so much comes, and then nothing.
    fn stalled(bytes: &'static [u8]) -> Body {
        let first = tokio_stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(bytes))]);
        Body::from_stream(first.chain(tokio_stream::pending()))
    }

    #[tokio::test]
    async fn a_body_is_read_in_the_place_and_the_time_of_its_call() {
        let dispatch = Dispatch::new(Arc::new(Fake::default()));
        let mut meta = Meta {
            time: Some(Duration::from_millis(30)),
            ..Meta::default()
        };
        let error = dispatch
            .read(stalled(b"a"), 9, &mut meta)
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::DeadlineExceeded);
        assert!(
            error.message.starts_with("the body did not arrive"),
            "{error}"
        );
        // The place is taken until the call is given up.
        assert_eq!(dispatch.places.available_permits(), CALLS_MAX - 1);
        drop(meta);
        let all = Arc::clone(&dispatch.places).acquire_many_owned(CALLS_MAX as u32);
        let all = all.await.unwrap();
        let mut meta = Meta {
            time: Some(Duration::from_millis(30)),
            ..Meta::default()
        };
        let error = dispatch
            .read(Body::empty(), 9, &mut meta)
            .await
            .unwrap_err();
        assert!(error.message.starts_with("there was no place"), "{error}");
        drop(all);
        let mut meta = Meta::default();
        let error = dispatch
            .read(Body::from("0123456789"), 9, &mut meta)
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
        drop(meta);
        let mut meta = Meta::default();
        let read = dispatch
            .read(Body::from("012345678"), 9, &mut meta)
            .await
            .unwrap();
        assert_eq!(read, "012345678");
        // One call, one place.
        let all = Arc::clone(&dispatch.places).acquire_many_owned(CALLS_MAX as u32 - 1);
        let all = all.await.unwrap();
        let (method, request) = get("a");
        dispatch.call(method, request, meta).await.unwrap();
        drop(all);
        assert_eq!(dispatch.places.available_permits(), CALLS_MAX);
    }

    #[tokio::test]
    async fn a_watch_ends_with_its_error_and_a_panic_is_one() {
        for (kind, code) in [("broken", Code::Unavailable), ("panic", Code::Internal)] {
            let dispatch = Dispatch::new(Arc::new(Fake::default()));
            let (method, request) = watch(kind);
            let replies = dispatch
                .watch(method, request, Meta::default())
                .await
                .unwrap();
            let replies: Vec<_> = replies.collect().await;
            assert_eq!(replies.len(), 3);
            assert_eq!(replies[2].as_ref().unwrap_err().code, code);
        }
    }

    #[tokio::test]
    async fn too_many_watches_are_refused_until_one_is_closed() {
        let dispatch = Dispatch::new(Arc::new(Fake::default()));
        let places = Arc::clone(&dispatch.watches).acquire_many_owned(WATCHES_MAX as u32);
        let places = places.await.unwrap();
        let (method, request) = watch("");
        let refused = dispatch
            .watch(method, request.clone(), Meta::default())
            .await;
        assert_eq!(refused.err().unwrap().code, Code::ResourceExhausted);
        drop(places);
        assert!(
            dispatch
                .watch(method, request, Meta::default())
                .await
                .is_ok()
        );
    }
}
