//! One connection: moves bytes between the socket and the protocol, and commands between the
//! protocol and the queue.

use super::Port;
use crate::nvme::DATA_MAX;
use crate::nvme::connect::{self, Place, Queue};
use crate::nvme::controller::{IN_CAPSULE, QUEUE_ENTRIES_MAX};
use crate::nvme::io::Command;
use crate::nvme::queue::{Inbox, Replies, Ticket};
use crate::nvme::target::Target;
use crate::nvme::users::Pass;
use blk::{Gather, Home, IoBuf, Nanos};
use engine::{Actor, Cx, Next, Recv, Sent, Stream};
use std::cell::RefCell;
use std::os::fd::AsFd;
use std::sync::Arc;
use wire::nvme::{Cqe, FabricsCmd, Sqe, Status};
use wire::nvme_tcp::{Closed, Controller as Protocol, Event, Limits};

/// Bytes received in one system call beside those that have a place already.
const RECEIVE_BYTES: usize = 64 << 10;
/// Data shorter than this are received with their neighbours and copied: one copy of a few blocks
/// costs less than a system call.
const DIRECT_MIN: usize = 16 << 10;
/// Receives in one run, so that one busy host does not starve the others on its reactor.
const RECEIVES_PER_RUN: usize = 8;
/// Bytes that may wait for a slow host before we stop taking its commands.
const BACKLOG_MAX: usize = 4 << 20;
/// How long a host may take from ICResp to Connect (NVMe TCP leaves it to us).
const CONNECT_TIMEOUT: Nanos = Nanos::from_secs(10);
/// How long a host may take to read our last bytes after we ended the association.
const LINGER: Nanos = Nanos::from_secs(2);

thread_local! {
    /// Where bytes land first. One for all connections of a reactor: idle ones cost nothing.
    static BUFFER: RefCell<Box<[u8]>> =
        RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice());
}

/// Where a connection is in its life.
enum State {
    /// Until Connect, at most until the time given.
    New(Nanos),
    Open(Queue),
    /// The socket is closed; I/O under way is waited for.
    Draining(Queue),
    Over,
}

/// The head of the submission queue, as completions tell it (NVMe Base 2.1, 3.3.3.2.1).
struct Head {
    entries: u32,
    at: u32,
    /// The host does without.
    off: bool,
}

impl Head {
    fn advance(&mut self) {
        self.at = (self.at + 1) % self.entries;
    }

    fn value(&self) -> u16 {
        if self.off { 0 } else { self.at as u16 }
    }
}

/// See the file's head.
pub(super) struct Connection {
    target: Arc<Target>,
    port: Arc<Port>,
    stream: Option<Stream>,
    protocol: Protocol,
    out: Gather,
    head: Head,
    state: State,
    inbox: Option<Arc<Inbox>>,
    passes: Vec<Pass>,
    /// The socket may have more to read than was read.
    readable: bool,
    /// When to give up sending the last bytes; set once the association is over.
    linger: Option<Nanos>,
    /// Commands wait in the protocol because too many answers wait for the host.
    held: bool,
}

/// Answers go into the protocol with the head of the queue as it is.
struct Answers<'a> {
    protocol: &'a mut Protocol,
    head: &'a Head,
    out: &'a mut Gather,
}

impl Replies for Answers<'_> {
    #[inline]
    fn done(&mut self, command: Ticket, status: Status, result: u64) {
        let cqe = Cqe::new(0, self.head.value(), status).with_result(result);
        self.protocol.respond(command.slot, cqe);
    }

    #[inline]
    fn data(&mut self, command: Ticket, data: IoBuf) {
        let cqe = Cqe::new(0, self.head.value(), Status::SUCCESS);
        self.protocol.respond_data(command.slot, data, cqe);
    }

    #[inline]
    fn unsent(&mut self) -> usize {
        self.protocol.transmit(self.out);
        self.out.len()
    }
}

impl Connection {
    pub(super) fn new(target: Arc<Target>, port: Arc<Port>, stream: Stream) -> Self {
        let limits = Limits {
            queue_depth: QUEUE_ENTRIES_MAX as u16,
            in_capsule_bytes: IN_CAPSULE,
            mdts_bytes: DATA_MAX as u32,
            ..Limits::default()
        };
        let now = engine::now();
        Self {
            target,
            port,
            stream: Some(stream),
            protocol: Protocol::new(limits, now),
            out: Gather::new(),
            head: Head {
                entries: QUEUE_ENTRIES_MAX,
                at: 0,
                off: false,
            },
            state: State::New(now + CONNECT_TIMEOUT),
            inbox: None,
            passes: Vec::new(),
            readable: true,
            linger: None,
            held: false,
        }
    }

    /// Reads what there is, within bounds, and acts on it. False when the socket is done for.
    fn receive(&mut self, cx: &mut Cx<'_>) -> bool {
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..RECEIVES_PER_RUN {
                if self.out.len() > BACKLOG_MAX || self.linger.is_some() {
                    return true;
                }
                let Some(stream) = &mut self.stream else {
                    return false;
                };
                let direct = self
                    .protocol
                    .direct()
                    .filter(|(_, _, len)| *len >= DIRECT_MIN);
                let wanted = direct.as_ref().map_or(0, |(_, _, len)| *len);
                match stream.recv(direct, buffer) {
                    Recv::Bytes { direct, buf } => {
                        if direct > 0 {
                            self.protocol.direct_received(direct);
                        }
                        let now = cx.now();
                        if let Err(fatal) = self.protocol.receive(&buffer[..buf], now) {
                            tracing::info!(peer = ?self.peer(), %fatal, "ending the connection");
                        }
                        if !self.events(now, cx) {
                            return false;
                        }
                        self.poll(now, cx);
                        if direct == wanted && buf < RECEIVE_BYTES {
                            // That was all there was; what comes later is a new event. (A place
                            // left unfilled proves nothing: one call fills only so many pages.)
                            self.readable = false;
                            return true;
                        }
                    }
                    Recv::WouldBlock => {
                        self.readable = false;
                        return true;
                    }
                    Recv::Closed => return false,
                    Recv::Failed(error) => {
                        tracing::debug!(peer = ?self.peer(), ?error, "the connection broke");
                        return false;
                    }
                }
            }
            true
        })
    }

    fn peer(&self) -> Option<std::net::SocketAddr> {
        self.stream.as_ref().map(Stream::peer)
    }

    /// Acts on what the protocol has taken from the bytes. False when the connection is over.
    fn events(&mut self, now: Nanos, cx: &mut Cx<'_>) -> bool {
        if let State::Open(Queue::Io(queue)) = &mut self.state {
            let mut out = Answers {
                protocol: &mut self.protocol,
                head: &self.head,
                out: &mut self.out,
            };
            queue.look(&mut out);
        }
        loop {
            // Answers are counted as soon as they are given: the commands of a host that asks for
            // much and reads nothing are left where they are.
            self.protocol.transmit(&mut self.out);
            self.held = self.out.len() > BACKLOG_MAX;
            if self.held || self.linger.is_some() {
                return true;
            }
            let Some(event) = self.protocol.next_event() else {
                return true;
            };
            match event {
                Event::Command(command) => {
                    self.head.advance();
                    let ticket = ticket(command.slot, &command.sqe);
                    let (sqe, data, room) = (command.sqe, command.data, command.len);
                    self.command(
                        now,
                        Command {
                            ticket,
                            sqe,
                            data,
                            room,
                        },
                        cx,
                    );
                }
                Event::Refused { slot, sqe, status } => {
                    self.head.advance();
                    let ticket = ticket(slot, &sqe);
                    let command = Command {
                        ticket,
                        sqe,
                        data: IoBuf::empty(),
                        room: 0,
                    };
                    self.refused(&command, status);
                }
                Event::Ready(_) => {}
                Event::Closed(why) => {
                    if !matches!(why, Closed::Lost) {
                        tracing::info!(peer = ?self.peer(), ?why, "the connection is over");
                    }
                    return false;
                }
            }
        }
    }

    #[inline]
    fn command(&mut self, now: Nanos, command: Command, cx: &mut Cx<'_>) {
        let mut out = Answers {
            protocol: &mut self.protocol,
            head: &self.head,
            out: &mut self.out,
        };
        match &mut self.state {
            State::Open(Queue::Io(queue)) => queue.command(now, command, cx, &mut out),
            State::Open(Queue::Admin(controller)) => {
                controller.command(now, &command, cx, &mut out);
            }
            State::New(_) => self.first(now, &command, cx),
            State::Draining(_) | State::Over => {
                out.done(command.ticket, Status::ABORTED_SQ_DELETION, 0);
            }
        }
    }

    fn refused(&mut self, command: &Command, status: Status) {
        let mut out = Answers {
            protocol: &mut self.protocol,
            head: &self.head,
            out: &mut self.out,
        };
        match &mut self.state {
            State::Open(Queue::Io(queue)) => queue.refused(command, status, &mut out),
            State::Open(Queue::Admin(controller)) => {
                controller.refuse(command.ticket, &command.sqe, status, &mut out);
            }
            _ => out.done(command.ticket, status, 0),
        }
    }

    /// The first command has to be Connect.
    fn first(&mut self, now: Nanos, command: &Command, cx: &mut Cx<'_>) {
        let parsed = FabricsCmd::is(&command.sqe).then(|| FabricsCmd::parse(&command.sqe));
        let wish = match parsed {
            Some(Ok(FabricsCmd::Connect(wish))) => wish,
            Some(Err(status)) => return self.refused(command, status),
            _ => return self.refused(command, Status::COMMAND_SEQUENCE.dnr()),
        };
        let Some(via) = self.stream.as_ref().map(Stream::local) else {
            return;
        };
        let waker = cx.waker();
        let inbox = Arc::new(Inbox::new(waker.clone()));
        let (target, port) = (&self.target, &self.port);
        let place = Place {
            target,
            port,
            via,
            inbox: &inbox,
            waker,
            now,
        };
        let made = connect::connect(&place, &wish, &command.data);
        let (status, result) = match made {
            Ok(made) => {
                self.head = Head {
                    entries: wish.queue_entries,
                    at: 1 % wish.queue_entries,
                    off: wish.no_sq_flow_control,
                };
                self.protocol.set_depth(wish.queue_entries as u16);
                self.protocol.set_sq_flow_control(!wish.no_sq_flow_control);
                self.passes.extend(made.passes);
                self.state = State::Open(made.queue);
                self.inbox = Some(inbox);
                (Status::SUCCESS, made.result)
            }
            Err(refused) => (refused.status, refused.result),
        };
        // FFFFh tells the host that it may do without flow control (NVMe Base 2.1, 6.3).
        let sqhd = if self.head.off {
            0xffff
        } else {
            self.head.value()
        };
        let cqe = Cqe::new(0, sqhd, status).with_dw0(result);
        self.protocol.respond(command.ticket.slot, cqe);
    }

    /// Collects what the queue has finished.
    fn poll(&mut self, now: Nanos, cx: &mut Cx<'_>) {
        let mut out = Answers {
            protocol: &mut self.protocol,
            head: &self.head,
            out: &mut self.out,
        };
        match &mut self.state {
            State::Open(Queue::Io(queue)) | State::Draining(Queue::Io(queue)) => {
                queue.poll(now, cx, &mut out);
            }
            State::Open(Queue::Admin(controller)) => {
                let alive = controller.run(now, cx, &mut out);
                if !alive {
                    self.linger.get_or_insert(now + LINGER);
                }
            }
            _ => {}
        }
    }

    /// Whether commands that waited for the host to take its answers can go on now.
    fn can_resume(&mut self) -> bool {
        match &mut self.state {
            State::Open(Queue::Io(queue)) => queue.can_resume(self.out.len()),
            _ => false,
        }
    }

    /// Sends what there is. False when the socket is done for.
    fn send(&mut self) -> bool {
        self.protocol.transmit(&mut self.out);
        match &mut self.stream {
            Some(stream) if !self.out.is_empty() => {
                !matches!(stream.send(&mut self.out), Sent::Failed(_))
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Whether somebody else wants the connection to end.
    fn must_end(&self) -> bool {
        let queue_ends = match &self.state {
            State::Open(Queue::Io(queue)) => !queue.is_valid(),
            State::Open(Queue::Admin(controller)) => controller.association().is_closing(),
            _ => false,
        };
        queue_ends || self.port.is_closing()
    }

    /// Closes the socket, and waits for what is under way.
    fn close(&mut self, cx: &mut Cx<'_>) {
        if let Some(stream) = self.stream.take() {
            cx.unwatch(stream.as_fd());
        }
        self.protocol.close();
        self.out = Gather::new();
        self.state = match std::mem::replace(&mut self.state, State::Over) {
            State::Open(Queue::Io(mut queue)) => {
                queue.abandon();
                State::Draining(Queue::Io(queue))
            }
            State::Draining(queue) => State::Draining(queue),
            // With its admin queue goes the controller, and that ends its I/O queues.
            State::Open(Queue::Admin(_)) | State::New(_) | State::Over => State::Over,
        };
    }

    /// After the socket is closed: done once nothing is in flight.
    fn drain(&mut self, cx: &mut Cx<'_>) -> Next {
        let now = cx.now();
        self.poll(now, cx);
        match &self.state {
            State::Draining(Queue::Io(queue)) if !queue.is_idle() => Next::Idle(queue.deadline()),
            _ => {
                self.state = State::Over;
                self.passes.clear();
                Next::Gone
            }
        }
    }

    fn deadline(&self) -> Option<Nanos> {
        if self.linger.is_some() {
            // What else has expired is why it lingers.
            return [self.protocol.deadline(), self.linger]
                .into_iter()
                .flatten()
                .min();
        }
        let own = match &self.state {
            State::New(until) => Some(*until),
            State::Open(Queue::Admin(controller)) => controller.deadline(),
            State::Open(Queue::Io(queue)) => queue.deadline(),
            State::Draining(_) | State::Over => None,
        };
        [own, self.protocol.deadline(), self.linger]
            .into_iter()
            .flatten()
            .min()
    }

    /// What time has brought. False when the connection is over.
    fn expire(&mut self, now: Nanos) -> bool {
        if self.protocol.deadline().is_some_and(|at| at <= now) {
            self.protocol.expire(now);
        }
        if self.must_end() {
            self.linger.get_or_insert(now + LINGER);
        }
        let late = match &self.state {
            State::New(until) => *until <= now,
            _ => false,
        };
        let sent = self.out.is_empty() && !self.protocol.wants_transmit();
        let lingered = self.linger.is_some_and(|until| until <= now || sent);
        !(late || lingered || self.protocol.is_closed())
    }
}

fn ticket(slot: wire::nvme_tcp::Slot, sqe: &Sqe) -> Ticket {
    Ticket {
        slot,
        cid: sqe.cid(),
        opcode: sqe.opcode,
    }
}

impl Actor for Connection {
    fn start(&mut self, cx: &mut Cx<'_>) -> Next {
        self.passes.push(self.port.users.enter(cx.waker(), [0; 16]));
        if let Some(stream) = &self.stream
            && let Err(error) = cx.watch(stream.as_fd())
        {
            tracing::error!(%error, "cannot watch a connection");
            return Next::Gone;
        }
        self.run(cx)
    }

    fn run(&mut self, cx: &mut Cx<'_>) -> Next {
        if self.stream.is_none() {
            return self.drain(cx);
        }
        self.readable = true;
        let open = self.receive(cx);
        let now = cx.now();
        self.poll(now, cx);
        let open = open && self.events(now, cx) && self.send() && self.expire(now);
        if !open {
            self.close(cx);
            return self.drain(cx);
        }
        let more = self.readable || self.held || self.can_resume();
        if more && self.out.len() <= BACKLOG_MAX && self.linger.is_none() {
            Next::Busy
        } else {
            Next::Idle(self.deadline())
        }
    }
}
