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
    /// InfiniBand.
    InfiniBand = 3,
    /// Fibre Channel.
    FibreChannel = 4,
    /// Within a host, for tests.
    IntraHost = 254,
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

/// SECTYPE: what secures the connection to an entry for TCP (NVMe TCP 1.1, TSAS of the discovery
/// log page).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TcpSecurity {
    /// Nothing.
    None = 0,
    /// TLS 1.2.
    Tls12 = 1,
    /// TLS 1.3.
    Tls13 = 2,
}

macro_rules! from_u8 {
    ($($name:ident: $($value:ident)+;)+) => {$(
        impl $name {
            /// What `value` stands for, if that is known.
            pub fn from_u8(value: u8) -> Option<Self> {
                [$(Self::$value),+].into_iter().find(|one| *one as u8 == value)
            }
        }
    )+};
}

from_u8! {
    Transport: Rdma FibreChannel Tcp Loop;
    AddressFamily: Ipv4 Ipv6 InfiniBand FibreChannel IntraHost;
    SubsystemType: Referral Nvm CurrentDiscovery;
    SecureChannel: NotSpecified Required NotRequired;
    TcpSecurity: None Tls12 Tls13;
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

/// RECFMT: the only format there is.
const RECORD_FORMAT: u16 = 0;

impl DiscoveryHead {
    /// Reads the head of a page.
    ///
    /// # Errors
    /// [`Malformed`] when it is cut short, or in a format that is not known.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let head = DiscoveryHead::from_prefix(bytes)?;
        match head.record_format.get() {
            RECORD_FORMAT => Ok(head),
            other => Err(Malformed::new("RECFMT", other.into(), "be 0")),
        }
    }
}

/// What an entry says. What this version of the specification does not know is none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DiscoveryRecord {
    /// TRTYPE.
    pub transport: Option<Transport>,
    /// ADRFAM.
    pub family: Option<AddressFamily>,
    /// SUBTYPE.
    pub subtype: Option<SubsystemType>,
    /// TREQ bits 1:0.
    pub secure_channel: Option<SecureChannel>,
    /// TREQ bit 2: the host may do without SQ flow control.
    pub no_sq_flow_control: bool,
    /// TSAS of an entry for TCP, SECTYPE.
    pub security: Option<TcpSecurity>,
    /// PORTID.
    pub port_id: u16,
    /// CNTLID, FFFFh for dynamic controllers.
    pub cntlid: u16,
    /// ASQSZ.
    pub admin_entries_max: u16,
    /// EFLAGS.
    pub flags: u16,
    /// TRSVCID: for TCP, the port in decimal digits.
    pub service: String,
    /// TRADDR.
    pub address: String,
    /// SUBNQN.
    pub subsystem: Nqn,
}

impl DiscoveryEntry {
    /// What the entry says.
    ///
    /// # Errors
    /// [`Malformed`] when a text is not one or SUBNQN is no NQN: somebody would act on them.
    pub fn record(&self) -> Result<DiscoveryRecord, Malformed> {
        let transport = Transport::from_u8(self.trtype);
        let security = transport
            .filter(|transport| *transport == Transport::Tcp)
            .and_then(|_| TcpSecurity::from_u8(self.tsas[0]));
        let subsystem = Nqn::from_field(&self.subnqn);
        Ok(DiscoveryRecord {
            transport,
            family: AddressFamily::from_u8(self.adrfam),
            subtype: SubsystemType::from_u8(self.subtype),
            secure_channel: SecureChannel::from_u8(self.treq & 3),
            no_sq_flow_control: self.treq & TREQ_NO_SQ_FLOW_CONTROL != 0,
            security,
            port_id: self.portid.get(),
            cntlid: self.cntlid.get(),
            admin_entries_max: self.asqsz.get(),
            flags: self.eflags.get(),
            service: printable("TRSVCID", &self.trsvcid)?,
            address: printable("TRADDR", &self.traddr)?,
            subsystem: subsystem
                .map_err(|_| Malformed::new("SUBNQN", self.subnqn[0].into(), "be an NQN"))?,
        })
    }
}

/// A text of printable ASCII characters, without its padding.
fn printable(field: &'static str, bytes: &[u8]) -> Result<String, Malformed> {
    let text = text::trimmed(bytes);
    match text.chars().find(|c| !c.is_ascii_graphic() && *c != ' ') {
        None => Ok(text),
        Some(odd) => Err(Malformed::new(field, odd.into(), "be printable ASCII")),
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
/// [`Malformed`] when the page ends before its last entry or is of an unknown format.
pub fn parse_discovery(page: &[u8]) -> Result<(u64, Vec<DiscoveryEntry>), Malformed> {
    let head = DiscoveryHead::parse(page)?;
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
    fn a_page_in_another_format_is_malformed() {
        let mut page = discovery(1, &[]);
        page[16] = 1;
        let error = parse_discovery(&page).unwrap_err();
        assert_eq!(error.field, "RECFMT");
        assert!(DiscoveryHead::parse(&page[..1023]).is_err());
    }

    #[test]
    fn an_entry_says_what_each_field_means() {
        let nqn = Nqn::parse("nqn.2016-06.io.spdk:cnode1").unwrap();
        let family = AddressFamily::Ipv6;
        let mut entry = DiscoveryEntry::tcp(SubsystemType::Referral, &nqn, family, "fe80::1", 4420);
        entry.treq = SecureChannel::Required as u8 | TREQ_NO_SQ_FLOW_CONTROL;
        entry.portid = 1.into();
        entry.cntlid = 2.into();
        entry.asqsz = 3.into();
        entry.eflags = 4.into();
        entry.tsas[0] = TcpSecurity::Tls13 as u8;
        let record = DiscoveryRecord {
            transport: Some(Transport::Tcp),
            family: Some(family),
            subtype: Some(SubsystemType::Referral),
            secure_channel: Some(SecureChannel::Required),
            no_sq_flow_control: true,
            security: Some(TcpSecurity::Tls13),
            port_id: 1,
            cntlid: 2,
            admin_entries_max: 3,
            flags: 4,
            service: "4420".to_owned(),
            address: "fe80::1".to_owned(),
            subsystem: nqn,
        };
        assert_eq!(entry.record(), Ok(record.clone()));
        // Of later versions, and of other transports, there may be more than is known here.
        (entry.trtype, entry.adrfam, entry.subtype) = (2, 77, 4);
        entry.treq |= 3;
        let unknown = DiscoveryRecord {
            transport: Some(Transport::FibreChannel),
            family: None,
            subtype: None,
            secure_channel: None,
            security: None,
            ..record
        };
        assert_eq!(entry.record(), Ok(unknown));
    }

    #[test]
    fn an_entry_whose_texts_are_none_is_malformed() {
        let nqn = Nqn::parse("nqn.2016-06.io.spdk:cnode1").unwrap();
        let good = DiscoveryEntry::tcp(SubsystemType::Nvm, &nqn, AddressFamily::Ipv4, "a", 1);
        for (field, spoil) in [
            ("TRSVCID", &|e: &mut DiscoveryEntry| e.trsvcid[0] = 0x1b),
            ("TRADDR", &|e: &mut DiscoveryEntry| e.traddr[1] = b'\n'),
            ("SUBNQN", &|e: &mut DiscoveryEntry| e.subnqn = [b'n'; 256]),
            ("SUBNQN", &|e: &mut DiscoveryEntry| e.subnqn = [0; 256]),
        ] as [(&str, &dyn Fn(&mut DiscoveryEntry)); 4]
        {
            let mut entry = good;
            spoil(&mut entry);
            assert_eq!(entry.record().unwrap_err().field, field);
        }
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
