//! Asymmetric namespace access: which groups of namespaces can be reached through this controller.

use zerocopy::little_endian::{U16, U32, U64};

use crate::Malformed;
use crate::nvme::Status;

/// State of an ANA group (NVMe Base 2.1, 8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AnaState {
    /// Reachable, at its best.
    Optimized = 0x1,
    /// Reachable, with less performance.
    NonOptimized = 0x2,
    /// Not reachable through this controller.
    Inaccessible = 0x3,
    /// Never again reachable through this controller.
    PersistentLoss = 0x4,
    /// About to change.
    Change = 0xf,
}

impl AnaState {
    /// The state with this value, if there is one.
    pub const fn from_u8(value: u8) -> Option<AnaState> {
        match value {
            0x1 => Some(AnaState::Optimized),
            0x2 => Some(AnaState::NonOptimized),
            0x3 => Some(AnaState::Inaccessible),
            0x4 => Some(AnaState::PersistentLoss),
            0xf => Some(AnaState::Change),
            _ => None,
        }
    }

    /// What commands that need the namespace are answered in this state, unless it serves them
    /// (NVMe Base 2.1, 8.1.1). Without "do not retry": another path may serve them.
    pub const fn refusal(self) -> Option<Status> {
        match self {
            AnaState::Optimized | AnaState::NonOptimized => None,
            AnaState::Inaccessible => Some(Status::ANA_INACCESSIBLE),
            AnaState::PersistentLoss => Some(Status::ANA_PERSISTENT_LOSS),
            AnaState::Change => Some(Status::ANA_TRANSITION),
        }
    }
}

layout! {
    /// Head of the ANA log page (NVMe Base 2.1, 5.1.12.1.13).
    pub struct AnaHead: 16 {
        /// CHGCNT of the page.
        0: pub change_count: U64,
        /// Descriptors that follow.
        8: pub groups: U16,
        /// Reserved: zero.
        10: pub _reserved: [u8; 6],
    }
}

layout! {
    /// Head of one group's descriptor; its NSIDs follow.
    pub struct AnaDescriptor: 32 {
        /// AGID.
        0: pub group: U32,
        /// NSIDs that follow.
        4: pub namespaces: U32,
        /// CHGCNT of the group.
        8: pub change_count: U64,
        /// State in bits 3:0.
        16: pub state: u8,
        /// Reserved: zero.
        17: pub _reserved: [u8; 15],
    }
}

/// A group of namespaces that share a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnaGroup {
    /// Identifier, not 0.
    pub id: u32,
    /// Counts changes of the group.
    pub change_count: u64,
    /// How it can be reached.
    pub state: AnaState,
    /// Namespaces in it, ascending.
    pub namespaces: Vec<u32>,
}

/// The ANA log page; `groups_only` leaves out the NSIDs (RGO, bit 0 of LSP).
pub fn ana(change_count: u64, groups: &[AnaGroup], groups_only: bool) -> Vec<u8> {
    let count = u16::try_from(groups.len()).unwrap_or(u16::MAX);
    let head = AnaHead {
        change_count: change_count.into(),
        groups: count.into(),
        ..AnaHead::default()
    };
    let mut page = head.bytes().to_vec();
    for group in groups.iter().take(usize::from(count)) {
        let members: &[u32] = if groups_only { &[] } else { &group.namespaces };
        let descriptor = AnaDescriptor {
            group: group.id.into(),
            namespaces: (members.len() as u32).into(),
            change_count: group.change_count.into(),
            state: group.state as u8,
            ..AnaDescriptor::default()
        };
        page.extend_from_slice(descriptor.bytes());
        page.extend(members.iter().flat_map(|nsid| nsid.to_le_bytes()));
    }
    page
}

/// Reads an ANA log page: its change count and its groups.
///
/// # Errors
/// [`Malformed`] when the page ends early or a state is unknown.
pub fn parse_ana(page: &[u8]) -> Result<(u64, Vec<AnaGroup>), Malformed> {
    let head = AnaHead::from_prefix(page)?;
    let mut rest = &page[AnaHead::SIZE..];
    let mut groups = Vec::new();
    for _ in 0..head.groups.get() {
        let row = AnaDescriptor::from_prefix(rest)?;
        let state = row.state & 0xf;
        let state = AnaState::from_u8(state).ok_or(Malformed::new(
            "ANA state",
            u64::from(state),
            "be 1 to 4 or Fh",
        ))?;
        let members = (row.namespaces.get() as usize)
            .checked_mul(4)
            .and_then(|len| rest[AnaDescriptor::SIZE..].split_at_checked(len));
        let (members, after) = members.ok_or(Malformed::short("ANA log page", page.len()))?;
        let members = members.chunks_exact(4);
        groups.push(AnaGroup {
            id: row.group.get(),
            change_count: row.change_count.get(),
            state,
            namespaces: members
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        });
        rest = after;
    }
    Ok((head.change_count.get(), groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<AnaGroup> {
        vec![
            AnaGroup {
                id: 0x0403_0201,
                change_count: 0x1817_1615_1413_1211,
                state: AnaState::Inaccessible,
                namespaces: vec![0x2423_2221, 0x2827_2625],
            },
            AnaGroup {
                id: 2,
                change_count: 1,
                state: AnaState::Change,
                namespaces: vec![],
            },
        ]
    }

    #[test]
    fn the_page_has_each_field_in_its_place_and_reads_back() {
        let page = ana(0x0807_0605_0403_0201, &groups(), false);
        assert_eq!(page[..11], [1, 2, 3, 4, 5, 6, 7, 8, 2, 0, 0]);
        assert_eq!(page[16..24], [1, 2, 3, 4, 2, 0, 0, 0]);
        assert_eq!(page[24..32], (0x11..0x19).collect::<Vec<u8>>());
        assert_eq!(page[32], 3);
        assert_eq!(page[48..56], (0x21..0x29).collect::<Vec<u8>>());
        assert_eq!(page.len(), 16 + 32 + 8 + 32);
        assert_eq!(parse_ana(&page), Ok((0x0807_0605_0403_0201, groups())));
    }

    #[test]
    fn groups_only_leaves_the_namespaces_out() {
        let page = ana(1, &groups(), true);
        assert_eq!(page.len(), 16 + 32 + 32);
        assert!(
            parse_ana(&page)
                .unwrap()
                .1
                .iter()
                .all(|group| group.namespaces.is_empty())
        );
    }

    #[test]
    fn a_page_that_ends_early_or_lies_about_its_length_is_malformed() {
        let page = ana(1, &groups(), false);
        for len in 0..page.len() {
            assert!(parse_ana(&page[..len]).is_err(), "{len}");
        }
        let mut lying = page;
        lying[20..24].fill(0xff);
        assert!(parse_ana(&lying).is_err());
    }
}
