//! Fused compare-and-write: two commands that are one (NVMe Base 2.1, 3.4.2; NVM Command Set 1.1,
//! 3.1.2.1). The gate of the volume keeps all other writes away between compare and write.

use super::command::{check_data, check_range};
use super::{Command, IoQueue, Kind};
use crate::nvme::fused::Raised;
use crate::nvme::queue::Replies;
use blk::{Home, Io, Lba, Nanos, Op};
use std::task::Waker;
use wire::nvme::{Fuse, IoCmd, IoOp, Rw, Status};

/// How far a pair is.
enum Step {
    /// Somebody else's pair is at work.
    WantsGate,
    /// Waits for the writes that began before it.
    WantsQuiet(Raised),
    /// The compare, or after it the write, is under way.
    Working(Raised),
}

/// A pair under way.
pub(super) struct Pair {
    pub(super) lane: usize,
    compare: Command,
    write: Command,
    range: Rw,
    fua: bool,
    step: Step,
}

impl Pair {
    /// Whether an I/O of it is in a lane.
    pub(super) fn has_begun(&self) -> bool {
        matches!(self.step, Step::Working(_))
    }
}

impl IoQueue {
    /// A command with a fuse, or one that follows a first half.
    pub(super) fn fused(
        &mut self,
        now: Nanos,
        command: Command,
        parsed: &IoCmd,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) {
        match (parsed.fuse, parsed.op) {
            (Fuse::First, IoOp::Compare(_)) => {
                self.give_up_first(out);
                self.first = Some(command);
            }
            (Fuse::Second, IoOp::Write(rw)) => match self.first.take() {
                Some(first) => self.begin_pair(first, command, rw, parsed.nsid, home, out),
                None => self.refuse(&command, Status::ABORTED_MISSING_FUSED.dnr(), out),
            },
            (Fuse::Normal, _) => {
                self.give_up_first(out);
                self.start(now, command, home, out);
            }
            (Fuse::First | Fuse::Second, _) => {
                self.give_up_first(out);
                self.refuse(&command, Status::INVALID_FIELD.dnr(), out);
            }
        }
    }

    /// A first half without its second.
    pub(super) fn give_up_first(&mut self, out: &mut impl Replies) {
        if let Some(first) = self.first.take() {
            self.refuse(&first, Status::ABORTED_MISSING_FUSED.dnr(), out);
        }
    }

    fn begin_pair(
        &mut self,
        compare: Command,
        write: Command,
        rw: Rw,
        nsid: u32,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) {
        let checked = self.check_pair(&compare, &write, &rw, nsid, home);
        match checked {
            Ok(lane) => {
                let fua = self.is_durable(&rw);
                let step = Step::WantsGate;
                self.pairs.insert(Pair {
                    lane,
                    compare,
                    write,
                    range: rw,
                    fua,
                    step,
                });
            }
            Err(status) => {
                self.refuse(&compare, status, out);
                self.refuse(&write, Status::ABORTED_FAILED_FUSED.dnr(), out);
            }
        }
    }

    fn check_pair(
        &mut self,
        compare: &Command,
        write: &Command,
        rw: &Rw,
        nsid: u32,
        home: &mut dyn Home,
    ) -> Result<usize, Status> {
        let (first, second) = (&compare.sqe, &write.sqe);
        let blocks = |cdw12: u32| cdw12 & 0xffff;
        let same = first.nsid == second.nsid
            && first.cdw10_11() == second.cdw10_11()
            && blocks(first.cdw12.get()) == blocks(second.cdw12.get());
        if !same {
            return Err(Status::INVALID_FIELD.dnr());
        }
        // A pair writes, so it needs the right to; with it comes the right to read.
        self.usable(nsid, true, home)?;
        let lane = self.lane(nsid, home)?;
        let geometry = &self.lanes[lane].geometry;
        if geometry.shared {
            // Others write past our gate: nothing would keep them out between the two halves.
            return Err(Status::INVALID_FIELD.dnr());
        }
        if rw.blocks > geometry.atomic_blocks {
            return Err(Status::ATOMIC_WRITE_UNIT_EXCEEDED.dnr());
        }
        let bytes = check_range(geometry, rw)?;
        check_data(compare, bytes)?;
        check_data(write, bytes)?;
        Ok(lane)
    }

    /// Brings pairs on that wait for the gate or for quiet. True if one moved.
    pub(super) fn advance_pairs(
        &mut self,
        now: Nanos,
        waker: &Waker,
        out: &mut impl Replies,
    ) -> bool {
        if self.pairs.is_empty() {
            return false;
        }
        let mut moved = false;
        let waiting = self.pairs.iter().filter(|(_, pair)| !pair.has_begun());
        let waiting: Vec<usize> = waiting.map(|(index, _)| index).collect();
        for index in waiting {
            let lane = self.pairs[index].lane;
            if self.lanes[lane].fenced {
                continue;
            }
            // While it waited the ANA state may have changed, or another host taken a reservation.
            let access = self.lanes[lane].access(&self.queue.association);
            let conflict = (!access.write).then_some(Status::RESERVATION_CONFLICT.dnr());
            if let Some(status) = self.lanes[lane].refusal.or(conflict) {
                self.fail_pair(index, status, out);
                moved = true;
                continue;
            }
            let step = std::mem::replace(&mut self.pairs[index].step, Step::WantsGate);
            let raised = match step {
                Step::WantsGate => self.lanes[lane].namespace.gate.raise(waker),
                Step::WantsQuiet(raised) | Step::Working(raised) => Some(raised),
            };
            let Some(raised) = raised else { continue };
            if !raised.is_clear(waker) {
                self.pairs[index].step = Step::WantsQuiet(raised);
                continue;
            }
            self.pairs[index].step = Step::Working(raised);
            self.submit_half(now, index, Op::Compare);
            moved = true;
        }
        moved
    }

    fn submit_half(&mut self, now: Nanos, index: usize, op: Op) {
        let pair = &mut self.pairs[index];
        let (half, kind) = match op {
            Op::Compare => (&mut pair.compare, Kind::Compare(index)),
            _ => (&mut pair.write, Kind::Write(index)),
        };
        let buf = std::mem::take(&mut half.data);
        let (lane, rw, fua) = (pair.lane, pair.range, pair.fua && op == Op::Write);
        let named = Command {
            ticket: half.ticket,
            sqe: half.sqe,
            data: buf,
            room: 0,
        };
        let tag = self.pend(now, &named, lane, kind, op, u64::from(rw.blocks));
        let io = Io::new(op, Lba(rw.slba), rw.blocks, named.data, tag).with_fua(fua);
        self.submit(now, lane, io);
    }

    /// The compare of a pair has ended.
    pub(super) fn compared(
        &mut self,
        now: Nanos,
        index: usize,
        status: Status,
        out: &mut impl Replies,
    ) {
        if status.is_success() {
            return self.submit_half(now, index, Op::Write);
        }
        self.fail_pair(index, status, out);
    }

    /// Ends a pair that has not written.
    fn fail_pair(&mut self, index: usize, status: Status, out: &mut impl Replies) {
        let pair = self.pairs.remove(index);
        self.refuse(&pair.compare, status, out);
        let other = Status::ABORTED_FAILED_FUSED;
        let other = if status.is_dnr() { other.dnr() } else { other };
        self.refuse(&pair.write, other, out);
    }

    /// The write of a pair has ended, and with it the pair.
    pub(super) fn written(&mut self, index: usize, status: Status, out: &mut impl Replies) {
        let pair = self.pairs.remove(index);
        out.done(pair.compare.ticket, Status::SUCCESS, 0);
        if status.is_success() {
            out.done(pair.write.ticket, status, 0);
        } else {
            self.refuse(&pair.write, status, out);
        }
    }

    /// Pairs that have not begun on namespaces that are going.
    pub(super) fn fail_pairs_of_closing_lanes(&mut self, out: &mut impl Replies) {
        let lanes = &self.lanes;
        let closing = self
            .pairs
            .iter()
            .filter(|(_, pair)| !pair.has_begun() && lanes[pair.lane].namespace.is_closing());
        let closing: Vec<usize> = closing.map(|(index, _)| index).collect();
        for index in closing {
            // As for a command that comes now.
            self.fail_pair(index, Status::NAMESPACE_NOT_READY, out);
        }
    }
}
