//! What of the reservations is kept over a restart, as bytes.

use super::{Held, Key, REGISTRANTS_MAX, Reservations};
use crate::nvme::users::HostId;
use wire::nvme::reservation::ReservationType;

/// The first byte of a record; another layout gets another number.
const VERSION: u8 = 1;
const HEAD: usize = 1 + 1 + 16 + 4;
const ROW: usize = 16 + 8;

impl Reservations {
    /// What must survive; `None` if nothing has to.
    ///
    /// Layout: version, type held or 0, its holder, generation, then host and key of each
    /// registrant, integers little-endian.
    pub(super) fn record(&self) -> Option<Vec<u8>> {
        if !self.persists() {
            return None;
        }
        let mut bytes = Vec::with_capacity(HEAD + ROW * self.registrants.len());
        let (rtype, holder) = match &self.held {
            Some(held) => (held.rtype as u8, held.holder),
            None => (0, [0; 16]),
        };
        bytes.extend([VERSION, rtype]);
        bytes.extend(holder);
        bytes.extend(self.generation.to_le_bytes());
        for one in &self.registrants {
            bytes.extend(one.host);
            bytes.extend(one.key.to_le_bytes());
        }
        Some(bytes)
    }

    /// Reads a record back; `None` if it is not one.
    pub(super) fn from_record(bytes: &[u8]) -> Option<Self> {
        let (head, rows) = bytes.split_at_checked(HEAD)?;
        let (rows, rest) = rows.as_chunks::<ROW>();
        if head[0] != VERSION || !rest.is_empty() || rows.len() > REGISTRANTS_MAX {
            return None;
        }
        let holder: HostId = head[2..18].try_into().ok()?;
        let held = match head[1] {
            0 => None,
            value => Some(Held {
                rtype: ReservationType::from_u8(value)?,
                holder,
            }),
        };
        let registrants = rows.iter().map(|row| {
            let (host, key) = row.split_at(16);
            Some(Key {
                host: host.try_into().ok()?,
                key: u64::from_le_bytes(key.try_into().ok()?),
            })
        });
        Some(Self {
            generation: u32::from_le_bytes(head[18..22].try_into().ok()?),
            persist: true,
            registrants: registrants.collect::<Option<_>>()?,
            held,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> Reservations {
        Reservations {
            generation: 0x0403_0201,
            persist: true,
            registrants: vec![
                Key {
                    host: [5; 16],
                    key: 6,
                },
                Key {
                    host: [7; 16],
                    key: u64::MAX - 1,
                },
            ],
            held: Some(Held {
                rtype: ReservationType::ExclusiveAccessAll,
                holder: [7; 16],
            }),
        }
    }

    #[test]
    fn a_record_brings_everything_back() {
        let bytes = state().record().unwrap();
        assert_eq!(Reservations::from_record(&bytes), Some(state()));
        let free = Reservations {
            held: None,
            ..state()
        };
        assert_eq!(
            Reservations::from_record(&free.record().unwrap()),
            Some(free)
        );
    }

    #[test]
    fn nothing_is_recorded_without_persistence() {
        assert_eq!(
            Reservations {
                persist: false,
                ..state()
            }
            .record(),
            None
        );
    }

    #[test]
    fn a_broken_record_is_not_read() {
        let bytes = state().record().unwrap();
        assert_eq!(Reservations::from_record(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Reservations::from_record(&[]), None);
        let mut other = bytes.clone();
        other[0] = 2;
        assert_eq!(Reservations::from_record(&other), None);
        other[0] = VERSION;
        other[1] = 7;
        assert_eq!(Reservations::from_record(&other), None);
    }
}
