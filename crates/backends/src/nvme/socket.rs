//! [`Socket`]: the TCP connection below a [`Link`].

use super::association::Loss;
use super::link::Link;
use blk::Nanos;
use engine::{Connecting, Cx, Recv, Sent, Stream};
use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

/// Bytes received at once beside those that go straight into a buffer.
const RECEIVE_BYTES: usize = 256 << 10;
/// From this many bytes on, data are received straight into their buffer and little beside them:
/// copying them would cost more than another system call.
const DIRECT_BYTES: usize = 16 << 10;
/// What is received beside such data: room for the next headers.
const BESIDE_BYTES: usize = 512;
/// Receives in one run, so that one busy array does not starve others on its reactor.
const RECEIVES_PER_RUN: usize = 16;

thread_local! {
    /// Where bytes land first. One for all connections of a reactor: idle ones cost nothing.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice());
}

/// Where a path leads, and from where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    /// Name or address of the array.
    pub(super) host: String,
    pub(super) port: u16,
    /// Addresses of this family only.
    pub(super) ipv6: bool,
    /// Our own address; the system chooses without one.
    pub(super) source: Option<IpAddr>,
    /// The port of the admin queue; I/O queue n uses the n-th after it. 0 leaves it to the system.
    pub(super) source_port: u16,
}

impl Place {
    /// Where queue `qid` connects from.
    fn source(&self, qid: u16) -> Option<SocketAddr> {
        let any = match self.ipv6 {
            true => IpAddr::from([0_u16; 8]),
            false => IpAddr::from([0_u8; 4]),
        };
        let port = match self.source_port {
            0 => 0,
            first => first.saturating_add(qid),
        };
        match (self.source, port) {
            (None, 0) => None,
            (source, port) => Some(SocketAddr::new(source.unwrap_or(any), port)),
        }
    }
}

/// See the file's head.
pub(super) enum Socket {
    Connecting(Connecting),
    Open(Stream),
}

/// What a receive brought.
pub(super) enum Received {
    /// Everything that had arrived; more is an event.
    All,
    /// There may be more.
    Part,
    /// The connection is over.
    Over(Loss),
}

impl Socket {
    /// Begins to connect.
    pub(super) fn open(
        place: &Place,
        address: SocketAddr,
        qid: u16,
        cx: &mut Cx<'_>,
    ) -> io::Result<Self> {
        let connecting = Stream::connect(address, place.source(qid))?;
        cx.watch(connecting.as_fd())?;
        Ok(Self::Connecting(connecting))
    }

    /// Goes on connecting; true once that has just succeeded.
    pub(super) fn connect(&mut self, unacknowledged: Nanos) -> io::Result<bool> {
        let Self::Connecting(connecting) = self else {
            return Ok(false);
        };
        let Some(stream) = connecting.finish()? else {
            return Ok(false);
        };
        stream.set_user_timeout(unacknowledged.duration())?;
        *self = Self::Open(stream);
        Ok(true)
    }

    /// Receives what has arrived, into the places that `link` names.
    pub(super) fn receive(&mut self, link: Option<&mut Link>, now: Nanos) -> Received {
        let Self::Open(stream) = self else {
            return Received::All;
        };
        let mut link = link;
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..RECEIVES_PER_RUN {
                let direct = link.as_mut().and_then(|link| link.direct());
                let wanted = direct.as_ref().map_or(0, |(_, _, len)| *len);
                let beside = match wanted {
                    DIRECT_BYTES.. => BESIDE_BYTES,
                    _ => RECEIVE_BYTES,
                };
                match stream.recv(direct, &mut buffer[..beside]) {
                    Recv::Bytes { direct, buf } => {
                        if let Some(link) = link.as_mut() {
                            if direct > 0 {
                                link.host.direct_received(direct);
                            }
                            if let Err(fatal) = link.receive(&buffer[..buf], now) {
                                // The TermReq says why the connection is closed; an array that
                                // takes nothing any more does without.
                                let _ = stream.send(link.outgoing());
                                return Received::Over(Loss::new(fatal.to_string()));
                            }
                        }
                        if direct == wanted && buf < beside {
                            return Received::All;
                        }
                    }
                    Recv::WouldBlock => return Received::All,
                    Recv::Closed => return Received::Over(Loss::closed()),
                    Recv::Failed(kind) => return Received::Over(broken(kind)),
                }
            }
            Received::Part
        })
    }

    /// Sends what `link` has to send, as far as the socket takes it.
    pub(super) fn send(&mut self, link: &mut Link) -> Result<(), Loss> {
        let Self::Open(stream) = self else {
            return Ok(());
        };
        match stream.send(link.outgoing()) {
            Sent::All | Sent::Blocked => Ok(()),
            Sent::Failed(kind) => Err(broken(kind)),
        }
    }

    /// Sends no more, and waits for the array to close as well.
    pub(super) fn close_write(&self) {
        if let Self::Open(stream) = self {
            stream.close_write();
        }
    }

    /// Closes it.
    pub(super) fn close(self, cx: &mut Cx<'_>) {
        match &self {
            Self::Connecting(connecting) => cx.unwatch(connecting.as_fd()),
            Self::Open(stream) => cx.unwatch(stream.as_fd()),
        }
    }
}

/// A reset was sent by the array's end; anything else may be the network's doing.
fn broken(kind: io::ErrorKind) -> Loss {
    let by_array = matches!(
        kind,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    );
    Loss {
        why: format!("the connection broke: {kind}"),
        by_array,
    }
}
