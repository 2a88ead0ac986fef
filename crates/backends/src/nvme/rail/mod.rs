//! [`Rail`]: all I/O of one remote controller on one reactor: a queue on every path, the choice
//! between them, and what becomes of commands whose path is lost.
//!
//! The rule that no stale write lands after a later one was acknowledged: a command that changes
//! something and was sent on a connection that is lost is not sent again before the array has
//! closed that connection or has had its time to quiesce (NVMe Base 2.1, 9.6).

mod choice;
mod conn;
mod piece;
#[cfg(test)]
mod tests;

use super::association::{Loss, Shape, Times};
use super::link::Link;
use super::routes::{Handle, PathId, Routes};
use super::session;
use blk::{Done, Io, IoError, Nanos, Op};
use choice::Refused;
use conn::{Conn, Sent, State};
use piece::{Means, Parent, Piece, is_harmless};
use slab::Slab;
use std::collections::VecDeque;
use std::sync::Arc;
use wire::nvme::Status;
use wire::nvme_tcp::{Completed, HostEvent};

pub(super) use conn::ConnId;
pub(super) use piece::{Verdict, verdict};

/// Times a command is sent, at most, however often its path is lost.
const TRIES_MAX: u8 = 16;
/// The pause before a command is sent again that the array could not do yet.
const RETRY_PAUSE: Nanos = Nanos::from_millis(100);

/// Whom an I/O belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ticket {
    /// The lane it came from.
    pub(super) lane: u64,
    /// The namespace it is for.
    pub(super) handle: Handle,
    /// Bytes of a block with its metadata, as whoever submitted it knows them.
    pub(super) stride: u32,
}

/// What the owner of the rail is told.
#[derive(Debug)]
pub(super) enum Report {
    /// An I/O has ended.
    Done(u64, Done),
    /// An association is lost.
    Lost(ConnId, Loss),
    /// ANA states of a path have changed.
    AnaChanged(PathId),
}

/// What the owner is to do with sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Wish {
    /// Open one.
    Open(ConnId),
    /// Send nothing more, and tell when the array has closed it too.
    HalfClose(ConnId),
    /// Close it; nothing more is wanted from it.
    Close(ConnId),
}

/// See the file's head.
pub(super) struct Rail {
    /// The I/O queue of each association that is ours, from 1 on.
    qid: u16,
    routes: Arc<Routes>,
    conns: Vec<Conn>,
    parents: Slab<Parent>,
    /// Pieces that no path takes now, first come first.
    waiting: VecDeque<Piece>,
    /// Pieces that are to be tried again later.
    later: VecDeque<(Nanos, Piece)>,
    /// Ways that the array refused.
    refused: Refused,
    /// Where the search for the next path begins, for taking turns.
    turn: usize,
    wishes: Vec<Wish>,
    reports: Vec<Report>,
}

impl Rail {
    /// A rail that uses I/O queue `qid` of every path.
    pub(super) fn new(qid: u16) -> Self {
        Self {
            qid,
            routes: Arc::default(),
            conns: Vec::new(),
            parents: Slab::new(),
            waiting: VecDeque::new(),
            later: VecDeque::new(),
            refused: Refused::default(),
            turn: 0,
            wishes: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Takes new routes: opens and gives up connections accordingly.
    pub(super) fn set_routes(&mut self, routes: Arc<Routes>, now: Nanos) {
        self.routes = routes;
        self.refused.clear();
        let look = now + Nanos(self.routes.times.io.0 / 4);
        for conn in &mut self.conns {
            conn.look = conn.look.map(|at| at.min(look));
        }
        let current = |conn: &Conn| {
            let path = self.routes.path(conn.id.path);
            path.is_some_and(|path| path.epoch == conn.id.epoch)
        };
        let gone: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|c| !current(c))
            .map(|c| c.id)
            .collect();
        for id in gone {
            // Who changed the routes knows.
            self.lose(id, &Loss::new("the path was given up"), now);
        }
        let routes = self.routes.clone();
        for path in &routes.paths {
            let known = self
                .conns
                .iter()
                .any(|conn| conn.id.path == path.id && conn.id.epoch == path.epoch);
            if !known && self.qid <= path.association.queues {
                let conn = Conn::new(path, now + self.routes.times.admin);
                self.wishes.push(Wish::Open(conn.id));
                self.conns.push(conn);
            }
        }
        self.dispatch(now);
    }

    /// Accepts an I/O. It comes back as a [`Report::Done`].
    pub(super) fn submit(&mut self, ticket: Ticket, io: Io, now: Nanos) {
        let blocks = io.blocks;
        let parent = self.parents.insert(Parent {
            io,
            ticket,
            pieces: 1,
            error: None,
            parts: Vec::new(),
            since: now,
        });
        self.waiting.push_back(Piece {
            parent,
            at: 0,
            blocks,
            tries: 0,
        });
    }

    /// Sends what can be sent. To be called after a batch of [`Rail::submit`].
    pub(super) fn dispatch(&mut self, now: Nanos) {
        let mut full: Vec<Handle> = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(piece) = self.waiting.pop_front() else {
                break;
            };
            let handle = self.parents[piece.parent].ticket.handle;
            let stays = full.contains(&handle) || !self.send(piece, now);
            if stays {
                // Those behind it for other namespaces may go on.
                self.waiting.push_back(piece);
                if !full.contains(&handle) {
                    full.push(handle);
                }
            }
        }
    }

    /// Whether any path that serves has a queue for this rail. An array may grant fewer queues
    /// than there are rails.
    pub(super) fn is_served(&self) -> bool {
        let paths = &self.routes.paths;
        paths.is_empty() || paths.iter().any(|path| self.qid <= path.association.queues)
    }

    /// Takes back the I/O that waits and of which nothing was sent, for a rail that has a queue.
    pub(super) fn surrender(&mut self) -> Vec<(Ticket, Io)> {
        let mut given = Vec::new();
        let parents = &mut self.parents;
        self.waiting.retain(|piece| {
            let parent = &parents[piece.parent];
            let untouched = parent.pieces == 1 && parent.is_whole(piece);
            if untouched {
                let parent = parents.remove(piece.parent);
                given.push((parent.ticket, parent.io));
            }
            !untouched
        });
        given
    }

    /// How long things may take.
    pub(super) fn times(&self) -> &Times {
        &self.routes.times
    }

    /// What is to be done with sockets.
    pub(super) fn wishes(&mut self) -> std::vec::Drain<'_, Wish> {
        self.wishes.drain(..)
    }

    /// What the owner must know.
    pub(super) fn reports(&mut self) -> std::vec::Drain<'_, Report> {
        self.reports.drain(..)
    }

    /// I/O that has not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.parents.len()
    }

    /// A socket that was asked for is open.
    pub(super) fn opened(&mut self, id: ConnId, now: Nanos) {
        let until = now + self.routes.times.admin;
        match self.conn(id) {
            Some(conn) if matches!(conn.state, State::Opening(_)) => conn.opened(now, until),
            _ => self.wishes.push(Wish::Close(id)),
        }
    }

    /// The protocol of a connection that has a socket and is not lost.
    pub(super) fn link(&mut self, id: ConnId) -> Option<&mut Link> {
        self.conn(id)?.link.as_mut()
    }

    /// A socket is gone, or was not to be had.
    pub(super) fn closed(&mut self, id: ConnId, loss: &Loss, now: Nanos) {
        let Some(at) = self.conns.iter().position(|conn| conn.id == id) else {
            return;
        };
        if matches!(self.conns[at].state, State::Ghost(..)) {
            if loss.by_array {
                self.lay(at);
                self.dispatch(now);
            }
            return;
        }
        self.lose_and_tell(id, loss, now);
    }

    /// Acts on what a connection has received.
    pub(super) fn work(&mut self, id: ConnId, now: Nanos) {
        loop {
            let Some(at) = self.conns.iter().position(|conn| conn.id == id) else {
                return;
            };
            let conn = &mut self.conns[at];
            let Some(event) = conn.link.as_mut().and_then(Link::next_event) else {
                break;
            };
            let lost = match event {
                HostEvent::Ready(_) => conn.connect(self.qid).err(),
                HostEvent::Completed(done) => self.completed(at, done, now).err(),
                HostEvent::Closed(why) => Some(session::closed(why)),
            };
            if let Some(loss) = lost {
                return self.lose_and_tell(id, &loss, now);
            }
        }
        self.dispatch(now);
    }

    /// Acts on what the time has brought.
    pub(super) fn expire(&mut self, now: Nanos) {
        while self.later.front().is_some_and(|(at, _)| *at <= now) {
            self.waiting
                .extend(self.later.pop_front().map(|(_, piece)| piece));
        }
        self.refused.expire(now);
        let due = |conn: &Conn| conn.deadline().is_some_and(|at| at <= now);
        let ids: Vec<ConnId> = self.conns.iter().filter(|c| due(c)).map(|c| c.id).collect();
        for id in ids {
            self.expire_conn(id, now);
        }
        self.dispatch(now);
        self.give_up(now);
    }

    /// When [`Rail::expire`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        let conns = self.conns.iter().filter_map(Conn::deadline).min();
        let later = self.later.front().map(|(at, _)| *at);
        let first = self.waiting.front().map(|p| &self.parents[p.parent]);
        let first = first.filter(|parent| !self.is_reachable(parent.ticket.handle));
        let given_up = first.map(|parent| parent.since + self.patience());
        let refused = self.refused.deadline();
        let all = [conns, later, given_up, refused];
        all.into_iter().flatten().min()
    }

    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.iter_mut().find(|conn| conn.id == id)
    }

    fn expire_conn(&mut self, id: ConnId, now: Nanos) {
        let slowest = self.routes.times.io;
        let Some(at) = self.conns.iter().position(|conn| conn.id == id) else {
            return;
        };
        let conn = &mut self.conns[at];
        if let Some(link) = &mut conn.link
            && link.host.deadline().is_some_and(|at| at <= now)
        {
            link.host.expire(now);
            return self.work(id, now);
        }
        let why = match &conn.state {
            State::Opening(until) | State::Making(until) if *until <= now => {
                "the array does not connect an I/O queue in time"
            }
            State::Ghost(until, _) => {
                if *until <= now {
                    self.lay(at);
                }
                return;
            }
            State::Ready if conn.look.is_some_and(|at| at <= now) => {
                let late = |sent: &Sent| now.since(sent.at) >= slowest;
                if !conn.sent.iter().flatten().any(late) {
                    let busy = conn.in_flight > 0;
                    conn.look = busy.then_some(now + Nanos(slowest.0 / 4));
                    return;
                }
                "an I/O got no answer in time"
            }
            _ => return,
        };
        self.lose_and_tell(id, &Loss::new(why), now);
    }

    /// Fails what has waited too long, or waits for nothing.
    fn give_up(&mut self, now: Nanos) {
        let waiting = std::mem::take(&mut self.waiting);
        let is_late = |piece: &Piece| {
            let parent = &self.parents[piece.parent];
            let late = now.since(parent.since) >= self.patience();
            self.routes.hopeless || late && !self.is_reachable(parent.ticket.handle)
        };
        let (late, rest): (VecDeque<Piece>, VecDeque<Piece>) =
            waiting.into_iter().partition(is_late);
        self.waiting = rest;
        for piece in late {
            self.end(&piece, Err(IoError::Transport));
        }
    }

    /// How long an I/O waits while paths serve and none of them takes it: to reconnect a queue, or
    /// to follow a change of ANA states, takes its time even where nothing waits for a lost array.
    fn patience(&self) -> Nanos {
        self.routes.times.loss.max(self.routes.times.admin)
    }

    /// Sends a piece on the best path, as far as it fits; what does not fit waits behind it. False
    /// if no path takes it now.
    fn send(&mut self, mut piece: Piece, now: Nanos) -> bool {
        let parent = &self.parents[piece.parent];
        let (ticket, op) = (parent.ticket, parent.io.op);
        let route = self.routes.to(ticket.handle);
        let Some(route) = route.filter(|route| !route.ways.is_empty()) else {
            self.end(&piece, Err(IoError::Offline));
            return true;
        };
        let shape = route.shape;
        // A block number that was meant for blocks of another size leads to other data.
        if op != Op::Flush && shape.geometry.stride() != ticket.stride {
            self.end(&piece, Err(IoError::Misaligned));
            return true;
        }
        if self.routes.hopeless {
            self.end(&piece, Err(IoError::Transport));
            return true;
        }
        let Some((at, way)) = self.choose(ticket.handle, &route.ways) else {
            return false;
        };
        self.turn = at + 1;
        let conn = &mut self.conns[at];
        let parent = &mut self.parents[piece.parent];
        let means = Means::of(op, conn.association.abilities, &shape);
        let lba = parent.io.lba.0 + u64::from(piece.at);
        let most = means.blocks_max(lba, conn.association.data_bytes_max, &shape);
        if piece.blocks > most {
            let rest = Piece {
                at: piece.at + most,
                blocks: piece.blocks - most,
                ..piece
            };
            piece.blocks = most;
            parent.pieces += 1;
            self.waiting.push_front(rest);
        }
        piece.tries += 1;
        let (sqe, payload) = parent.command(&piece, means, way.nsid, &shape);
        let Some(link) = &mut conn.link else {
            return false;
        };
        match link.host.submit(sqe, payload) {
            Ok(cid) => {
                let sent = Sent {
                    piece,
                    means,
                    at: now,
                };
                conn.sent[usize::from(cid)] = Some(sent);
                conn.in_flight += 1;
                conn.counters.start();
                conn.look
                    .get_or_insert(now + Nanos(self.routes.times.io.0 / 4));
            }
            Err(unsent) => {
                // There was room a moment ago, so this is not expected; nothing is lost by it.
                if let wire::nvme_tcp::Payload::ToHost(buf) = unsent.payload {
                    parent.take_back(&piece, means, buf);
                }
                self.waiting.push_back(piece);
            }
        }
        self.send_rest(piece.parent, now);
        true
    }

    /// The rest of a piece that was cut follows at once, where it fits.
    fn send_rest(&mut self, parent: usize, now: Nanos) {
        while let Some(rest) = self.waiting.pop_front_if(|rest| rest.parent == parent) {
            if !self.send(rest, now) {
                self.waiting.push_front(rest);
                break;
            }
        }
    }

    /// Acts on a completion.
    ///
    /// # Errors
    /// The array broke a rule, and its connection is to be given up.
    fn completed(&mut self, at: usize, done: Completed, now: Nanos) -> Result<(), Loss> {
        let conn = &mut self.conns[at];
        let status = done.cqe.status();
        if matches!(conn.state, State::Making(_)) {
            if !status.is_success() {
                let name = status
                    .fabrics_name()
                    .map_or_else(|| status.to_string(), str::to_owned);
                let why = format!("Connect of an I/O queue was refused: {name}");
                return Err(Loss::new(why));
            }
            self.connected(at);
            return Ok(());
        }
        let cid = usize::from(done.cid);
        let Some(sent) = conn.sent[cid].take() else {
            return Err(Loss::new("the array answered a command that was not asked"));
        };
        let over = conn.link.as_ref().is_none_or(|link| !link.host.is_open());
        if over && status.is(Status::HOST_PATHING_ERROR) {
            // The connection ended first, and the array may still do it. What is lost with it is
            // sorted when that is told.
            conn.sent[cid] = Some(sent);
            let parent = &mut self.parents[sent.piece.parent];
            parent.take_back(&sent.piece, sent.means, done.data);
            return Ok(());
        }
        conn.in_flight -= 1;
        self.answered(at, sent, done, now)
    }

    /// A queue is ready. It stands behind those that were ready before it, so that failover stays
    /// with the path that it uses.
    fn connected(&mut self, at: usize) {
        let mut conn = self.conns.remove(at);
        conn.connected();
        let is_ready = |conn: &Conn| matches!(conn.state, State::Ready);
        let place = self.conns.iter().position(|conn| !is_ready(conn));
        self.conns.insert(place.unwrap_or(self.conns.len()), conn);
    }

    /// Acts on the answer to a command of an I/O.
    ///
    /// # Errors
    /// As for [`Rail::completed`].
    fn answered(&mut self, at: usize, sent: Sent, done: Completed, now: Nanos) -> Result<(), Loss> {
        let (piece, means, took) = (sent.piece, sent.means, now.since(sent.at));
        let (counters, path) = (&self.conns[at].counters, self.conns[at].id.path);
        let parent = &mut self.parents[piece.parent];
        let (op, handle) = (parent.io.op, parent.ticket.handle);
        let status = done.cqe.status();
        let Some(shape) = self.routes.to(handle).map(|route| route.shape) else {
            counters.end(op, 0, Err(IoError::Offline), took);
            self.end(&piece, Err(IoError::Offline));
            return Ok(());
        };
        let bytes = u64::from(piece.blocks) * u64::from(shape.geometry.block_bytes);
        if status.is_success() {
            return match parent.succeeded(&piece, means, done.data, &shape) {
                Err(None) => {
                    counters.end(op, bytes, Err(IoError::Transport), took);
                    self.retry(piece);
                    Err(Loss::new("the array sent less data than was asked for"))
                }
                Err(Some(error)) => {
                    counters.end(op, bytes, Err(error), took);
                    self.end(&piece, Err(error));
                    Ok(())
                }
                Ok(()) => {
                    counters.end(op, bytes, Ok(()), took);
                    self.end(&piece, Ok(()));
                    Ok(())
                }
            };
        }
        parent.take_back(&piece, means, done.data);
        match verdict(status) {
            Verdict::Fails(error) => {
                counters.end(op, bytes, Err(error), took);
                self.end(&piece, Err(error));
            }
            again => {
                counters.end(op, bytes, Err(IoError::Transport), took);
                self.again(piece, path, again, now);
            }
        }
        Ok(())
    }

    /// Has a piece done again that the array could not do.
    fn again(&mut self, piece: Piece, path: PathId, verdict: Verdict, now: Nanos) {
        if verdict == Verdict::Elsewhere {
            let handle = self.parents[piece.parent].ticket.handle;
            self.refused.add(path, handle, now);
            self.reports.push(Report::AnaChanged(path));
            // It was not done, and its path does not count.
            let tries = piece.tries - 1;
            let piece = Piece { tries, ..piece };
            // An array that refuses on every path what its log page promises is asked again, but
            // not as fast as it can answer.
            if self.is_refused_everywhere(handle) {
                return self.later.push_back((now + RETRY_PAUSE, piece));
            }
            return self.waiting.push_back(piece);
        }
        if piece.tries >= TRIES_MAX {
            return self.end(&piece, Err(IoError::Transport));
        }
        self.later.push_back((now + RETRY_PAUSE, piece));
    }

    /// Puts a piece back to be sent at once, unless it was sent too often.
    fn retry(&mut self, piece: Piece) {
        if piece.tries >= TRIES_MAX {
            return self.end(&piece, Err(IoError::Transport));
        }
        self.waiting.push_back(piece);
    }

    /// A piece has ended.
    fn end(&mut self, piece: &Piece, result: Result<(), IoError>) {
        let parent = &mut self.parents[piece.parent];
        parent.pieces -= 1;
        if let Err(error) = result {
            parent.error.get_or_insert(error);
        }
        if parent.pieces > 0 {
            return;
        }
        let mut parent = self.parents.remove(piece.parent);
        let shape: Option<Shape> = self.routes.to(parent.ticket.handle).map(|r| r.shape);
        let result = match (parent.error, shape) {
            (None, Some(shape)) => {
                parent.gather(&shape);
                Ok(())
            }
            (None, None) if parent.parts.is_empty() => Ok(()),
            (None, None) => Err(IoError::Offline),
            (Some(error), _) => Err(error),
        };
        let lane = parent.ticket.lane;
        self.reports
            .push(Report::Done(lane, parent.io.finish(result)));
    }

    fn lose_and_tell(&mut self, id: ConnId, loss: &Loss, now: Nanos) {
        self.reports.push(Report::Lost(id, loss.clone()));
        self.lose(id, loss, now);
        self.dispatch(now);
    }

    /// Gives a connection up. What changes nothing may go elsewhere at once; the rest once the
    /// array can no longer execute it.
    fn lose(&mut self, id: ConnId, loss: &Loss, now: Nanos) {
        let Some(at) = self.conns.iter().position(|conn| conn.id == id) else {
            return;
        };
        let conn = &mut self.conns[at];
        if matches!(conn.state, State::Ghost(..)) {
            return;
        }
        let had_socket = conn.link.is_some();
        if let Some(mut link) = conn.link.take() {
            link.host.close();
            while let Some(event) = link.next_event() {
                if let HostEvent::Completed(done) = event
                    && let Some(sent) = conn.sent.get(usize::from(done.cid)).copied().flatten()
                {
                    self.parents[sent.piece.parent].take_back(&sent.piece, sent.means, done.data);
                }
            }
        }
        let sent: Vec<Sent> = conn.sent.iter_mut().filter_map(Option::take).collect();
        conn.in_flight = 0;
        let quiesce = conn.association.quiesce;
        let counters = conn.counters.clone();
        let mut held = Vec::new();
        for Sent { piece, at, .. } in sent {
            let op: Op = self.parents[piece.parent].io.op;
            counters.end(op, 0, Err(IoError::Transport), now.since(at));
            if is_harmless(op) || loss.by_array {
                self.retry(piece);
            } else {
                held.push(piece);
            }
        }
        if held.is_empty() {
            self.conns.remove(at);
            self.wishes.push(Wish::Close(id));
            return;
        }
        self.conns[at].state = State::Ghost(now + quiesce, held);
        if had_socket {
            self.wishes.push(Wish::HalfClose(id));
        }
    }

    /// The array can no longer execute what a lost connection carried: it may be sent again.
    fn lay(&mut self, at: usize) {
        let mut conn = self.conns.remove(at);
        self.wishes.push(Wish::Close(conn.id));
        if let State::Ghost(_, held) = &mut conn.state {
            for piece in std::mem::take(held) {
                self.retry(piece);
            }
        }
    }
}

impl Drop for Rail {
    fn drop(&mut self) {
        // The server ends: hosts see their connections close, and nobody waits for these.
        for parent in self.parents.drain() {
            drop(parent.io.finish(Err(IoError::Aborted)));
        }
    }
}
