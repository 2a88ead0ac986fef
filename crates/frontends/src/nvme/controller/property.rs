//! The properties of a controller: CAP, VS, CC, CSTS (NVMe Base 2.1, 3.1.4).

use super::QUEUE_ENTRIES_MAX;
use wire::nvme::Status;
use wire::nvme::cmds::PropertySize;
use wire::nvme::property::{
    CAP, CC, CRTO, CSS_ADMIN_ONLY, CSS_ALL, CSS_NVM, CSTS, Capabilities, Configuration,
    ControllerStatus, VERSION_2_1, VS,
};

/// TO and CRTO: how long a host waits for CSTS.RDY, in units of 500 ms. We are ready at once.
const READY_TIMEOUT_500MS: u8 = 15;

/// The registers that change.
#[derive(Default)]
pub(super) struct Properties {
    configuration: Configuration,
    status: ControllerStatus,
}

pub(super) fn capabilities() -> Capabilities {
    Capabilities {
        queue_entries_max: QUEUE_ENTRIES_MAX,
        ready_timeout_500ms: READY_TIMEOUT_500MS,
        // Bit 0: the NVM command set.
        command_sets: 1,
        subsystem_reset: false,
        // Bit 0: ready means that the media are ready too.
        ready_modes: 1,
    }
}

impl Properties {
    /// CSTS.RDY, and no fatal error.
    pub(super) fn is_ready(&self) -> bool {
        self.status.contains(ControllerStatus::READY)
            && !self.status.contains(ControllerStatus::FATAL)
    }

    /// Property Get.
    pub(super) fn get(&self, size: PropertySize, offset: u32) -> Result<u64, Status> {
        match (size, offset) {
            (PropertySize::Eight, CAP) => Ok(capabilities().bits()),
            (PropertySize::Four, VS) => Ok(u64::from(VERSION_2_1)),
            (PropertySize::Four, CC) => Ok(u64::from(self.configuration.bits())),
            (PropertySize::Four, CSTS) => Ok(u64::from(self.status.bits())),
            (PropertySize::Four, CRTO) => Ok(u64::from(READY_TIMEOUT_500MS)),
            _ => Err(Status::INVALID_FIELD.dnr()),
        }
    }

    /// Property Set. True if the controller was reset or shut down by it.
    pub(super) fn set(
        &mut self,
        size: PropertySize,
        offset: u32,
        value: u64,
        discovery: bool,
    ) -> Result<bool, Status> {
        if (size, offset) != (PropertySize::Four, CC) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let old = self.configuration;
        let new = Configuration::from_bits(value as u32);
        self.configuration = new;
        let mut reset = false;
        if new.enable && !old.enable {
            self.status = ControllerStatus::READY;
            if !is_usable(&new, discovery) {
                tracing::warn!(cc = value, "a host enabled a controller in an unknown way");
                self.status = ControllerStatus::FATAL;
            }
        } else if !new.enable && old.enable {
            self.status = ControllerStatus::empty();
            reset = true;
        }
        if new.shutdown != 0 && old.shutdown == 0 {
            self.status |= ControllerStatus::SHUTDOWN_COMPLETE;
            reset = true;
        }
        Ok(reset)
    }
}

/// Whether a controller can be enabled so: 4 KiB pages, round robin, the NVM command set, and
/// entries of the sizes that fabrics fix (a discovery controller has no use for them).
fn is_usable(cc: &Configuration, discovery: bool) -> bool {
    let sizes = matches!(cc.io_sqe_size, 0 | 6) && matches!(cc.io_cqe_size, 0 | 4);
    cc.page_size == 0
        && cc.arbitration == 0
        && matches!(cc.command_set, CSS_NVM | CSS_ALL | CSS_ADMIN_ONLY)
        && !cc.ready_independent
        && (discovery || sizes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use PropertySize::{Eight, Four};

    #[test]
    fn a_controller_becomes_ready_when_enabled_and_is_reset_when_disabled() {
        let mut own = Properties::default();
        assert_eq!(own.get(Four, CSTS), Ok(0));
        assert_eq!(own.set(Four, CC, 0x0046_0001, false), Ok(false));
        assert_eq!(
            (own.get(Four, CSTS), own.get(Four, CC)),
            (Ok(1), Ok(0x0046_0001))
        );
        assert_eq!(own.set(Four, CC, 0x0046_4001, false), Ok(true), "shutdown");
        assert_eq!(own.get(Four, CSTS), Ok(1 | 2 << 2));
        assert_eq!(own.set(Four, CC, 0x0046_0000, false), Ok(true), "reset");
        assert_eq!(own.get(Four, CSTS), Ok(0));
        assert_eq!(own.set(Four, CC, 0x0046_0001, false), Ok(false));
        assert!(own.is_ready());
    }

    #[test]
    fn a_page_size_we_do_not_have_is_a_fatal_status() {
        let mut own = Properties::default();
        assert_eq!(own.set(Four, CC, 0x0046_0081, false), Ok(false));
        assert_eq!(own.get(Four, CSTS), Ok(2));
        assert!(!own.is_ready());
    }

    #[test]
    fn only_the_right_width_and_offset_are_served() {
        let mut own = Properties::default();
        assert_eq!(own.get(Four, VS), Ok(0x0002_0100));
        assert_eq!(
            own.get(Eight, CAP).unwrap() & 0xffff,
            u64::from(QUEUE_ENTRIES_MAX) - 1
        );
        for (size, offset) in [(Four, CAP), (Eight, VS), (Four, 0x20), (Four, 0xffff_ffff)] {
            assert_eq!(own.get(size, offset), Err(Status::INVALID_FIELD.dnr()));
        }
        assert_eq!(
            own.set(Four, VS, 1, false),
            Err(Status::INVALID_FIELD.dnr())
        );
        assert_eq!(
            own.set(Eight, CC, 1, false),
            Err(Status::INVALID_FIELD.dnr())
        );
    }
}
