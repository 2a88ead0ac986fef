//! [`Link`]: one connection, the host's state machine on a socket.

use blk::{Gather, Nanos};
use engine::{Recv, Sent, Stream, now};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use wire::nvme::Sqe;
use wire::nvme_tcp::{Completed, Host, HostConfig, HostEvent, Payload};

use super::HostError;

/// Bytes received at once beside those that go straight into a buffer: more than a queue of 32
/// reads of 4 KiB brings, so that one system call takes them all.
const RECEIVE_BYTES: usize = 256 << 10;
/// From this many bytes on, data are received straight into their buffer and little beside them,
/// because copying them would cost more than another system call.
const DIRECT_BYTES: usize = 16 << 10;
/// What is received beside such data: room for the next headers.
const BESIDE_BYTES: usize = 512;

/// One connection to a controller, without any queue on it yet.
pub struct Link {
    stream: Stream,
    host: Host,
    out: Gather,
    received: Box<[u8]>,
}

impl Link {
    /// Opens a TCP connection and initialises it (NVMe TCP 1.1, 3.1).
    ///
    /// # Errors
    /// Nobody listens there, or what listens does not speak the protocol.
    pub fn open(
        address: SocketAddr,
        config: HostConfig,
        timeout: Duration,
    ) -> Result<Self, HostError> {
        let what = || format!("connecting to {address}");
        let failed = |source| HostError::Io {
            what: what(),
            source,
        };
        let stream = TcpStream::connect_timeout(&address, timeout).map_err(failed)?;
        let stream = Stream::from_std(stream).map_err(failed)?;
        let mut link = Self {
            stream,
            host: Host::new(config, now()),
            out: Gather::new(),
            received: vec![0; RECEIVE_BYTES].into_boxed_slice(),
        };
        let until = now() + nanos(timeout);
        loop {
            link.send()?;
            link.receive()?;
            match link.host.next_event() {
                Some(HostEvent::Ready(_)) => return Ok(link),
                Some(HostEvent::Closed(why)) => {
                    return Err(HostError::Closed { what: what(), why });
                }
                Some(HostEvent::Completed(_)) | None => {}
            }
            if !link.wait(until)? {
                return Err(HostError::Timeout {
                    what: what(),
                    after: timeout,
                });
            }
        }
    }

    /// The state machine.
    pub fn host(&mut self) -> &mut Host {
        &mut self.host
    }

    /// The addresses of both ends: this one, and the controller.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.stream.local(), self.stream.peer())
    }

    /// Sends what is to be sent, as far as the socket takes it.
    ///
    /// # Errors
    /// The connection broke.
    #[inline]
    pub fn send(&mut self) -> Result<(), HostError> {
        if self.host.wants_transmit() {
            self.host.transmit(&mut self.out);
        }
        if self.out.is_empty() {
            return Ok(());
        }
        match self.stream.send(&mut self.out) {
            Sent::All | Sent::Blocked => Ok(()),
            Sent::Failed(kind) => {
                self.host.close();
                Err(HostError::Io {
                    what: "sending".to_owned(),
                    source: kind.into(),
                })
            }
        }
    }

    /// Whether the socket could not take everything yet.
    #[inline]
    pub fn is_blocked(&self) -> bool {
        !self.out.is_empty()
    }

    /// Takes what has arrived, without waiting. False if that was nothing. A connection that the
    /// controller closed shows as an event of the state machine.
    ///
    /// # Errors
    /// The connection broke, or the controller broke the protocol.
    #[inline]
    pub fn receive(&mut self) -> Result<bool, HostError> {
        let direct = self.host.direct();
        let wanted = direct.as_ref().map_or(0, |(_, _, len)| *len);
        let beside = if wanted >= DIRECT_BYTES {
            BESIDE_BYTES
        } else {
            RECEIVE_BYTES
        };
        let buf = &mut self.received[..beside];
        match self.stream.recv(direct, buf) {
            Recv::Bytes { direct, buf: n } => {
                if direct > 0 {
                    self.host.direct_received(direct);
                }
                if n > 0
                    && let Err(fatal) = self.host.receive(&self.received[..n], now())
                {
                    // The controller is told why before the socket goes.
                    let told = self.send();
                    drop(told);
                    return Err(HostError::Protocol(fatal.to_string()));
                }
                Ok(true)
            }
            Recv::WouldBlock => Ok(false),
            Recv::Closed => {
                self.host.close();
                Ok(true)
            }
            Recv::Failed(kind) => {
                self.host.close();
                Err(HostError::Io {
                    what: "receiving".to_owned(),
                    source: kind.into(),
                })
            }
        }
    }

    /// Sleeps until something arrives, or what was blocked can be sent; false when `until` passes
    /// first.
    ///
    /// # Errors
    /// The system cannot wait, which only a defect can cause.
    pub fn wait(&self, until: Nanos) -> Result<bool, HostError> {
        let left = until.since(now()).duration();
        if left.is_zero() {
            return Ok(false);
        }
        let mut flags = PollFlags::IN;
        if !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        let mut fds = [PollFd::from_borrowed_fd(self.stream.as_fd(), flags)];
        let timeout = Timespec::try_from(left).ok();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) => Ok(false),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(true),
            Err(e) => Err(HostError::Io {
                what: "waiting".to_owned(),
                source: io::Error::from(e),
            }),
        }
    }

    /// Does one command and waits for it. Only for links with nothing else in flight.
    ///
    /// # Errors
    /// The connection failed or ended, or no answer came in time. A completion with an error
    /// status is not an error here.
    pub fn call(
        &mut self,
        what: &str,
        sqe: Sqe,
        payload: Payload,
        timeout: Duration,
    ) -> Result<Completed, HostError> {
        let until = now() + nanos(timeout);
        let sent = self.host.submit(sqe, payload);
        let cid = sent.map_err(|e| HostError::Invalid(format!("{what}: {e}")))?;
        loop {
            self.send()?;
            while self.receive()? {
                // A failed command at the end of a connection comes before the event that tells.
                while let Some(event) = self.host.next_event() {
                    match event {
                        HostEvent::Completed(done) if done.cid == cid && !self.host.is_closed() => {
                            return Ok(done);
                        }
                        HostEvent::Closed(why) => {
                            return Err(HostError::Closed {
                                what: what.to_owned(),
                                why,
                            });
                        }
                        HostEvent::Completed(_) | HostEvent::Ready(_) => {}
                    }
                }
                self.send()?;
            }
            if !self.wait(until)? {
                return Err(HostError::Timeout {
                    what: what.to_owned(),
                    after: timeout,
                });
            }
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unsent, stream) = (self.out.len(), &self.stream);
        write!(
            f,
            "Link {{ stream: {stream:?}, host: {:?}, unsent: {unsent} }}",
            self.host
        )
    }
}

/// A duration as the data plane counts it.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}
