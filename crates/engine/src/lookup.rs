//! [`Lookup`]: the addresses of a name, found by the system on a thread of its own.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::task::Waker;

/// A search for the addresses of a name. The system may take long for it, so it is done on a
/// thread of its own, of which there is one per search under way.
#[derive(Debug)]
pub struct Lookup(Receiver<io::Result<Vec<SocketAddr>>>);

impl Lookup {
    /// Begins a search; `waker` is woken when it has ended. An address in digits needs no search,
    /// and is found without a thread.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn start(name: &str, port: u16, waker: Waker) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        if let Ok(address) = name.parse() {
            // The receiver is in our hands.
            let _ = tell.send(Ok(vec![SocketAddr::new(address, port)]));
            waker.wake();
            return Ok(Self(told));
        }
        let name = name.to_owned();
        let thread = std::thread::Builder::new().name("lookup".to_owned());
        thread.spawn(move || {
            let found = (name.as_str(), port)
                .to_socket_addrs()
                .map(Iterator::collect);
            // Whoever asked may be gone.
            let _ = tell.send(found);
            waker.wake();
        })?;
        Ok(Self(told))
    }

    /// What was found, once the search has ended.
    pub fn poll(&mut self) -> Option<io::Result<Vec<SocketAddr>>> {
        match self.0.try_recv() {
            Ok(found) => Some(found),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(io::Error::other("the search ended"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    fn find(name: &str) -> io::Result<Vec<SocketAddr>> {
        let mut lookup = Lookup::start(name, 4420, Waker::noop().clone())?;
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(found) = lookup.poll() {
                return found;
            }
            assert!(Instant::now() < until, "the search takes too long");
            std::thread::yield_now();
        }
    }

    #[test]
    fn names_and_addresses_are_found() {
        assert_eq!(
            find("127.0.0.1").unwrap(),
            ["127.0.0.1:4420".parse().unwrap()]
        );
        assert_eq!(find("::1").unwrap(), ["[::1]:4420".parse().unwrap()]);
        let all = find("localhost").unwrap();
        assert!(
            all.iter().all(|address| address.ip().is_loopback()),
            "{all:?}"
        );
        assert!(find("no such name").is_err());
    }
}
