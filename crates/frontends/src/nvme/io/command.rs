//! How each I/O command begins.

use super::{Command, DATA_MAX, IoQueue, Kind, Pending};
use crate::nvme::queue::Replies;
use blk::{Geometry, Home, Io, IoBuf, Lba, Nanos, Op};
use wire::nvme::cmds::Dsm;
use wire::nvme::{Fuse, IoCmd, IoOp, NSID_ALL, Rw, Status, dsm};

/// What a command needs before it may begin.
enum Begin {
    /// It has begun, or is answered.
    Begun,
    /// It has to wait for the gate, a fence or room.
    Park,
}

impl IoQueue {
    /// Begins a command, answers it at once, or parks it.
    #[inline]
    pub(super) fn start(
        &mut self,
        now: Nanos,
        mut command: Command,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) {
        let parsed = match IoCmd::parse(&command.sqe) {
            Ok(parsed) => parsed,
            Err(status) => return self.refused(&command, status, out),
        };
        if parsed.fuse != Fuse::Normal || self.first.is_some() {
            return self.fused(now, command, &parsed, home, out);
        }
        match self.begin(now, &mut command, &parsed, home, out) {
            Ok(Begin::Begun) => {}
            Ok(Begin::Park) => self.parked.push_back(command),
            Err(status) => self.refuse(&command, status, out),
        }
    }

    #[inline]
    fn begin(
        &mut self,
        now: Nanos,
        command: &mut Command,
        parsed: &IoCmd,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) -> Result<Begin, Status> {
        if parsed.nsid == NSID_ALL || parsed.nsid == 0 {
            return Err(Status::INVALID_NAMESPACE.dnr());
        }
        match parsed.op {
            IoOp::Read(rw) => {
                self.unsent = out.unsent();
                self.read(now, command, parsed.nsid, &rw, Kind::Read, home)
            }
            IoOp::Verify(rw) => self.read(now, command, parsed.nsid, &rw, Kind::Verify, home),
            IoOp::Write(rw) => self.change(now, command, parsed.nsid, &rw, Op::Write, home),
            IoOp::WriteZeroes(rw) => {
                let op = if rw.deallocate {
                    Op::Unmap
                } else {
                    Op::WriteZeroes
                };
                self.change(now, command, parsed.nsid, &rw, op, home)
            }
            IoOp::Compare(rw) => self.compare(now, command, parsed.nsid, &rw, home),
            IoOp::Flush => self.flush(now, command, parsed.nsid, home),
            IoOp::Dsm(dsm) => self.dsm(now, command, parsed.nsid, &dsm, home, out),
            IoOp::ReservationRegister { .. }
            | IoOp::ReservationAcquire { .. }
            | IoOp::ReservationRelease { .. }
            | IoOp::ReservationReport { .. } => {
                self.reservation(command, parsed, out)?;
                Ok(Begin::Begun)
            }
        }
    }

    /// The lane for a command that needs the volume and these rights; `None` if it has to wait.
    #[inline]
    pub(super) fn usable(
        &mut self,
        nsid: u32,
        write: bool,
        home: &mut dyn Home,
    ) -> Result<Option<usize>, Status> {
        let index = self.lane(nsid, home)?;
        let lane = &mut self.lanes[index];
        if let Some(status) = lane.refusal {
            return Err(status);
        }
        let access = lane.access(&self.queue.association);
        if !(if write { access.write } else { access.read }) {
            return Err(Status::RESERVATION_CONFLICT.dnr());
        }
        Ok(if lane.fenced { None } else { Some(index) })
    }

    /// Records a command whose `left` I/Os are about to be submitted; returns their tag.
    #[inline]
    pub(super) fn pend(
        &mut self,
        now: Nanos,
        command: &Command,
        lane: usize,
        kind: Kind,
        op: Op,
        blocks: u64,
    ) -> u64 {
        let open = &self.lanes[lane];
        open.counters.start();
        self.pending.insert(Pending {
            ticket: command.ticket,
            lane,
            kind,
            op,
            started: now,
            bytes: blocks * u64::from(open.geometry.block_bytes),
            left: 1,
            lba: command.sqe.cdw10_11(),
            status: Status::SUCCESS,
            error: None,
        }) as u64
    }

    #[inline]
    fn read(
        &mut self,
        now: Nanos,
        command: &Command,
        nsid: u32,
        rw: &Rw,
        kind: Kind,
        home: &mut dyn Home,
    ) -> Result<Begin, Status> {
        let Some(lane) = self.usable(nsid, false, home)? else {
            return Ok(Begin::Park);
        };
        let bytes = check_range(&self.lanes[lane].geometry, rw)?;
        if kind == Kind::Read && command.room as usize != bytes {
            return Err(Status::SGL_LENGTH_INVALID.dnr());
        }
        if !self.has_room(bytes) {
            let shortest = self.wants_room.map_or(bytes, |other| other.min(bytes));
            self.wants_room = Some(shortest);
            return Ok(Begin::Park);
        }
        self.reading += bytes;
        let tag = self.pend(now, command, lane, kind, Op::Read, u64::from(rw.blocks));
        self.submit(
            now,
            lane,
            Io::new(Op::Read, Lba(rw.slba), rw.blocks, IoBuf::empty(), tag),
        );
        Ok(Begin::Begun)
    }

    #[inline]
    fn change(
        &mut self,
        now: Nanos,
        command: &mut Command,
        nsid: u32,
        rw: &Rw,
        op: Op,
        home: &mut dyn Home,
    ) -> Result<Begin, Status> {
        let Some(lane) = self.usable(nsid, true, home)? else {
            return Ok(Begin::Park);
        };
        let geometry = &self.lanes[lane].geometry;
        if op == Op::Write {
            if rw.dtype != 0 {
                // Directives (streams and the like) are not offered.
                return Err(Status::INVALID_FIELD.dnr());
            }
            let bytes = check_range(geometry, rw)?;
            check_data(command, bytes)?;
        } else {
            check_bounds(geometry, rw.slba, u64::from(rw.blocks))?;
        }
        if !self.enter_gate(lane) {
            return Ok(Begin::Park);
        }
        let tag = self.pend(now, command, lane, Kind::Change, op, u64::from(rw.blocks));
        let buf = std::mem::take(&mut command.data);
        let fua = self.is_durable(rw);
        self.submit(
            now,
            lane,
            Io::new(op, Lba(rw.slba), rw.blocks, buf, tag).with_fua(fua),
        );
        Ok(Begin::Begun)
    }

    /// Whether a write must be on stable media before it completes.
    pub(super) fn is_durable(&self, rw: &Rw) -> bool {
        rw.fua || !self.queue.association.write_cache()
    }

    #[inline]
    fn enter_gate(&mut self, lane: usize) -> bool {
        let open = &mut self.lanes[lane];
        let entered = open.namespace.gate.enter(self.inbox.waker());
        open.writers += u32::from(entered);
        entered
    }

    fn compare(
        &mut self,
        now: Nanos,
        command: &mut Command,
        nsid: u32,
        rw: &Rw,
        home: &mut dyn Home,
    ) -> Result<Begin, Status> {
        let Some(lane) = self.usable(nsid, false, home)? else {
            return Ok(Begin::Park);
        };
        let bytes = check_range(&self.lanes[lane].geometry, rw)?;
        check_data(command, bytes)?;
        let tag = self.pend(
            now,
            command,
            lane,
            Kind::Plain,
            Op::Compare,
            u64::from(rw.blocks),
        );
        let buf = std::mem::take(&mut command.data);
        let io = Io::new(Op::Compare, Lba(rw.slba), rw.blocks, buf, tag);
        self.submit(now, lane, io);
        Ok(Begin::Begun)
    }

    fn flush(
        &mut self,
        now: Nanos,
        command: &Command,
        nsid: u32,
        home: &mut dyn Home,
    ) -> Result<Begin, Status> {
        let Some(lane) = self.usable(nsid, true, home)? else {
            return Ok(Begin::Park);
        };
        let tag = self.pend(now, command, lane, Kind::Plain, Op::Flush, 0);
        self.submit(now, lane, Io::flush(tag));
        Ok(Begin::Begun)
    }

    fn dsm(
        &mut self,
        now: Nanos,
        command: &Command,
        nsid: u32,
        what: &Dsm,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) -> Result<Begin, Status> {
        let Some(lane) = self.usable(nsid, true, home)? else {
            return Ok(Begin::Park);
        };
        let count = usize::from(what.ranges);
        if command.data.len() < count * dsm::DsmRange::SIZE {
            return Err(Status::SGL_LENGTH_INVALID.dnr());
        }
        let bytes = command.data.to_vec();
        let ranges: Vec<(u64, u32)> = dsm::ranges(&bytes, count)
            .map(|range| (range.slba.get(), range.blocks.get()))
            .filter(|(_, blocks)| *blocks > 0)
            .collect();
        let geometry = &self.lanes[lane].geometry;
        for (slba, blocks) in &ranges {
            check_bounds(geometry, *slba, u64::from(*blocks))?;
        }
        if !what.deallocate || ranges.is_empty() {
            // The other attributes are hints, which nothing here uses.
            out.done(command.ticket, Status::SUCCESS, 0);
            return Ok(Begin::Begun);
        }
        if !self.enter_gate(lane) {
            return Ok(Begin::Park);
        }
        let blocks = ranges.iter().map(|(_, blocks)| u64::from(*blocks)).sum();
        let tag = self.pend(now, command, lane, Kind::Change, Op::Unmap, blocks);
        self.pending[tag as usize].left = ranges.len() as u32;
        for (slba, blocks) in ranges {
            self.submit(
                now,
                lane,
                Io::new(Op::Unmap, Lba(slba), blocks, IoBuf::empty(), tag),
            );
        }
        Ok(Begin::Begun)
    }
}

#[inline]
fn check_bounds(geometry: &Geometry, slba: u64, blocks: u64) -> Result<(), Status> {
    let end = slba
        .checked_add(blocks)
        .ok_or(Status::LBA_OUT_OF_RANGE.dnr())?;
    if end > geometry.blocks {
        Err(Status::LBA_OUT_OF_RANGE.dnr())
    } else {
        Ok(())
    }
}

/// Checks a transfer against MDTS and the size of the namespace; returns its bytes.
#[inline]
pub(super) fn check_range(geometry: &Geometry, rw: &Rw) -> Result<usize, Status> {
    let bytes = geometry.transfer_bytes(rw.blocks);
    if bytes > DATA_MAX {
        return Err(Status::INVALID_FIELD.dnr());
    }
    check_bounds(geometry, rw.slba, u64::from(rw.blocks))?;
    Ok(bytes)
}

/// Checks that the host sent what the blocks need.
#[inline]
pub(super) fn check_data(command: &Command, bytes: usize) -> Result<(), Status> {
    if command.data.len() == bytes {
        Ok(())
    } else {
        Err(Status::SGL_LENGTH_INVALID.dnr())
    }
}
