//! One NVMe controller, as its admin queue drives it: properties, commands, events, keep-alive.
//!
//! It knows no transport: commands come in with a [`Ticket`], answers go out by [`Replies`].

mod ana;
mod errors;
mod events;
mod features;
mod identify;
mod log;
mod property;

pub(crate) use errors::ErrorLog;
pub(crate) use identify::IN_CAPSULE;

use super::discovery;
use super::io::{Command, Flushes};
use super::queue::{Inbox, Replies, Ticket};
use super::target::{Association, Shown, Target};
use ana::AnaLog;
use blk::{Home, IoBuf, Nanos};
use events::Events;
use features::Values;
use property::{Change, Ending, Properties};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use wire::nvme::aer::AsyncEvent;
use wire::nvme::log::DiscoveryEntry;
use wire::nvme::{AdminCmd, FabricsCmd, Sqe, Status};

/// Entries of a queue, at most: MQES. Deep enough for any host; slots are made as they are used.
pub(crate) const QUEUE_ENTRIES_MAX: u32 = 1024;
/// KAS: the granularity of the keep-alive timer, in units of 100 ms.
const KEEP_ALIVE_GRAIN_100MS: u16 = 10;
/// How long a discovery controller without keep-alive may be silent: hosts read the page and go.
const DISCOVERY_IDLE_MAX: Nanos = Nanos::from_secs(120);
const INVALID: Status = Status::INVALID_FIELD.dnr();

/// What a command comes to at once.
enum Answer {
    /// It succeeded with this result.
    Done(u64),
    /// It succeeded with these data.
    Data(Vec<u8>),
    /// It completes later, through the events or the inbox.
    Later,
}

type Answered = Result<Answer, Status>;

/// The host's sign of life.
struct KeepAlive {
    /// KATO in milliseconds, 0 for none.
    kato_ms: u32,
    last: Nanos,
}

impl KeepAlive {
    /// When the host counts as gone.
    fn deadline(&self, discovery: bool) -> Option<Nanos> {
        let grain = u64::from(KEEP_ALIVE_GRAIN_100MS) * 100;
        match u64::from(self.kato_ms) {
            0 if discovery => Some(self.last + DISCOVERY_IDLE_MAX),
            0 => None,
            kato => Some(self.last + Nanos::from_millis(kato.next_multiple_of(grain))),
        }
    }
}

/// See the file's head.
pub(crate) struct Controller {
    target: Arc<Target>,
    association: Arc<Association>,
    inbox: Arc<Inbox>,
    /// The address of ours that the host connected to.
    via: SocketAddr,
    properties: Properties,
    values: Values,
    events: Events,
    keep_alive: KeepAlive,
    /// What the host can see, by NSID, as it was last looked at.
    view: BTreeMap<u32, Shown>,
    /// Of the same.
    ana: AnaLog,
    /// NSIDs of the changed namespace list.
    changed: BTreeSet<u32>,
    /// The generation of what is in `view` or `entries`.
    seen: u64,
    /// The discovery log as it was last looked at.
    entries: Vec<DiscoveryEntry>,
    /// Reservation notices read so far.
    notices_read: u64,
    /// Set Features that switch the volatile write cache off, each with the flushes it waits for.
    cache_off: VecDeque<(Ticket, Flushes)>,
    /// What a shutdown waits for.
    last_flushes: Option<Flushes>,
}

impl Controller {
    pub(crate) fn new(
        target: Arc<Target>,
        association: Arc<Association>,
        inbox: Arc<Inbox>,
        via: SocketAddr,
        kato_ms: u32,
        now: Nanos,
    ) -> Self {
        let mut new = Self {
            target,
            association,
            inbox,
            via,
            properties: Properties::default(),
            values: Values::new(now),
            events: Events::default(),
            keep_alive: KeepAlive { kato_ms, last: now },
            view: BTreeMap::new(),
            ana: AnaLog::default(),
            changed: BTreeSet::new(),
            seen: 0,
            entries: Vec::new(),
            notices_read: 0,
            cache_off: VecDeque::new(),
            last_flushes: None,
        };
        new.look();
        new.changed.clear();
        new.ana.reset();
        new
    }

    pub(crate) fn association(&self) -> &Arc<Association> {
        &self.association
    }

    fn is_discovery(&self) -> bool {
        self.association.way.is_none()
    }

    /// Executes a command of the admin queue.
    pub(crate) fn command(
        &mut self,
        now: Nanos,
        command: &Command,
        home: &mut dyn Home,
        out: &mut impl Replies,
    ) {
        self.keep_alive.last = now;
        let (ticket, sqe) = (command.ticket, &command.sqe);
        let answer = if FabricsCmd::is(sqe) {
            self.settle(now, home);
            self.fabrics(sqe, out)
        } else {
            self.admin(now, command, out)
        };
        match answer {
            Ok(Answer::Done(result)) => out.done(ticket, Status::SUCCESS, result),
            Ok(Answer::Data(bytes)) => out.data(ticket, IoBuf::from_slice(&bytes)),
            Ok(Answer::Later) => {}
            Err(status) => self.refuse(ticket, sqe, status, out),
        }
        self.run(now, home, out);
    }

    /// Answers a command that the transport or the parser refused.
    pub(crate) fn refuse(&self, ticket: Ticket, sqe: &Sqe, status: Status, out: &mut impl Replies) {
        self.note(ticket, sqe.nsid.get(), status);
        out.done(ticket, status, 0);
    }

    fn note(&self, ticket: Ticket, nsid: u32, status: Status) {
        let errors = self.association.errors.lock();
        let mut errors = errors.expect("no holder of the log panics");
        errors.note(0, ticket, nsid, 0, status);
    }

    fn fabrics(&mut self, sqe: &Sqe, out: &mut impl Replies) -> Answered {
        match FabricsCmd::parse(sqe)? {
            FabricsCmd::PropertyGet { size, offset } => {
                self.properties.get(size, offset).map(Answer::Done)
            }
            FabricsCmd::PropertySet {
                size,
                offset,
                value,
            } => {
                match self
                    .properties
                    .set(size, offset, value, self.is_discovery())?
                {
                    Change::Nothing => {}
                    Change::Enabled => self.association.enable(),
                    Change::Ending => self.reset(out),
                }
                Ok(Answer::Done(0))
            }
            FabricsCmd::Connect(_) => Err(Status::COMMAND_SEQUENCE.dnr()),
            FabricsCmd::Disconnect { .. } => Err(Status::INVALID_QUEUE_TYPE.dnr()),
            FabricsCmd::AuthenticationSend | FabricsCmd::AuthenticationReceive => {
                Err(Status::INVALID_OPCODE.dnr())
            }
        }
    }

    fn admin(&mut self, now: Nanos, command: &Command, out: &mut impl Replies) -> Answered {
        let (ticket, sqe) = (command.ticket, &command.sqe);
        if !self.properties.is_ready() {
            return Err(Status::COMMAND_SEQUENCE.dnr());
        }
        match AdminCmd::parse(sqe)? {
            AdminCmd::Identify(id) => self.identify(&id).map(Answer::Data),
            AdminCmd::GetLogPage(log) => self.log_page(now, &log, command.room).map(Answer::Data),
            AdminCmd::SetFeatures(feature, save) => {
                self.set_feature(now, ticket, &feature, save, &command.data)
            }
            AdminCmd::GetFeatures(feature, select) => self.get_feature(now, &feature, select),
            AdminCmd::AsyncEventRequest => {
                let taken = self.events.request(ticket);
                if taken {
                    Ok(Answer::Later)
                } else {
                    Err(Status::AER_LIMIT_EXCEEDED.dnr())
                }
            }
            AdminCmd::KeepAlive => Ok(Answer::Done(0)),
            AdminCmd::Abort { sqid, cid } => {
                let request = if sqid == 0 {
                    self.events.abort(cid)
                } else {
                    None
                };
                // Bit 0 says that the command was not aborted: what a volume has begun it ends.
                let not_aborted = u64::from(request.is_none());
                if let Some(request) = request {
                    out.done(request, Status::ABORT_REQUESTED, 0);
                }
                Ok(Answer::Done(not_aborted))
            }
        }
    }

    /// Controller reset or shutdown (NVMe Base 2.1, 3.7.2 and 3.6): everything is as after Connect.
    fn reset(&mut self, out: &mut impl Replies) {
        self.association.reset();
        for request in self.events.reset() {
            out.done(request, Status::ABORTED_SQ_DELETION.dnr(), 0);
        }
        self.values = Values::new(self.keep_alive.last);
        self.changed.clear();
        self.ana.reset();
    }

    /// Tells the end of a reset or shutdown once nothing is under way on the I/O queues any more,
    /// and what they wrote is safe (NVMe Base 2.1, 3.7.2 and 3.6.2).
    fn settle(&mut self, now: Nanos, home: &mut dyn Home) {
        let Some(ending) = self.properties.ending() else {
            return;
        };
        if !self.association.is_drained() {
            return;
        }
        if ending == Ending::NormalShutdown {
            let begin = || Flushes::new(&self.association);
            let flushes = self.last_flushes.get_or_insert_with(begin);
            match flushes.run(now, &self.association, home) {
                None => return,
                Some(status) if status.is_success() => {}
                Some(status) => {
                    // There is no way to tell it: the host has flushed what it cares for.
                    let host = &self.association.hostnqn;
                    tracing::error!(%host, ?status, "a shutdown left something unflushed");
                }
            }
        }
        self.last_flushes = None;
        if self.properties.ended(self.is_discovery()) == Change::Enabled {
            self.association.enable();
        }
    }

    /// Completes the Set Features that switched the volatile write cache off, one after the other.
    fn switch_cache_off(&mut self, now: Nanos, home: &mut dyn Home, out: &mut impl Replies) {
        while let Some((ticket, flushes)) = self.cache_off.front_mut() {
            let Some(status) = flushes.run(now, &self.association, home) else {
                return;
            };
            let ticket = *ticket;
            self.cache_off.pop_front();
            if status.is_success() {
                out.done(ticket, status, 0);
                continue;
            }
            if self.cache_off.is_empty() {
                self.association.set_write_cache(true);
            }
            self.note(ticket, 0, status);
            out.done(ticket, status, 0);
        }
    }

    /// Does what is due: late answers, events. False once the host counts as gone.
    pub(crate) fn run(&mut self, now: Nanos, home: &mut dyn Home, out: &mut impl Replies) -> bool {
        self.settle(now, home);
        self.switch_cache_off(now, home, out);
        for (ticket, status) in self.inbox.take() {
            out.done(ticket, status, 0);
        }
        self.look();
        if self.association.notices() > 0 {
            self.events.raise(AsyncEvent::ReservationNotification);
        }
        while let Some((request, event)) = self.events.next() {
            out.done(request, Status::SUCCESS, u64::from(event.dw0()));
        }
        let deadline = self.keep_alive.deadline(self.is_discovery());
        let expired = deadline.is_some_and(|deadline| deadline <= now);
        if expired {
            let (host, kato_ms) = (&self.association.hostnqn, self.keep_alive.kato_ms);
            tracing::info!(%host, cntlid = self.association.cntlid, kato_ms, "keep-alive expired");
        }
        !expired
    }

    /// When to run although nothing happened.
    pub(crate) fn deadline(&self) -> Option<Nanos> {
        let flushes = self.cache_off.front().map(|(_, flushes)| flushes);
        let flushes = [flushes, self.last_flushes.as_ref()].into_iter().flatten();
        flushes
            .filter_map(Flushes::deadline)
            .chain(self.keep_alive.deadline(self.is_discovery()))
            .min()
    }

    /// Compares what the host could see with what it can see now, and raises events about it.
    fn look(&mut self) {
        let Some(subsystem) = self.association.subsystem() else {
            return self.look_around();
        };
        let generation = subsystem.generation();
        if generation == self.seen {
            return;
        }
        self.seen = generation;
        let all = self.association.namespaces();
        let view: BTreeMap<u32, Shown> = all.iter().map(|one| (one.nsid, one.shown())).collect();
        let old = std::mem::replace(&mut self.view, view);
        let differs = |(nsid, now): &(&u32, &Shown)| old.get(nsid) != Some(now);
        let new = self.view.iter().filter(differs).map(|(nsid, _)| *nsid);
        self.changed.extend(new);
        self.changed
            .extend(old.keys().filter(|nsid| !self.view.contains_key(nsid)));
        let states = all.iter().map(|one| (one.nsid, self.association.ana(one)));
        let moved = self.ana.update(states);
        if !self.changed.is_empty() {
            self.events.raise(AsyncEvent::NamespaceAttribute);
        }
        if moved {
            self.events.raise(AsyncEvent::AnaChange);
        }
    }

    /// The same for a discovery controller.
    fn look_around(&mut self) {
        let generation = self.target.discovery.generation();
        if generation == self.seen {
            return;
        }
        self.seen = generation;
        let entries = discovery::entries(&self.target, &self.association.hostnqn, self.via);
        if entries != self.entries {
            self.entries = entries;
            self.events.raise(AsyncEvent::DiscoveryChange);
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        self.association.close();
        if let Some(subsystem) = self.association.subsystem() {
            subsystem.dissociate(&self.association);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
