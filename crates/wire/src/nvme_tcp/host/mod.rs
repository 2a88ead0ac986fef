//! The host's end of one connection, at the level of PDUs.
//!
//! It gives each command a CID, sends its data in the capsule or when an R2T asks, and puts data
//! from the controller straight into the buffer that was handed in with the command.

mod receive;
mod transmit;

use std::collections::VecDeque;
use std::fmt;

use blk::{Gather, IoBuf, Nanos};

use super::framer::Framer;
use super::life::Life;
use super::pdu::{self, Digests, Fatal, PduType, Role, Rules};
use super::{Closed, Negotiated, alignment_bytes};
use crate::nvme::sgl::SglDescriptor;
use crate::nvme::{Cqe, Sqe, Status};
use transmit::Outgoing;

/// What a host asks for.
#[derive(Clone, Copy, Debug)]
pub struct HostConfig {
    /// Commands in flight, at most.
    pub queue_depth: u16,
    /// Digests to ask for.
    pub digests: Digests,
    /// HPDA: alignment of data to ask for, dwords zero-based.
    pub hpda: u8,
    /// R2Ts the controller may have outstanding per command; at least 1.
    pub r2t_max: u32,
    /// Most data to put into a command capsule, in bytes. 8192 holds for every admin queue
    /// (NVMe TCP 1.1, 3.3.2.1); for I/O queues IOCCSZ of the identify data tells.
    pub in_capsule_bytes: u32,
    /// How long the controller may take to initialise the connection.
    pub init_timeout: Nanos,
    /// How long to wait for the controller to close after a TermReq.
    pub linger: Nanos,
}

impl Default for HostConfig {
    fn default() -> Self {
        HostConfig {
            queue_depth: 128,
            digests: Digests::default(),
            hpda: 0,
            r2t_max: 1,
            in_capsule_bytes: 8192,
            init_timeout: Nanos::from_secs(10),
            linger: Nanos::from_secs(5),
        }
    }
}

/// The data of a command.
#[derive(Clone, Debug, Default)]
pub enum Payload {
    /// None.
    #[default]
    None,
    /// To the controller.
    ToController(IoBuf),
    /// From the controller, into this buffer, which must belong to the command alone.
    ToHost(IoBuf),
}

/// A command that could not be taken; it comes back as it was.
#[derive(Debug)]
pub struct Unsent {
    /// Why.
    pub reason: UnsentReason,
    /// Its data.
    pub payload: Payload,
}

/// Why a command could not be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsentReason {
    /// [`HostConfig::queue_depth`] commands are in flight.
    Full,
    /// The connection is not ready yet, or over.
    NotReady,
}

impl fmt::Display for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            UnsentReason::Full => "the queue is full; wait for a completion",
            UnsentReason::NotReady => "the connection is not ready",
        })
    }
}

impl std::error::Error for Unsent {}

/// A command that is done.
#[derive(Debug)]
pub struct Completed {
    /// The CID that [`Host::submit`] gave it; free for the next command.
    pub cid: u16,
    /// The completion. Transient Transport Error stands for data that arrived broken, Host Pathing
    /// Error for a connection that ended first.
    pub cqe: Cqe,
    /// For data to the host, the buffer handed in; after success cut to what arrived. Else empty.
    pub data: IoBuf,
}

/// What happened on the connection.
#[derive(Debug)]
pub enum HostEvent {
    /// The connection is initialised; commands can be submitted.
    Ready(Negotiated),
    /// A command is done.
    Completed(Completed),
    /// The connection is over: close the socket. Every command has been completed before.
    Closed(Closed),
}

/// Where a command is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Free,
    /// Submitted, not yet written into a gather list.
    Queued,
    /// Sent.
    Sent,
    /// Completed, not yet handed out.
    Done,
}

#[derive(Debug, Default)]
struct Entry {
    phase: Phase,
    sqe: Sqe,
    cqe: Cqe,
    /// Data to the controller.
    outbound: IoBuf,
    outbound_len: u32,
    /// Bytes of it that R2Ts have asked for.
    asked: u32,
    /// R2Ts not yet answered.
    r2ts: u32,
    /// Data from the controller.
    inbound: IoBuf,
    received: u32,
    /// Some data arrived with a wrong digest.
    broken: bool,
}

/// The host's end of one connection.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    life: Life,
    rules: Rules,
    negotiated: Negotiated,
    framer: Framer,
    /// CID that the data being received belong to.
    current: Option<u16>,
    entries: Vec<Entry>,
    /// CIDs in the order in which they became free: one is used again as late as can be, so that
    /// an answer that comes twice or late finds no new command under its CID.
    free: VecDeque<u16>,
    done: VecDeque<u16>,
    pending: VecDeque<Outgoing>,
    term: Vec<u8>,
    announce_ready: bool,
}

impl Host {
    /// A connection just opened, at `now`. Its ICReq is in the first [`Host::transmit`].
    pub fn new(config: HostConfig, now: Nanos) -> Self {
        let config = HostConfig {
            queue_depth: config.queue_depth.max(1),
            hpda: config.hpda.min(pdu::ALIGNMENT_MAX),
            r2t_max: config.r2t_max.max(1),
            ..config
        };
        let alignment = alignment_bytes(config.hpda);
        let depth = usize::from(config.queue_depth);
        let mut entries = Vec::new();
        entries.resize_with(depth, Entry::default);
        Host {
            config,
            life: Life::new(now + config.init_timeout),
            rules: Rules {
                role: Role::Host,
                ready: false,
                digests: Digests::default(),
                alignment: alignment as usize,
                capsule_max: 0,
                // What a data PDU may bring is bounded by the buffer of its command.
                data_max: u32::MAX as usize,
            },
            negotiated: Negotiated {
                digests: Digests::default(),
                to_controller_alignment: alignment_bytes(0),
                to_host_alignment: alignment,
                r2t_max: config.r2t_max,
                h2c_data_max: pdu::MAXH2CDATA_MIN,
            },
            framer: Framer::new(),
            current: None,
            entries,
            free: (0..config.queue_depth).collect(),
            done: VecDeque::with_capacity(depth),
            pending: VecDeque::from([Outgoing::Init]),
            term: Vec::new(),
            announce_ready: false,
        }
    }

    /// Sets how much data goes into a command capsule, once the identify data told.
    pub fn set_in_capsule_bytes(&mut self, bytes: u32) {
        self.config.in_capsule_bytes = bytes;
    }

    /// Commands in flight.
    pub fn in_flight(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether [`Host::submit`] would take a command.
    pub fn can_submit(&self) -> bool {
        self.life.is_open() && !self.free.is_empty()
    }

    /// Queues a command and gives the CID it is known by until its completion is taken. CIDs are
    /// less than the queue depth, so that they can index a table.
    ///
    /// CID and SGL of `sqe` are filled in.
    ///
    /// # Errors
    /// [`Unsent`] hands the data back when the queue is full or the connection not ready.
    #[inline]
    pub fn submit(&mut self, mut sqe: Sqe, payload: Payload) -> Result<u16, Unsent> {
        if !self.life.is_open() {
            return Err(Unsent {
                reason: UnsentReason::NotReady,
                payload,
            });
        }
        let Some(cid) = self.free.pop_front() else {
            return Err(Unsent {
                reason: UnsentReason::Full,
                payload,
            });
        };
        let entry = &mut self.entries[usize::from(cid)];
        entry.phase = Phase::Queued;
        (entry.asked, entry.r2ts, entry.received, entry.broken) = (0, 0, 0, false);
        entry.outbound_len = 0;
        sqe.cid = cid.into();
        sqe.sgl = match payload {
            Payload::None => SglDescriptor::transport(0),
            Payload::ToController(data) if data.is_empty() => SglDescriptor::transport(0),
            Payload::ToController(data) => {
                let len = data.len() as u32;
                entry.outbound = data;
                entry.outbound_len = len;
                match len <= self.config.in_capsule_bytes {
                    true => SglDescriptor::in_capsule(len),
                    false => SglDescriptor::transport(len),
                }
            }
            Payload::ToHost(buf) => {
                let sgl = SglDescriptor::transport(buf.len() as u32);
                entry.inbound = buf;
                sgl
            }
        };
        entry.sqe = sqe;
        self.pending.push_back(Outgoing::Command(cid));
        Ok(cid)
    }

    /// Takes what happened next.
    #[inline]
    pub fn next_event(&mut self) -> Option<HostEvent> {
        if self.announce_ready {
            self.announce_ready = false;
            return Some(HostEvent::Ready(self.negotiated));
        }
        let Some(cid) = self.done.pop_front() else {
            return self.life.take_closed().map(HostEvent::Closed);
        };
        let entry = &mut self.entries[usize::from(cid)];
        entry.phase = Phase::Free;
        entry.outbound = IoBuf::empty();
        let mut data = std::mem::take(&mut entry.inbound);
        let mut cqe = entry.cqe;
        // A buffer that could not be filled goes back whole, for another try.
        let good = cqe.status().is_success() && !entry.broken;
        if good && data.len() > entry.received as usize {
            data = data.slice(0..entry.received as usize);
        }
        if entry.broken && cqe.status().is_success() {
            cqe.status_field = Status::TRANSIENT_TRANSPORT.field().into();
        }
        self.free.push_back(cid);
        Some(HostEvent::Completed(Completed { cid, cqe, data }))
    }

    /// Moves what is to be sent to the end of `out`.
    #[inline]
    pub fn transmit(&mut self, out: &mut Gather) {
        while let Some(next) = self.pending.pop_front() {
            self.send(next, out);
        }
        if !self.term.is_empty() {
            out.push_bytes(&std::mem::take(&mut self.term));
        }
    }

    /// Whether [`Host::transmit`] has anything to send.
    #[inline]
    pub fn wants_transmit(&self) -> bool {
        !self.pending.is_empty() || !self.term.is_empty()
    }

    /// Ends the connection because of `fatal`: sends an H2CTermReq with the header last received,
    /// then waits for the controller to close. Commands in flight complete as failed.
    pub fn terminate(&mut self, fatal: &Fatal, now: Nanos) {
        if self.life.is_ending() {
            return;
        }
        self.term = pdu::term_req(PduType::H2cTermReq, fatal, self.framer.seen());
        self.life.terminate(now + self.config.linger);
        self.fail_all();
    }

    /// Ends the connection at once: the socket is gone. Commands in flight complete as failed.
    pub fn close(&mut self) {
        self.finish(Closed::Lost);
    }

    /// Whether the connection is initialised and not ending. Once it is ending, commands that got
    /// no answer complete with Host Pathing Error, which then says nothing of what the controller
    /// did with them.
    pub fn is_open(&self) -> bool {
        self.life.is_open()
    }

    /// Whether the socket is to be closed.
    pub fn is_closed(&self) -> bool {
        self.life.is_closed()
    }

    /// When [`Host::expire`] wants to be called, if ever.
    pub fn deadline(&self) -> Option<Nanos> {
        self.life.deadline()
    }

    /// Acts on a deadline that has passed by `now`.
    pub fn expire(&mut self, now: Nanos) {
        if let Some(why) = self.life.expired(now) {
            self.finish(why);
        }
    }

    fn finish(&mut self, why: Closed) {
        if self.life.close(why) {
            self.fail_all();
        }
    }

    /// Completes every command in flight, because no answer can come any more.
    fn fail_all(&mut self) {
        self.pending.clear();
        self.current = None;
        for (cid, entry) in self.entries.iter_mut().enumerate() {
            if matches!(entry.phase, Phase::Queued | Phase::Sent) {
                entry.phase = Phase::Done;
                entry.received = 0;
                entry.cqe = Cqe::new(cid as u16, 0, Status::HOST_PATHING_ERROR);
                self.done.push_back(cid as u16);
            }
        }
    }
}
