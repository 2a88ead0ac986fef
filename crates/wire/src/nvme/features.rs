//! Features: their identifiers, what Get Features may ask for, and the values with inner structure.

use super::status::Status;

/// A feature identifier known here (NVMe Base 2.1, 5.1.25).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum FeatureId {
    /// Arbitration, 01h.
    Arbitration = 0x01,
    /// Power Management, 02h.
    PowerManagement = 0x02,
    /// Temperature Threshold, 04h.
    TemperatureThreshold = 0x04,
    /// Error Recovery, 05h.
    ErrorRecovery = 0x05,
    /// Volatile Write Cache, 06h.
    VolatileWriteCache = 0x06,
    /// Number of Queues, 07h.
    NumberOfQueues = 0x07,
    /// Interrupt Coalescing, 08h; not for fabrics.
    InterruptCoalescing = 0x08,
    /// Interrupt Vector Configuration, 09h; not for fabrics.
    InterruptVector = 0x09,
    /// Write Atomicity Normal, 0Ah.
    WriteAtomicity = 0x0a,
    /// Asynchronous Event Configuration, 0Bh.
    AsyncEvents = 0x0b,
    /// Timestamp, 0Eh.
    Timestamp = 0x0e,
    /// Keep Alive Timer, 0Fh.
    KeepAlive = 0x0f,
    /// Host Behavior Support, 16h.
    HostBehavior = 0x16,
    /// I/O Command Set Profile, 19h.
    CommandSetProfile = 0x19,
    /// Host Identifier, 81h.
    HostId = 0x81,
    /// Reservation Notification Mask, 82h.
    ReservationMask = 0x82,
    /// Reservation Persistence, 83h.
    ReservationPersistence = 0x83,
    /// Namespace Write Protection Configuration, 84h.
    WriteProtection = 0x84,
}

impl FeatureId {
    /// Every identifier known here.
    pub const ALL: &[FeatureId] = &[
        FeatureId::Arbitration,
        FeatureId::PowerManagement,
        FeatureId::TemperatureThreshold,
        FeatureId::ErrorRecovery,
        FeatureId::VolatileWriteCache,
        FeatureId::NumberOfQueues,
        FeatureId::InterruptCoalescing,
        FeatureId::InterruptVector,
        FeatureId::WriteAtomicity,
        FeatureId::AsyncEvents,
        FeatureId::Timestamp,
        FeatureId::KeepAlive,
        FeatureId::HostBehavior,
        FeatureId::CommandSetProfile,
        FeatureId::HostId,
        FeatureId::ReservationMask,
        FeatureId::ReservationPersistence,
        FeatureId::WriteProtection,
    ];

    /// The feature with this identifier, if it is known.
    pub fn from_u8(value: u8) -> Option<FeatureId> {
        FeatureId::ALL.iter().copied().find(|id| *id as u8 == value)
    }

    /// Whether the value belongs to a namespace rather than to the controller.
    pub const fn is_namespace_specific(self) -> bool {
        matches!(
            self,
            FeatureId::ErrorRecovery
                | FeatureId::ReservationMask
                | FeatureId::ReservationPersistence
                | FeatureId::WriteProtection
        )
    }

    /// Bytes of the data structure that carries the value; 0 for a value in a dword.
    pub const fn data_len(self) -> usize {
        match self {
            FeatureId::Timestamp => 8,
            FeatureId::HostBehavior => 512,
            FeatureId::HostId => 16,
            _ => 0,
        }
    }
}

/// SEL of Get Features: which value is asked for (NVMe Base 2.1, 5.1.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// The value in force.
    Current,
    /// The value at power-on.
    Default,
    /// The value that was saved.
    Saved,
    /// Not a value, but whether it can be changed, saved, or set per namespace.
    Capabilities,
}

impl Select {
    /// The selector in the low three bits.
    ///
    /// # Errors
    /// Invalid Field in Command for reserved values.
    pub const fn from_bits(bits: u8) -> Result<Select, Status> {
        match bits & 7 {
            0 => Ok(Select::Current),
            1 => Ok(Select::Default),
            2 => Ok(Select::Saved),
            3 => Ok(Select::Capabilities),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }
}

/// DW0 of a Get Features that asked for capabilities.
pub const fn capabilities(saveable: bool, per_namespace: bool, changeable: bool) -> u32 {
    saveable as u32 | (per_namespace as u32) << 1 | (changeable as u32) << 2
}

/// Number of Queues: the counts in CDW11 of the request and in DW0 of its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueCounts {
    /// I/O submission queues, as a count from 1 to 65536.
    pub submission: u32,
    /// I/O completion queues, as a count from 1 to 65536.
    pub completion: u32,
}

impl QueueCounts {
    /// The counts in a dword of two zero-based halves.
    ///
    /// # Errors
    /// Invalid Field in Command when either half is FFFFh (NVMe Base 2.1, 5.1.25.1.2).
    pub const fn parse(dword: u32) -> Result<QueueCounts, Status> {
        let (submission, completion) = (dword & 0xffff, dword >> 16);
        if submission == 0xffff || completion == 0xffff {
            return Err(Status::INVALID_FIELD.dnr());
        }
        Ok(QueueCounts {
            submission: submission + 1,
            completion: completion + 1,
        })
    }

    /// The dword; counts of zero are written as one, the least the field can say.
    pub const fn bits(self) -> u32 {
        zero_based(self.submission) | zero_based(self.completion) << 16
    }
}

/// A count of queues as the field wants it; FFFFh is not a value it may have.
const fn zero_based(count: u32) -> u32 {
    match count {
        0 => 0,
        n if n > 65_535 => 65_534,
        n => n - 1,
    }
}

layout! {
    /// Timestamp (NVMe Base 2.1, 5.1.25.1.7).
    pub struct Timestamp: 8 {
        /// Milliseconds since 1970-01-01 UTC, 48 bits.
        0: pub milliseconds: [u8; 6],
        /// Bit 0: counting may have stopped. Bits 3:1: 0 reset to zero, 1 set by the host.
        6: pub attributes: u8,
        /// Reserved: zero.
        7: pub _reserved: u8,
    }
}

impl Timestamp {
    /// A timestamp of `milliseconds`; `by_host` says that a host set it.
    pub fn new(milliseconds: u64, by_host: bool) -> Self {
        let mut low = [0; 6];
        low.copy_from_slice(&milliseconds.to_le_bytes()[..6]);
        Timestamp {
            milliseconds: low,
            attributes: u8::from(by_host) << 1,
            ..Self::default()
        }
    }

    /// The milliseconds.
    pub fn get(&self) -> u64 {
        let mut wide = [0; 8];
        wide[..6].copy_from_slice(&self.milliseconds);
        u64::from_le_bytes(wide)
    }
}

/// Bit 0 of CDW11 of Host Identifier: the identifier is of 128 bits, as fabrics require.
pub const HOST_ID_EXTENDED: u32 = 1;

/// Bits of the Reservation Notification Mask: which notifications are *not* wanted.
pub mod reservation_mask {
    /// Registration preempted.
    pub const REGISTRATION_PREEMPTED: u32 = 1 << 1;
    /// Reservation released.
    pub const RESERVATION_RELEASED: u32 = 1 << 2;
    /// Reservation preempted.
    pub const RESERVATION_PREEMPTED: u32 = 1 << 3;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_found_by_their_value() {
        for id in FeatureId::ALL {
            assert_eq!(FeatureId::from_u8(*id as u8), Some(*id));
        }
        assert_eq!(FeatureId::from_u8(0), None);
        assert_eq!(FeatureId::from_u8(0xc0), None);
    }

    #[test]
    fn queue_counts_are_zero_based_on_the_wire() {
        let counts = QueueCounts {
            submission: 64,
            completion: 127,
        };
        assert_eq!(counts.bits(), 0x007e_003f);
        assert_eq!(QueueCounts::parse(counts.bits()), Ok(counts));
        assert!(QueueCounts::parse(0xffff_0000).is_err());
        assert!(QueueCounts::parse(0x0000_ffff).is_err());
        assert_eq!(
            QueueCounts {
                submission: 0,
                completion: 70_000
            }
            .bits(),
            0xfffe_0000
        );
    }

    #[test]
    fn a_timestamp_lands_on_its_bytes() {
        let stamp = Timestamp::new(0x0605_0403_0201, true);
        assert_eq!(stamp.bytes(), [1, 2, 3, 4, 5, 6, 2, 0]);
        assert_eq!(stamp.get(), 0x0605_0403_0201);
    }

    #[test]
    fn reserved_selectors_are_refused() {
        assert_eq!(Select::from_bits(3), Ok(Select::Capabilities));
        assert!(Select::from_bits(4).is_err());
    }
}
