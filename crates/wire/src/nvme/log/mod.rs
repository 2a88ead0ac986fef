//! Log pages: their identifiers, and the bytes of each.

mod ana;
mod discovery;
mod effects;
mod health;

pub use ana::{AnaDescriptor, AnaGroup, AnaHead, AnaState, ana, parse_ana};
pub use discovery::{
    AddressFamily, DiscoveryEntry, DiscoveryHead, DiscoveryRecord, EFLAGS_DUPLICATE,
    EFLAGS_PERSISTENT, SecureChannel, SubsystemType, TREQ_NO_SQ_FLOW_CONTROL, TcpSecurity,
    Transport, discovery, parse_discovery,
};
pub use effects::{CommandEffects, command_effects, feature_effects, supported_pages};
pub use health::{
    CHANGED_MAX, ErrorEntry, FirmwareSlots, ReservationNotice, ReservationNotification, Smart,
    changed_namespaces,
};

use super::status::Status;

/// LID: a log page known here (NVMe Base 2.1, 5.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LogId {
    /// Supported log pages.
    Supported = 0x00,
    /// Error information.
    Error = 0x01,
    /// SMART and health.
    Smart = 0x02,
    /// Firmware slots.
    Firmware = 0x03,
    /// Changed attached namespaces.
    ChangedNamespaces = 0x04,
    /// Commands supported and effects.
    CommandEffects = 0x05,
    /// Asymmetric namespace access.
    Ana = 0x0c,
    /// Features supported and effects.
    FeatureEffects = 0x12,
    /// Discovery.
    Discovery = 0x70,
    /// Reservation notification.
    Reservation = 0x80,
}

impl LogId {
    /// Every page known here.
    pub const ALL: &[LogId] = &[
        LogId::Supported,
        LogId::Error,
        LogId::Smart,
        LogId::Firmware,
        LogId::ChangedNamespaces,
        LogId::CommandEffects,
        LogId::Ana,
        LogId::FeatureEffects,
        LogId::Discovery,
        LogId::Reservation,
    ];

    /// The page with this identifier, if it is known.
    pub fn from_u8(value: u8) -> Option<LogId> {
        LogId::ALL.iter().copied().find(|id| *id as u8 == value)
    }
}

/// The `len` bytes of `page` from `offset`; what lies beyond its end reads as zeroes.
///
/// # Errors
/// Invalid Field in Command when the offset lies beyond the page (NVMe Base 2.1, 5.1.12) or is not
/// a multiple of four.
pub fn window(page: &[u8], offset: u64, len: usize) -> Result<Vec<u8>, Status> {
    let bad = Status::INVALID_FIELD.dnr();
    let start = usize::try_from(offset).map_err(|_| bad)?;
    if start > page.len() || start % 4 != 0 {
        return Err(bad);
    }
    let there = &page[start..page.len().min(start.saturating_add(len))];
    let mut out = there.to_vec();
    out.resize(len, 0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_filled_up_with_zeroes_and_an_offset_beyond_the_page_is_refused() {
        let page = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(window(&page, 4, 8).unwrap(), [5, 6, 7, 8, 0, 0, 0, 0]);
        assert_eq!(window(&page, 8, 2).unwrap(), [0, 0]);
        assert!(window(&page, 12, 4).is_err());
        assert!(window(&page, 2, 4).is_err());
        assert!(window(&page, u64::MAX - 3, 4).is_err());
    }

    #[test]
    fn every_page_is_found_by_its_identifier() {
        for id in LogId::ALL {
            assert_eq!(LogId::from_u8(*id as u8), Some(*id));
        }
        assert_eq!(LogId::from_u8(0x71), None);
    }
}
