//! Identify: the structures a controller describes itself and its namespaces with.

mod controller;
mod lists;
mod namespace;

pub use controller::{
    ControllerType, IdentifyController, NvmControllerIdentify, PowerState, ctratt, oacs, oncs, sgls,
};
pub use lists::{
    CommandSetVectors, ControllerList, Descriptor, Descriptors, active_namespaces, command_sets,
    controller_list, descriptors, parse_descriptors, parse_list,
};
pub use namespace::{
    BlockFormat, FORMATS_MAX, IdentifyNamespace, IndependentNamespace, NvmNamespaceIdentify, nmic,
    nsfeat, rescap,
};

/// Bytes of every Identify data structure.
pub const IDENTIFY_LEN: usize = 4096;

/// CSI of the NVM command set.
pub const CSI_NVM: u8 = 0;

/// CNS: which structure an Identify command asks for (NVMe Base 2.1, 5.1.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cns {
    /// Namespace, for the NVM command set.
    Namespace = 0x00,
    /// Controller.
    Controller = 0x01,
    /// Active namespace IDs above the given one.
    ActiveNamespaces = 0x02,
    /// Namespace identification descriptors: UUID, NGUID, EUI-64, CSI.
    Descriptors = 0x03,
    /// Namespace, for the I/O command set in CSI.
    CommandSetNamespace = 0x05,
    /// Controller, for the I/O command set in CSI.
    CommandSetController = 0x06,
    /// Active namespace IDs that use the I/O command set in CSI.
    CommandSetActiveNamespaces = 0x07,
    /// Namespace, independent of the I/O command set.
    IndependentNamespace = 0x08,
    /// Allocated namespace IDs above the given one.
    AllocatedNamespaces = 0x10,
    /// Allocated namespace, for the NVM command set.
    AllocatedNamespace = 0x11,
    /// Controllers that the given namespace is attached to.
    NamespaceControllers = 0x12,
    /// Controllers in the subsystem.
    SubsystemControllers = 0x13,
    /// Primary controller capabilities.
    PrimaryController = 0x14,
    /// Secondary controllers.
    SecondaryControllers = 0x15,
    /// Namespace granularity.
    NamespaceGranularity = 0x16,
    /// UUIDs that vendor-specific things are told apart by.
    UuidList = 0x17,
    /// Allocated namespace IDs that use the I/O command set in CSI.
    CommandSetAllocatedNamespaces = 0x1a,
    /// Allocated namespace, for the I/O command set in CSI.
    CommandSetAllocatedNamespace = 0x1b,
    /// The combinations of I/O command sets a controller can use at once.
    CommandSets = 0x1c,
}

impl Cns {
    /// Every value known here.
    pub const ALL: &[Cns] = &[
        Cns::Namespace,
        Cns::Controller,
        Cns::ActiveNamespaces,
        Cns::Descriptors,
        Cns::CommandSetNamespace,
        Cns::CommandSetController,
        Cns::CommandSetActiveNamespaces,
        Cns::IndependentNamespace,
        Cns::AllocatedNamespaces,
        Cns::AllocatedNamespace,
        Cns::NamespaceControllers,
        Cns::SubsystemControllers,
        Cns::PrimaryController,
        Cns::SecondaryControllers,
        Cns::NamespaceGranularity,
        Cns::UuidList,
        Cns::CommandSetAllocatedNamespaces,
        Cns::CommandSetAllocatedNamespace,
        Cns::CommandSets,
    ];

    /// The structure with this value, if it is known.
    pub fn from_u8(value: u8) -> Option<Cns> {
        Cns::ALL.iter().copied().find(|cns| *cns as u8 == value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_structure_is_found_by_its_value() {
        for cns in Cns::ALL {
            assert_eq!(Cns::from_u8(*cns as u8), Some(*cns));
        }
        assert_eq!(Cns::from_u8(0x04), None);
    }
}
