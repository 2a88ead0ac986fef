//! The array of a simulation: one namespace, and a controller for each admin queue that connects.
//!
//! It does what the specification allows an array to do: it executes commands out of order and
//! late, goes on with them for a while after it lost its host, and closes a connection of its own
//! accord only when it will do nothing more for it.

use super::dice::Dice;
use blk::{Gather, IoBuf, Nanos};
use std::collections::BTreeMap;
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::cmds::{IoOp, Rw};
use wire::nvme::fabrics::{ConnectData, Connected};
use wire::nvme::identify::{
    Cns, ControllerType, Descriptor, IdentifyController, IdentifyNamespace, active_namespaces,
    descriptors, oncs,
};
use wire::nvme::log::{AnaGroup, AnaState, LogId, ana};
use wire::nvme::property::{self, Capabilities, ControllerStatus};
use wire::nvme::{AdminCmd, Cqe, FabricsCmd, IoCmd, IoOpcode, Status};
use wire::nvme_tcp::{Command, Controller, Event, Limits, PduType, Slot};

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;
/// Blocks of the namespace.
pub(super) const BLOCKS: u64 = 24;
/// Command quiesce time that it reports, and keeps.
const CQT: Nanos = Nanos::from_millis(700);
/// MDTS of 2^n pages of 4 KiB would never split such small I/O; the boundary does.
const BOUNDARY: u16 = 8;

/// Names a connection of the simulated network.
pub(super) type ConnKey = u64;

/// One association.
struct Made {
    path: usize,
    kato: Nanos,
    /// When it ends unless the host gives a sign of life.
    expires: Nanos,
    event_request: Option<(ConnKey, Slot)>,
    events: EventMask,
    pending_ana_event: bool,
}

/// The array's end of a connection.
struct End {
    protocol: Controller,
    path: usize,
    /// CNTLID and QID, once connected.
    queue: Option<(u16, u16)>,
    /// It says nothing more.
    mute: bool,
    /// The array closes the socket once what it executes has ended.
    closing: bool,
    closed: bool,
}

/// A command that is being executed.
struct Executing {
    at: Nanos,
    /// What comes first among those due together.
    order: u64,
    conn: ConnKey,
    cntlid: u16,
    command: Command,
}

/// See the file's head.
pub(super) struct Array {
    memory: Vec<[u8; BLOCK]>,
    made: BTreeMap<u16, Made>,
    next_cntlid: u16,
    ends: BTreeMap<ConnKey, End>,
    executing: Vec<Executing>,
    /// Of its one namespace, by path.
    pub(super) ana: Vec<AnaState>,
    order: u64,
    /// The slowest execution.
    pub(super) slow: Nanos,
    /// Breaks a rule at the next I/O.
    pub(super) lie: Option<Lie>,
}

/// A rule that the array breaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Lie {
    /// Answers a command that nobody sent.
    WrongCid,
    /// Sends half of the data of a read.
    Short,
    /// Sends data of a read that lie beyond its end.
    Beyond,
    /// Sends what is no PDU.
    Garbage,
    /// Stops in the middle of a PDU, and says nothing more on that connection.
    Stops,
}

impl Lie {
    pub(super) const ALL: [Self; 5] = [
        Self::WrongCid,
        Self::Short,
        Self::Beyond,
        Self::Garbage,
        Self::Stops,
    ];
}

/// A CID that no host here uses.
const NOBODY: u16 = 0xfff0;

/// A PDU with a header of 24 bytes, whose CID is at `at`, and these data.
fn pdu(kind: PduType, flags: u8, at: usize, cid: u16, data: &[u8]) -> Vec<u8> {
    let len = 24 + data.len() as u32;
    let offset = if data.is_empty() { 0 } else { 24 };
    let mut bytes = vec![kind as u8, flags, 24, offset];
    bytes.extend(len.to_le_bytes());
    bytes.resize(24, 0);
    bytes[at..at + 2].copy_from_slice(&cid.to_le_bytes());
    bytes.extend_from_slice(data);
    bytes
}

impl Array {
    pub(super) fn new(paths: usize) -> Self {
        Self {
            memory: vec![[0; BLOCK]; BLOCKS as usize],
            made: BTreeMap::new(),
            next_cntlid: 1,
            ends: BTreeMap::new(),
            executing: Vec::new(),
            ana: vec![AnaState::Optimized; paths],
            order: 0,
            slow: Nanos::from_millis(2),
            lie: None,
        }
    }

    /// The stamp that a block holds.
    pub(super) fn stamp(&self, block: u64) -> u64 {
        let bytes = &self.memory[block as usize][..8];
        u64::from_le_bytes(bytes.try_into().unwrap())
    }

    /// A host connects over a path.
    pub(super) fn accept(&mut self, key: ConnKey, path: usize, now: Nanos) {
        let end = End {
            protocol: Controller::new(Limits::default(), now),
            path,
            queue: None,
            mute: false,
            closing: false,
            closed: false,
        };
        self.ends.insert(key, end);
    }

    /// Takes bytes of a host.
    pub(super) fn receive(&mut self, key: ConnKey, bytes: &[u8], now: Nanos, dice: &mut Dice) {
        let Some(end) = self.ends.get_mut(&key) else {
            return;
        };
        if end.closing || end.closed {
            return;
        }
        if end.protocol.receive(bytes, now).is_err() {
            end.closing = true;
            return;
        }
        loop {
            let Some(end) = self.ends.get_mut(&key) else {
                return;
            };
            match end.protocol.next_event() {
                None => return,
                Some(Event::Ready(_)) => {}
                Some(Event::Command(command)) => self.command(key, command, now, dice),
                Some(Event::Refused { slot, status, .. }) => {
                    end.protocol.respond(slot, Cqe::new(0, 0, status));
                }
                Some(Event::Closed(_)) => {
                    end.closing = true;
                    return;
                }
            }
        }
    }

    /// The host has closed its side of a connection: with one goes the association.
    pub(super) fn host_closed(&mut self, key: ConnKey, now: Nanos) {
        let Some(end) = self.ends.get_mut(&key) else {
            return;
        };
        end.closing = true;
        if let Some((cntlid, _)) = end.queue {
            self.end_association(cntlid, now);
        }
    }

    /// Every connection of a path is closed by the array: it drops what it was doing for them.
    pub(super) fn drop_path(&mut self, path: usize) {
        let of: Vec<ConnKey> = self
            .ends
            .iter()
            .filter(|(_, e)| e.path == path)
            .map(|(k, _)| *k)
            .collect();
        self.executing.retain(|one| !of.contains(&one.conn));
        for key in of {
            if let Some(end) = self.ends.get_mut(&key) {
                end.closing = true;
            }
        }
        self.made.retain(|_, made| made.path != path);
    }

    /// Changes the ANA state of a path, and tells hosts.
    pub(super) fn set_ana(&mut self, path: usize, state: AnaState) {
        self.ana[path] = state;
        for made in self.made.values_mut().filter(|made| made.path == path) {
            made.pending_ana_event = made.events.contains(EventMask::ANA_CHANGE);
        }
        self.tell();
    }

    /// Connections that the array has closed since it was asked last.
    pub(super) fn take_closed(&mut self) -> Vec<ConnKey> {
        let busy: Vec<ConnKey> = self.executing.iter().map(|one| one.conn).collect();
        let mut closed = Vec::new();
        for (key, end) in &mut self.ends {
            if end.closing && !end.closed && !busy.contains(key) {
                end.closed = true;
                closed.push(*key);
            }
        }
        for key in &closed {
            self.ends.remove(key);
        }
        closed
    }

    /// What a connection has to send.
    pub(super) fn send(&mut self, key: ConnKey) -> Vec<u8> {
        let mut out = Gather::new();
        let Some(end) = self
            .ends
            .get_mut(&key)
            .filter(|end| !end.closing && !end.mute)
        else {
            return Vec::new();
        };
        end.protocol.transmit(&mut out);
        let mut bytes = out.to_vec();
        let speaks = !bytes.is_empty() && end.queue.is_some_and(|(_, qid)| qid > 0);
        match self.lie.take_if(|lie| speaks && *lie != Lie::Short) {
            Some(Lie::WrongCid) => bytes.extend(pdu(PduType::CapsuleResp, 0, 20, NOBODY, &[])),
            Some(Lie::Beyond) => {
                let mut reads = self.executing.iter().filter(|one| one.conn == key);
                let cid = reads.find(|one| one.command.sqe.opcode == IoOpcode::Read.opcode());
                let cid = cid.map_or(NOBODY, |one| one.command.sqe.cid());
                let mut more = pdu(PduType::C2hData, 0, 8, cid, &[0xee; BLOCK]);
                more[12..16].copy_from_slice(&(1_u32 << 20).to_le_bytes());
                more[16..20].copy_from_slice(&(BLOCK as u32).to_le_bytes());
                bytes.extend(more);
            }
            Some(Lie::Garbage) => bytes.extend([0xa5; 100]),
            Some(Lie::Stops) => {
                bytes.truncate(bytes.len() / 2);
                end.mute = true;
            }
            Some(Lie::Short) | None => {}
        }
        bytes
    }

    pub(super) fn connections(&self) -> Vec<ConnKey> {
        self.ends.keys().copied().collect()
    }

    pub(super) fn deadline(&self) -> Option<Nanos> {
        let executing = self.executing.iter().map(|one| one.at);
        let expires = self.made.values().map(|made| made.expires);
        executing.chain(expires).min()
    }

    /// What the time brings: commands end, and associations without a sign of life.
    pub(super) fn expire(&mut self, now: Nanos) {
        let mut due: Vec<Executing> = self.executing.extract_if(.., |one| one.at <= now).collect();
        due.sort_by_key(|one| (one.at, one.order));
        for one in &due {
            self.execute(one);
        }
        let late: Vec<u16> = self
            .made
            .iter()
            .filter(|(_, m)| m.expires <= now)
            .map(|(id, _)| *id)
            .collect();
        for cntlid in late {
            self.end_association(cntlid, now);
        }
    }

    /// What is being executed goes on until the quiesce time is over, and not longer.
    fn end_association(&mut self, cntlid: u16, now: Nanos) {
        for one in self.executing.iter_mut().filter(|one| one.cntlid == cntlid) {
            one.at = one.at.min(now + CQT - Nanos(1));
        }
        self.made.remove(&cntlid);
        for end in self.ends.values_mut() {
            if end.queue.is_some_and(|(id, _)| id == cntlid) {
                end.closing = true;
            }
        }
    }

    fn command(&mut self, key: ConnKey, command: Command, now: Nanos, dice: &mut Dice) {
        let queue = self.ends[&key].queue;
        let result = match queue {
            _ if FabricsCmd::is(&command.sqe) => self.fabrics(key, &command, now),
            Some((cntlid, 0)) => {
                let Some(answer) = self.admin(key, cntlid, &command, now) else {
                    return;
                };
                answer
            }
            Some((cntlid, _)) => {
                // Mostly in order and soon, sometimes late.
                let late = if dice.one_in(20) {
                    self.slow.0
                } else {
                    200_000
                };
                self.order += 1;
                let one = Executing {
                    at: now + Nanos(dice.below(late) + 1),
                    order: self.order,
                    conn: key,
                    cntlid,
                    command,
                };
                self.executing.push(one);
                return;
            }
            None => (Status::COMMAND_SEQUENCE.dnr(), 0, Vec::new()),
        };
        self.answer(key, command.slot, result);
    }

    fn answer(&mut self, key: ConnKey, slot: Slot, (status, result, data): (Status, u64, Vec<u8>)) {
        let Some(end) = self.ends.get_mut(&key) else {
            return;
        };
        let cqe = Cqe::new(0, 0, status).with_result(result);
        match data.is_empty() {
            true => end.protocol.respond(slot, cqe),
            false => end
                .protocol
                .respond_data(slot, IoBuf::from_slice(&data), cqe),
        }
    }

    fn fabrics(&mut self, key: ConnKey, command: &Command, now: Nanos) -> (Status, u64, Vec<u8>) {
        let good = |result| (Status::SUCCESS, result, Vec::new());
        match FabricsCmd::parse(&command.sqe).unwrap() {
            FabricsCmd::Connect(wish) => {
                let data = command.data.to_vec();
                let data = ConnectData::from_prefix(&data).unwrap();
                let end = self.ends.get_mut(&key).unwrap();
                if wish.qid > 0 {
                    let cntlid = data.cntlid.get();
                    if !self.made.contains_key(&cntlid) {
                        return (Status::CONNECT_INVALID_PARAMETERS.dnr(), 0, Vec::new());
                    }
                    end.queue = Some((cntlid, wish.qid));
                    end.protocol.set_depth(wish.queue_entries as u16);
                    end.protocol.set_sq_flow_control(!wish.no_sq_flow_control);
                    return good(u64::from(cntlid));
                }
                let cntlid = self.next_cntlid;
                self.next_cntlid += 1;
                end.queue = Some((cntlid, 0));
                let kato = Nanos::from_millis(u64::from(wish.kato_ms));
                let made = Made {
                    path: end.path,
                    kato,
                    expires: now + kato,
                    event_request: None,
                    events: EventMask::empty(),
                    pending_ana_event: false,
                };
                self.made.insert(cntlid, made);
                good(u64::from(Connected::from_dw0(u32::from(cntlid)).dw0()))
            }
            FabricsCmd::PropertyGet { offset, .. } if offset == property::CAP => {
                let capabilities = Capabilities {
                    queue_entries_max: 9,
                    ready_timeout_500ms: 2,
                    command_sets: 1,
                    subsystem_reset: false,
                    ready_modes: 0,
                };
                good(capabilities.bits())
            }
            FabricsCmd::PropertyGet { .. } => good(u64::from(ControllerStatus::READY.bits())),
            _ => good(0),
        }
    }

    fn admin(
        &mut self,
        key: ConnKey,
        cntlid: u16,
        command: &Command,
        now: Nanos,
    ) -> Option<(Status, u64, Vec<u8>)> {
        let good = |data: Vec<u8>| Some((Status::SUCCESS, 0, data));
        let path = self.ends[&key].path;
        let Some(made) = self.made.get_mut(&cntlid) else {
            return Some((Status::INTERNAL_PATH_ERROR, 0, Vec::new()));
        };
        match AdminCmd::parse(&command.sqe).unwrap() {
            AdminCmd::KeepAlive => {
                made.expires = now + made.kato;
                good(Vec::new())
            }
            AdminCmd::AsyncEventRequest => {
                made.event_request = Some((key, command.slot));
                self.tell();
                None
            }
            AdminCmd::SetFeatures(features, _) if features.fid == 7 => {
                Some((Status::SUCCESS, u64::from(features.cdw11), Vec::new()))
            }
            AdminCmd::SetFeatures(features, _) => {
                made.events = EventMask::from_bits_truncate(features.cdw11);
                good(Vec::new())
            }
            AdminCmd::GetLogPage(log) if log.lid == LogId::Ana as u8 => {
                let group = AnaGroup {
                    id: 1,
                    change_count: 1,
                    state: self.ana[path],
                    namespaces: vec![1],
                };
                good(ana(1, &[group], true))
            }
            AdminCmd::Identify(id) => good(identify(id.cns, cntlid)),
            _ => Some((Status::INVALID_OPCODE.dnr(), 0, Vec::new())),
        }
    }

    /// Completes requests for events where there is an event.
    fn tell(&mut self) {
        for made in self.made.values_mut().filter(|made| made.pending_ana_event) {
            let Some((key, slot)) = made.event_request.take() else {
                continue;
            };
            made.pending_ana_event = false;
            if let Some(end) = self.ends.get_mut(&key) {
                let dw0 = AsyncEvent::AnaChange.dw0();
                let cqe = Cqe::new(0, 0, Status::SUCCESS).with_result(u64::from(dw0));
                end.protocol.respond(slot, cqe);
            }
        }
    }

    fn execute(&mut self, one: &Executing) {
        let command = IoCmd::parse(&one.command.sqe).unwrap();
        let path = self.ends.get(&one.conn).map(|end| end.path);
        let refused = path.and_then(|path| match self.ana[path] {
            AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
            AnaState::Change => Some(Status::ANA_TRANSITION),
            _ => None,
        });
        let answer = match refused {
            Some(status) => (status, 0, Vec::new()),
            None => self.perform(&command.op, &one.command.data.to_vec()),
        };
        self.answer(one.conn, one.command.slot, answer);
    }

    fn perform(&mut self, op: &IoOp, data: &[u8]) -> (Status, u64, Vec<u8>) {
        let range = |rw: &Rw| rw.slba as usize..rw.slba as usize + rw.blocks as usize;
        let mut read = Vec::new();
        let status = match op {
            IoOp::Read(rw) => {
                read = self.memory[range(rw)].concat();
                if self.lie.take_if(|lie| *lie == Lie::Short).is_some() {
                    read.truncate(read.len() / 2);
                }
                Status::SUCCESS
            }
            IoOp::Write(rw) => {
                for (block, bytes) in range(rw).zip(data.chunks_exact(BLOCK)) {
                    self.memory[block].copy_from_slice(bytes);
                }
                Status::SUCCESS
            }
            IoOp::WriteZeroes(rw) => {
                self.memory[range(rw)].fill([0; BLOCK]);
                Status::SUCCESS
            }
            IoOp::Flush => Status::SUCCESS,
            _ => Status::INVALID_OPCODE.dnr(),
        };
        (status, 0, read)
    }
}

fn identify(cns: u8, cntlid: u16) -> Vec<u8> {
    match Cns::from_u8(cns) {
        Some(Cns::Controller) => {
            let mut id = IdentifyController {
                cntlid: cntlid.into(),
                oaes: (EventMask::ANA_CHANGE | EventMask::NAMESPACE_ATTRIBUTE)
                    .bits()
                    .into(),
                cntrltype: ControllerType::Io as u8,
                anacap: 1,
                nanagrpid: 1.into(),
                cqt: ((CQT.0 / 1_000_000) as u16).into(),
                oncs: oncs::WRITE_ZEROES.into(),
                vwc: 1,
                ioccsz: 68.into(),
                ..IdentifyController::default()
            };
            id.subnqn[..super::NQN.len()].copy_from_slice(super::NQN.as_bytes());
            id.bytes().to_vec()
        }
        Some(Cns::ActiveNamespaces) => active_namespaces([1], 0),
        Some(Cns::Namespace) => {
            let mut id = IdentifyNamespace {
                nsze: BLOCKS.into(),
                anagrpid: 1.into(),
                noiob: BOUNDARY.into(),
                ..IdentifyNamespace::default()
            };
            id.lbaf[0].block_shift = 9;
            id.bytes().to_vec()
        }
        _ => descriptors(&[Descriptor::Uuid([7; 16])]),
    }
}
