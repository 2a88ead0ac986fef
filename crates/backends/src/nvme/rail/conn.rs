//! [`Conn`]: one I/O queue of one association, from its socket to its last command.

use super::piece::{Means, Piece};
use crate::nvme::admin::connect_data;
use crate::nvme::association::{Association, Loss};
use crate::nvme::link::Link;
use crate::nvme::routes::{LivePath, PathId};
use blk::{Counters, Nanos};
use std::sync::Arc;
use wire::nvme::FabricsCmd;
use wire::nvme::cmds::Connect;
use wire::nvme_tcp::HostConfig;

/// Names a connection of a rail: the path, and its association.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::nvme) struct ConnId {
    pub(in crate::nvme) path: PathId,
    pub(in crate::nvme) epoch: u64,
}

/// Where a connection is in its life.
#[derive(Debug)]
pub(super) enum State {
    /// The owner opens a socket, at most until the time given.
    Opening(Nanos),
    /// From the socket to the completion of Connect, at most until the time given.
    Making(Nanos),
    /// It takes commands.
    Ready,
    /// It is lost, and the array may still execute what it was sent: these wait until the array
    /// closes the connection, or until the time given.
    Ghost(Nanos, Vec<Piece>),
}

/// A command that was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) piece: Piece,
    pub(super) means: Means,
    pub(super) at: Nanos,
}

/// See the file's head.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) association: Arc<Association>,
    pub(super) state: State,
    /// The protocol, from the moment that the socket is open.
    pub(super) link: Option<Link>,
    /// By CID.
    pub(super) sent: Vec<Option<Sent>>,
    pub(super) in_flight: usize,
    /// When to look for commands that take too long.
    pub(super) look: Option<Nanos>,
    pub(super) counters: Arc<Counters>,
}

impl Conn {
    /// A connection that the owner is to open a socket for.
    pub(super) fn new(path: &LivePath, until: Nanos) -> Self {
        let id = ConnId {
            path: path.id,
            epoch: path.epoch,
        };
        Self {
            id,
            association: path.association.clone(),
            state: State::Opening(until),
            link: None,
            sent: Vec::new(),
            in_flight: 0,
            look: None,
            counters: path.stats.open(),
        }
    }

    /// The socket is open: initialises the connection, and then connects the queue.
    pub(super) fn opened(&mut self, now: Nanos, until: Nanos) {
        let association = &self.association;
        let config = HostConfig {
            queue_depth: association.depth,
            digests: association.digests,
            init_timeout: until.since(now),
            ..HostConfig::default()
        };
        self.sent.resize(usize::from(association.depth), None);
        self.link = Some(Link::new(config, now));
        self.state = State::Making(until);
    }

    /// Sends Connect for I/O queue `qid` (NVMe Base 2.1, 6.3).
    pub(super) fn connect(&mut self, qid: u16) -> Result<(), Loss> {
        let connect = Connect {
            record_format: 0,
            qid,
            queue_entries: u32::from(self.association.depth) + 1,
            priority: 0,
            no_sq_flow_control: true,
            kato_ms: 0,
        };
        let data = connect_data(&self.association.names, self.association.cntlid);
        let sqe = FabricsCmd::Connect(connect).to_sqe();
        let link = self.link.as_mut().ok_or_else(Loss::closed)?;
        let sent = link.host.submit(sqe, data);
        sent.map(drop).map_err(|e| Loss::new(e.to_string()))
    }

    /// The array has taken the queue.
    pub(super) fn connected(&mut self) {
        self.state = State::Ready;
        if let Some(link) = &mut self.link {
            // IOCCSZ is about I/O. Until here the data of Connect went in the capsule whatever it
            // says, as Linux hosts send it.
            let bytes = self.association.in_capsule_bytes;
            link.host.set_in_capsule_bytes(bytes);
        }
    }

    /// Whether it takes another command.
    pub(super) fn has_room(&self) -> bool {
        matches!(self.state, State::Ready)
            && self
                .link
                .as_ref()
                .is_some_and(|link| link.host.can_submit())
    }

    /// When something is to be done although nothing arrived.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let own = match &self.state {
            State::Opening(until) | State::Making(until) | State::Ghost(until, _) => Some(*until),
            State::Ready => self.look,
        };
        let link = self.link.as_ref().and_then(|link| link.host.deadline());
        [own, link].into_iter().flatten().min()
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.counters.close();
    }
}
