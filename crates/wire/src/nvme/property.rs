//! Controller properties: CAP, VS, CC, CSTS, as Property Get and Set reach them.

use bitflags::bitflags;

/// Offset of CAP, the capabilities (8 bytes).
pub const CAP: u32 = 0x00;
/// Offset of VS, the version (4 bytes).
pub const VS: u32 = 0x08;
/// Offset of CC, the configuration (4 bytes, writable).
pub const CC: u32 = 0x14;
/// Offset of CSTS, the status (4 bytes).
pub const CSTS: u32 = 0x1c;
/// Offset of NSSR, subsystem reset (4 bytes, writable).
pub const NSSR: u32 = 0x20;
/// Offset of CRTO, the ready time-outs (4 bytes).
pub const CRTO: u32 = 0x68;

/// Version 2.1 of the base specification, as VS and VER encode it.
pub const VERSION_2_1: u32 = 0x0002_0100;
/// Version 2.0 of the base specification, as VS and VER encode it.
pub const VERSION_2_0: u32 = 0x0002_0000;

/// Controller capabilities (NVMe Base 2.1, 3.1.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// MQES as a count: entries of the largest queue (2 to 65536).
    pub queue_entries_max: u32,
    /// TO: longest wait for CSTS.RDY, in units of 500 ms.
    pub ready_timeout_500ms: u8,
    /// CSS: bit 0 NVM command set, bit 6 one or more I/O command sets, bit 7 none.
    pub command_sets: u8,
    /// NSSRS: subsystem reset is supported.
    pub subsystem_reset: bool,
    /// CRMS: bit 0 ready with media, bit 1 ready independent of media.
    pub ready_modes: u8,
}

impl Capabilities {
    /// The register. CQR is set, and memory pages are 4 KiB only, as over fabrics.
    pub const fn bits(self) -> u64 {
        let entries = match self.queue_entries_max {
            0 => 0,
            n if n > 65_536 => 65_535,
            n => n - 1,
        };
        entries as u64
            | 1 << 16
            | (self.ready_timeout_500ms as u64) << 24
            | (self.subsystem_reset as u64) << 36
            | (self.command_sets as u64) << 37
            | (self.ready_modes as u64 & 3) << 59
    }

    /// The fields of a register that was read.
    pub const fn from_bits(bits: u64) -> Capabilities {
        Capabilities {
            queue_entries_max: (bits & 0xffff) as u32 + 1,
            ready_timeout_500ms: (bits >> 24) as u8,
            command_sets: (bits >> 37) as u8,
            subsystem_reset: bits >> 36 & 1 == 1,
            ready_modes: (bits >> 59) as u8 & 3,
        }
    }
}

/// Value of [`Configuration::command_set`] that selects the NVM command set.
pub const CSS_NVM: u8 = 0;
/// Value of [`Configuration::command_set`] that selects all supported I/O command sets.
pub const CSS_ALL: u8 = 6;
/// Value of [`Configuration::command_set`] that selects admin commands only.
pub const CSS_ADMIN_ONLY: u8 = 7;

/// Controller configuration (NVMe Base 2.1, 3.1.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Configuration {
    /// EN: the controller is to process commands.
    pub enable: bool,
    /// CSS: which I/O command sets.
    pub command_set: u8,
    /// MPS: memory page size, as a power of two above 4 KiB.
    pub page_size: u8,
    /// AMS: arbitration.
    pub arbitration: u8,
    /// SHN: 0 none, 1 normal shutdown, 2 abrupt shutdown.
    pub shutdown: u8,
    /// IOSQES: submission queue entry size, as a power of two.
    pub io_sqe_size: u8,
    /// IOCQES: completion queue entry size, as a power of two.
    pub io_cqe_size: u8,
    /// CRIME: ready independent of media.
    pub ready_independent: bool,
}

impl Configuration {
    /// The fields of the register.
    pub const fn from_bits(bits: u32) -> Configuration {
        Configuration {
            enable: bits & 1 == 1,
            command_set: (bits >> 4 & 7) as u8,
            page_size: (bits >> 7 & 15) as u8,
            arbitration: (bits >> 11 & 7) as u8,
            shutdown: (bits >> 14 & 3) as u8,
            io_sqe_size: (bits >> 16 & 15) as u8,
            io_cqe_size: (bits >> 20 & 15) as u8,
            ready_independent: bits >> 24 & 1 == 1,
        }
    }

    /// The register.
    pub const fn bits(self) -> u32 {
        self.enable as u32
            | (self.command_set as u32 & 7) << 4
            | (self.page_size as u32 & 15) << 7
            | (self.arbitration as u32 & 7) << 11
            | (self.shutdown as u32 & 3) << 14
            | (self.io_sqe_size as u32 & 15) << 16
            | (self.io_cqe_size as u32 & 15) << 20
            | (self.ready_independent as u32) << 24
    }
}

bitflags! {
    /// Controller status (NVMe Base 2.1, 3.1.4.6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct ControllerStatus: u32 {
        /// RDY: ready to process commands.
        const READY = 1 << 0;
        /// CFS: a fatal error happened.
        const FATAL = 1 << 1;
        /// SHST = 1: shutdown is under way.
        const SHUTDOWN_UNDER_WAY = 1 << 2;
        /// SHST = 2: shutdown is complete.
        const SHUTDOWN_COMPLETE = 1 << 3;
        /// NSSRO: a subsystem reset happened.
        const SUBSYSTEM_RESET = 1 << 4;
        /// PP: processing is paused.
        const PAUSED = 1 << 5;
        /// ST: the shutdown is of the whole subsystem.
        const SUBSYSTEM_SHUTDOWN = 1 << 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_those_of_a_recorded_target_where_they_agree() {
        // CAP of an SPDK target with 128 entries, TO 15 s and the NVM command set.
        let recorded = 0x0800_0020_1e01_007f_u64;
        let read = Capabilities::from_bits(recorded);
        assert_eq!(read.queue_entries_max, 128);
        assert_eq!(read.ready_timeout_500ms, 30);
        assert_eq!((read.command_sets, read.ready_modes), (1, 1));
        assert_eq!(read.bits(), recorded);
    }

    #[test]
    fn the_configuration_linux_writes_is_understood_and_survives() {
        let cc = Configuration::from_bits(0x0046_0001);
        assert!(cc.enable);
        assert_eq!((cc.io_sqe_size, cc.io_cqe_size, cc.shutdown), (6, 4, 0));
        for bits in [0x0146_7ff1, 0x0046_4001, 0] {
            assert_eq!(Configuration::from_bits(bits).bits(), bits);
        }
    }

    #[test]
    fn the_number_of_queue_entries_never_wraps() {
        let mut cap = Capabilities::from_bits(0);
        cap.queue_entries_max = 70_000;
        assert_eq!(cap.bits() & 0xffff, 65_535);
        cap.queue_entries_max = 0;
        assert_eq!(cap.bits() & 0xffff, 0);
    }
}
