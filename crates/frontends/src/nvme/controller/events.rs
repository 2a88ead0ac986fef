//! Asynchronous events: requests of the host that wait, and events that wait for a request
//! (NVMe Base 2.1, 5.1.2).

use crate::nvme::queue::Ticket;
use std::collections::VecDeque;
use wire::nvme::aer::{AsyncEvent, EventMask};
use wire::nvme::log::LogId;

/// Asynchronous Event Requests that a host may have outstanding; hosts use one to four.
pub(crate) const REQUESTS_MAX: usize = 4;

/// An event that is reported once and then not again before the host has read its log page.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Kind {
    event: AsyncEvent,
    page: LogId,
}

const KINDS: [Kind; 4] = [
    Kind {
        event: AsyncEvent::NamespaceAttribute,
        page: LogId::ChangedNamespaces,
    },
    Kind {
        event: AsyncEvent::AnaChange,
        page: LogId::Ana,
    },
    Kind {
        event: AsyncEvent::DiscoveryChange,
        page: LogId::Discovery,
    },
    Kind {
        event: AsyncEvent::ReservationNotification,
        page: LogId::Reservation,
    },
];

/// The events of one controller.
#[derive(Default)]
pub(crate) struct Events {
    requests: VecDeque<Ticket>,
    /// Feature Asynchronous Event Configuration.
    enabled: EventMask,
    /// By index in [`KINDS`].
    pending: [bool; KINDS.len()],
    /// Reported, and its log page not read since.
    reported: [bool; KINDS.len()],
}

impl Events {
    /// Feature Asynchronous Event Configuration.
    pub(crate) fn enabled(&self) -> EventMask {
        self.enabled
    }

    /// Sets the feature. Events that are not wanted any more are dropped.
    pub(crate) fn enable(&mut self, mask: EventMask) {
        self.enabled = mask;
        for (pending, kind) in self.pending.iter_mut().zip(KINDS) {
            *pending &= kind.event.mask().is_none_or(|bit| mask.contains(bit));
        }
    }

    /// Takes a request; false when there are too many.
    pub(crate) fn request(&mut self, command: Ticket) -> bool {
        let room = self.requests.len() < REQUESTS_MAX;
        if room {
            self.requests.push_back(command);
        }
        room
    }

    /// Something happened. Events that the host has not enabled are forgotten.
    pub(crate) fn raise(&mut self, event: AsyncEvent) {
        let enabled = event.mask().is_none_or(|bit| self.enabled.contains(bit));
        if let Some(index) = KINDS.iter().position(|kind| kind.event == event)
            && enabled
            && !self.reported[index]
        {
            self.pending[index] = true;
        }
    }

    /// The host has read a log page, and what it tells may be reported anew.
    pub(crate) fn read(&mut self, page: LogId) {
        if let Some(index) = KINDS.iter().position(|kind| kind.page == page) {
            self.reported[index] = false;
            self.pending[index] = false;
        }
    }

    /// A request to complete now, and the event to complete it with.
    pub(crate) fn next(&mut self) -> Option<(Ticket, AsyncEvent)> {
        let index = self.pending.iter().position(|pending| *pending)?;
        let command = self.requests.pop_front()?;
        self.pending[index] = false;
        self.reported[index] = true;
        Some((command, KINDS[index].event))
    }

    /// Takes back the request with a CID.
    pub(crate) fn abort(&mut self, cid: u16) -> Option<Ticket> {
        let index = self
            .requests
            .iter()
            .position(|command| command.cid == cid)?;
        self.requests.remove(index)
    }

    /// Controller reset: nothing is pending, and the requests come back to be aborted.
    pub(crate) fn reset(&mut self) -> VecDeque<Ticket> {
        std::mem::take(self).requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::controller::tests::ticket;

    #[test]
    fn an_event_waits_for_a_request_and_is_then_reported_once() {
        let mut events = Events::default();
        events.enable(EventMask::NAMESPACE_ATTRIBUTE);
        events.raise(AsyncEvent::NamespaceAttribute);
        events.raise(AsyncEvent::AnaChange);
        assert_eq!(events.next(), None);
        assert!(events.request(ticket(1)) && events.request(ticket(2)));
        assert_eq!(
            events.next(),
            Some((ticket(1), AsyncEvent::NamespaceAttribute))
        );
        events.raise(AsyncEvent::NamespaceAttribute);
        assert_eq!(events.next(), None, "the host has not read the page yet");
        events.read(LogId::ChangedNamespaces);
        events.raise(AsyncEvent::NamespaceAttribute);
        assert_eq!(
            events.next(),
            Some((ticket(2), AsyncEvent::NamespaceAttribute))
        );
    }

    #[test]
    fn events_that_are_switched_off_are_forgotten() {
        let mut events = Events::default();
        events.enable(EventMask::ANA_CHANGE);
        events.raise(AsyncEvent::AnaChange);
        events.enable(EventMask::empty());
        events.request(ticket(1));
        assert_eq!(events.next(), None);
        events.raise(AsyncEvent::ReservationNotification);
        assert!(
            events.next().is_some(),
            "reservation notices have a mask of their own"
        );
    }

    #[test]
    fn requests_are_limited_and_can_be_taken_back() {
        let mut events = Events::default();
        for cid in 0..REQUESTS_MAX as u16 {
            assert!(events.request(ticket(cid)));
        }
        assert!(!events.request(ticket(9)));
        assert_eq!(events.abort(2), Some(ticket(2)));
        assert_eq!(events.abort(2), None);
        assert_eq!(events.reset().len(), REQUESTS_MAX - 1);
    }
}
