//! What the queues of all kinds share: how a command is named while it is under way, and answered.

use blk::IoBuf;
use std::sync::Mutex;
use std::task::Waker;
use wire::nvme::Status;
use wire::nvme_tcp::Slot;

/// A command under way: the transport's place for it, and what the host calls it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Ticket {
    /// Where the transport keeps it.
    pub(crate) slot: Slot,
    /// CID.
    pub(crate) cid: u16,
    /// OPC, for the error log.
    pub(crate) opcode: u8,
}

/// Takes answers to the host.
pub(crate) trait Replies {
    /// Completes a command with a status and the result in DW0 and DW1.
    fn done(&mut self, command: Ticket, status: Status, result: u64);
    /// Completes a command well, with data for the host. More data than the command has room for
    /// become Data SGL Length Invalid.
    fn data(&mut self, command: Ticket, data: IoBuf);
    /// Bytes of answers that the host has not taken yet.
    fn unsent(&mut self) -> usize;
}

/// Answers that come from other threads, with a way to wake the connection they are for.
pub(crate) struct Inbox {
    answers: Mutex<Vec<(Ticket, Status)>>,
    waker: Waker,
}

impl Inbox {
    pub(crate) fn new(waker: Waker) -> Self {
        Self {
            answers: Mutex::default(),
            waker,
        }
    }

    /// Whoever this wakes reads the inbox.
    pub(crate) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Leaves an answer.
    pub(crate) fn push(&self, command: Ticket, status: Status) {
        self.answers
            .lock()
            .expect("no holder of the inbox panics")
            .push((command, status));
        self.waker.wake_by_ref();
    }

    /// The answers so far.
    pub(crate) fn take(&self) -> Vec<(Ticket, Status)> {
        std::mem::take(&mut *self.answers.lock().expect("no holder of the inbox panics"))
    }
}
