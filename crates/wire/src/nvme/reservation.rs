//! Reservations: the data each command carries, and the status that Reservation Report returns.

use zerocopy::little_endian::{U16, U32, U64};

use crate::Malformed;

/// RTYPE: what a reservation allows whom (NVMe Base 2.1, 7.2 and 8.1.22).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReservationType {
    /// Only the holder writes.
    WriteExclusive = 1,
    /// Only the holder reads or writes.
    ExclusiveAccess = 2,
    /// Only registrants write.
    WriteExclusiveRegistrants = 3,
    /// Only registrants read or write.
    ExclusiveAccessRegistrants = 4,
    /// Only registrants write, and every registrant is a holder.
    WriteExclusiveAll = 5,
    /// Only registrants read or write, and every registrant is a holder.
    ExclusiveAccessAll = 6,
}

impl ReservationType {
    /// The type with this value, if there is one.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::WriteExclusive),
            2 => Some(Self::ExclusiveAccess),
            3 => Some(Self::WriteExclusiveRegistrants),
            4 => Some(Self::ExclusiveAccessRegistrants),
            5 => Some(Self::WriteExclusiveAll),
            6 => Some(Self::ExclusiveAccessAll),
            _ => None,
        }
    }

    /// Whether those without the right may still read.
    pub const fn others_may_read(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrants | Self::WriteExclusiveAll
        )
    }

    /// Whether every registrant has the holder's rights.
    pub const fn registrants_have_access(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether every registrant is a holder.
    pub const fn all_hold(self) -> bool {
        matches!(self, Self::WriteExclusiveAll | Self::ExclusiveAccessAll)
    }
}

/// RREGA: what a Reservation Register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterAction {
    /// Registers the new key.
    Register,
    /// Removes the registration.
    Unregister,
    /// Replaces the key.
    Replace,
}

/// CPTPL: what a Reservation Register does to persistence through power loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PersistChange {
    /// Nothing.
    Unchanged,
    /// Reservations are released and registrants cleared by a power-on.
    Clear,
    /// Reservations and registrants survive a power loss.
    Persist,
}

/// RACQA: what a Reservation Acquire does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcquireAction {
    /// Takes a reservation.
    Acquire,
    /// Takes it from whoever has the key PRKEY.
    Preempt,
    /// The same, and aborts that host's commands.
    PreemptAndAbort,
}

/// RRELA: what a Reservation Release does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseAction {
    /// Gives the reservation back.
    Release,
    /// Gives it back and clears all registrations.
    Clear,
}

layout! {
    /// Data of Reservation Register (NVMe Base 2.1, 7.3).
    pub struct RegisterData: 16 {
        /// CRKEY: the current key.
        0: pub current_key: U64,
        /// NRKEY: the new key.
        8: pub new_key: U64,
    }
}

layout! {
    /// Data of Reservation Acquire (NVMe Base 2.1, 7.2).
    pub struct AcquireData: 16 {
        /// CRKEY: the current key.
        0: pub current_key: U64,
        /// PRKEY: the key to preempt.
        8: pub preempt_key: U64,
    }
}

layout! {
    /// Data of Reservation Release (NVMe Base 2.1, 7.4).
    pub struct ReleaseData: 8 {
        /// CRKEY: the current key.
        0: pub current_key: U64,
    }
}

layout! {
    /// Head of the reservation status (NVMe Base 2.1, 7.5); the extended form has 40 bytes more.
    pub struct ReportHead: 24 {
        /// GEN: counts changes of registrations.
        0: pub generation: U32,
        /// RTYPE, or 0 for no reservation.
        4: pub rtype: u8,
        /// REGSTRNT: number of registrants that follow.
        5: pub registrants: U16,
        /// Reserved: zero.
        7: pub _reserved1: [u8; 2],
        /// PTPLS: 1 if reservations persist through power loss.
        9: pub persist: u8,
        /// Reserved: zero.
        10: pub _reserved2: [u8; 14],
    }
}

layout! {
    /// One registrant with a 64-bit host identifier.
    pub struct ReportRegistrant: 24 {
        /// CNTLID, or FFFFh when the host has no controller here now.
        0: pub cntlid: U16,
        /// RCSTS: bit 0 set if this host holds the reservation.
        2: pub status: u8,
        /// Reserved: zero.
        3: pub _reserved: [u8; 5],
        /// HOSTID.
        8: pub hostid: U64,
        /// RKEY: the host's key.
        16: pub key: U64,
    }
}

layout! {
    /// One registrant with a 128-bit host identifier, the form that fabrics require.
    pub struct ReportRegistrantExtended: 64 {
        /// CNTLID, or FFFFh when the host has no controller here now.
        0: pub cntlid: U16,
        /// RCSTS: bit 0 set if this host holds the reservation.
        2: pub status: u8,
        /// Reserved: zero.
        3: pub _reserved1: [u8; 5],
        /// RKEY: the host's key.
        8: pub key: U64,
        /// HOSTID.
        16: pub hostid: [u8; 16],
        /// Reserved: zero.
        32: pub _reserved2: [u8; 32],
    }
}

/// Bytes of the head in the extended form.
pub const EXTENDED_HEAD: usize = 64;

/// One registrant of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registrant {
    /// The host's controller, or FFFFh.
    pub cntlid: u16,
    /// Whether it holds the reservation.
    pub holder: bool,
    /// The host's identifier.
    pub hostid: [u8; 16],
    /// The host's key.
    pub key: u64,
}

/// The reservation status of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Counts changes of registrations.
    pub generation: u32,
    /// The reservation held, if any.
    pub rtype: Option<ReservationType>,
    /// Whether reservations persist through power loss.
    pub persist: bool,
    /// Every registered host.
    pub registrants: Vec<Registrant>,
}

impl Report {
    /// The data of Reservation Report, in the extended form.
    pub fn extended(&self) -> Vec<u8> {
        let count = self.registrants.len();
        let mut out = Vec::with_capacity(EXTENDED_HEAD + count * ReportRegistrantExtended::SIZE);
        out.extend_from_slice(self.head().bytes());
        out.resize(EXTENDED_HEAD, 0);
        for registrant in &self.registrants {
            let row = ReportRegistrantExtended {
                cntlid: registrant.cntlid.into(),
                status: u8::from(registrant.holder),
                key: registrant.key.into(),
                hostid: registrant.hostid,
                ..ReportRegistrantExtended::default()
            };
            out.extend_from_slice(row.bytes());
        }
        out
    }

    /// The data of Reservation Report in the short form, for hosts with 64-bit identifiers.
    pub fn short(&self) -> Vec<u8> {
        let count = self.registrants.len();
        let mut out = Vec::with_capacity(ReportHead::SIZE + count * ReportRegistrant::SIZE);
        out.extend_from_slice(self.head().bytes());
        for registrant in &self.registrants {
            let [low, _]: [U64; 2] = zerocopy::transmute!(registrant.hostid);
            let row = ReportRegistrant {
                cntlid: registrant.cntlid.into(),
                status: u8::from(registrant.holder),
                hostid: low,
                key: registrant.key.into(),
                ..ReportRegistrant::default()
            };
            out.extend_from_slice(row.bytes());
        }
        out
    }

    /// Reads the extended form.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes end before the last registrant, or RTYPE is unknown.
    pub fn parse_extended(data: &[u8]) -> Result<Report, Malformed> {
        let head = ReportHead::from_prefix(data)?;
        let rtype = match head.rtype {
            0 => None,
            value => Some(ReservationType::from_u8(value).ok_or(Malformed::new(
                "RTYPE",
                u64::from(value),
                "be 0 to 6",
            ))?),
        };
        let rows = data.get(EXTENDED_HEAD..).unwrap_or_default();
        let rows = rows.chunks_exact(ReportRegistrantExtended::SIZE);
        let count = usize::from(head.registrants.get());
        if rows.len() < count {
            return Err(Malformed::short("reservation status", data.len()));
        }
        let registrants = rows.take(count).map(|bytes| {
            let row = ReportRegistrantExtended::from_prefix(bytes)?;
            Ok(Registrant {
                cntlid: row.cntlid.get(),
                holder: row.status & 1 == 1,
                hostid: row.hostid,
                key: row.key.get(),
            })
        });
        Ok(Report {
            generation: head.generation.get(),
            rtype,
            persist: head.persist == 1,
            registrants: registrants.collect::<Result<_, Malformed>>()?,
        })
    }

    fn head(&self) -> ReportHead {
        ReportHead {
            generation: self.generation.into(),
            rtype: self.rtype.map_or(0, |rtype| rtype as u8),
            registrants: U16::new(u16::try_from(self.registrants.len()).unwrap_or(u16::MAX)),
            persist: u8::from(self.persist),
            ..ReportHead::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            generation: 0x0403_0201,
            rtype: Some(ReservationType::ExclusiveAccessAll),
            persist: true,
            registrants: vec![Registrant {
                cntlid: 0x0605,
                holder: true,
                hostid: std::array::from_fn(|at| at as u8 + 0x10),
                key: 0x2726_2524_2322_2120,
            }],
        }
    }

    #[test]
    fn the_extended_report_has_each_field_in_its_place_and_reads_back() {
        let bytes = report().extended();
        assert_eq!(bytes.len(), 128);
        assert_eq!(bytes[..10], [1, 2, 3, 4, 6, 1, 0, 0, 0, 1]);
        assert_eq!(bytes[64..67], [5, 6, 1]);
        assert_eq!(bytes[72..80], (0x20..0x28).collect::<Vec<u8>>());
        assert_eq!(bytes[80..96], (0x10..0x20).collect::<Vec<u8>>());
        assert_eq!(Report::parse_extended(&bytes), Ok(report()));
        assert!(Report::parse_extended(&bytes[..127]).is_err());
    }

    #[test]
    fn the_short_report_has_the_low_half_of_the_host_identifier() {
        let bytes = report().short();
        assert_eq!(bytes.len(), 48);
        assert_eq!(bytes[24..27], [5, 6, 1]);
        assert_eq!(bytes[32..40], (0x10..0x18).collect::<Vec<u8>>());
        assert_eq!(bytes[40..48], (0x20..0x28).collect::<Vec<u8>>());
    }

    #[test]
    fn an_unknown_type_is_malformed() {
        let mut bytes = report().extended();
        bytes[4] = 7;
        assert!(Report::parse_extended(&bytes).is_err());
    }

    #[test]
    fn command_data_lands_on_its_bytes() {
        let bytes: Vec<u8> = (1..=16).collect();
        let register = RegisterData::from_prefix(&bytes).unwrap();
        assert_eq!(register.current_key.get(), 0x0807_0605_0403_0201);
        assert_eq!(register.new_key.get(), 0x100f_0e0d_0c0b_0a09);
        let acquire = AcquireData::from_prefix(&bytes).unwrap();
        assert_eq!(acquire.preempt_key.get(), 0x100f_0e0d_0c0b_0a09);
        assert_eq!(
            ReleaseData::from_prefix(&bytes).unwrap().bytes(),
            &bytes[..8]
        );
    }
}
