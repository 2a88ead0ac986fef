//! The lists Identify returns: namespaces, identifiers of one, controllers, command sets.

use zerocopy::little_endian::U64;

use super::IDENTIFY_LEN;
use crate::Malformed;

/// NSIDs above `after`, at most 1024, in the order given, which must be ascending (CNS 02h, 07h).
pub fn active_namespaces(all: impl IntoIterator<Item = u32>, after: u32) -> Vec<u8> {
    let mut page = vec![0; IDENTIFY_LEN];
    let wanted = all.into_iter().filter(|&nsid| nsid > after);
    for (slot, nsid) in page.chunks_exact_mut(4).zip(wanted) {
        slot.copy_from_slice(&nsid.to_le_bytes());
    }
    page
}

/// The NSIDs of a list, which ends at the first zero.
pub fn parse_list(page: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let ids = page.chunks_exact(4).take(IDENTIFY_LEN / 4);
    let ids = ids.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    ids.take_while(|&nsid| nsid != 0)
}

/// Most controllers in one list.
const CONTROLLERS_MAX: usize = 2047;

/// Controller IDs not below `first`, at most 2047, ascending (CNS 12h, 13h).
pub fn controller_list(all: impl IntoIterator<Item = u16>, first: u16) -> Vec<u8> {
    let mut page = vec![0; IDENTIFY_LEN];
    let mut count = 0_u16;
    let wanted = all
        .into_iter()
        .filter(|&id| id >= first)
        .take(CONTROLLERS_MAX);
    for (slot, id) in page[2..].chunks_exact_mut(2).zip(wanted) {
        slot.copy_from_slice(&id.to_le_bytes());
        count += 1;
    }
    page[..2].copy_from_slice(&count.to_le_bytes());
    page
}

/// A list of counted controller IDs, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControllerList(pub Vec<u16>);

impl ControllerList {
    /// Reads a controller list.
    ///
    /// # Errors
    /// [`Malformed`] when the count says more than the bytes hold.
    pub fn parse(page: &[u8]) -> Result<ControllerList, Malformed> {
        let short = Malformed::short("controller list", page.len());
        let (count, ids) = page.split_at_checked(2).ok_or(short)?;
        let count = usize::from(u16::from_le_bytes([count[0], count[1]]));
        let ids = ids.chunks_exact(2);
        if count > ids.len() {
            return Err(short);
        }
        let ids = ids.take(count).map(|b| u16::from_le_bytes([b[0], b[1]]));
        Ok(ControllerList(ids.collect()))
    }
}

/// One identifier of a namespace (NVMe Base 2.1, 5.1.13.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// NIDT 1: EUI-64.
    Eui64([u8; 8]),
    /// NIDT 2: NGUID.
    Nguid([u8; 16]),
    /// NIDT 3: UUID, most significant byte first.
    Uuid([u8; 16]),
    /// NIDT 4: the I/O command set.
    CommandSet(u8),
}

/// The identifiers of a namespace, as read; types not known here are left out.
pub type Descriptors = Vec<Descriptor>;

/// The namespace identification descriptor list (CNS 03h).
pub fn descriptors(list: &[Descriptor]) -> Vec<u8> {
    let mut page = Vec::with_capacity(IDENTIFY_LEN);
    for descriptor in list {
        let (kind, value): (u8, &[u8]) = match descriptor {
            Descriptor::Eui64(value) => (1, value),
            Descriptor::Nguid(value) => (2, value),
            Descriptor::Uuid(value) => (3, value),
            Descriptor::CommandSet(csi) => (4, std::slice::from_ref(csi)),
        };
        page.extend_from_slice(&[kind, value.len() as u8, 0, 0]);
        page.extend_from_slice(value);
    }
    page.resize(IDENTIFY_LEN, 0);
    page
}

/// Reads a namespace identification descriptor list.
///
/// # Errors
/// [`Malformed`] when a known identifier has another length than its own.
pub fn parse_descriptors(page: &[u8]) -> Result<Descriptors, Malformed> {
    let mut list = Descriptors::new();
    let mut rest = page;
    while let [kind @ 1..=255, len, _, _, tail @ ..] = rest {
        let wrong = Malformed::new("NIDL", u64::from(*len), "be the length of its NIDT");
        let (value, after) = tail.split_at_checked(usize::from(*len)).ok_or(wrong)?;
        match *kind {
            1 => list.push(Descriptor::Eui64(value.try_into().map_err(|_| wrong)?)),
            2 => list.push(Descriptor::Nguid(value.try_into().map_err(|_| wrong)?)),
            3 => list.push(Descriptor::Uuid(value.try_into().map_err(|_| wrong)?)),
            4 => list.push(Descriptor::CommandSet(*value.first().ok_or(wrong)?)),
            _ => {}
        }
        rest = after;
    }
    Ok(list)
}

layout! {
    /// I/O command set data structure (CNS 1Ch): one 64-bit vector per combination.
    pub struct CommandSetVectors: 4096 {
        /// Combinations; bit n of each stands for the command set with CSI n.
        0: pub vectors: [U64; 512],
    }
}

/// The one combination of a controller that only has the NVM command set.
pub fn command_sets() -> CommandSetVectors {
    let mut data = CommandSetVectors::default();
    data.vectors[0] = 1.into();
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_list_starts_after_the_given_id_and_is_cut_at_1024() {
        let page = active_namespaces(1..=2000, 5);
        assert_eq!(page.len(), 4096);
        assert_eq!(page[..8], [6, 0, 0, 0, 7, 0, 0, 0]);
        let ids: Vec<u32> = parse_list(&page).collect();
        assert_eq!((ids.len(), ids[1023]), (1024, 1029));
        assert_eq!(
            parse_list(&active_namespaces([3, 9], 3)).collect::<Vec<_>>(),
            [9]
        );
    }

    #[test]
    fn a_controller_list_counts_what_it_holds() {
        let page = controller_list([1, 2, 0x0403], 2);
        assert_eq!(page[..6], [2, 0, 2, 0, 3, 4]);
        assert_eq!(
            ControllerList::parse(&page),
            Ok(ControllerList(vec![2, 0x0403]))
        );
        let full = controller_list(0..4000, 0);
        assert_eq!(ControllerList::parse(&full).unwrap().0.len(), 2047);
        assert!(ControllerList::parse(&[2, 0, 1, 0]).is_err());
        assert!(ControllerList::parse(&[2]).is_err());
    }

    #[test]
    fn identifiers_survive_their_list() {
        let list = [
            Descriptor::Eui64([1, 2, 3, 4, 5, 6, 7, 8]),
            Descriptor::Nguid([0x22; 16]),
            Descriptor::Uuid([0x33; 16]),
            Descriptor::CommandSet(0),
        ];
        let page = descriptors(&list);
        assert_eq!(page.len(), 4096);
        assert_eq!(page[..5], [1, 8, 0, 0, 1]);
        assert_eq!(page[12..17], [2, 16, 0, 0, 0x22]);
        assert_eq!(parse_descriptors(&page).unwrap(), list);
    }

    #[test]
    fn an_identifier_of_the_wrong_length_is_malformed_and_an_unknown_one_is_passed_over() {
        assert!(parse_descriptors(&[3, 15, 0, 0]).is_err());
        assert!(parse_descriptors(&[1, 2, 0, 0, 9, 9]).is_err());
        assert!(parse_descriptors(&[4, 0, 0, 0]).is_err());
        assert_eq!(
            parse_descriptors(&[9, 2, 0, 0, 7, 7, 4, 1, 0, 0, 2, 0, 0]).unwrap(),
            [Descriptor::CommandSet(2)]
        );
    }

    #[test]
    fn a_recorded_list_is_read() {
        let page = include_bytes!("../../../tests/golden/namespace_descriptors.bin");
        let list = parse_descriptors(page).unwrap();
        let id = [
            0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33, 0x44, 0x44, 0x55, 0x55, 0x55, 0x55,
            0x55, 0x55,
        ];
        assert_eq!(list, [Descriptor::Nguid(id), Descriptor::Uuid(id)]);
    }
}
