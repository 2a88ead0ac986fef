//! The thread that owns the store. Everything that waits becomes durable in one trip to the disk,
//! so a thousand changes at once cost a few trips and not a thousand.

use api::error::{Error, Result};
use control::store::{Batch, Store, Write};
use engine::{Keep, KeepDone};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use tokio::sync::{oneshot, watch};

/// Batches that share one trip at most: bounds how long the first of them waits.
const BATCHES_MAX: usize = 256;

/// Called, on the store's thread, when a batch is durable or has failed.
pub(super) type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// The way to the thread of the store. Clones lead to the same thread, which ends when the last
/// one is dropped.
#[derive(Clone)]
pub struct Writer {
    sender: Sender<(Batch, Done)>,
    keep: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    broken: watch::Receiver<bool>,
}

impl Writer {
    /// Starts the thread. `keep` are the small values that the store held when it was loaded.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start(store: Box<dyn Store>, keep: BTreeMap<String, Vec<u8>>) -> Result<Self> {
        let (sender, receiver) = channel();
        let thread = std::thread::Builder::new().name("opi-store".to_owned());
        let (tell, broken) = watch::channel(false);
        let run = move || run(store, &receiver, &tell);
        thread.spawn(run).map_err(|e| {
            Error::unavailable("the thread of the store cannot be started").caused_by(e)
        })?;
        Ok(Self {
            sender,
            keep: Arc::new(Mutex::new(keep)),
            broken,
        })
    }

    /// Becomes true when a defect has stopped the store: nothing becomes durable until the program
    /// is started again.
    pub(super) fn broken(&self) -> watch::Receiver<bool> {
        self.broken.clone()
    }

    /// Makes a batch durable and tells when it is. Batches become durable in their order.
    pub(super) fn write(&self, batch: Batch, done: Done) {
        if let Err(unsent) = self.sender.send((batch, done)) {
            let (_, done) = unsent.0;
            done(Err(Error::internal("the thread of the store has ended")));
        }
    }

    /// Waits until everything that was handed in before is durable, or has failed.
    pub async fn flush(&self) {
        let (sender, flushed) = oneshot::channel();
        let done = move |_| {
            // Who waits may be gone.
            let _ = sender.send(());
        };
        self.write(Batch::default(), Box::new(done));
        // An error means that the thread has ended, and nothing waits any more.
        let _ = flushed.await;
    }
}

impl Keep for Writer {
    fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.keep
            .lock()
            .expect("no holder panics")
            .get(key)
            .cloned()
    }

    fn put(&self, key: &str, value: Option<Vec<u8>>, done: KeepDone) {
        let write = Write::Keep {
            key: key.to_owned(),
            value: value.clone(),
        };
        let batch = Batch {
            writes: vec![write],
            ..Default::default()
        };
        let (keep, key) = (self.keep.clone(), key.to_owned());
        self.write(
            batch,
            Box::new(move |result| {
                if result.is_ok() {
                    let mut keep = keep.lock().expect("no holder panics");
                    match value {
                        Some(value) => drop(keep.insert(key, value)),
                        None => drop(keep.remove(&key)),
                    }
                }
                done(result.map_err(|e| e.message));
            }),
        );
    }
}

fn run(
    mut store: Box<dyn Store>,
    receiver: &Receiver<(Batch, Done)>,
    broken: &watch::Sender<bool>,
) {
    while let Ok((mut batch, done)) = receiver.recv() {
        let mut all = vec![done];
        while all.len() < BATCHES_MAX
            && let Ok((more, done)) = receiver.try_recv()
        {
            batch.append(more);
            all.push(done);
        }
        let result = if batch == Batch::default() {
            Ok(())
        } else if *broken.borrow() {
            Err(stopped())
        } else {
            // What a panic leaves of the store is never touched again, only refused.
            let commit = AssertUnwindSafe(|| store.commit(&batch));
            catch_unwind(commit).unwrap_or_else(|_| {
                tracing::error!("the store panicked: nothing becomes durable until a restart");
                broken.send_replace(true);
                Err(stopped())
            })
        };
        for done in all {
            done(result.clone());
        }
    }
}

fn stopped() -> Error {
    Error::internal("a defect has stopped the store: restart the server")
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::store::{Loaded, MemoryStore};

    /// A store with a defect.
    struct Defect;

    impl Store for Defect {
        fn load(&mut self) -> Result<Loaded> {
            Ok(Loaded::default())
        }

        fn commit(&mut self, _: &Batch) -> Result<()> {
            panic!("as asked for")
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_store_fails_those_who_wait_and_is_seen() {
        let writer = Writer::start(Box::new(Defect), BTreeMap::new()).unwrap();
        let mut broken = writer.broken();
        assert!(!*broken.borrow());
        let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..3 {
            let sender = sender.clone();
            writer.put(
                "k",
                Some(vec![1]),
                Box::new(move |r| sender.send(r).unwrap()),
            );
        }
        drop(sender);
        for _ in 0..3 {
            let why = results.recv().await.unwrap().unwrap_err();
            assert!(why.contains("restart the server"), "{why}");
        }
        broken.wait_for(|b| *b).await.unwrap();
        assert_eq!(writer.get("k"), None);
        writer.flush().await;
    }

    #[tokio::test]
    async fn kept_values_are_there_once_they_are_durable() {
        let store = MemoryStore::default();
        let writer = Writer::start(Box::new(store.clone()), BTreeMap::new()).unwrap();
        let (sender, mut results) = tokio::sync::mpsc::unbounded_channel();
        for value in [Some(vec![1]), Some(vec![2]), None, Some(vec![3])] {
            let sender = sender.clone();
            writer.put("k", value, Box::new(move |r| sender.send(r).unwrap()));
        }
        writer.flush().await;
        for _ in 0..4 {
            assert_eq!(results.recv().await, Some(Ok(())));
        }
        assert_eq!(writer.get("k"), Some(vec![3]));
        assert_eq!(store.after_crash().load().unwrap().keep["k"], [3]);
        store.fail_with(Some(Error::internal("broken")));
        writer.put("k", None, Box::new(move |r| sender.send(r).unwrap()));
        assert_eq!(results.recv().await, Some(Err("broken".to_owned())));
        assert_eq!(writer.get("k"), Some(vec![3]));
    }
}
