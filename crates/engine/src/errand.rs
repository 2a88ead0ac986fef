//! [`Errand`]: work that may have to wait for the system, done on a thread of its own.

use crate::Latch;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::task::Waker;

/// Work under way on a thread of its own: what asks the system and may take long, so that neither
/// a reactor nor the control plane can wait for it. Dropping this does not end the work.
pub struct Errand<T> {
    result: Receiver<T>,
    ended: Arc<Latch>,
}

/// Opens the latch however the work ends.
struct Tell(Arc<Latch>);

impl Drop for Tell {
    fn drop(&mut self) {
        self.0.open();
    }
}

impl<T: Send + 'static> Errand<T> {
    /// Begins the work, on a thread of this name.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (send, result) = mpsc::channel();
        let ended: Arc<Latch> = Arc::default();
        let tell = Tell(ended.clone());
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            // Dropped last, also if the work panics.
            let _tell = tell;
            // Whoever asked may be gone.
            let _ = send.send(work());
        })?;
        Ok(Self { result, ended })
    }

    /// The result, once the work has ended, and only once; until then `waker` is woken when it
    /// does.
    ///
    /// # Errors
    /// The work panicked, or its result was taken already.
    pub fn poll(&mut self, waker: &Waker) -> Option<io::Result<T>> {
        if !self.ended.is_open_or_wake(waker) {
            return None;
        }
        Some(self.take())
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The work panicked.
    pub async fn finished(self) -> io::Result<T> {
        self.ended.opened().await;
        self.take()
    }

    fn take(&self) -> io::Result<T> {
        self.result.try_recv().map_err(|e| match e {
            TryRecvError::Empty | TryRecvError::Disconnected => {
                io::Error::other("the work ended without a result")
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::task::Wake;

    struct Ring(mpsc::SyncSender<()>);

    impl Wake for Ring {
        fn wake(self: Arc<Self>) {
            let _ = self.0.send(());
        }
    }

    #[test]
    fn the_result_comes_once_the_work_has_ended_and_who_waits_is_woken() {
        let (go, gate) = sync_channel::<()>(0);
        let (ring, rung) = sync_channel(1);
        let waker = Waker::from(Arc::new(Ring(ring)));
        let mut errand = Errand::start("test", move || gate.recv().map(|()| 7)).unwrap();
        assert!(errand.poll(&waker).is_none());
        go.send(()).unwrap();
        rung.recv().unwrap();
        assert_eq!(errand.poll(&waker).unwrap().unwrap(), Ok(7));
        assert!(errand.poll(&waker).unwrap().is_err(), "it comes once");
    }

    #[test]
    fn work_that_panics_ends_with_an_error() {
        let (ring, rung) = sync_channel(1);
        let waker = Waker::from(Arc::new(Ring(ring)));
        let work = || -> u32 { panic!("as intended") };
        let mut errand = Errand::start("test", work).unwrap();
        while errand.poll(&waker).is_none() {
            rung.recv().unwrap();
        }
        assert!(errand.ended.is_open());
    }
}
