//! The admin queue, command by command.

use crate::nvme::queue::Ticket;
use wire::nvme_tcp::Slot;

pub(crate) fn ticket(cid: u16) -> Ticket {
    Ticket {
        slot: Slot::from_index(cid),
        cid,
        opcode: 0,
    }
}
