//! The error information log of one controller.

use crate::nvme::queue::Ticket;
use std::collections::VecDeque;
use wire::nvme::Status;
use wire::nvme::log::ErrorEntry;

/// Entries kept: one page of 4 KiB, as drives have.
pub(crate) const ERRORS_MAX: usize = 64;
/// No byte of the command is to blame.
const NO_PARAMETER: u16 = 0xffff;
/// TRTYPE of TCP in an entry.
const TRANSPORT_TCP: u8 = 3;

/// The latest errors, newest first.
#[derive(Default)]
pub(crate) struct ErrorLog {
    entries: VecDeque<ErrorEntry>,
    count: u64,
}

impl ErrorLog {
    /// Notes a failed command. Failures that a good host meets in daily life (a path that comes
    /// back, another's reservation, a compare that finds other data) are not errors of the
    /// controller.
    pub(crate) fn note(&mut self, qid: u16, command: Ticket, nsid: u32, lba: u64, status: Status) {
        let expected = status.sct() == 3
            || [
                Status::RESERVATION_CONFLICT,
                Status::COMPARE_FAILURE,
                Status::ABORT_REQUESTED,
            ]
            .iter()
            .any(|other| status.is(*other));
        if expected || status.is_success() {
            return;
        }
        self.count += 1;
        if self.entries.len() == ERRORS_MAX {
            self.entries.pop_back();
        }
        self.entries.push_front(ErrorEntry {
            error_count: self.count.into(),
            sqid: qid.into(),
            cid: command.cid.into(),
            status: status.field().into(),
            parameter: NO_PARAMETER.into(),
            lba: lba.into(),
            nsid: nsid.into(),
            transport: TRANSPORT_TCP,
            opcode: command.opcode,
            version: 1,
            ..ErrorEntry::default()
        });
    }

    /// Errors over the life of the controller.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The log page.
    pub(crate) fn page(&self) -> Vec<u8> {
        let mut page: Vec<u8> = self
            .entries
            .iter()
            .flat_map(|e| e.bytes().to_vec())
            .collect();
        page.resize(ERRORS_MAX * ErrorEntry::SIZE, 0);
        page
    }
}
