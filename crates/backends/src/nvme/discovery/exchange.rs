//! [`Exchange`]: one visit to a discovery controller, from Connect to its whole log page.

use crate::nvme::admin::{self, ADMIN_ENTRIES};
use crate::nvme::association::Names;
use crate::nvme::link::Link;
use crate::nvme::session;
use blk::Nanos;
use wire::nvme::cmds::PropertySize;
use wire::nvme::identify::{Cns, ControllerType, IdentifyController};
use wire::nvme::log::{DiscoveryEntry, DiscoveryHead, DiscoveryRecord, LogId};
use wire::nvme::property::{self, ControllerStatus};
use wire::nvme_tcp::{Completed, HostConfig, HostEvent};

/// How often CSTS is read while the controller becomes ready.
const READY_POLL: Nanos = Nanos::from_millis(10);
/// Entries of a page that are taken at most. What an array says decides how much is kept in memory
/// and sent to the client: less than 600 bytes for each.
const ENTRIES_MAX: u64 = 4096;
/// Entries that one command asks for at most; MDTS may allow fewer.
const ENTRIES_AT_ONCE: u64 = 64;
/// How often a page that changes while it is read is begun anew, as other hosts do it.
const READS_MAX: u32 = 10;
/// No keep-alive: the page is read, and the association is over (NVMe Base 2.1, 3.1.3.3).
const KEEP_ALIVE: Nanos = Nanos(0);

/// A discovery log page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Page {
    /// GENCTR.
    pub(super) generation: u64,
    pub(super) entries: Vec<DiscoveryRecord>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The connection is being initialised.
    Open,
    Connect,
    Enable,
    /// Reads CSTS until the controller is ready.
    Status,
    Controller,
    /// Reads the head of the page.
    Head,
    /// Reads entries from where those stop that are there.
    Entries,
    /// Reads the head again: nothing must have changed meanwhile.
    Check,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Exchange {
    names: Names,
    link: Link,
    step: Step,
    cid: Option<u16>,
    /// When to go on, after a pause.
    pause: Option<Nanos>,
    /// Entries that one command may ask for.
    at_once: u64,
    reads: u32,
    /// Entries that the page has.
    records: u64,
    page: Page,
    /// What was wrong with an entry, unless the page has changed while it was read.
    trouble: Option<String>,
}

impl Exchange {
    /// A visit on a connection that was opened at `now`. How long it may last is up to the owner.
    pub(super) fn new(names: Names, now: Nanos) -> Self {
        let config = HostConfig {
            queue_depth: ADMIN_ENTRIES - 1,
            ..HostConfig::default()
        };
        Self {
            names,
            link: Link::new(config, now),
            step: Step::Open,
            cid: None,
            pause: None,
            at_once: 1,
            reads: 0,
            records: 0,
            page: Page::default(),
            trouble: None,
        }
    }

    /// Its connection.
    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// When [`Exchange::work`] has something to do although nothing arrived.
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.pause
    }

    /// What it waits for, for people.
    pub(super) fn waits_for(&self) -> &'static str {
        self.step.name()
    }

    /// Acts on what the connection brought and on the time, until the page is there.
    ///
    /// # Errors
    /// It cannot be had, and why.
    pub(super) fn work(&mut self, now: Nanos) -> Result<Option<Page>, String> {
        if self.pause.is_some_and(|at| at <= now) {
            self.pause = None;
            self.submit();
        }
        while let Some(event) = self.link.next_event() {
            match event {
                HostEvent::Ready(_) => self.go(Step::Connect),
                HostEvent::Completed(done) if self.link.host.is_open() => {
                    if self.cid.take() != Some(done.cid) {
                        return Err("it answered a command that was not asked".to_owned());
                    }
                    if self.done(&done, now)? {
                        return Ok(Some(std::mem::take(&mut self.page)));
                    }
                }
                // It failed because the connection did; what comes next tells why.
                HostEvent::Completed(_) => {}
                HostEvent::Closed(why) => return Err(session::closed(why).why),
            }
        }
        Ok(None)
    }

    fn go(&mut self, step: Step) {
        self.step = step;
        self.submit();
    }

    /// Sends the command of the step.
    fn submit(&mut self) {
        let (sqe, payload) = match self.step {
            Step::Open => return,
            Step::Connect => admin::connect(&self.names, KEEP_ALIVE),
            Step::Enable => admin::enable(),
            Step::Status => admin::get(property::CSTS, PropertySize::Four),
            Step::Controller => admin::identify(Cns::Controller, 0),
            Step::Head | Step::Check => {
                admin::log(LogId::Discovery, 0, 0, DiscoveryHead::SIZE as u64)
            }
            Step::Entries => {
                let entry = DiscoveryEntry::SIZE as u64;
                let offset = DiscoveryHead::SIZE as u64 + self.there() * entry;
                admin::log(LogId::Discovery, 0, offset, self.wanted() * entry)
            }
        };
        // A connection that does not take it is ending, and its last event tells why.
        self.cid = self.link.host.submit(sqe, payload).ok();
    }

    fn there(&self) -> u64 {
        self.page.entries.len() as u64
    }

    /// Entries that the next command asks for.
    fn wanted(&self) -> u64 {
        (self.records - self.there()).min(self.at_once)
    }

    /// Goes on after a command; true once the page is there.
    fn done(&mut self, done: &Completed, now: Nanos) -> Result<bool, String> {
        let status = done.cqe.status();
        if !status.is_success() {
            let name = admin::status_name(status, self.step == Step::Connect);
            let why = format!("{} was refused: {name}", self.step.name());
            if self.step != Step::Entries {
                return Err(why);
            }
            // The page may be shorter by now.
            self.trouble = Some(why);
            self.go(Step::Check);
            return Ok(false);
        }
        match self.step {
            Step::Open => {}
            Step::Connect => self.go(Step::Enable),
            Step::Enable => self.go(Step::Status),
            Step::Status => self.status(done.cqe.result() as u32, now)?,
            Step::Controller => self.identified(&done.data.to_vec())?,
            Step::Head => return self.begun(&done.data.to_vec()),
            Step::Entries => match self.entries(&done.data.to_vec()) {
                Ok(()) if self.wanted() > 0 => self.go(Step::Entries),
                result => {
                    self.trouble = result.err();
                    self.go(Step::Check);
                }
            },
            Step::Check => return self.checked(&done.data.to_vec()),
        }
        Ok(false)
    }

    fn status(&mut self, bits: u32, now: Nanos) -> Result<(), String> {
        let status = ControllerStatus::from_bits_truncate(bits);
        if status.contains(ControllerStatus::FATAL) {
            return Err("the controller has failed (CSTS.CFS)".to_owned());
        }
        match status.contains(ControllerStatus::READY) {
            true => self.go(Step::Controller),
            false => self.pause = Some(now + READY_POLL),
        }
        Ok(())
    }

    fn identified(&mut self, page: &[u8]) -> Result<(), String> {
        let controller = IdentifyController::from_prefix(page)
            .map_err(|_| "identify controller: the data are cut short".to_owned())?;
        let kind = controller.cntrltype;
        // 0 stands for a controller of before NVMe 1.4, which does not say.
        if kind != 0 && kind != ControllerType::Discovery as u8 {
            return Err("this is no discovery controller".to_owned());
        }
        let entry = DiscoveryEntry::SIZE as u64;
        let most = controller.data_max().map_or(u64::MAX, |max| max as u64);
        self.at_once = (most / entry).clamp(1, ENTRIES_AT_ONCE);
        self.go(Step::Head);
        Ok(())
    }

    fn begun(&mut self, page: &[u8]) -> Result<bool, String> {
        let head = DiscoveryHead::parse(page).map_err(malformed)?;
        self.reads += 1;
        self.records = head.records.get();
        if self.records > ENTRIES_MAX {
            let text = format!(
                "the discovery log page has {} entries, of which {ENTRIES_MAX} at most are taken",
                self.records
            );
            return Err(text);
        }
        self.page = Page {
            generation: head.generation.get(),
            entries: Vec::new(),
        };
        if self.records == 0 {
            return Ok(true);
        }
        self.go(Step::Entries);
        Ok(false)
    }

    fn entries(&mut self, bytes: &[u8]) -> Result<(), String> {
        let wanted = self.wanted();
        let rows = bytes.chunks_exact(DiscoveryEntry::SIZE);
        if rows.len() as u64 != wanted {
            return Err("the discovery log page: the data are cut short".to_owned());
        }
        for row in rows {
            let record = DiscoveryEntry::from_prefix(row).and_then(|entry| entry.record());
            let record = record
                .map_err(|e| format!("the discovery log page, entry {}: {e}", self.there()))?;
            self.page.entries.push(record);
        }
        Ok(())
    }

    fn checked(&mut self, page: &[u8]) -> Result<bool, String> {
        let head = DiscoveryHead::parse(page).map_err(malformed)?;
        if head.generation.get() == self.page.generation && head.records.get() == self.records {
            return self.trouble.take().map_or(Ok(true), Err);
        }
        self.trouble = None;
        if self.reads == READS_MAX {
            return Err(format!(
                "the discovery log page changed {READS_MAX} times while it was read"
            ));
        }
        self.begun(page)
    }
}

fn malformed(error: wire::Malformed) -> String {
    format!("the discovery log page: {error}")
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Open => "ICReq",
            Self::Connect => "Connect",
            Self::Enable => "Property Set of CC",
            Self::Status => "Property Get of CSTS",
            Self::Controller => "Identify Controller",
            Self::Head | Self::Entries | Self::Check => "Get Log Page, Discovery",
        }
    }
}
