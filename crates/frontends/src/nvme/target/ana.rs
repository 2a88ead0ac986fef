//! Asymmetric namespace access, as the user sets it for the hosts that come by one listener.

use std::collections::BTreeMap;
use wire::nvme::log::AnaState;

/// The state of every namespace of the subsystem, through one listener.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct AnaStates {
    /// Of those that are not named.
    pub(crate) others: AnaState,
    /// By NSID, whether there is such a namespace now or not.
    pub(crate) named: BTreeMap<u32, AnaState>,
}

impl Default for AnaStates {
    fn default() -> Self {
        Self {
            others: AnaState::Optimized,
            named: BTreeMap::new(),
        }
    }
}

impl AnaStates {
    /// The state of a namespace whose volume is there.
    pub(crate) fn of(&self, nsid: u32) -> AnaState {
        self.named.get(&nsid).copied().unwrap_or(self.others)
    }
}
