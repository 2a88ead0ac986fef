//! The life of a connection, the same at both ends: initialised in time, open, closed, and before
//! that perhaps terminating.

use super::Closed;
use blk::Nanos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until the peer has initialised the connection, at most until the time given.
    Init(Nanos),
    Open,
    /// A TermReq is sent; what comes is dropped until the time given.
    Terminating(Nanos),
    Closed,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Life {
    state: State,
    announce: Option<Closed>,
}

impl Life {
    /// A connection that is to be initialised by `until`.
    pub(super) fn new(until: Nanos) -> Self {
        Life {
            state: State::Init(until),
            announce: None,
        }
    }

    /// The connection is initialised.
    pub(super) fn open(&mut self) {
        self.state = State::Open;
    }

    /// A TermReq is sent; the peer has until `until` to close.
    pub(super) fn terminate(&mut self, until: Nanos) {
        self.state = State::Terminating(until);
    }

    /// The connection is over, for this reason unless it was before; says whether it was not.
    pub(super) fn close(&mut self, why: Closed) -> bool {
        let first = self.state != State::Closed;
        if first {
            (self.state, self.announce) = (State::Closed, Some(why));
        }
        first
    }

    /// Whether commands and answers pass.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Whether what comes is dropped.
    #[inline]
    pub(super) fn is_ending(&self) -> bool {
        matches!(self.state, State::Terminating(_) | State::Closed)
    }

    /// Whether the socket is to be closed.
    pub(super) fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// When something expires.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        match self.state {
            State::Init(at) | State::Terminating(at) => Some(at),
            State::Open | State::Closed => None,
        }
    }

    /// What the connection is over for by `now`.
    pub(super) fn expired(&self, now: Nanos) -> Option<Closed> {
        match self.state {
            State::Init(at) if now >= at => Some(Closed::InitTimeout),
            State::Terminating(at) if now >= at => Some(Closed::ByUs),
            _ => None,
        }
    }

    /// Why the connection is over, once.
    #[inline]
    pub(super) fn take_closed(&mut self) -> Option<Closed> {
        self.announce.take()
    }
}
