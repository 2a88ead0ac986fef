//! Asynchronous events: what a completed Asynchronous Event Request says.

use bitflags::bitflags;

bitflags! {
    /// Events a host may enable by Asynchronous Event Configuration (NVMe Base 2.1, 5.1.25.1.6).
    ///
    /// Bits 8 and up have the same places in OAES of the identify controller data.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct EventMask: u32 {
        /// SMART: spare below threshold.
        const SMART_SPARE = 1 << 0;
        /// SMART: temperature.
        const SMART_TEMPERATURE = 1 << 1;
        /// SMART: subsystem reliability degraded.
        const SMART_RELIABILITY = 1 << 2;
        /// SMART: media are read-only.
        const SMART_READ_ONLY = 1 << 3;
        /// SMART: volatile memory backup failed.
        const SMART_BACKUP = 1 << 4;
        /// Namespace attribute notices.
        const NAMESPACE_ATTRIBUTE = 1 << 8;
        /// Firmware activation notices.
        const FIRMWARE_ACTIVATION = 1 << 9;
        /// Asymmetric namespace access change notices.
        const ANA_CHANGE = 1 << 11;
        /// Discovery log page change notices.
        const DISCOVERY_CHANGE = 1 << 31;
    }
}

/// An event, as DW0 of the completion encodes it (NVMe Base 2.1, 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AsyncEvent {
    /// Error status (type 0): persistent internal error and the like; the error log tells.
    Error(u8),
    /// SMART and health status (type 1).
    Health(u8),
    /// Notice: a namespace appeared, went or changed. Log page 04h tells which.
    NamespaceAttribute,
    /// Notice: access to a namespace changed. Log page 0Ch tells.
    AnaChange,
    /// Notice: the discovery log page changed. Log page 70h tells.
    DiscoveryChange,
    /// I/O command specific: a reservation notification waits in log page 80h.
    ReservationNotification,
}

impl AsyncEvent {
    /// Type (bits 2:0), information (15:8) and log page (23:16) in one dword.
    pub const fn dw0(self) -> u32 {
        let (kind, about, log) = match self {
            AsyncEvent::Error(about) => (0, about, 0x01),
            AsyncEvent::Health(about) => (1, about, 0x02),
            AsyncEvent::NamespaceAttribute => (2, 0x00, 0x04),
            AsyncEvent::AnaChange => (2, 0x03, 0x0c),
            AsyncEvent::DiscoveryChange => (2, 0xf0, 0x70),
            AsyncEvent::ReservationNotification => (6, 0x00, 0x80),
        };
        kind | (about as u32) << 8 | (log as u32) << 16
    }

    /// The event in a completion's DW0; `None` for one not known here.
    pub const fn from_dw0(dw0: u32) -> Option<AsyncEvent> {
        let about = (dw0 >> 8) as u8;
        match (dw0 & 7, about) {
            (0, _) => Some(AsyncEvent::Error(about)),
            (1, _) => Some(AsyncEvent::Health(about)),
            (2, 0x00) => Some(AsyncEvent::NamespaceAttribute),
            (2, 0x03) => Some(AsyncEvent::AnaChange),
            (2, 0xf0) => Some(AsyncEvent::DiscoveryChange),
            (6, 0x00) => Some(AsyncEvent::ReservationNotification),
            _ => None,
        }
    }

    /// The mask bit a host must have set to be told; `None` for events that cannot be masked.
    pub const fn mask(self) -> Option<EventMask> {
        match self {
            AsyncEvent::NamespaceAttribute => Some(EventMask::NAMESPACE_ATTRIBUTE),
            AsyncEvent::AnaChange => Some(EventMask::ANA_CHANGE),
            AsyncEvent::DiscoveryChange => Some(EventMask::DISCOVERY_CHANGE),
            AsyncEvent::Error(_) | AsyncEvent::Health(_) | AsyncEvent::ReservationNotification => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_survives_its_dword() {
        for event in [
            AsyncEvent::Error(3),
            AsyncEvent::Health(1),
            AsyncEvent::NamespaceAttribute,
            AsyncEvent::AnaChange,
            AsyncEvent::DiscoveryChange,
            AsyncEvent::ReservationNotification,
        ] {
            assert_eq!(AsyncEvent::from_dw0(event.dw0()), Some(event));
        }
        assert_eq!(AsyncEvent::from_dw0(0x0009_ff07), None);
    }

    #[test]
    fn the_dwords_are_those_linux_looks_for() {
        assert_eq!(AsyncEvent::NamespaceAttribute.dw0(), 0x0004_0002);
        assert_eq!(AsyncEvent::AnaChange.dw0(), 0x000c_0302);
        assert_eq!(AsyncEvent::DiscoveryChange.dw0(), 0x0070_f002);
        assert_eq!(AsyncEvent::ReservationNotification.dw0(), 0x0080_0006);
    }
}
