//! [`Link`]: the protocol of one connection with what it wants to send, and no socket.

use blk::{Gather, IoBuf, Nanos};
use wire::nvme_tcp::{Fatal, Host, HostConfig, HostEvent};

/// One connection to an array, as far as bytes and time make it.
#[derive(Debug)]
pub(super) struct Link {
    /// The protocol.
    pub(super) host: Host,
    /// What the socket is to send.
    pub(super) out: Out,
}

/// A gather list that says nothing of its content.
#[derive(Default)]
pub(super) struct Out(pub(super) Gather);

impl std::fmt::Debug for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Link {
    /// A connection that was opened at `now`.
    pub(super) fn new(config: HostConfig, now: Nanos) -> Self {
        Self {
            host: Host::new(config, now),
            out: Out::default(),
        }
    }

    /// Takes bytes that arrived.
    ///
    /// # Errors
    /// The array broke the protocol; a TermReq is to be sent, and then the socket closed.
    pub(super) fn receive(&mut self, bytes: &[u8], now: Nanos) -> Result<(), Fatal> {
        self.host.receive(bytes, now)
    }

    /// Where the next bytes belong, when they are data: see [`Host::direct`].
    pub(super) fn direct(&mut self) -> Option<(&mut IoBuf, usize, usize)> {
        self.host.direct()
    }

    /// What happened next.
    pub(super) fn next_event(&mut self) -> Option<HostEvent> {
        self.host.next_event()
    }

    /// What is to be sent, with everything that is due in it.
    pub(super) fn outgoing(&mut self) -> &mut Gather {
        self.host.transmit(&mut self.out.0);
        &mut self.out.0
    }
}
