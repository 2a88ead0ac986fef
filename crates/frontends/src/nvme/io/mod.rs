//! An I/O queue: commands become I/Os on lanes, and what comes back is answered.

mod command;
mod flush;
mod lane;
mod pair;
mod reserve;
mod status;

use super::DATA_MAX;
use super::queue::{Inbox, Replies, Ticket};
use super::target::QueueTicket;
use blk::{Done, Home, Io, IoBuf, IoError, Nanos, Op};
pub(crate) use flush::Flushes;
use lane::OpenLane;
use pair::Pair;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use wire::nvme::{FabricsCmd, Sqe, Status};

/// Data of reads on one connection, in bytes, from the beginning of the read until the host has
/// taken them: enough to keep a fast disk and a fast network busy; further reads wait, so that
/// neither deep queues of large reads nor hosts that do not read their socket fill the memory.
const READ_BYTES_MAX: usize = 16 << 20;

/// A command as the transport hands it out.
pub(crate) struct Command {
    pub(crate) ticket: Ticket,
    pub(crate) sqe: Sqe,
    /// Data from the host.
    pub(crate) data: IoBuf,
    /// Room for data to the host, in bytes.
    pub(crate) room: u32,
}

/// What a command under way does when its I/Os come back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Its data go to the host.
    Read,
    /// Its data are dropped: Verify.
    Verify,
    /// It passed the gate: Write, Write Zeroes, Dataset Management.
    Change,
    /// Flush, Compare.
    Plain,
    /// First half of a fused pair, by index.
    Compare(usize),
    /// Second half.
    Write(usize),
}

/// A command whose I/Os are in a lane.
struct Pending {
    ticket: Ticket,
    lane: usize,
    kind: Kind,
    op: Op,
    started: Nanos,
    /// What counts for the statistics.
    bytes: u64,

    /// I/Os still to come back.
    left: u32,
    lba: u64,
    /// The first failure.
    status: Status,
    /// The same as the volume told it, for the statistics.
    error: Option<IoError>,
}

/// See the file's head.
pub(crate) struct IoQueue {
    queue: QueueTicket,
    inbox: Arc<Inbox>,
    lanes: Slab<OpenLane>,
    by_nsid: HashMap<u32, usize>,
    /// The lane used last: most hosts use one.
    latest: Option<(u32, usize)>,
    pending: Slab<Pending>,
    /// Commands that wait for a gate, for a fence or for room.
    parked: VecDeque<Command>,
    /// The first half of a fused pair, until the second comes, which is at once.
    first: Option<Command>,
    pairs: Slab<Pair>,
    done: Vec<Done>,
    /// Lanes with I/O in flight.
    active: Vec<usize>,
    /// Bytes of reads in lanes.
    reading: usize,
    /// Bytes that waited for the host when last looked at.
    unsent: usize,
    /// The shortest read, in bytes, that waits for room.
    wants_room: Option<usize>,
    generation: u64,
    fences: u64,
}

impl IoQueue {
    pub(crate) fn new(queue: QueueTicket, inbox: Arc<Inbox>) -> Self {
        Self {
            queue,
            inbox,
            lanes: Slab::new(),
            by_nsid: HashMap::new(),
            latest: None,
            pending: Slab::new(),
            parked: VecDeque::new(),
            first: None,
            pairs: Slab::new(),
            done: Vec::new(),
            active: Vec::new(),
            reading: 0,
            unsent: 0,
            wants_room: None,
            generation: 0,
            fences: 0,
        }
    }

    /// False once the queue has to go: its controller was reset or is closing.
    pub(crate) fn is_valid(&self) -> bool {
        self.queue.is_valid()
    }

    /// True if nothing is in flight: the queue can be dropped.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Executes a command.
    #[inline]
    pub(crate) fn command(
        &mut self,
        now: Nanos,
        command: Command,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) {
        if FabricsCmd::is(&command.sqe) {
            let status = match FabricsCmd::parse(&command.sqe) {
                Err(status) => status,
                Ok(FabricsCmd::Connect(_)) => Status::COMMAND_SEQUENCE.dnr(),
                Ok(_) => Status::INVALID_OPCODE.dnr(),
            };
            return self.refuse(&command, status, out);
        }
        self.start(now, command, home, out);
    }

    /// Answers a command that the transport refused. It keeps its place in a fused pair.
    pub(crate) fn refused(&mut self, command: &Command, status: Status, out: &mut impl Replies) {
        match command.sqe.fuse() {
            Ok(wire::nvme::Fuse::Second) => {
                if let Some(first) = self.first.take() {
                    self.refuse(&first, Status::ABORTED_FAILED_FUSED, out);
                }
            }
            // Its other half finds no first and is refused for that.
            _ => self.give_up_first(out),
        }
        self.refuse(command, status, out);
    }

    fn refuse(&self, command: &Command, status: Status, out: &mut impl Replies) {
        let (nsid, lba) = (command.sqe.nsid.get(), command.sqe.cdw10_11());
        self.note(command.ticket, nsid, lba, status);
        out.done(command.ticket, status, 0);
    }

    #[cold]
    fn note(&self, ticket: Ticket, nsid: u32, lba: u64, status: Status) {
        let errors = &self.queue.association.errors;
        let mut errors = errors.lock().expect("no holder of the log panics");
        errors.note(self.queue.qid, ticket, nsid, lba, status);
    }

    /// The lane of a namespace, opened if need be.
    #[inline]
    fn lane(&mut self, nsid: u32, home: &mut dyn Home) -> Result<usize, Status> {
        if let Some((latest, index)) = self.latest
            && latest == nsid
        {
            return Ok(index);
        }
        let index = match self.by_nsid.get(&nsid) {
            Some(index) => *index,
            None => {
                let lane = OpenLane::open(&self.queue.association, nsid, home)?;
                let index = self.lanes.insert(lane);
                self.by_nsid.insert(nsid, index);
                index
            }
        };
        self.latest = Some((nsid, index));
        Ok(index)
    }

    /// Hands an I/O to a lane.
    #[inline]
    fn submit(&mut self, now: Nanos, lane: usize, io: Io) {
        let open = &mut self.lanes[lane];
        if open.in_flight == 0 {
            self.active.push(lane);
        }
        open.in_flight += 1;
        open.lane.submit(now, io);
    }

    /// Collects what the lanes have finished, and goes on with what waited.
    pub(crate) fn poll(&mut self, now: Nanos, home: &mut dyn Home, out: &mut impl Replies) {
        for (ticket, status) in self.inbox.take() {
            out.done(ticket, status, 0);
        }
        self.look(out);
        if !self.is_valid() {
            // What has not begun never will: the host takes the queue for gone.
            self.abandon();
        }
        loop {
            let progress = self.collect(now, out);
            let inbox = self.inbox.clone();
            let moved = self.advance_pairs(now, inbox.waker(), out);
            let unparked = self.unpark(now, home, out);
            if !(progress || moved || unparked) {
                return;
            }
            if self.active.is_empty() && self.parked.is_empty() && self.pairs.is_empty() {
                return;
            }
        }
    }

    /// Takes over changes of namespaces and fences; to be called before commands are.
    pub(crate) fn look(&mut self, out: &mut impl Replies) {
        let association = &self.queue.association;
        let Some(subsystem) = association.subsystem() else {
            return;
        };
        let (generation, fences) = (subsystem.generation(), subsystem.fences());
        if generation != self.generation {
            self.generation = generation;
            self.latest = None;
            for (index, lane) in &mut self.lanes {
                if !lane.refresh(association) {
                    let nsid = lane.namespace.nsid;
                    if self.by_nsid.get(&nsid) == Some(&index) {
                        self.by_nsid.remove(&nsid);
                    }
                }
            }
            self.fail_pairs_of_closing_lanes(out);
            self.let_go();
        }
        if fences != self.fences {
            self.fences = fences;
            for (_, lane) in &mut self.lanes {
                lane.look_for_fence();
            }
        }
    }

    /// Drops lanes of namespaces that are going, once nothing is in flight on them.
    fn let_go(&mut self) {
        let pairs = &self.pairs;
        self.lanes.retain(|index, lane| {
            let used = lane.in_flight > 0 || pairs.iter().any(|(_, pair)| pair.lane == index);
            used || !lane.namespace.is_closing()
        });
        let lanes = &self.lanes;
        self.by_nsid.retain(|_, index| lanes.contains(*index));
        self.latest = None;
    }

    /// True if anything came back.
    fn collect(&mut self, now: Nanos, out: &mut impl Replies) -> bool {
        let mut done = std::mem::take(&mut self.done);
        let mut at = 0;
        while at < self.active.len() {
            let index = self.active[at];
            let lane = &mut self.lanes[index];
            let first = done.len();
            lane.lane.poll(now, &mut done);
            lane.in_flight -= (done.len() - first) as u32;
            if lane.in_flight == 0 {
                self.active.swap_remove(at);
            } else {
                at += 1;
            }
        }
        let any = !done.is_empty();
        if any {
            // The clock is read once for a batch; what came back took until now.
            let ended = engine::now();
            for one in done.drain(..) {
                self.ended(ended, one, out);
            }
            // Only now: the compare of a fused pair that came back has let its write begin, and a
            // fence must wait for that too.
            for (_, lane) in &mut self.lanes {
                lane.pass_fence();
            }
            if self
                .lanes
                .iter()
                .any(|(_, l)| l.in_flight == 0 && l.namespace.is_closing())
            {
                self.let_go();
            }
        }
        self.done = done;
        any
    }

    /// One I/O came back.
    #[inline]
    fn ended(&mut self, now: Nanos, done: Done, out: &mut impl Replies) {
        let tag = done.tag as usize;
        let pending = &mut self.pending[tag];
        if let Err(error) = done.result
            && pending.status.is_success()
        {
            pending.status = status::of(done.op, error);
            pending.error = Some(error);
        }
        pending.left -= 1;
        if pending.left > 0 {
            return;
        }
        if done.op.changes() && !done.fua && pending.status.is_success() {
            let lane = pending.lane;
            if self.lanes[lane].geometry.write_cache && !self.queue.association.write_cache() {
                // The host does without the cache, perhaps since this began: what was flushed when
                // it was switched off need not have held this.
                pending.left = 1;
                return self.submit(now, lane, Io::flush(done.tag));
            }
        }
        let pending = self.pending.remove(tag);
        let lane = &mut self.lanes[pending.lane];
        let ok = pending.status.is_success();
        let result = pending.error.map_or(Ok(()), Err);
        lane.counters.end(
            pending.op,
            pending.bytes,
            result,
            now.since(pending.started),
        );
        let nsid = lane.namespace.nsid;
        match pending.kind {
            Kind::Read | Kind::Verify => {
                let stride = lane.geometry.stride() as usize;
                self.reading = self.reading.saturating_sub(done.blocks as usize * stride);
            }
            Kind::Change => lane.leave_gate(),
            Kind::Plain => {}
            Kind::Compare(pair) => return self.compared(now, pair, pending.status, out),
            Kind::Write(pair) => return self.written(pair, pending.status, out),
        }
        if !ok {
            self.note(pending.ticket, nsid, pending.lba, pending.status);
            out.done(pending.ticket, pending.status, 0);
        } else if pending.kind == Kind::Read {
            out.data(pending.ticket, done.buf);
        } else {
            out.done(pending.ticket, Status::SUCCESS, 0);
        }
    }

    /// Tries the commands again that had to wait. True if one could begin.
    fn unpark(&mut self, now: Nanos, home: &mut dyn Home, out: &mut impl Replies) -> bool {
        let waiting = self.parked.len();
        self.wants_room = None;
        for _ in 0..waiting {
            if let Some(command) = self.parked.pop_front() {
                self.start(now, command, home, out);
            }
        }
        self.parked.len() < waiting
    }

    /// Whether a read of so many bytes may begin. One alone always may.
    #[inline]
    fn has_room(&self, bytes: usize) -> bool {
        let taken = self.reading + self.unsent;
        taken == 0 || taken + bytes <= READ_BYTES_MAX
    }

    /// Whether a read that waited for room can begin now that `unsent` bytes wait for the host.
    pub(crate) fn can_resume(&mut self, unsent: usize) -> bool {
        self.unsent = unsent;
        self.wants_room.is_some_and(|bytes| self.has_room(bytes))
    }

    /// The connection is over: what has not begun is dropped, what has is waited for.
    pub(crate) fn abandon(&mut self) {
        self.parked.clear();
        self.wants_room = None;
        self.first = None;
        self.pairs.retain(|_, pair| pair.has_begun());
    }

    /// When to poll although nothing happened.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        self.active
            .iter()
            .filter_map(|&index| self.lanes[index].lane.deadline())
            .min()
    }
}
