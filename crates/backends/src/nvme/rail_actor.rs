//! The actor around a [`Rail`]: mail and sockets.

use super::association::Loss;
use super::rail::{ConnId, Rail, Report, Ticket, Wish};
use super::remote::{Order, Post, RailBox, Remote};
use super::socket::{Received, Socket};
use super::volume::Outbox;
use blk::{Done, Home, Io, IoError, Nanos};
use engine::{Actor, Cx, Next};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// A lane's way back, and what is due there.
struct Back {
    outbox: Arc<Outbox>,
    ended: Vec<Done>,
}

/// See the file's head.
pub(super) struct RailActor {
    remote: Arc<Remote>,
    mail: Arc<RailBox>,
    qid: u16,
    rail: Rail,
    version: u64,
    sockets: Vec<(ConnId, Socket)>,
    lanes: HashMap<u64, Back>,
    /// Lanes that the first rail works for as well.
    passed: HashSet<u64>,
    posts: Vec<Post>,
    /// Lanes that results are due to.
    due: Vec<u64>,
}

impl RailActor {
    pub(super) fn new(remote: Arc<Remote>, mail: Arc<RailBox>, qid: u16) -> Self {
        Self {
            rail: Rail::new(qid),
            remote,
            mail,
            qid,
            version: 0,
            sockets: Vec::new(),
            lanes: HashMap::new(),
            passed: HashSet::new(),
            posts: Vec::new(),
            due: Vec::new(),
        }
    }

    fn read_mail(&mut self, now: Nanos) {
        let mut posts = std::mem::take(&mut self.posts);
        self.mail.take(&mut posts);
        let served = self.rail.is_served();
        for post in posts.drain(..) {
            match post {
                Post::Io(ticket, io) if served => self.rail.submit(ticket, io, now),
                Post::Io(ticket, io) => self.pass_on(ticket, io),
                Post::Opened(lane, outbox) => {
                    let ended = Vec::new();
                    self.lanes.insert(lane, Back { outbox, ended });
                }
                Post::Dropped(lane) => {
                    self.lanes.remove(&lane);
                    if self.passed.remove(&lane) {
                        self.remote.first_rail().post(Post::Dropped(lane));
                    }
                }
            }
        }
        if !served {
            for (ticket, io) in self.rail.surrender() {
                self.pass_on(ticket, io);
            }
        }
        self.posts = posts;
    }

    /// Has the first rail do an I/O, because no array has a queue for this one.
    fn pass_on(&mut self, ticket: Ticket, io: Io) {
        let first = self.remote.first_rail();
        let Some(back) = self.lanes.get(&ticket.lane) else {
            // Nobody waits for it any more.
            drop(io.finish(Err(IoError::Aborted)));
            return;
        };
        if self.passed.insert(ticket.lane) {
            first.post(Post::Opened(ticket.lane, back.outbox.clone()));
        }
        first.post(Post::Io(ticket, io));
    }

    /// Receives on every connection. True if there may be more.
    fn receive(&mut self, now: Nanos) -> bool {
        let mut more = false;
        let keep_alive = self.rail.times().keep_alive;
        for (id, socket) in &mut self.sockets {
            match socket.connect(keep_alive) {
                Ok(true) => self.rail.opened(*id, now),
                Ok(false) => {}
                Err(error) => {
                    let loss = Loss::new(format!("an I/O queue cannot be connected: {error}"));
                    self.rail.closed(*id, &loss, now);
                    continue;
                }
            }
            let received = socket.receive(self.rail.link(*id), now);
            self.rail.work(*id, now);
            match received {
                Received::All => {}
                Received::Part => more = true,
                Received::Over(loss) => self.rail.closed(*id, &loss, now),
            }
        }
        more
    }

    fn act(&mut self, now: Nanos, cx: &mut Cx<'_>) {
        let wishes: Vec<Wish> = self.rail.wishes().collect();
        for wish in wishes {
            match wish {
                Wish::Open(id) => self.open(id, now, cx),
                Wish::HalfClose(id) => {
                    if let Some((_, socket)) = self.sockets.iter().find(|(one, _)| *one == id) {
                        socket.close_write();
                    }
                }
                Wish::Close(id) => {
                    if let Some(at) = self.sockets.iter().position(|(one, _)| *one == id) {
                        self.sockets.swap_remove(at).1.close(cx);
                    }
                }
            }
        }
    }

    fn open(&mut self, id: ConnId, now: Nanos, cx: &mut Cx<'_>) {
        let path = self.remote.path(id.path);
        let place = path.and_then(|path| {
            let address = *path.address.lock().expect("no holder panics");
            Some((path.place.clone(), address?))
        });
        let opened = match place {
            Some((place, address)) => Socket::open(&place, address, self.qid, cx),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        };
        match opened {
            Ok(socket) => self.sockets.push((id, socket)),
            Err(error) => {
                let loss = Loss::new(format!("an I/O queue cannot be connected: {error}"));
                self.rail.closed(id, &loss, now);
            }
        }
    }

    fn send(&mut self, now: Nanos) {
        for (id, socket) in &mut self.sockets {
            let sent = self.rail.link(*id).map_or(Ok(()), |link| socket.send(link));
            if let Err(loss) = sent {
                self.rail.closed(*id, &loss, now);
            }
        }
    }

    fn report(&mut self) {
        for report in self.rail.reports() {
            match report {
                Report::Done(lane, done) => {
                    if let Some(back) = self.lanes.get_mut(&lane) {
                        if back.ended.is_empty() {
                            self.due.push(lane);
                        }
                        back.ended.push(done);
                    }
                }
                Report::Lost(id, loss) => {
                    if let Some(path) = self.remote.path(id.path) {
                        path.mail.order(Order::Lost(id.epoch, loss));
                    }
                }
                Report::AnaChanged(id) => {
                    if let Some(path) = self.remote.path(id) {
                        path.mail.order(Order::CheckAna);
                    }
                }
            }
        }
        for lane in self.due.drain(..) {
            if let Some(back) = self.lanes.get_mut(&lane) {
                back.outbox.put(&mut back.ended);
            }
        }
    }
}

impl Actor for RailActor {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.mail.begin(cx.waker());
        self.run(cx)
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        let now = cx.now();
        if let Some(routes) = self.remote.routes_since(&mut self.version) {
            self.rail.set_routes(routes, now);
        }
        self.read_mail(now);
        let more = self.receive(now);
        if self.rail.deadline().is_some_and(|at| at <= now) {
            self.rail.expire(now);
        }
        self.rail.dispatch(now);
        self.act(now, cx);
        self.send(now);
        self.act(now, cx);
        self.report();
        if self.remote.has_ended() && self.rail.in_flight() == 0 {
            for (_, socket) in self.sockets.drain(..) {
                socket.close(cx);
            }
            return Next::Gone;
        }
        match more {
            true => Next::Busy,
            false => Next::Idle(self.rail.deadline()),
        }
    }
}
