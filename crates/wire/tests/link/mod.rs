//! A host and a controller joined by two byte streams on virtual time, with a memory behind them.
//!
//! Shared by the pair tests and the fuzz targets: every choice (how streams are cut, what is sent)
//! comes from [`Dice`], so a seed or an input repeats a run exactly.
#![allow(dead_code, reason = "each user needs a part of it")]

use blk::{Gather, IoBuf, Nanos};
use wire::nvme::{Cqe, Fuse, IoCmd, IoOp, Rw, Status};
use wire::nvme_tcp::{
    Closed, Command, Completed, Controller, Event, Host, HostConfig, HostEvent, Limits, Payload,
};

/// Bytes of a block of the memory.
pub(crate) const BLOCK: usize = 512;

/// Where choices come from: the bytes of an input first, then a generator seeded with it.
pub(crate) struct Dice {
    input: Vec<u8>,
    at: usize,
    state: u64,
}

impl Dice {
    pub(crate) fn seeded(seed: u64) -> Self {
        Dice {
            input: Vec::new(),
            at: 0,
            state: seed,
        }
    }

    pub(crate) fn from_input(input: &[u8]) -> Self {
        let state = input
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        Dice {
            input: input.to_vec(),
            at: 0,
            state,
        }
    }

    /// Whether choices still come from the input.
    pub(crate) fn has_input(&self) -> bool {
        self.at < self.input.len()
    }

    /// The next 64 bits, by splitmix64.
    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let value = match self.input.get(self.at..self.at + 2) {
            Some(two) => {
                self.at += 2;
                u64::from(two[0]) << 8 | u64::from(two[1])
            }
            None => {
                self.at = self.input.len();
                self.next()
            }
        };
        (value % n.max(1) as u64) as usize
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(len + 8);
        while out.len() < len {
            out.extend_from_slice(&self.next().to_le_bytes());
        }
        out.truncate(len);
        out
    }
}

/// How a stream is cut on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All there is at once.
    Whole,
    /// Byte by byte.
    Single,
    /// Pieces of any length, and data read straight into place now and then.
    Random,
}

/// The two ends and what is between them.
pub(crate) struct Link {
    pub(crate) host: Host,
    pub(crate) controller: Controller,
    pub(crate) now: Nanos,
    pub(crate) cut: Cut,
    pub(crate) dice: Dice,
    /// What a namespace would hold.
    pub(crate) memory: Vec<u8>,
    /// Commands handed out and not yet answered, so that answers come out of order.
    pub(crate) executing: Vec<Command>,
    /// Answers are held back until this many commands are there (or none can come).
    pub(crate) hold: usize,
    /// Completions not yet looked at.
    pub(crate) completed: Vec<Completed>,
    pub(crate) host_closed: Option<Closed>,
    pub(crate) controller_closed: Option<Closed>,
    /// Fuse and opcode of each command handed out, in order.
    pub(crate) order: Vec<(Fuse, u8)>,
    /// Bytes that reached the host.
    pub(crate) bytes_to_host: usize,
    /// Events of the controller that carry a refusal.
    pub(crate) refused: usize,
    sqhd: u16,
    to_controller: Gather,
    to_host: Gather,
}

impl Link {
    /// Both ends, not yet initialised, with `blocks` blocks of memory.
    pub(crate) fn new(
        config: HostConfig,
        limits: Limits,
        blocks: usize,
        cut: Cut,
        dice: Dice,
    ) -> Self {
        let now = Nanos::from_secs(1);
        Link {
            host: Host::new(config, now),
            controller: Controller::new(limits, now),
            now,
            cut,
            dice,
            memory: vec![0; blocks * BLOCK],
            executing: Vec::new(),
            hold: 1,
            completed: Vec::new(),
            host_closed: None,
            controller_closed: None,
            order: Vec::new(),
            bytes_to_host: 0,
            refused: 0,
            sqhd: 0,
            to_controller: Gather::new(),
            to_host: Gather::new(),
        }
    }

    /// Runs until the connection is initialised.
    pub(crate) fn connect(&mut self) {
        self.run();
        assert!(self.host.can_submit(), "both ends agree");
    }

    /// Lets bytes flow and commands execute until nothing moves.
    pub(crate) fn run(&mut self) {
        while self.step() {}
    }

    /// One round; says whether anything happened.
    pub(crate) fn step(&mut self) -> bool {
        let mut moved = self.host.wants_transmit() || self.controller.wants_transmit();
        self.host.transmit(&mut self.to_controller);
        self.controller.transmit(&mut self.to_host);
        moved |= self.flow_to_controller() | self.flow_to_host();
        moved |= self.host_events() | self.controller_events();
        moved | self.answer(moved)
    }

    fn flow_to_controller(&mut self) -> bool {
        let stream = self.to_controller.to_vec();
        let (mut rest, mut budget) = (stream.as_slice(), 4096);
        while !rest.is_empty() && budget > 0 {
            budget -= 1;
            let n = piece(self.cut, &mut self.dice, rest.len());
            let straight = self.cut == Cut::Random && self.dice.one_in(2);
            if straight && let Some((buf, offset, len)) = self.controller.direct() {
                let n = n.min(len);
                buf.copy_from(offset, &rest[..n]);
                self.controller.direct_received(n);
                rest = &rest[n..];
                continue;
            }
            let result = self.controller.receive(&rest[..n], self.now);
            rest = &rest[n..];
            if result.is_err() {
                rest = &[];
            }
        }
        let used = stream.len() - rest.len();
        self.to_controller.advance(used);
        used > 0
    }

    fn flow_to_host(&mut self) -> bool {
        let stream = self.to_host.to_vec();
        let (mut rest, mut budget) = (stream.as_slice(), 4096);
        while !rest.is_empty() && budget > 0 {
            budget -= 1;
            let n = piece(self.cut, &mut self.dice, rest.len());
            let straight = self.cut == Cut::Random && self.dice.one_in(2);
            if straight && let Some((buf, offset, len)) = self.host.direct() {
                let n = n.min(len);
                buf.copy_from(offset, &rest[..n]);
                self.host.direct_received(n);
                rest = &rest[n..];
                continue;
            }
            let result = self.host.receive(&rest[..n], self.now);
            rest = &rest[n..];
            if result.is_err() {
                rest = &[];
            }
        }
        let used = stream.len() - rest.len();
        self.to_host.advance(used);
        self.bytes_to_host += used;
        used > 0
    }

    fn host_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.host.next_event() {
            any = true;
            match event {
                HostEvent::Ready(_) => {}
                HostEvent::Completed(done) => self.completed.push(done),
                HostEvent::Closed(why) => self.host_closed = Some(why),
            }
        }
        any
    }

    fn controller_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.controller.next_event() {
            any = true;
            match event {
                Event::Ready(_) => {}
                Event::Command(command) => {
                    let fuse = command.sqe.fuse().unwrap_or_default();
                    self.order.push((fuse, command.sqe.opcode));
                    self.executing.push(command);
                }
                Event::Refused { slot, status, .. } => {
                    self.refused += 1;
                    self.controller.respond(slot, Cqe::new(0, 0, status));
                }
                Event::Closed(why) => self.controller_closed = Some(why),
            }
        }
        any
    }

    /// Answers commands: at once, or in any order once `hold` of them wait or nothing else moves.
    fn answer(&mut self, moved: bool) -> bool {
        if self.executing.is_empty() || (moved && self.executing.len() < self.hold) {
            return false;
        }
        while !self.executing.is_empty() {
            let at = if self.hold == 1 {
                0
            } else {
                self.dice.below(self.executing.len())
            };
            let command = self.executing.remove(at);
            self.execute(&command);
        }
        true
    }

    fn execute(&mut self, command: &Command) {
        self.sqhd = self.sqhd.wrapping_add(1);
        let cqe = |status| Cqe::new(0, self.sqhd, status);
        let parsed = IoCmd::parse(&command.sqe);
        let range = |rw: &Rw| {
            let start = usize::try_from(rw.slba).ok()?.checked_mul(BLOCK)?;
            let end = start.checked_add(rw.blocks as usize * BLOCK)?;
            (end <= self.memory.len()).then_some(start..end)
        };
        match parsed {
            Ok(IoCmd {
                op: IoOp::Read(rw), ..
            }) => match range(&rw) {
                Some(range) => {
                    let data = IoBuf::from_slice(&self.memory[range]);
                    self.controller
                        .respond_data(command.slot, data, cqe(Status::SUCCESS));
                }
                None => self
                    .controller
                    .respond(command.slot, cqe(Status::LBA_OUT_OF_RANGE)),
            },
            Ok(IoCmd {
                op: IoOp::Write(rw),
                ..
            }) => match range(&rw) {
                Some(range) if range.len() == command.data.len() => {
                    command.data.copy_to(0, &mut self.memory[range]);
                    self.controller.respond(command.slot, cqe(Status::SUCCESS));
                }
                _ => self
                    .controller
                    .respond(command.slot, cqe(Status::LBA_OUT_OF_RANGE)),
            },
            Ok(_) => self.controller.respond(command.slot, cqe(Status::SUCCESS)),
            Err(status) => self.controller.respond(command.slot, cqe(status)),
        }
    }

    /// Submits a write of `data` at block `slba`.
    pub(crate) fn write(&mut self, slba: u64, data: &[u8]) -> u16 {
        let rw = Rw::new(slba, (data.len() / BLOCK) as u32);
        let sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op: IoOp::Write(rw),
        }
        .to_sqe();
        let payload = Payload::ToController(IoBuf::from_slice(data));
        self.host.submit(sqe, payload).expect("there is room")
    }

    /// Submits a read of `blocks` blocks at block `slba`.
    pub(crate) fn read(&mut self, slba: u64, blocks: usize) -> u16 {
        let rw = Rw::new(slba, blocks as u32);
        let sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op: IoOp::Read(rw),
        }
        .to_sqe();
        let payload = Payload::ToHost(IoBuf::alloc(blocks * BLOCK));
        self.host.submit(sqe, payload).expect("there is room")
    }

    /// Submits a flush.
    pub(crate) fn flush(&mut self) -> u16 {
        let sqe = IoCmd {
            nsid: 1,
            fuse: Fuse::Normal,
            op: IoOp::Flush,
        }
        .to_sqe();
        self.host.submit(sqe, Payload::None).expect("there is room")
    }

    /// Runs until `cid` completes and gives its completion.
    pub(crate) fn finish(&mut self, cid: u16) -> Completed {
        self.run();
        let at = self.completed.iter().position(|done| done.cid == cid);
        self.completed
            .swap_remove(at.expect("the command completes"))
    }

    /// Puts bytes onto the stream to the controller, ahead of nothing the host has queued.
    pub(crate) fn inject_to_controller(&mut self, bytes: &[u8]) {
        self.host.transmit(&mut self.to_controller);
        for chunk in bytes.chunks(4096) {
            self.to_controller.push_bytes(chunk);
        }
    }

    /// Changes one byte on its way to the controller, if that many are on their way.
    pub(crate) fn corrupt_to_controller(&mut self, at: usize) {
        self.host.transmit(&mut self.to_controller);
        corrupt(&mut self.to_controller, at);
    }

    /// Changes one byte on its way to the host, if that many are on their way.
    pub(crate) fn corrupt_to_host(&mut self, at: usize) {
        self.controller.transmit(&mut self.to_host);
        corrupt(&mut self.to_host, at);
    }
}

fn corrupt(stream: &mut Gather, at: usize) {
    let mut bytes = stream.to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 0x10;
    }
    stream.advance(bytes.len());
    for chunk in bytes.chunks(4096) {
        stream.push_bytes(chunk);
    }
}

fn piece(cut: Cut, dice: &mut Dice, len: usize) -> usize {
    match cut {
        Cut::Whole => len,
        Cut::Single => 1,
        Cut::Random => match dice.below(4) {
            0 => 1 + dice.below(len.min(8)),
            1 => 1 + dice.below(len.min(128)),
            _ => 1 + dice.below(len),
        },
    }
}
