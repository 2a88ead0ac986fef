//! The simulated world: initiator, network, array and users, on one clock.

use super::NQN;
use super::array::{Array, BLOCK, BLOCKS, ConnKey, Lie};
use super::check::History;
use super::dice::Dice;
use crate::nvme::association::{Loss, Names, Times, rank};
use crate::nvme::path::Path;
use crate::nvme::rail::{ConnId, Rail, Report, Ticket, Wish};
use crate::nvme::routes::{Handle, PathId, Policy};
use crate::nvme::session::{self, News};
use crate::nvme::table::Table;
use blk::{Done, Io, IoBuf, Lba, Nanos, Op};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use wire::nvme::Nqn;
use wire::nvme::log::AnaState;
use wire::nvme_tcp::Digests;

/// Paths to the array.
const PATHS: usize = 2;
/// I/O that users have under way at once.
const USERS: usize = 12;
/// I/O of one run.
const IOS: u64 = 300;
/// A run that takes longer hangs.
const LIMIT: Nanos = Nanos::from_secs(4_000);

/// What happens in a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Story {
    /// Nothing beside I/O.
    Calm,
    /// One path goes silent once.
    OneSilence,
    /// The array closes one path once.
    OneReset,
    /// Whatever may.
    Everything,
}

/// What came out of a run.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) reconnects: u64,
    /// Connections that were lost with writes that the array might still execute.
    pub(super) ghosts: u64,
    pub(super) slowest: Nanos,
    pub(super) slowest_read: Nanos,
}

/// Bytes on their way, or the end of them.
enum Parcel {
    Bytes(Vec<u8>),
    End,
}

/// A connection of the network.
struct Wire {
    path: usize,
    owner: Owner,
    to_array: VecDeque<(Nanos, Parcel)>,
    to_host: VecDeque<(Nanos, Parcel)>,
    /// The host has closed its socket: nobody reads any more.
    abandoned: bool,
}

/// Whose socket it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Owner {
    Path(usize),
    Rail(ConnId),
}

/// A user's I/O under way.
struct User {
    op: Op,
    lba: u64,
    blocks: u32,
    stamp: u64,
    began: Nanos,
}

/// See the file's head.
pub(super) struct World {
    seed: u64,
    story: Story,
    dice: Dice,
    now: Nanos,
    times: Times,
    array: Array,
    wires: BTreeMap<ConnKey, Wire>,
    next_wire: ConnKey,
    /// Whether bytes travel, by path.
    up: [bool; PATHS],
    paths: Vec<Path>,
    table: Table,
    rail: Rail,
    routed: Option<Arc<crate::nvme::routes::Routes>>,
    users: BTreeMap<u64, User>,
    histories: Vec<History>,
    next_stamp: u64,
    submitted: u64,
    next_fault: Nanos,
    /// When users begin I/O again.
    next_use: Nanos,
    /// Something has happened already.
    told: bool,
    end: End,
}

impl World {
    pub(super) fn new(seed: u64, story: Story) -> Self {
        let mut dice = Dice::new(seed);
        let times = Times::default();
        let names = Names {
            subnqn: Nqn::parse(NQN).unwrap(),
            hostnqn: Nqn::parse("nqn.2026-01.org.example:host").unwrap(),
            hostid: [3; 16],
        };
        let wish = session::Wish {
            names,
            times,
            digests: Digests {
                header: dice.one_in(2),
                data: dice.one_in(2),
            },
            queues: 1,
            depth: 1 + dice.below(8) as u16,
        };
        let policies = [Policy::Failover, Policy::LeastDepth, Policy::RoundRobin];
        let policy = policies[dice.below(3) as usize];
        let mut table = Table::new(policy, times);
        let mut paths = Vec::new();
        for path in 0..PATHS {
            paths.push(Path::new(wish.clone(), dice.next(), Nanos(0)));
            table.add(PathId(path as u32), Arc::default(), Nanos(0));
        }
        Self {
            seed,
            story,
            now: Nanos(1),
            times,
            array: Array::new(PATHS),
            wires: BTreeMap::new(),
            next_wire: 1,
            up: [true; PATHS],
            paths,
            table,
            rail: Rail::new(1),
            routed: None,
            users: BTreeMap::new(),
            histories: vec![History::new(); BLOCKS as usize],
            next_stamp: 1,
            submitted: 0,
            next_fault: Nanos::from_millis(dice.below(3_000) + 50),
            next_use: Nanos(0),
            told: false,
            end: End::default(),
            dice,
        }
    }

    /// Runs to the end, checking on the way.
    pub(super) fn run(mut self) -> End {
        loop {
            self.turn();
            if self.submitted >= IOS && self.users.is_empty() {
                break;
            }
            assert!(
                self.now < LIMIT,
                "seed {}: hangs with {}",
                self.seed,
                self.users.len()
            );
            self.now = self.next_time();
        }
        self.check_the_end();
        self.end.reconnects = self.paths.iter().map(Path::reconnects).sum();
        self.end
    }

    /// Everything that is due now.
    fn turn(&mut self) {
        self.faults();
        self.array.expire(self.now);
        self.deliver();
        for path in 0..PATHS {
            self.work_path(path);
        }
        self.rail.expire(self.now);
        self.route();
        self.use_it();
        self.rail.dispatch(self.now);
        self.rail_wishes();
        self.collect();
        self.ship();
    }

    fn next_time(&self) -> Nanos {
        let wires = self
            .wires
            .values()
            .filter(|wire| self.up[wire.path])
            .flat_map(|wire| {
                let front = |queue: &VecDeque<(Nanos, Parcel)>| queue.front().map(|(at, _)| *at);
                [front(&wire.to_array), front(&wire.to_host)]
            });
        let paths = self.paths.iter().map(Path::deadline);
        let others = [
            self.array.deadline(),
            self.rail.deadline(),
            self.table.deadline(),
            Some(self.next_fault),
            (self.submitted < IOS).then_some(self.next_use),
        ];
        let all = wires.chain(paths).chain(others).flatten().min();
        // Something may have become due a moment ago.
        all.unwrap_or(LIMIT).max(self.now + Nanos(1_000))
    }

    fn faults(&mut self) {
        if self.now < self.next_fault {
            return;
        }
        let path = self.dice.below(PATHS as u64) as usize;
        self.next_fault = self.now + Nanos::from_millis(self.dice.below(6_000) + 1);
        match self.story {
            Story::Calm => {}
            Story::OneSilence if !self.told => self.up[path] = false,
            Story::OneReset if !self.told => self.array.drop_path(path),
            Story::OneSilence | Story::OneReset => {}
            Story::Everything => self.fault(path),
        }
        self.told = true;
    }

    fn fault(&mut self, path: usize) {
        let calm = self.submitted >= IOS;
        match self.dice.below(10) {
            // A path goes silent, for a moment or for long; never all for ever.
            0 | 1 if !calm => self.up[path] = false,
            2..=4 => self.up[path] = true,
            5 => self.array.drop_path(path),
            6 => {
                let states = [
                    AnaState::Optimized,
                    AnaState::NonOptimized,
                    AnaState::Inaccessible,
                    AnaState::Change,
                ];
                // All paths out of reach for longer than I/O waits would rightly fail it.
                let serves = |state: &AnaState| rank(*state).is_some();
                let spared = self.array.ana.iter().any(serves);
                let drawn = self.dice.below(4) as usize;
                let state = if calm || !spared { 0 } else { drawn };
                self.array.set_ana(path, states[state]);
            }
            7 => {
                // Slower than any time-out, now and then.
                let slow = [2, 300, 5_000, 40_000][self.dice.below(4) as usize];
                self.array.slow = Nanos::from_millis(if calm { 2 } else { slow });
            }
            8 => self.paths[path].reset(self.now),
            _ => {
                let lie = self.dice.below(Lie::ALL.len() as u64) as usize;
                self.array.lie = (!calm).then(|| Lie::ALL[lie]);
            }
        }
        if calm {
            self.up = [true; PATHS];
        }
    }

    fn open(&mut self, path: usize, owner: Owner) -> ConnKey {
        let key = self.next_wire;
        self.next_wire += 1;
        let wire = Wire {
            path,
            owner,
            to_array: VecDeque::new(),
            to_host: VecDeque::new(),
            abandoned: false,
        };
        self.wires.insert(key, wire);
        self.array.accept(key, path, self.now);
        key
    }

    fn key_of(&self, owner: Owner) -> Option<ConnKey> {
        let found = self
            .wires
            .iter()
            .find(|(_, w)| w.owner == owner && !w.abandoned);
        found.map(|(key, _)| *key)
    }

    fn work_path(&mut self, path: usize) {
        let news = self.paths[path].work(self.now);
        let id = PathId(path as u32);
        for one in news {
            match one {
                News::Ready(made) => {
                    let epoch = self.paths[path].epoch();
                    self.table.ready(id, epoch, made, self.now);
                }
                News::Namespaces(found) => self.table.found(id, found, self.now),
                News::Ana(groups) => self.table.ana(id, groups, self.now),
                News::Lost(loss) => {
                    self.table.lost(id, loss.why, self.now);
                    if let Some(key) = self.key_of(Owner::Path(path)) {
                        self.abandon(key);
                    }
                }
            }
        }
        // On a silent path nothing answers, until the time for it is over.
        if self.paths[path].wants_open() && self.up[path] {
            self.open(path, Owner::Path(path));
            self.paths[path].opened(self.now);
        }
    }

    /// The host closes its socket: what it sent may still arrive, and then its end.
    fn abandon(&mut self, key: ConnKey) {
        let at = self.arrival();
        if let Some(wire) = self.wires.get_mut(&key) {
            wire.abandoned = true;
            wire.to_array.push_back((at, Parcel::End));
        }
    }

    fn arrival(&mut self) -> Nanos {
        self.now + Nanos(10_000 + self.dice.below(300_000))
    }

    fn route(&mut self) {
        self.table.expire(self.now);
        let routes = self.table.routes();
        if self
            .routed
            .as_ref()
            .is_none_or(|old| !Arc::ptr_eq(old, routes))
        {
            self.routed = Some(routes.clone());
            self.rail.set_routes(routes.clone(), self.now);
        }
    }

    fn rail_wishes(&mut self) {
        let wishes: Vec<Wish> = self.rail.wishes().collect();
        for wish in wishes {
            match wish {
                Wish::Open(id) => {
                    let path = id.path.0 as usize;
                    if self.up[path] {
                        self.open(path, Owner::Rail(id));
                        self.rail.opened(id, self.now);
                    }
                }
                Wish::HalfClose(id) => {
                    self.end.ghosts += 1;
                    if let Some(key) = self.key_of(Owner::Rail(id)) {
                        let at = self.arrival();
                        let wire = self.wires.get_mut(&key).unwrap();
                        wire.to_array.push_back((at, Parcel::End));
                    }
                }
                Wish::Close(id) => {
                    if let Some(key) = self.key_of(Owner::Rail(id)) {
                        self.abandon(key);
                    }
                }
            }
        }
    }

    /// Brings what has arrived.
    fn deliver(&mut self) {
        let keys: Vec<ConnKey> = self.wires.keys().copied().collect();
        for key in keys {
            while let Some(parcel) = self.take(key, |wire| &mut wire.to_array) {
                match parcel {
                    Parcel::Bytes(bytes) => {
                        self.array.receive(key, &bytes, self.now, &mut self.dice);
                    }
                    Parcel::End => self.array.host_closed(key, self.now),
                }
            }
            while let Some(parcel) = self.take(key, |wire| &mut wire.to_host) {
                let wire = &self.wires[&key];
                if !wire.abandoned {
                    let owner = wire.owner;
                    self.hand_to(key, owner, parcel);
                }
            }
        }
    }

    fn take(
        &mut self,
        key: ConnKey,
        queue: impl FnOnce(&mut Wire) -> &mut VecDeque<(Nanos, Parcel)>,
    ) -> Option<Parcel> {
        let wire = self.wires.get_mut(&key)?;
        if !self.up[wire.path] {
            return None;
        }
        let now = self.now;
        queue(wire)
            .pop_front_if(|(at, _)| *at <= now)
            .map(|(_, parcel)| parcel)
    }

    fn hand_to(&mut self, key: ConnKey, owner: Owner, parcel: Parcel) {
        let now = self.now;
        match (owner, parcel) {
            (Owner::Path(path), Parcel::Bytes(bytes)) => {
                let link = self.paths[path].link();
                if let Some(Err(fatal)) = link.map(|link| link.receive(&bytes, now)) {
                    self.paths[path].closed(Loss::new(fatal.to_string()));
                }
                self.work_path(path);
            }
            (Owner::Path(path), Parcel::End) => {
                self.wires.get_mut(&key).unwrap().abandoned = true;
                self.paths[path].closed(Loss::closed());
                self.work_path(path);
            }
            (Owner::Rail(id), Parcel::Bytes(bytes)) => {
                let received = self.rail.link(id).map(|link| link.receive(&bytes, now));
                self.rail.work(id, now);
                if let Some(Err(fatal)) = received {
                    self.rail.closed(id, &Loss::new(fatal.to_string()), now);
                }
            }
            (Owner::Rail(id), Parcel::End) => {
                self.rail.closed(id, &Loss::closed(), now);
                self.wires.get_mut(&key).unwrap().abandoned = true;
            }
        }
    }

    /// Sends what both sides have to send.
    fn ship(&mut self) {
        let keys: Vec<ConnKey> = self.wires.keys().copied().collect();
        for key in keys {
            let (at, wire) = (self.arrival(), &self.wires[&key]);
            if wire.abandoned {
                continue;
            }
            let link = match wire.owner {
                Owner::Path(path) => self.paths[path].link(),
                Owner::Rail(id) => self.rail.link(id),
            };
            let Some(link) = link else {
                continue;
            };
            let out = link.outgoing();
            let bytes = out.to_vec();
            out.advance(bytes.len());
            if !bytes.is_empty() {
                let wire = self.wires.get_mut(&key).unwrap();
                let at = wire.to_array.back().map_or(at, |(last, _)| at.max(*last));
                wire.to_array.push_back((at, Parcel::Bytes(bytes)));
            }
        }
        for key in self.array.connections() {
            let bytes = self.array.send(key);
            if !bytes.is_empty() {
                self.back(key, Parcel::Bytes(bytes));
            }
        }
        for key in self.array.take_closed() {
            self.back(key, Parcel::End);
        }
        self.wires.retain(|_, wire| {
            !(wire.abandoned && wire.to_array.is_empty() && wire.to_host.is_empty())
        });
    }

    fn back(&mut self, key: ConnKey, parcel: Parcel) {
        let at = self.arrival();
        if let Some(wire) = self.wires.get_mut(&key) {
            let at = wire.to_host.back().map_or(at, |(last, _)| at.max(*last));
            wire.to_host.push_back((at, parcel));
        }
    }

    /// Users begin I/O.
    fn use_it(&mut self) {
        // A namespace is known once a path has shown it.
        if self.table.namespaces().next().is_none() || self.now < self.next_use {
            return;
        }
        self.next_use = self.now + Nanos::from_millis(self.dice.below(400));
        while self.users.len() < USERS && self.submitted < IOS && !self.dice.one_in(3) {
            let lba = self.dice.below(BLOCKS);
            let blocks = 1 + self.dice.below(12.min(BLOCKS - lba)) as u32;
            let stamp = self.next_stamp;
            let ops = [
                Op::Read,
                Op::Read,
                Op::Write,
                Op::Write,
                Op::Flush,
                Op::Compare,
            ];
            let op = ops[self.dice.below(6) as usize];
            let io = match op {
                Op::Flush => Io::flush(stamp),
                Op::Read => Io::new(op, Lba(lba), blocks, IoBuf::empty(), stamp),
                _ => {
                    let data = stamp.to_le_bytes().repeat(BLOCK / 8 * blocks as usize);
                    Io::new(op, Lba(lba), blocks, IoBuf::from_slice(&data), stamp)
                }
            };
            self.next_stamp += 1;
            self.submitted += 1;
            let blocks = if op == Op::Flush { 0 } else { blocks };
            if op == Op::Write {
                for block in lba..lba + u64::from(blocks) {
                    self.histories[block as usize].begin(stamp, self.now);
                }
            }
            let began = self.now;
            let user = User {
                op,
                lba,
                blocks,
                stamp,
                began,
            };
            self.users.insert(stamp, user);
            let ticket = Ticket {
                lane: 0,
                handle: Handle(0),
                stride: BLOCK as u32,
            };
            self.rail.submit(ticket, io, self.now);
        }
    }

    fn collect(&mut self) {
        let reports: Vec<Report> = self.rail.reports().collect();
        for report in reports {
            match report {
                Report::Done(_, done) => self.done(&done),
                Report::Lost(id, loss) => {
                    self.paths[id.path.0 as usize].lost(id.epoch, loss);
                    self.work_path(id.path.0 as usize);
                }
                Report::AnaChanged(path) => self.paths[path.0 as usize].check_ana(),
            }
        }
    }

    fn done(&mut self, done: &Done) {
        let user = self.users.remove(&done.tag).expect("an I/O ends once");
        let seed = self.seed;
        let took = self.now.since(user.began);
        self.end.slowest = self.end.slowest.max(took);
        if user.op == Op::Read {
            self.end.slowest_read = self.end.slowest_read.max(took);
        }
        let blocks = user.lba..user.lba + u64::from(user.blocks);
        match user.op {
            Op::Compare => return,
            _ => assert_eq!(done.result, Ok(()), "seed {seed}: {:?} failed", user.op),
        }
        for (at, block) in blocks.enumerate() {
            let history = &mut self.histories[block as usize];
            if user.op == Op::Write {
                history.end(user.stamp, self.now);
                continue;
            }
            let mut bytes = [0; BLOCK];
            done.buf.copy_to(at * BLOCK, &mut bytes);
            let stamp = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            let whole = bytes.chunks_exact(8).all(|eight| eight == &bytes[..8]);
            assert!(whole, "seed {seed}: block {block} is torn");
            assert!(
                history.allows(stamp, user.began, self.now),
                "seed {seed}: block {block} holds {stamp} at {:?}",
                self.now
            );
        }
    }

    /// What the array holds in the end must be what was written last, and stay so.
    fn check_the_end(&mut self) {
        let last = self.now;
        for _ in 0..2_000 {
            self.now = self.now + self.times.keep_alive;
            self.up = [true; PATHS];
            self.array.expire(self.now);
            self.deliver();
            if self.array.deadline().is_none() {
                break;
            }
        }
        for block in 0..BLOCKS {
            let stamp = self.array.stamp(block);
            let history = &self.histories[block as usize];
            assert!(
                history.allows(stamp, last, self.now),
                "seed {}: block {block} ends with {stamp}",
                self.seed
            );
        }
    }
}
