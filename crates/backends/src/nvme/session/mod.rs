//! [`Session`]: the admin queue of one association, from Connect until it is lost.
//!
//! It makes the controller (NVMe Base 2.1, 3.5.1), finds its namespaces, keeps it alive and follows
//! its events. It does one admin command after the other; keep-alives and the request for events
//! run beside.

mod scan;
mod task;

use super::admin::{self, ADMIN_ENTRIES};
use super::association::{Abilities, Association, Found, Loss, Names, Times};
use super::link::Link;
use super::rail::{Verdict, verdict};
use blk::Nanos;
pub(super) use scan::NAMESPACES_MAX;
use scan::Scan;
use std::collections::{HashSet, VecDeque};
use task::Task;
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::cmds::PropertySize;
use wire::nvme::fabrics::Connected;
use wire::nvme::features::{FeatureId, QueueCounts};
use wire::nvme::identify::{Cns, ControllerType, IDENTIFY_LEN, IdentifyController, ctratt, oncs};
use wire::nvme::log::{AnaGroup, LogId, parse_ana};
use wire::nvme::property::{self, Capabilities, ControllerStatus};
use wire::nvme::text::trimmed;
use wire::nvme::{AdminCmd, CNTLID_DYNAMIC, CNTLID_MAX, Sqe};
use wire::nvme_tcp::{Closed, Completed, Digests, HostConfig, HostEvent, Payload};

/// How often CSTS is read while a controller becomes ready.
const READY_POLL: Nanos = Nanos::from_millis(10);
/// How long a controller may take to shut down, as Linux hosts give it.
const SHUTDOWN_MAX: Nanos = Nanos::from_secs(5);
/// Why a controller that was shut down is lost.
const SHUT_DOWN: &str = "it was shut down";
/// Keep-alives are sent at multiples of this, so that those of many arrays wake a reactor together.
const KEEP_ALIVE_GRID: Nanos = Nanos::from_millis(250);
/// Bytes of the head of an ANA log page, and of each of its groups.
const ANA_BYTES: (u64, u64) = (16, 32);
/// ANA groups that are asked for at most: 2 MiB of log page.
const ANA_GROUPS_MAX: u32 = 65_536;
/// Most data of one command when the array sets no limit.
const DATA_MAX: usize = 1 << 20;
/// RGO: the log page lists groups without their namespaces (NVMe Base 2.1, 5.1.12.1.13).
const GROUPS_ONLY: u8 = 1;

/// What to ask for.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) names: Names,
    pub(super) times: Times,
    pub(super) digests: Digests,
    /// I/O queues.
    pub(super) queues: u16,
    /// Commands in flight on each.
    pub(super) depth: u16,
}

/// What the owner of a session is told.
#[derive(Debug)]
pub(super) enum News {
    /// The controller is made, and its namespaces were told: I/O queues may connect.
    Ready(Association),
    /// All namespaces, as they are now.
    Namespaces(Vec<Found>),
    /// All ANA groups, as they are now.
    Ana(Vec<AnaGroup>),
    /// It is over.
    Lost(Loss),
}

#[derive(Debug)]
struct Running {
    cid: u16,
    task: Task,
    until: Nanos,
}

/// The keep-alive that is under way, or the next.
#[derive(Debug)]
enum KeepAlive {
    Next(Nanos),
    Sent(u16, Nanos),
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Session {
    wish: Wish,
    link: Link,
    /// Over, and why.
    over: bool,
    tasks: VecDeque<Task>,
    running: Option<Running>,
    /// When to go on with the row, after a pause.
    pause: Option<Nanos>,
    keep_alive: Option<KeepAlive>,
    event_request: Option<u16>,
    capabilities: Capabilities,
    controller: Box<IdentifyController>,
    cntlid: u16,
    queues: u16,
    ready: bool,
    scan: Scan,
    /// Until the controller must be ready.
    ready_until: Nanos,
    /// Until it must be shut down, once that was asked for.
    shut_until: Option<Nanos>,
    news: Vec<News>,
}

impl Session {
    /// A session on a connection that was opened at `now`.
    pub(super) fn new(wish: Wish, now: Nanos) -> Self {
        let config = HostConfig {
            queue_depth: ADMIN_ENTRIES - 1,
            digests: wish.digests,
            init_timeout: wish.times.admin,
            ..HostConfig::default()
        };
        Self {
            ready_until: now + wish.times.admin,
            shut_until: None,
            wish,
            link: Link::new(config, now),
            over: false,
            tasks: VecDeque::new(),
            running: None,
            pause: None,
            keep_alive: None,
            event_request: None,
            capabilities: Capabilities::from_bits(0),
            controller: Box::default(),
            cntlid: CNTLID_DYNAMIC,
            queues: 0,
            ready: false,
            scan: Scan::default(),
            news: Vec::new(),
        }
    }

    /// Its connection.
    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Acts on what the connection brought and on the time, and returns what the owner must know.
    /// After [`News::Lost`] the session does nothing more.
    pub(super) fn work(&mut self, now: Nanos) -> Vec<News> {
        if self.link.host.deadline().is_some_and(|at| at <= now) {
            self.link.host.expire(now);
        }
        while !self.over
            && let Some(event) = self.link.next_event()
        {
            match event {
                HostEvent::Ready(_) => self.tasks.push_back(Task::Connect),
                HostEvent::Completed(done) if self.link.host.is_open() => self.done(&done, now),
                // It failed because the connection did; what comes next tells why.
                HostEvent::Completed(_) => {}
                HostEvent::Closed(why) => self.lose(closed(why)),
            }
        }
        self.expire(now);
        if !self.over && self.pause.is_none() && self.running.is_none() {
            self.next_task(now);
        }
        std::mem::take(&mut self.news)
    }

    /// The socket is gone.
    pub(super) fn closed(&mut self, loss: Loss) {
        self.lose(loss);
        self.link.host.close();
    }

    /// When [`Session::work`] has something to do although nothing arrived.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        if self.over {
            return None;
        }
        let keep_alive = self.keep_alive.as_ref().map(|keep| match keep {
            KeepAlive::Next(at) | KeepAlive::Sent(_, at) => *at,
        });
        let running = self.running.as_ref().map(|running| running.until);
        let link = self.link.host.deadline();
        [keep_alive, running, self.pause, self.shut_until, link]
            .into_iter()
            .flatten()
            .min()
    }

    /// Has the ANA states read again: an I/O was told that they changed.
    pub(super) fn check_ana(&mut self) {
        if self.ready && self.controller.anacap != 0 && !self.tasks.contains(&Task::Ana) {
            self.tasks.push_back(Task::Ana);
        }
    }

    /// Shuts the controller down (NVMe Base 2.1, 3.6.1), and is lost with that; at once if there
    /// is no controller yet.
    pub(super) fn shut_down(&mut self, now: Nanos) {
        if self.keep_alive.is_none() {
            return self.closed(Loss::new(SHUT_DOWN));
        }
        if self.shut_until.is_none() {
            self.shut_until = Some(now + SHUTDOWN_MAX);
            self.pause = None;
            self.tasks.push_back(Task::ShutDown);
        }
    }

    fn lose(&mut self, loss: Loss) {
        if !self.over {
            self.over = true;
            self.news.push(News::Lost(loss));
        }
    }

    fn fail(&mut self, why: impl Into<String>) {
        self.lose(Loss::new(why));
    }

    fn expire(&mut self, now: Nanos) {
        if self.over {
            return;
        }
        if let Some(running) = &self.running
            && running.until <= now
        {
            let why = format!("no answer to {} in time", running.task.name());
            return self.fail(why);
        }
        if self.shut_until.is_some_and(|at| at <= now) {
            return self.fail("the controller does not shut down in time");
        }
        if self.pause.is_some_and(|at| at <= now) {
            self.pause = None;
        }
        match self.keep_alive {
            Some(KeepAlive::Sent(_, at)) if at <= now => self.fail("no answer to keep-alive"),
            Some(KeepAlive::Next(at)) if at <= now => self.send_keep_alive(now),
            _ => {}
        }
    }

    /// Half of KATO each for the pause and for the answer, so that silence is noticed within it.
    fn half(&self) -> Nanos {
        Nanos(self.wish.times.keep_alive.0 / 2)
    }

    /// When the next keep-alive is due: within half of KATO.
    fn next_keep_alive(&self, now: Nanos) -> KeepAlive {
        let latest = now + self.half();
        let early = latest.0 % KEEP_ALIVE_GRID.0;
        KeepAlive::Next((latest - Nanos(early)).max(now))
    }

    fn send_keep_alive(&mut self, now: Nanos) {
        let sqe = AdminCmd::KeepAlive.to_sqe();
        if let Ok(cid) = self.link.host.submit(sqe, Payload::None) {
            self.keep_alive = Some(KeepAlive::Sent(cid, now + self.half()));
        }
    }

    fn request_events(&mut self) {
        if self.event_request.is_none() {
            let sqe = AdminCmd::AsyncEventRequest.to_sqe();
            self.event_request = self.link.host.submit(sqe, Payload::None).ok();
        }
    }

    fn next_task(&mut self, now: Nanos) {
        if self.shut_until.is_some() {
            // Nothing else matters any more.
            self.tasks
                .retain(|task| matches!(task, Task::ShutDown | Task::ShutDownStatus));
        }
        let Some(task) = self.tasks.pop_front() else {
            return;
        };
        let (sqe, payload) = self.command(task);
        match self.link.host.submit(sqe, payload) {
            Ok(cid) => {
                let until = now + self.wish.times.admin;
                self.running = Some(Running { cid, task, until });
            }
            // The connection is ending; its last event tells why.
            Err(_) => self.tasks.push_front(task),
        }
    }

    /// The command of a task.
    fn command(&self, task: Task) -> (Sqe, Payload) {
        match task {
            Task::Connect => admin::connect(&self.wish.names, self.wish.times.keep_alive),
            Task::Capabilities => admin::get(property::CAP, PropertySize::Eight),
            Task::Status | Task::ShutDownStatus => admin::get(property::CSTS, PropertySize::Four),
            Task::Enable => admin::enable(),
            Task::ShutDown => admin::shut_down(),
            Task::Controller => admin::identify(Cns::Controller, 0),
            Task::List(after) => admin::identify(Cns::ActiveNamespaces, after),
            Task::Namespace(nsid) => admin::identify(Cns::Namespace, nsid),
            Task::Descriptors(nsid) => admin::identify(Cns::Descriptors, nsid),
            Task::Queues => {
                let count = u32::from(self.wish.queues.max(1));
                let counts = QueueCounts {
                    submission: count,
                    completion: count,
                };
                admin::set_feature(FeatureId::NumberOfQueues, counts.bits())
            }
            Task::Events => admin::set_feature(FeatureId::AsyncEvents, self.events_wanted().bits()),
            Task::Ana => {
                let groups = self.controller.nanagrpid.get().clamp(1, ANA_GROUPS_MAX);
                let len = ANA_BYTES.0 + ANA_BYTES.1 * u64::from(groups);
                admin::log(LogId::Ana, GROUPS_ONLY, 0, len)
            }
            Task::Changed => admin::log(LogId::ChangedNamespaces, 0, 0, IDENTIFY_LEN as u64),
        }
    }

    /// Events that this controller has and we act on.
    fn events_wanted(&self) -> EventMask {
        let offered = EventMask::from_bits_truncate(self.controller.oaes.get());
        offered & (EventMask::NAMESPACE_ATTRIBUTE | EventMask::ANA_CHANGE)
    }

    fn done(&mut self, done: &Completed, now: Nanos) {
        if let Some(KeepAlive::Sent(cid, _)) = self.keep_alive
            && cid == done.cid
        {
            if !done.cqe.status().is_success() {
                let why = format!("keep-alive failed: {}", done.cqe.status());
                return self.fail(why);
            }
            self.keep_alive = Some(self.next_keep_alive(now));
            return;
        }
        if self.event_request == Some(done.cid) {
            self.event_request = None;
            return self.event(done);
        }
        let Some(running) = self.running.take_if(|running| running.cid == done.cid) else {
            return self.fail("the array answered a command that was not asked");
        };
        self.advance(running.task, done, now);
    }

    fn event(&mut self, done: &Completed) {
        if !done.cqe.status().is_success() {
            // Some arrays take no request for events; their changes are found at reconnection.
            return;
        }
        match AsyncEvent::from_dw0(done.cqe.dw0.get()) {
            Some(AsyncEvent::NamespaceAttribute) => {
                if !self.tasks.contains(&Task::Changed) {
                    self.tasks.push_back(Task::Changed);
                }
                self.rescan();
            }
            Some(AsyncEvent::AnaChange) => self.check_ana(),
            _ => {}
        }
        self.request_events();
    }

    fn rescan(&mut self) {
        // A scan that has not begun will see the change.
        if !self.tasks.contains(&Task::List(0)) {
            self.tasks.push_back(Task::List(0));
        }
    }

    /// Goes on after a task.
    fn advance(&mut self, task: Task, done: &Completed, now: Nanos) {
        let status = done.cqe.status();
        // What another try may answer says nothing of what is there.
        let later = verdict(status) == Verdict::Again;
        if !status.is_success() && (later || !task.may_fail()) {
            let name = admin::status_name(status, task == Task::Connect);
            return self.fail(format!("{} was refused: {name}", task.name()));
        }
        let good = status.is_success();
        if good && task.is_identify() && done.data.len() < IDENTIFY_LEN {
            return self.fail(format!("{}: the data are cut short", task.name()));
        }
        match task {
            Task::Connect => {
                let connected = Connected::from_dw0(done.cqe.dw0.get());
                if connected.authentication {
                    let why = "the array demands in-band authentication, which is not implemented";
                    return self.fail(why);
                }
                self.cntlid = connected.cntlid;
                if self.cntlid > CNTLID_MAX {
                    let why = format!("the array gave controller ID {:#x}", self.cntlid);
                    return self.fail(format!("{why}, which none may have"));
                }
                // The timer of the controller runs from here on.
                self.keep_alive = Some(self.next_keep_alive(now));
                self.tasks.push_back(Task::Capabilities);
            }
            Task::Capabilities => {
                self.capabilities = Capabilities::from_bits(done.cqe.result());
                // Queues of one entry hold no command (NVMe Base 2.1, 3.1.4.1).
                if self.capabilities.queue_entries_max < 2 {
                    return self.fail("the controller has no queues (CAP.MQES is 0)");
                }
                self.tasks.push_back(Task::Enable);
            }
            Task::Enable => self.tasks.push_back(Task::Status),
            Task::Status => self.status(done.cqe.result() as u32, now),
            Task::Controller => self.identified(&done.data.to_vec()),
            Task::Queues => self.queues_granted(done.cqe.dw0.get()),
            Task::Events => {
                if good {
                    self.request_events();
                }
            }
            Task::Ana if good => match ana_groups(&done.data.to_vec()) {
                Ok(groups) => self.news.push(News::Ana(groups)),
                Err(e) => self.fail(format!("the ANA log page: {e}")),
            },
            Task::Ana | Task::Changed => {}
            Task::ShutDown => self.tasks.push_back(Task::ShutDownStatus),
            Task::ShutDownStatus => {
                let status = ControllerStatus::from_bits_truncate(done.cqe.result() as u32);
                let over = ControllerStatus::SHUTDOWN_COMPLETE | ControllerStatus::FATAL;
                if status.intersects(over) {
                    return self.fail(SHUT_DOWN);
                }
                self.pause = Some(now + READY_POLL);
                self.tasks.push_back(Task::ShutDownStatus);
            }
            Task::List(_) | Task::Namespace(_) | Task::Descriptors(_) => {
                self.scanned(task, good.then(|| done.data.to_vec()).as_deref());
            }
        }
    }

    fn status(&mut self, bits: u32, now: Nanos) {
        let status = ControllerStatus::from_bits_truncate(bits);
        if status.contains(ControllerStatus::FATAL) {
            return self.fail("the controller has failed (CSTS.CFS)");
        }
        if status.contains(ControllerStatus::READY) {
            self.tasks.push_back(Task::Controller);
        } else if now >= self.ready_until {
            self.fail("the controller does not become ready");
        } else {
            self.pause = Some(now + READY_POLL);
            self.tasks.push_back(Task::Status);
        }
    }

    fn identified(&mut self, page: &[u8]) {
        let Ok(controller) = IdentifyController::from_prefix(page) else {
            return self.fail("identify controller: the data are cut short");
        };
        *self.controller = controller;
        let (id, connected) = (controller.cntlid.get(), self.cntlid);
        if id != connected {
            let why = format!("the array says controller ID {id} after it gave {connected}");
            return self.fail(why);
        }
        let named = trimmed(&controller.subnqn);
        let named = named.trim_end_matches('\0');
        let wanted = self.wish.names.subnqn.as_str();
        if named != wanted {
            return self.fail(format!("the array says it is {named:?}, not {wanted:?}"));
        }
        let kind = controller.cntrltype;
        // 0 stands for a controller of before NVMe 1.4, which does not say.
        if kind != 0 && kind != ControllerType::Io as u8 {
            return self.fail("this is no controller for I/O");
        }
        self.tasks.push_back(Task::Queues);
    }

    fn queues_granted(&mut self, dw0: u32) {
        let granted = (dw0 & 0xffff).min(dw0 >> 16).saturating_add(1);
        self.queues = granted.min(u32::from(self.wish.queues.max(1))) as u16;
        if !self.events_wanted().is_empty() {
            self.tasks.push_back(Task::Events);
        }
        if self.controller.anacap != 0 {
            self.tasks.push_back(Task::Ana);
        }
        self.tasks.push_back(Task::List(0));
    }

    /// Goes on with the search for namespaces.
    fn scanned(&mut self, task: Task, page: Option<&[u8]>) {
        let names = &self.wish.names;
        let cache = self.controller.vwc & 1 == 1;
        let next = match task {
            Task::List(after) => self.scan.list(after, page),
            Task::Namespace(nsid) => self.scan.namespace(nsid, page, cache),
            _ => self.scan.descriptors(page, &names.subnqn),
        };
        match next {
            Err(why) => self.fail(why),
            Ok(scan::Next::List(after)) => self.tasks.push_front(Task::List(after)),
            Ok(scan::Next::Namespace(nsid)) => self.tasks.push_front(Task::Namespace(nsid)),
            Ok(scan::Next::Descriptors(nsid)) => self.tasks.push_front(Task::Descriptors(nsid)),
            Ok(scan::Next::Complete(found)) => {
                // First, or for a moment the association would lead to what was there before.
                self.news.push(News::Namespaces(found));
                if !self.ready {
                    self.ready = true;
                    let association = self.association();
                    self.news.push(News::Ready(association));
                }
            }
        }
    }

    fn association(&self) -> Association {
        let controller = &self.controller;
        let has = |bit| controller.oncs.get() & bit != 0;
        // A queue of n entries holds n - 1 commands (NVMe Base 2.1, 3.3.1.2).
        let entries = self.capabilities.queue_entries_max.min(65_536);
        let most = entries.saturating_sub(1).clamp(1, 65_534) as u16;
        let maxcmd = controller.maxcmd.get();
        let most = if maxcmd > 0 { most.min(maxcmd) } else { most };
        Association {
            cntlid: self.cntlid,
            queues: self.queues,
            depth: self.wish.depth.clamp(1, most),
            digests: self.wish.digests,
            in_capsule_bytes: u32::try_from(controller.in_capsule_data()).unwrap_or(u32::MAX),
            data_bytes_max: controller.data_max().unwrap_or(DATA_MAX).min(DATA_MAX),
            abilities: Abilities {
                compare: has(oncs::COMPARE),
                write_zeroes: has(oncs::WRITE_ZEROES),
                dataset_management: has(oncs::DATASET_MANAGEMENT),
                write_cache: controller.vwc & 1 == 1,
            },
            quiesce: self.quiesce(),
            names: self.wish.names.clone(),
        }
    }

    /// After communication is lost, the controller notices within two keep-alive times, or three
    /// where traffic counts as a sign of life, and then needs CQT to quiesce (NVMe Base 2.1, 9.6).
    fn quiesce(&self) -> Nanos {
        let by_traffic = self.controller.ctratt.get() & ctratt::TRAFFIC_KEEP_ALIVE != 0;
        let rounds = if by_traffic { 3 } else { 2 };
        let kato = self.wish.times.keep_alive.0.saturating_mul(rounds);
        Nanos(kato) + Nanos::from_millis(u64::from(self.controller.cqt.get()))
    }
}

/// The groups of an ANA log page.
fn ana_groups(page: &[u8]) -> Result<Vec<AnaGroup>, String> {
    let (_, groups) = parse_ana(page).map_err(|e| e.to_string())?;
    let mut seen = HashSet::new();
    match groups.iter().find(|group| !seen.insert(group.id)) {
        Some(group) => Err(format!("it has ANA group {} twice", group.id)),
        None => Ok(groups),
    }
}

/// Why a connection is over, as a loss.
pub(super) fn closed(why: Closed) -> Loss {
    match why {
        Closed::ByPeer(status, at) => Loss {
            why: format!("the array ended the connection: {status:?} at {at:#x}"),
            by_array: true,
        },
        Closed::ByUs => Loss::new("the array broke the protocol"),
        Closed::InitTimeout => Loss::new("the array does not initialise the connection"),
        Closed::Lost => Loss::closed(),
    }
}
