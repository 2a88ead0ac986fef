//! The service behind the protocols: the task that owns the catalogue, the thread that owns the
//! store, and the [`Calls`](crate::calls::Calls) that the protocols make.
//!
//! A change goes to the owner, which asks the catalogue what to do and does it: writes go to the
//! store's thread, where everything that waits becomes durable in one go, and handlers run in
//! tasks of their own. Reads run on the owner as well: they are short.

mod observe;
mod owner;
mod requests;
mod stats;
mod writer;

pub use writer::Writer;

use api::error::{Error, Result};
use api::handler::Handlers;
use control::{Answer, Catalogue, Change, Keys, Settings, Stored};
use engine::Latch;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

use owner::Message;

/// Longest wait for changes under way when the server stops: shorter than what service managers
/// give a program before they kill it.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(20);

/// What a service starts with.
pub struct Start {
    /// What the user chose.
    pub settings: Settings,
    /// Keys of the store.
    pub keys: Arc<Keys>,
    /// What makes resources real.
    pub handlers: Handlers,
    /// The thread of the store.
    pub writer: Writer,
    /// What was durable.
    pub stored: Vec<Stored>,
    /// Opened when all that was stored has been driven once.
    pub restored: Arc<Latch>,
    /// Where the machine's file systems are: `/`, but for tests.
    pub root: PathBuf,
}

/// The service. Clones are the same service.
#[derive(Clone)]
pub struct Service {
    owner: mpsc::UnboundedSender<Message>,
    restored: watch::Receiver<bool>,
    broken: watch::Receiver<bool>,
    sightings: Arc<observe::Sightings>,
    root: Arc<PathBuf>,
}

impl Service {
    /// Starts driving what was stored, and serving. Must be called in a runtime.
    ///
    /// # Errors
    /// The stored resources contradict each other.
    pub fn start(start: Start) -> Result<Self> {
        let Start {
            settings,
            keys,
            handlers,
            writer,
            stored,
            restored,
            root,
        } = start;
        let catalogue = Catalogue::new(settings, keys, Arc::new(handlers));
        // Unbounded, yet of bounded length: the protocols admit a limited number of calls, and
        // each task of the catalogue has one outcome outstanding.
        let (sender, receiver) = mpsc::unbounded_channel();
        let (tell, told) = watch::channel(false);
        let broken = writer.broken();
        let owner = owner::Owner::new(catalogue, writer, sender.clone(), receiver, restored, tell);
        owner.start(stored)?;
        let sightings = Arc::default();
        Ok(Self {
            owner: sender,
            restored: told,
            broken,
            sightings,
            root: Arc::new(root),
        })
    }

    /// Makes a change and waits until it is durable and real.
    ///
    /// # Errors
    /// Why it was refused or failed.
    pub async fn change(&self, change: Change) -> Result<Answer> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Change(Box::new(change), reply))?;
        answer.await.unwrap_or_else(|_| Err(closing()))
    }

    /// Looks into the catalogue.
    ///
    /// # Errors
    /// What `look` answers; UNAVAILABLE when the server shuts down.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Catalogue) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let look = Box::new(move |catalogue: &Catalogue| {
            // A reader that left does not want to know.
            let _ = reply.send(look(catalogue));
        });
        self.send(Message::Read(look))?;
        answer.await.unwrap_or_else(|_| Err(closing()))
    }

    /// Waits until everything that was stored has been driven once.
    pub async fn restored(&self) {
        let mut restored = self.restored.clone();
        // An error means that the owner is gone, and nobody will wait for long.
        let _ = restored.wait_for(|done| *done).await;
    }

    /// True once everything that was stored has been driven once.
    pub fn is_restored(&self) -> bool {
        *self.restored.borrow()
    }

    /// True once a defect has stopped the store: only a restart helps.
    pub fn is_broken(&self) -> bool {
        *self.broken.borrow()
    }

    /// Waits until a defect has stopped the store, which should be for ever.
    pub async fn broken(&self) {
        let mut broken = self.broken.clone();
        // An error means that the store's thread has ended in good order.
        if broken.wait_for(|broken| *broken).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends the service when the changes that are under way have ended and all is durable, or
    /// when that takes too long: their intents are recorded, so the next start goes on with them.
    pub async fn close(&self) {
        let (done, ended) = oneshot::channel();
        if self.send(Message::Close(done)).is_err() {
            return;
        }
        // An error within means that the owner has ended already.
        if tokio::time::timeout(CLOSE_TIME_MAX, ended).await.is_err() {
            tracing::warn!("changes are still under way; the next start goes on with them");
        }
    }

    fn send(&self, message: Message) -> Result<()> {
        self.owner.send(message).map_err(|_| closing())
    }
}

fn closing() -> Error {
    Error::unavailable("the server is shutting down")
}
