//! The controller's end of one connection, at the level of PDUs.
//!
//! It collects a command's data, in the capsule or by R2T, before it hands the command out, and
//! sends what the owner answers. It knows nothing of queues, namespaces or features. A command's
//! life: received, perhaps waiting for room and then for its data, ready, handed out as an
//! [`Event`], answered by [`Controller::respond`] or [`Controller::respond_data`].

mod receive;
mod transmit;

use std::collections::VecDeque;

use blk::{Gather, IoBuf, Nanos};

use super::framer::Framer;
use super::life::Life;
use super::pdu::{self, Digests, Fatal, FatalStatus, PduType, Role, Rules};
use super::{Closed, Negotiated, alignment_bytes};
use crate::nvme::{Cqe, Sqe, Status};
use transmit::Outgoing;

/// What one connection may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Commands in flight: slots, made when first needed. A host that has more has broken the
    /// protocol, because its queue is no longer than this.
    pub queue_depth: u16,
    /// Most data in a command capsule, in bytes; at least 8 KiB, which hosts take for granted on
    /// the admin queue (NVMe TCP 1.1, 3.3.2.1).
    pub in_capsule_bytes: u32,
    /// MDTS, the most data of one command, in bytes.
    pub mdts_bytes: u32,
    /// MAXH2CDATA, the most data in one H2CData, in bytes.
    pub h2c_data_bytes: u32,
    /// Most data in one C2HData, in bytes; longer reads are sent in several.
    pub c2h_data_bytes: u32,
    /// Memory for data fetched by R2T, from the R2T to the response, in bytes. One command always
    /// fits, however large.
    pub r2t_bytes: u32,
    /// Digests the host may switch on.
    pub digests: Digests,
    /// CPDA: alignment of data this end asks for, dwords zero-based.
    pub cpda: u8,
    /// How long the host may take to initialise the connection.
    pub init_timeout: Nanos,
    /// How long the host may take to close after a TermReq. The specification allows 30 s; what it
    /// needs is the time to read 152 bytes.
    pub linger: Nanos,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            queue_depth: 128,
            in_capsule_bytes: 8192,
            mdts_bytes: 1 << 20,
            h2c_data_bytes: 1 << 20,
            c2h_data_bytes: 1 << 20,
            r2t_bytes: 8 << 20,
            digests: Digests {
                header: true,
                data: true,
            },
            cpda: 0,
            init_timeout: Nanos::from_secs(10),
            linger: Nanos::from_secs(5),
        }
    }
}

/// Names a command between its event and its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u16);

impl Slot {
    /// The index: less than the queue depth, unique among commands in flight.
    pub const fn index(self) -> u16 {
        self.0
    }

    /// The slot with this index, as [`Slot::index`] gave it.
    pub const fn from_index(index: u16) -> Slot {
        Slot(index)
    }
}

/// A command whose data, if it has any, are all here.
#[derive(Debug)]
pub struct Command {
    /// Names it until it is answered.
    pub slot: Slot,
    /// The submission queue entry.
    pub sqe: Sqe,
    /// Data from the host; empty for commands that move none, or move it to the host.
    pub data: IoBuf,
    /// Bytes that the command's SGL describes: what may be sent to the host, at most.
    pub len: u32,
}

/// What happened on the connection.
#[derive(Debug)]
pub enum Event {
    /// The connection is initialised.
    Ready(Negotiated),
    /// A command is to be executed. The two halves of a fused pair follow each other directly.
    Command(Command),
    /// A command is to be answered with `status`: its SGL is not usable, its data arrived broken,
    /// or the other half of its fused pair is missing. It counts like any other (SQHD), and keeps
    /// its place in a fused pair.
    Refused {
        /// Names it until it is answered.
        slot: Slot,
        /// The submission queue entry.
        sqe: Sqe,
        /// What to answer.
        status: Status,
    },
    /// The connection is over: close the socket.
    Closed(Closed),
}

/// Where a command is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Free,
    /// Data are expected, in the capsule or after an R2T.
    Receiving,
    /// Waits for room to receive its data into.
    Waiting,
    /// To be handed out, or held until the other half of a fused pair is.
    Ready,
    /// Handed out.
    Executing,
}

/// The fused pair a command belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Pairing {
    /// None, or the other half cannot come any more.
    #[default]
    Alone,
    /// First of a pair, and the next command has not arrived.
    Expecting,
    /// First of a pair with the command in this slot.
    FirstOf(u16),
    /// Second of a pair with the command in this slot.
    SecondOf(u16),
}

#[derive(Debug, Default)]
struct Entry {
    phase: Phase,
    sqe: Sqe,
    data: IoBuf,
    /// Bytes the SGL describes.
    len: u32,
    /// Bytes that arrived by H2CData.
    received: u32,
    /// Bytes counted against [`Limits::r2t_bytes`].
    charge: u32,
    refusal: Option<Status>,
    pairing: Pairing,
}

/// The controller's end of one connection.
#[derive(Debug)]
pub struct Controller {
    limits: Limits,
    life: Life,
    rules: Rules,
    negotiated: Negotiated,
    framer: Framer,
    /// Slot that the data being received belong to; `None` drops them.
    current: Option<u16>,
    entries: Vec<Entry>,
    free: Vec<u16>,
    depth: u16,
    ready: VecDeque<u16>,
    /// Commands that wait for room, oldest first.
    waiting: VecDeque<u16>,
    charged: u32,
    /// First half of a fused pair, when it was the last command received.
    last_first: Option<u16>,
    pending: VecDeque<Outgoing>,
    term: Vec<u8>,
    sq_flow_control: bool,
    announce_ready: bool,
}

impl Controller {
    /// A connection just accepted, at `now`.
    pub fn new(limits: Limits, now: Nanos) -> Self {
        let limits = Limits {
            queue_depth: limits.queue_depth.max(1),
            h2c_data_bytes: limits.h2c_data_bytes.max(pdu::MAXH2CDATA_MIN),
            c2h_data_bytes: limits.c2h_data_bytes.max(pdu::MAXH2CDATA_MIN),
            cpda: limits.cpda.min(pdu::ALIGNMENT_MAX),
            ..limits
        };
        let to_controller_alignment = alignment_bytes(limits.cpda);
        Controller {
            limits,
            life: Life::new(now + limits.init_timeout),
            rules: Rules {
                role: Role::Controller,
                ready: false,
                digests: Digests::default(),
                alignment: to_controller_alignment as usize,
                capsule_max: limits.in_capsule_bytes as usize,
                data_max: limits.h2c_data_bytes as usize,
            },
            negotiated: Negotiated {
                digests: Digests::default(),
                to_controller_alignment,
                to_host_alignment: alignment_bytes(0),
                r2t_max: 1,
                h2c_data_max: limits.h2c_data_bytes,
            },
            framer: Framer::new(),
            current: None,
            entries: Vec::new(),
            free: Vec::new(),
            depth: limits.queue_depth,
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            charged: 0,
            last_first: None,
            pending: VecDeque::new(),
            term: Vec::new(),
            sq_flow_control: true,
            announce_ready: false,
        }
    }

    /// Sets how many commands may be in flight, once Connect has said how long the queue is.
    ///
    /// `depth` is held to [`Limits::queue_depth`].
    pub fn set_depth(&mut self, depth: u16) {
        self.depth = depth.clamp(1, self.limits.queue_depth);
    }

    /// Says whether the host wants SQHD, as Connect told. Without it, a read that succeeds is
    /// completed by the SUCCESS flag of its last C2HData and needs no response capsule.
    pub fn set_sq_flow_control(&mut self, on: bool) {
        self.sq_flow_control = on;
    }

    /// Commands in flight: received and not answered.
    pub fn in_flight(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Takes what happened next.
    #[inline]
    pub fn next_event(&mut self) -> Option<Event> {
        if self.announce_ready {
            self.announce_ready = false;
            return Some(Event::Ready(self.negotiated));
        }
        let Some(index) = self.ready.pop_front() else {
            return self.life.take_closed().map(Event::Closed);
        };
        let entry = &mut self.entries[usize::from(index)];
        entry.phase = Phase::Executing;
        let (slot, sqe, len) = (Slot(index), entry.sqe, entry.len);
        let mut data = std::mem::take(&mut entry.data);
        if data.len() > len as usize {
            // The capsule had more than its SGL describes.
            data = data.slice(0..len as usize);
        }
        Some(match entry.refusal {
            None => Event::Command(Command {
                slot,
                sqe,
                data,
                len,
            }),
            Some(status) => Event::Refused { slot, sqe, status },
        })
    }

    /// Answers a command without data. The CID in `cqe` is filled in.
    ///
    /// # Panics
    /// If `slot` does not name a command that was handed out and not yet answered.
    #[inline]
    pub fn respond(&mut self, slot: Slot, cqe: Cqe) {
        let cqe = Cqe {
            cid: self.release(slot).cid,
            ..cqe
        };
        if self.life.is_open() {
            self.pending.push_back(Outgoing::Response(cqe));
        }
    }

    /// Answers a command with data for the host. The CID in `cqe` is filled in.
    ///
    /// Data are sent only with a status of success. If there are more than the command's SGL
    /// describes, the answer is Data SGL Length Invalid instead (NVMe Base 2.1, 4.2.3.1).
    ///
    /// # Panics
    /// If `slot` does not name a command that was handed out and not yet answered.
    #[inline]
    pub fn respond_data(&mut self, slot: Slot, data: IoBuf, cqe: Cqe) {
        let room = self.entries[usize::from(slot.0)].len as usize;
        if data.is_empty() || !cqe.status().is_success() {
            return self.respond(slot, cqe);
        }
        if data.len() > room {
            let status = Status::SGL_LENGTH_INVALID.dnr();
            return self.respond(
                slot,
                Cqe {
                    status_field: status.field().into(),
                    ..cqe
                },
            );
        }
        let cqe = Cqe {
            cid: self.release(slot).cid,
            ..cqe
        };
        if self.life.is_open() {
            self.pending.push_back(Outgoing::Data { data, cqe });
        }
    }

    /// Frees the slot of an answered command and gives its room to those that wait.
    #[inline]
    fn release(&mut self, slot: Slot) -> Sqe {
        let entry = &mut self.entries[usize::from(slot.0)];
        assert!(
            entry.phase == Phase::Executing,
            "a command is answered once, after its event"
        );
        entry.phase = Phase::Free;
        entry.data = IoBuf::empty();
        let sqe = entry.sqe;
        self.free.push(slot.0);
        let charge = std::mem::take(&mut self.entries[usize::from(slot.0)].charge);
        if charge > 0 {
            self.charged -= charge;
            self.grant_waiting();
        }
        sqe
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

    /// Whether [`Controller::transmit`] has anything to send.
    #[inline]
    pub fn wants_transmit(&self) -> bool {
        !self.pending.is_empty() || !self.term.is_empty()
    }

    /// Ends the connection because of `fatal`: sends what was answered so far and, as the last PDU,
    /// a C2HTermReq with the header last received, then waits for the host to close.
    pub fn terminate(&mut self, fatal: &Fatal, now: Nanos) {
        if self.life.is_ending() {
            return;
        }
        self.term = pdu::term_req(PduType::C2hTermReq, fatal, self.framer.seen());
        // ICResp and answers were due before; data are not wanted any more.
        self.pending
            .retain(|next| !matches!(next, Outgoing::R2t { .. }));
        self.stop();
        self.life.terminate(now + self.limits.linger);
    }

    /// Ends the connection at once: the socket is gone.
    pub fn close(&mut self) {
        self.finish(Closed::Lost);
    }

    /// Whether the socket is to be closed.
    pub fn is_closed(&self) -> bool {
        self.life.is_closed()
    }

    /// When [`Controller::expire`] wants to be called, if ever.
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
            self.pending.clear();
            self.stop();
        }
    }

    /// Nothing more is received: lets go of commands not handed out.
    fn stop(&mut self) {
        self.ready.clear();
        self.waiting.clear();
        self.current = None;
        for entry in self
            .entries
            .iter_mut()
            .filter(|entry| entry.phase != Phase::Executing)
        {
            entry.data = IoBuf::empty();
        }
    }

    fn fail<T>(&mut self, fatal: Fatal, now: Nanos) -> Result<T, Fatal> {
        self.terminate(&fatal, now);
        Err(fatal)
    }

    /// A free slot for a command.
    #[inline]
    fn claim(&mut self) -> Result<u16, Fatal> {
        const FULL: Fatal = Fatal::of(
            FatalStatus::Sequence,
            "more commands are in flight than the queue is long",
        );
        if self.in_flight() >= usize::from(self.depth) {
            return Err(FULL);
        }
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        self.entries.push(Entry::default());
        Ok((self.entries.len() - 1) as u16)
    }
}
