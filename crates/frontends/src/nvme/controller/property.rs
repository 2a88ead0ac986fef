//! The properties of a controller: CAP, VS, CC, CSTS (NVMe Base 2.1, 3.1.4).

use super::QUEUE_ENTRIES_MAX;
use wire::nvme::Status;
use wire::nvme::cmds::PropertySize;
use wire::nvme::property::{
    CAP, CC, CRTO, CSS_ADMIN_ONLY, CSS_ALL, CSS_NVM, CSTS, Capabilities, Configuration,
    ControllerStatus, VERSION_2_1, VS,
};

/// TO and CRTO: how long a host waits for CSTS.RDY, in units of 500 ms. We are ready at
/// once, and not ready any more once the I/O under way has ended.
const READY_TIMEOUT_500MS: u8 = 15;
/// CC.SHN: a normal shutdown.
const SHN_NORMAL: u8 = 1;

/// What a controller is about to become, once nothing is under way on its I/O queues.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// Disabled: CC.EN became 0.
    Reset,
    /// Shut down, with everything safe that it was given.
    NormalShutdown,
    /// Shut down in haste.
    AbruptShutdown,
}

/// What a Property Set leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Change {
    /// Nothing but the value of a property.
    Nothing,
    /// The controller is ready.
    Enabled,
    /// A reset or shutdown begins: [`Properties::ended`] is to be called when all is quiet.
    Ending,
}

/// The registers that change.
#[derive(Default)]
pub(super) struct Properties {
    configuration: Configuration,
    status: ControllerStatus,
    ending: Option<Ending>,
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
    /// Whether commands are served: CSTS.RDY, no fatal error, and no reset under way.
    pub(super) fn is_ready(&self) -> bool {
        self.status.contains(ControllerStatus::READY)
            && !self.status.contains(ControllerStatus::FATAL)
            && self.ending != Some(Ending::Reset)
    }

    /// The reset or shutdown that is under way.
    pub(super) fn ending(&self) -> Option<Ending> {
        self.ending
    }

    /// The reset or shutdown is over: CSTS tells it from now on.
    pub(super) fn ended(&mut self, discovery: bool) -> Change {
        match self.ending.take() {
            Some(Ending::Reset) => {
                self.status = ControllerStatus::empty();
                // A host that did not wait for it has set CC.EN again meanwhile.
                self.enable(discovery)
            }
            Some(Ending::NormalShutdown | Ending::AbruptShutdown) => {
                self.status.remove(ControllerStatus::SHUTDOWN_UNDER_WAY);
                self.status |= ControllerStatus::SHUTDOWN_COMPLETE;
                Change::Nothing
            }
            None => Change::Nothing,
        }
    }

    fn enable(&mut self, discovery: bool) -> Change {
        if !self.configuration.enable || self.ending == Some(Ending::Reset) {
            return Change::Nothing;
        }
        if !is_usable(&self.configuration, discovery) {
            let cc = self.configuration.bits();
            tracing::warn!(cc, "a host enabled a controller in an unknown way");
            self.status = ControllerStatus::FATAL;
            return Change::Nothing;
        }
        self.status = ControllerStatus::READY;
        Change::Enabled
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

    /// Property Set.
    pub(super) fn set(
        &mut self,
        size: PropertySize,
        offset: u32,
        value: u64,
        discovery: bool,
    ) -> Result<Change, Status> {
        if (size, offset) != (PropertySize::Four, CC) {
            return Err(Status::INVALID_FIELD.dnr());
        }
        let old = self.configuration;
        let new = Configuration::from_bits(value as u32);
        self.configuration = new;
        if old.enable && !new.enable {
            self.ending = Some(Ending::Reset);
            return Ok(Change::Ending);
        }
        let enabled = match old.enable {
            true => Change::Nothing,
            false => self.enable(discovery),
        };
        if new.shutdown != 0 && old.shutdown == 0 && self.ending.is_none() {
            self.status.remove(ControllerStatus::SHUTDOWN_COMPLETE);
            self.status |= ControllerStatus::SHUTDOWN_UNDER_WAY;
            self.ending = Some(match new.shutdown {
                SHN_NORMAL => Ending::NormalShutdown,
                _ => Ending::AbruptShutdown,
            });
            return Ok(Change::Ending);
        }
        Ok(enabled)
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

    fn set(own: &mut Properties, cc: u64) -> Change {
        own.set(Four, CC, cc, false).unwrap()
    }

    fn csts(own: &Properties) -> u64 {
        own.get(Four, CSTS).unwrap()
    }

    #[test]
    fn a_controller_becomes_ready_at_once_and_is_disabled_once_all_is_quiet() {
        let mut own = Properties::default();
        assert_eq!(csts(&own), 0);
        assert_eq!(set(&mut own, 0x0046_0001), Change::Enabled);
        assert_eq!((csts(&own), own.get(Four, CC)), (1, Ok(0x0046_0001)));
        assert_eq!(set(&mut own, 0x0046_0000), Change::Ending);
        assert_eq!(csts(&own), 1, "commands are still under way");
        assert!(!own.is_ready(), "no more are taken");
        assert_eq!(own.ended(false), Change::Nothing);
        assert_eq!((csts(&own), own.ending()), (0, None));
        assert_eq!(set(&mut own, 0x0046_0001), Change::Enabled);
        assert!(own.is_ready());
    }

    #[test]
    fn a_shutdown_is_complete_once_all_is_quiet_and_a_reset_goes_before_it() {
        let mut own = Properties::default();
        set(&mut own, 0x0046_0001);
        assert_eq!(set(&mut own, 0x0046_4001), Change::Ending);
        assert_eq!(own.ending(), Some(Ending::NormalShutdown));
        assert_eq!(csts(&own), 1 | 1 << 2);
        own.ended(false);
        assert_eq!(csts(&own), 1 | 2 << 2);
        set(&mut own, 0x0046_0001);
        assert_eq!(set(&mut own, 0x0046_8001), Change::Ending);
        assert_eq!(own.ending(), Some(Ending::AbruptShutdown));
        assert_eq!(set(&mut own, 0x0046_8000), Change::Ending);
        assert_eq!(own.ending(), Some(Ending::Reset));
        own.ended(false);
        assert_eq!(csts(&own), 0);
    }

    #[test]
    fn a_host_that_enables_in_the_middle_of_a_reset_has_it_after_the_reset() {
        let mut own = Properties::default();
        set(&mut own, 0x0046_0001);
        set(&mut own, 0x0046_0000);
        assert_eq!(set(&mut own, 0x0046_0001), Change::Nothing);
        assert!(!own.is_ready());
        assert_eq!(own.ended(false), Change::Enabled);
        assert!(own.is_ready());
    }

    #[test]
    fn a_page_size_we_do_not_have_is_a_fatal_status() {
        let mut own = Properties::default();
        assert_eq!(set(&mut own, 0x0046_0081), Change::Nothing);
        assert_eq!(csts(&own), 2);
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
