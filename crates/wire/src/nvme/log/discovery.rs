//! The discovery log page: where the subsystems a host may use can be reached.

use zerocopy::little_endian::{U16, U64};

use crate::Malformed;
use crate::nvme::nqn::Nqn;
use crate::nvme::text;

/// TRTYPE (NVMe Base 2.1, 5.1.12.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Transport {
    /// RDMA.
    Rdma = 1,
    /// Fibre Channel.
    FibreChannel = 2,
    /// TCP.
    Tcp = 3,
    /// Intra-host, for tests.
    Loop = 254,
}

/// ADRFAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AddressFamily {
    /// IPv4.
    Ipv4 = 1,
    /// IPv6.
    Ipv6 = 2,
}

/// SUBTYPE: what an entry leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SubsystemType {
    /// Another discovery subsystem.
    Referral = 1,
    /// A subsystem with namespaces.
    Nvm = 2,
    /// The discovery subsystem itself.
    CurrentDiscovery = 3,
}

/// TREQ bits 1:0: whether the connection must be secured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SecureChannel {
    /// Nothing is said.
    NotSpecified = 0,
    /// Required.
    Required = 1,
    /// Not required.
    NotRequired = 2,
}

/// TREQ bit 2: the host may do without SQ flow control.
pub const TREQ_NO_SQ_FLOW_CONTROL: u8 = 1 << 2;
/// EFLAGS bit 0: the same entry is on the page of another discovery controller here.
pub const EFLAGS_DUPLICATE: u16 = 1 << 0;
/// EFLAGS bit 1: explicit persistent connections are supported.
pub const EFLAGS_PERSISTENT: u16 = 1 << 1;

layout! {
    /// Head of the page (NVMe Base 2.1, 5.1.12.3.1).
    pub struct DiscoveryHead: 1024 {
        /// GENCTR: counts changes of the page.
        0: pub generation: U64,
        /// NUMREC: entries that follow.
        8: pub records: U64,
        /// RECFMT.
        16: pub record_format: U16,
        /// Reserved: zero.
        18: pub _reserved: [u8; 1006],
    }
}

layout! {
    /// One entry.
    pub struct DiscoveryEntry: 1024 {
        /// [`Transport`].
        0: pub trtype: u8,
        /// [`AddressFamily`].
        1: pub adrfam: u8,
        /// [`SubsystemType`].
        2: pub subtype: u8,
        /// Requirements: [`SecureChannel`] in bits 1:0, bit 2 no SQ flow control.
        3: pub treq: u8,
        /// PORTID.
        4: pub portid: U16,
        /// CNTLID, FFFFh for dynamic controllers.
        6: pub cntlid: U16,
        /// ASQSZ: most entries of an admin queue.
        8: pub asqsz: U16,
        /// EFLAGS.
        10: pub eflags: U16,
        /// Reserved: zero.
        12: pub _reserved1: [u8; 20],
        /// TRSVCID: the port, space-padded text.
        32: pub trsvcid: [u8; 32],
        /// Reserved: zero.
        64: pub _reserved2: [u8; 192],
        /// SUBNQN, NUL-terminated.
        256: pub subnqn: [u8; 256],
        /// TRADDR: the address, space-padded text.
        512: pub traddr: [u8; 256],
        /// TSAS: for TCP, SECTYPE in byte 0.
        768: pub tsas: [u8; 256],
    }
}

impl DiscoveryEntry {
    /// An entry that leads over TCP to a dynamic controller, without security.
    pub fn tcp(
        subtype: SubsystemType,
        subsystem: &Nqn,
        family: AddressFamily,
        address: &str,
        port: u16,
    ) -> Self {
        DiscoveryEntry {
            trtype: Transport::Tcp as u8,
            adrfam: family as u8,
            subtype: subtype as u8,
            treq: SecureChannel::NotRequired as u8,
            cntlid: crate::nvme::CNTLID_DYNAMIC.into(),
            trsvcid: text::padded(&port.to_string()),
            subnqn: subsystem.field(),
            traddr: text::padded(address),
            ..DiscoveryEntry::default()
        }
    }
}

/// The discovery log page.
pub fn discovery(generation: u64, entries: &[DiscoveryEntry]) -> Vec<u8> {
    let head = DiscoveryHead {
        generation: generation.into(),
        records: (entries.len() as u64).into(),
        ..DiscoveryHead::default()
    };
    let mut page = Vec::with_capacity(DiscoveryHead::SIZE + entries.len() * DiscoveryEntry::SIZE);
    page.extend_from_slice(head.bytes());
    for entry in entries {
        page.extend_from_slice(entry.bytes());
    }
    page
}

/// Reads a discovery log page: its generation and its entries.
///
/// # Errors
/// [`Malformed`] when the page ends before its last entry.
pub fn parse_discovery(page: &[u8]) -> Result<(u64, Vec<DiscoveryEntry>), Malformed> {
    let head = DiscoveryHead::from_prefix(page)?;
    let rows = page[DiscoveryHead::SIZE..].chunks_exact(DiscoveryEntry::SIZE);
    let count = usize::try_from(head.records.get()).unwrap_or(usize::MAX);
    if rows.len() < count {
        return Err(Malformed::short("discovery log page", page.len()));
    }
    let entries = rows.take(count).map(DiscoveryEntry::from_prefix);
    Ok((head.generation.get(), entries.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_each_field_in_its_place() {
        let nqn = Nqn::parse("nqn.2016-06.io.spdk:cnode1").unwrap();
        let mut entry = DiscoveryEntry::tcp(
            SubsystemType::Nvm,
            &nqn,
            AddressFamily::Ipv6,
            "fe80::1",
            4420,
        );
        entry.portid = 0x0605.into();
        entry.asqsz = 0x0a09.into();
        entry.eflags = 0x0c0b.into();
        let page = discovery(0x0807_0605_0403_0201, &[entry]);
        assert_eq!(page.len(), 2048);
        assert_eq!(page[..10], [1, 2, 3, 4, 5, 6, 7, 8, 1, 0]);
        let row = &page[1024..];
        assert_eq!(row[..12], [3, 2, 2, 2, 5, 6, 0xff, 0xff, 9, 10, 11, 12]);
        assert!(row[32..].starts_with(b"4420  "));
        assert!(row[256..].starts_with(b"nqn.2016-06.io.spdk:cnode1\0"));
        assert!(row[512..].starts_with(b"fe80::1 "));
        assert_eq!(
            parse_discovery(&page),
            Ok((0x0807_0605_0403_0201, vec![entry]))
        );
    }

    #[test]
    fn a_page_with_fewer_entries_than_it_says_is_malformed() {
        let page = discovery(1, &[DiscoveryEntry::default(); 2]);
        assert!(parse_discovery(&page[..3071]).is_err());
        let mut lying = page;
        lying[8..16].fill(0xff);
        assert!(parse_discovery(&lying).is_err());
    }

    #[test]
    fn a_recorded_page_is_read() {
        let page = include_bytes!("../../../tests/golden/discovery_log.bin");
        let (generation, entries) = parse_discovery(page).unwrap();
        assert_eq!((generation, entries.len()), (1, 1));
        let entry = &entries[0];
        assert_eq!(
            (entry.trtype, entry.adrfam, entry.subtype, entry.treq & 3),
            (3, 1, 2, 2)
        );
        assert_eq!((entry.cntlid.get(), entry.asqsz.get()), (0xffff, 128));
        assert_eq!(text::trimmed(&entry.trsvcid), "4430");
        assert_eq!(text::trimmed(&entry.traddr), "127.0.0.1");
        assert_eq!(text::trimmed(&entry.subnqn), "nqn.2016-06.io.spdk:cnode1");
    }
}
