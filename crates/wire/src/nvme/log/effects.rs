//! What is supported: log pages, commands with their effects, features.

use zerocopy::little_endian::U32;

use super::LogId;
use crate::nvme::features::FeatureId;
use crate::nvme::opcode::{AdminOpcode, IoOpcode};

layout! {
    /// Commands supported and effects (NVMe Base 2.1, 5.1.12.1.6).
    pub struct CommandEffects: 4096 {
        /// One dword per admin opcode.
        0: pub admin: [U32; 256],
        /// One dword per I/O opcode.
        1024: pub io: [U32; 256],
        /// Reserved: zero.
        2048: pub _reserved: [u8; 2048],
    }
}

/// The effects log of a controller that serves these commands.
pub fn command_effects(admin: &[AdminOpcode], io: &[IoOpcode]) -> CommandEffects {
    let mut page = CommandEffects::default();
    for op in admin {
        page.admin[usize::from(op.opcode())] = op.effects().bits().into();
    }
    for op in io {
        page.io[usize::from(op.opcode())] = op.effects().bits().into();
    }
    page
}

/// Bytes of the pages with one dword per log page or feature.
const DWORD_PAGE: usize = 1024;

/// The page that lists the supported log pages (NVMe Base 2.1, 5.1.12.1.1).
pub fn supported_pages(pages: &[LogId]) -> Vec<u8> {
    let mut out = vec![0; DWORD_PAGE];
    for page in pages {
        out[usize::from(*page as u8) * 4] = 1;
    }
    out
}

/// The page that lists the supported features (NVMe Base 2.1, 5.1.12.1.18).
///
/// Bit 0 says supported; bit 20 is set for a namespace's feature, bit 21 for a controller's.
pub fn feature_effects(features: &[FeatureId]) -> Vec<u8> {
    let mut out = vec![0; DWORD_PAGE];
    for id in features {
        let scope = if id.is_namespace_specific() {
            1 << 20
        } else {
            1 << 21
        };
        let row = &mut out[usize::from(*id as u8) * 4..][..4];
        row.copy_from_slice(&(1_u32 | scope).to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::opcode::Effects;

    #[test]
    fn the_effects_page_says_exactly_what_the_table_does() {
        let page = command_effects(AdminOpcode::ALL, IoOpcode::ALL);
        let bytes = page.bytes();
        assert_eq!(bytes[0x06 * 4..][..4], [1, 0, 0x30, 0]);
        assert_eq!(bytes[1024 + 4..][..4], [3, 0, 0, 0]);
        assert_eq!(bytes[1024 + 8..][..4], [1, 0, 0, 0]);
        let said = page.io.iter().filter(|dword| dword.get() != 0).count();
        assert_eq!(said, IoOpcode::ALL.len());
    }

    #[test]
    fn pages_and_features_have_a_dword_each() {
        let pages = supported_pages(&[LogId::Smart, LogId::Discovery]);
        assert_eq!((pages[2 * 4], pages[0x70 * 4], pages[4]), (1, 1, 0));
        let features = feature_effects(&[FeatureId::HostId, FeatureId::ReservationMask]);
        assert_eq!(features[0x81 * 4..][..4], [1, 0, 0x20, 0]);
        assert_eq!(features[0x82 * 4..][..4], [1, 0, 0x10, 0]);
    }

    #[test]
    fn a_recorded_page_agrees_with_the_table() {
        let bytes = include_bytes!("../../../tests/golden/command_effects.bin");
        let page = CommandEffects::from_prefix(bytes).unwrap();
        for op in AdminOpcode::ALL {
            assert_eq!(
                page.admin[usize::from(op.opcode())].get(),
                op.effects().bits()
            );
        }
        // The recorded target has no Verify, says that Flush changes blocks, and tells the scope
        // of I/O commands, of which Linux warns.
        for op in IoOpcode::ALL.iter().filter(|op| **op != IoOpcode::Verify) {
            let scope = Effects::NAMESPACE_SCOPE.bits();
            let recorded = page.io[usize::from(op.opcode())].get() & !scope;
            let ours = op.effects().bits() | u32::from(*op == IoOpcode::Flush) << 1;
            assert_eq!(recorded, ours, "{}", op.name());
        }
    }
}
