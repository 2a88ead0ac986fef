//! Error information, SMART, firmware slots, changed namespaces, reservation notification.

use zerocopy::little_endian::{U16, U32, U64, U128};

use crate::nvme::status::Status;

layout! {
    /// One entry of the error log, newest first (NVMe Base 2.1, 5.1.12.1.2).
    pub struct ErrorEntry: 64 {
        /// Counts errors over the life of the controller; 0 in an unused entry.
        0: pub error_count: U64,
        /// SQID of the failed command.
        8: pub sqid: U16,
        /// CID of the failed command.
        10: pub cid: U16,
        /// Status, in bits 15:1 as in a completion.
        12: pub status: U16,
        /// Parameter: byte in bits 7:0, bit in bits 10:8; FFFFh if none is to blame.
        14: pub parameter: U16,
        /// First block that failed.
        16: pub lba: U64,
        /// NSID.
        24: pub nsid: U32,
        /// Vendor log page with more.
        28: pub vendor_page: u8,
        /// Transport: 3 for TCP.
        29: pub transport: u8,
        /// I/O command set.
        30: pub csi: u8,
        /// Opcode of the failed command.
        31: pub opcode: u8,
        /// Command specific information.
        32: pub command_specific: U64,
        /// Transport specific information.
        40: pub transport_specific: U16,
        /// Reserved: zero.
        42: pub _reserved: [u8; 21],
        /// Version of this page: 1 when `opcode` and `csi` are filled in.
        63: pub version: u8,
    }
}

impl ErrorEntry {
    /// The status the failed command completed with.
    pub fn status(&self) -> Status {
        Status::from_field(self.status.get())
    }
}

layout! {
    /// SMART and health information (NVMe Base 2.1, 5.1.12.1.3).
    pub struct Smart: 512 {
        /// Critical warnings: 0 spare, 1 temperature, 2 reliability, 3 read-only, 4 backup.
        0: pub critical_warning: u8,
        /// Composite temperature, in kelvins.
        1: pub temperature: U16,
        /// Available spare, in percent.
        3: pub spare: u8,
        /// Available spare threshold, in percent.
        4: pub spare_threshold: u8,
        /// Life used, in percent.
        5: pub percent_used: u8,
        /// Endurance group warnings.
        6: pub endurance_warning: u8,
        /// Reserved: zero.
        7: pub _reserved1: [u8; 25],
        /// Data read, in thousands of 512-byte units, rounded up.
        32: pub data_units_read: U128,
        /// Data written, likewise.
        48: pub data_units_written: U128,
        /// Read and Compare commands.
        64: pub host_reads: U128,
        /// Write commands.
        80: pub host_writes: U128,
        /// Minutes with I/O outstanding.
        96: pub busy_minutes: U128,
        /// Power cycles.
        112: pub power_cycles: U128,
        /// Hours powered on.
        128: pub power_on_hours: U128,
        /// Unsafe shutdowns.
        144: pub unsafe_shutdowns: U128,
        /// Media and data integrity errors.
        160: pub media_errors: U128,
        /// Error log entries over the life of the controller.
        176: pub error_entries: U128,
        /// Minutes above the warning temperature.
        192: pub warning_minutes: U32,
        /// Minutes above the critical temperature.
        196: pub critical_minutes: U32,
        /// Temperature sensors, in kelvins; 0 for none.
        200: pub sensors: [U16; 8],
        /// Transitions to thermal state 1.
        216: pub thermal1_count: U32,
        /// Transitions to thermal state 2.
        220: pub thermal2_count: U32,
        /// Seconds in thermal state 1.
        224: pub thermal1_seconds: U32,
        /// Seconds in thermal state 2.
        228: pub thermal2_seconds: U32,
        /// Reserved: zero.
        232: pub _reserved2: [u8; 280],
    }
}

impl Smart {
    /// Bytes as the data unit counters want them: thousands of 512 bytes, rounded up.
    pub fn data_units(bytes: u128) -> U128 {
        U128::new(bytes.div_ceil(512_000))
    }
}

layout! {
    /// Firmware slot information (NVMe Base 2.1, 5.1.12.1.4).
    pub struct FirmwareSlots: 512 {
        /// Active slot in bits 2:0, slot after the next reset in bits 6:4.
        0: pub active: u8,
        /// Reserved: zero.
        1: pub _reserved1: [u8; 7],
        /// Revision in each slot, space-padded.
        8: pub revisions: [[u8; 8]; 7],
        /// Reserved: zero.
        64: pub _reserved2: [u8; 448],
    }
}

impl FirmwareSlots {
    /// One slot, active, with `revision`.
    pub fn single(revision: [u8; 8]) -> Self {
        let mut page = FirmwareSlots {
            active: 1,
            ..Self::default()
        };
        page.revisions[0] = revision;
        page
    }
}

/// NSIDs the changed namespace list can hold; more are said by one entry of FFFFFFFFh.
pub const CHANGED_MAX: usize = 1024;

/// The changed attached namespace list, from NSIDs in ascending order (NVMe Base 2.1, 5.1.12.1.5).
pub fn changed_namespaces(changed: impl IntoIterator<Item = u32>) -> Vec<u8> {
    let mut page = vec![0; CHANGED_MAX * 4];
    let mut changed = changed.into_iter();
    for (slot, nsid) in page.chunks_exact_mut(4).zip(changed.by_ref()) {
        slot.copy_from_slice(&nsid.to_le_bytes());
    }
    if changed.next().is_some() {
        page.fill(0);
        page[..4].fill(0xff);
    }
    page
}

/// What a reservation notification says happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReservationNotice {
    /// The page is empty.
    Empty = 0,
    /// This host's registration was preempted.
    RegistrationPreempted = 1,
    /// The reservation was released.
    Released = 2,
    /// This host's reservation was preempted.
    Preempted = 3,
}

layout! {
    /// Reservation notification (NVMe Base 2.1, 5.1.12.1.32).
    pub struct ReservationNotification: 64 {
        /// Counts notifications, starting again at 1 after the last.
        0: pub count: U64,
        /// What happened: [`ReservationNotice`].
        8: pub notice: u8,
        /// Further pages waiting, 255 for more.
        9: pub available: u8,
        /// Reserved: zero.
        10: pub _reserved1: [u8; 2],
        /// NSID.
        12: pub nsid: U32,
        /// Reserved: zero.
        16: pub _reserved2: [u8; 48],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_entry_has_each_field_in_its_place() {
        let entry = ErrorEntry {
            error_count: 0x0807_0605_0403_0201.into(),
            sqid: 0x0a09.into(),
            cid: 0x0c0b.into(),
            status: 0x0e0d.into(),
            parameter: 0x100f.into(),
            lba: 0x1817_1615_1413_1211.into(),
            nsid: 0x1c1b_1a19.into(),
            vendor_page: 0x1d,
            transport: 0x1e,
            csi: 0x1f,
            opcode: 0x20,
            command_specific: 0x2827_2625_2423_2221.into(),
            transport_specific: 0x2a29.into(),
            version: 0x40,
            ..ErrorEntry::default()
        };
        let mut expected: Vec<u8> = (1..=64).collect();
        expected[42..63].fill(0);
        assert_eq!(entry.bytes(), expected);
    }

    #[test]
    fn data_units_are_thousands_of_sectors_rounded_up() {
        assert_eq!(Smart::data_units(0).get(), 0);
        assert_eq!(Smart::data_units(1).get(), 1);
        assert_eq!(Smart::data_units(512_001).get(), 2);
    }

    #[test]
    fn one_slot_of_firmware_is_active() {
        let page = FirmwareSlots::single(*b"1.2     ");
        assert_eq!(page.bytes()[..16], *b"\x01\0\0\0\0\0\0\x001.2     ");
    }

    #[test]
    fn more_changes_than_the_list_holds_are_said_by_one_entry() {
        let page = changed_namespaces([0x0403_0201, 9]);
        assert_eq!(page[..9], [1, 2, 3, 4, 9, 0, 0, 0, 0]);
        assert_eq!(changed_namespaces(1..=1024)[4092..], [0, 4, 0, 0]);
        let many = changed_namespaces(1..=1025);
        assert_eq!(many[..8], [255, 255, 255, 255, 0, 0, 0, 0]);
    }

    #[test]
    fn a_reservation_notification_has_each_field_in_its_place() {
        let page = ReservationNotification {
            count: 0x0807_0605_0403_0201.into(),
            notice: ReservationNotice::Preempted as u8,
            available: 0x0a,
            nsid: 0x100f_0e0d.into(),
            ..Default::default()
        };
        let start = [
            1, 2, 3, 4, 5, 6, 7, 8, 3, 0x0a, 0, 0, 0x0d, 0x0e, 0x0f, 0x10,
        ];
        assert_eq!(page.bytes()[..16], start);
    }

    #[test]
    fn every_field_of_the_smart_page_lands_on_its_bytes() {
        let mut page = Smart {
            critical_warning: 1,
            temperature: 0x0302.into(),
            ..Smart::default()
        };
        (page.spare, page.spare_threshold, page.percent_used) = (4, 5, 6);
        page.endurance_warning = 7;
        let counters = [
            &mut page.data_units_read,
            &mut page.data_units_written,
            &mut page.host_reads,
            &mut page.host_writes,
            &mut page.busy_minutes,
            &mut page.power_cycles,
            &mut page.power_on_hours,
            &mut page.unsafe_shutdowns,
            &mut page.media_errors,
            &mut page.error_entries,
        ];
        for (at, counter) in counters.into_iter().enumerate() {
            *counter = U128::new(at as u128 + 0x40);
        }
        page.warning_minutes = 0x5352_5150.into();
        page.thermal2_seconds = 0x6362_6160.into();
        let bytes = page.bytes();
        assert_eq!(bytes[..7], [1, 2, 3, 4, 5, 6, 7]);
        for at in 0..10_usize {
            assert_eq!(bytes[32 + at * 16], at as u8 + 0x40);
        }
        assert_eq!(bytes[192..196], [0x50, 0x51, 0x52, 0x53]);
        assert_eq!(bytes[228..232], [0x60, 0x61, 0x62, 0x63]);
        assert!(Smart::from_prefix(include_bytes!("../../../tests/golden/smart.bin")).is_ok());
    }
}
