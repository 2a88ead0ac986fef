//! Get Log Page (NVMe Base 2.1, 5.1.12).

use super::{Controller, INVALID};
use crate::nvme::{DATA_MAX, FIRMWARE};
use blk::{IoError, Nanos, Op};
use wire::nvme::cmds::GetLog;
use wire::nvme::log::{
    FirmwareSlots, LogId, ReservationNotification, Smart, changed_namespaces, command_effects,
    discovery, feature_effects, supported_pages, window,
};
use wire::nvme::text::padded;
use wire::nvme::{AdminOpcode, IoOpcode, NSID_ALL, Status};

/// The pages of a controller that serves I/O.
const IO_PAGES: &[LogId] = &[
    LogId::Supported,
    LogId::Error,
    LogId::Smart,
    LogId::Firmware,
    LogId::ChangedNamespaces,
    LogId::CommandEffects,
    LogId::Ana,
    LogId::FeatureEffects,
    LogId::Reservation,
];
/// The pages of a discovery controller.
const DISCOVERY_PAGES: &[LogId] = &[
    LogId::Supported,
    LogId::Error,
    LogId::CommandEffects,
    LogId::FeatureEffects,
    LogId::Discovery,
];
/// Available spare, in percent: there is nothing that wears out.
const SPARE_PERCENT: u8 = 100;
/// RGO of the ANA page: without the NSIDs.
const GROUPS_ONLY: u8 = 1;
const HOUR: u64 = Nanos::from_secs(3600).0;

impl Controller {
    fn pages(&self) -> &'static [LogId] {
        if self.is_discovery() {
            DISCOVERY_PAGES
        } else {
            IO_PAGES
        }
    }

    /// A log page, for a command with `room` for so many bytes. What is read is marked as read only
    /// if it can be told.
    pub(super) fn log_page(
        &mut self,
        now: Nanos,
        log: &GetLog,
        room: u32,
    ) -> Result<Vec<u8>, Status> {
        let known = LogId::from_u8(log.lid).filter(|id| self.pages().contains(id));
        let id = known.ok_or(Status::INVALID_LOG_PAGE.dnr())?;
        let len = usize::try_from(log.len)
            .ok()
            .filter(|len| *len <= DATA_MAX)
            .ok_or(INVALID)?;
        if log.by_index {
            return Err(INVALID);
        }
        if len > room as usize {
            return Err(Status::SGL_LENGTH_INVALID.dnr());
        }
        let page = match id {
            LogId::Supported => supported_pages(self.pages()),
            LogId::Error => {
                let errors = self.association.errors.lock();
                errors.expect("no holder of the log panics").page()
            }
            LogId::Smart => self.smart(now, log.nsid)?,
            LogId::Firmware => FirmwareSlots::single(padded(FIRMWARE)).bytes().to_vec(),
            LogId::ChangedNamespaces => changed_namespaces(self.changed.iter().copied()),
            LogId::CommandEffects => self.command_effects(),
            LogId::Ana => {
                self.look();
                self.ana.page(log.lsp & GROUPS_ONLY != 0)
            }
            LogId::FeatureEffects => feature_effects(self.features()),
            LogId::Discovery => {
                self.look();
                discovery(self.seen, &self.entries)
            }
            LogId::Reservation => {
                window(ReservationNotification::default().bytes(), log.offset, len)?;
                self.reservation(!log.retain_event)
            }
        };
        let answer = window(&page, log.offset, len)?;
        if !log.retain_event {
            self.events.read(id);
            if id == LogId::ChangedNamespaces {
                self.changed.clear();
            }
        }
        Ok(answer)
    }

    fn command_effects(&self) -> Vec<u8> {
        let io = if self.is_discovery() {
            &[]
        } else {
            IoOpcode::ALL
        };
        command_effects(AdminOpcode::ALL, io).bytes().to_vec()
    }

    /// SMART of the subsystem: what its namespaces did since the program started.
    fn smart(&self, now: Nanos, nsid: u32) -> Result<Vec<u8>, Status> {
        if nsid != 0 && nsid != NSID_ALL {
            return Err(INVALID);
        }
        let tally = self.association.subsystem().ok_or(INVALID)?.stats.tally();
        let errors = self
            .association
            .errors
            .lock()
            .expect("no holder of the log panics");
        let read = tally.op(Op::Read);
        let write = tally.op(Op::Write);
        let compare = tally.op(Op::Compare);
        let medium = IoError::Medium.index();
        let media: u64 = tally.by_op.iter().map(|op| op.by_error[medium]).sum();
        let page = Smart {
            spare: SPARE_PERCENT,
            data_units_read: Smart::data_units(u128::from(read.bytes)),
            data_units_written: Smart::data_units(u128::from(write.bytes)),
            host_reads: u128::from(read.ops + compare.ops).into(),
            host_writes: u128::from(write.ops).into(),
            power_cycles: 1.into(),
            power_on_hours: u128::from(now.since(self.target.started).0 / HOUR).into(),
            media_errors: u128::from(media).into(),
            error_entries: u128::from(errors.count()).into(),
            ..Smart::default()
        };
        Ok(page.bytes().to_vec())
    }

    fn reservation(&mut self, take: bool) -> Vec<u8> {
        let mut page = ReservationNotification::default();
        if let Some((nsid, notice, more)) = self.association.take_notice(take) {
            page.count = (self.notices_read + 1).into();
            self.notices_read += u64::from(take);
            page.notice = notice.page() as u8;
            page.available = u8::try_from(more).unwrap_or(u8::MAX);
            page.nsid = nsid.into();
        }
        page.bytes().to_vec()
    }
}
