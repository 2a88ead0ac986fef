//! The settings of controllers and subsystems, from their messages and back.

use crate::nvme::target::{AnaStates, CntlidRange, NAMESPACES_MAX};
use api::error::{Error, Result};
use api::ext::v1::{NvmeAnaState, NvmeControllerSettings, NvmeSubsystemSettings};
use std::collections::BTreeMap;
use wire::nvme::CNTLID_MAX;
use wire::nvme::log::AnaState;

const ANA: &str = "ana_state";
const NAMESPACES: &str = "namespace_ana_states";
const CNTLID_FIRST: &str = "cntlid_min";
const CNTLID_LAST: &str = "cntlid_max";

/// `None` stands for what was not chosen.
fn ana_state(value: i32, field: &str) -> Result<Option<AnaState>> {
    Ok(Some(match NvmeAnaState::try_from(value) {
        Ok(NvmeAnaState::Unspecified) => return Ok(None),
        Ok(NvmeAnaState::Optimized) => AnaState::Optimized,
        Ok(NvmeAnaState::NonOptimized) => AnaState::NonOptimized,
        Ok(NvmeAnaState::Inaccessible) => AnaState::Inaccessible,
        Ok(NvmeAnaState::PersistentLoss) => AnaState::PersistentLoss,
        Ok(NvmeAnaState::Change) => AnaState::Change,
        Err(_) => {
            let message = format!("{value} is none of the states; give one by its name");
            return Err(Error::invalid(field, message));
        }
    }))
}

/// What the settings of a controller say.
pub(super) fn ana_states(settings: &NvmeControllerSettings) -> Result<AnaStates> {
    let others = ana_state(settings.ana_state, ANA)?.unwrap_or(AnaStates::default().others);
    let mut named = BTreeMap::new();
    for (place, one) in settings.namespace_ana_states.iter().enumerate() {
        let at = |field: &str| format!("{NAMESPACES}[{place}].{field}");
        let nsid = one.host_nsid;
        if nsid == 0 || nsid > NAMESPACES_MAX {
            let message = format!("{nsid} is outside 1 to {NAMESPACES_MAX}");
            return Err(Error::invalid(at("host_nsid"), message));
        }
        let field = at(ANA);
        let state = ana_state(one.ana_state, &field)?;
        let state = state.ok_or_else(|| Error::invalid(field, "is required"))?;
        if named.insert(nsid, state).is_some() {
            let message = format!("{nsid} has a state already; name it once");
            return Err(Error::invalid(at("host_nsid"), message));
        }
    }
    Ok(AnaStates { others, named })
}

/// The same with every value in force.
pub(super) fn controller_in_force(mut settings: NvmeControllerSettings) -> NvmeControllerSettings {
    if settings.ana_state() == NvmeAnaState::Unspecified {
        settings.set_ana_state(NvmeAnaState::Optimized);
    }
    settings
}

/// What the settings of a subsystem say.
pub(super) fn cntlid_range(settings: &NvmeSubsystemSettings) -> Result<CntlidRange> {
    let limit = |value: Option<u32>, default: u16, field: &str| match value.map(u16::try_from) {
        None => Ok(default),
        Some(Ok(id)) if id <= CNTLID_MAX => Ok(id),
        Some(_) => {
            let id = value.unwrap_or_default();
            let message = format!("{id} is outside 0 to {CNTLID_MAX}");
            Err(Error::invalid(field, message))
        }
    };
    let all = CntlidRange::default();
    let first = limit(settings.cntlid_min, all.first, CNTLID_FIRST)?;
    let last = limit(settings.cntlid_max, all.last, CNTLID_LAST)?;
    if first > last {
        let message = format!("{last} is below {CNTLID_FIRST}, which is {first}");
        return Err(Error::invalid(CNTLID_LAST, message));
    }
    Ok(CntlidRange { first, last })
}

/// The same with every value in force.
pub(super) fn subsystem_in_force(mut settings: NvmeSubsystemSettings) -> NvmeSubsystemSettings {
    let all = CntlidRange::default();
    settings.cntlid_min.get_or_insert(all.first.into());
    settings.cntlid_max.get_or_insert(all.last.into());
    settings
}
