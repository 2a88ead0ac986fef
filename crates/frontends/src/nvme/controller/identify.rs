//! Identify: what the controller and its namespaces are (NVMe Base 2.1, 5.1.13).

use super::{Controller, INVALID, KEEP_ALIVE_GRAIN_100MS, QUEUE_ENTRIES_MAX, errors};
use crate::nvme::controller::events::REQUESTS_MAX;
use crate::nvme::target::{Namespace, Shape};
use crate::nvme::{DATA_MAX, FIRMWARE};
use blk::Geometry;
use std::sync::Arc;
use wire::nvme::aer::EventMask;
use wire::nvme::cmds::Identify;
use wire::nvme::identify::{
    BlockFormat, CSI_NVM, Cns, ControllerType, Descriptor, IDENTIFY_LEN, IdentifyController,
    IdentifyNamespace, IndependentNamespace, NvmControllerIdentify, NvmNamespaceIdentify,
    active_namespaces, command_sets, controller_list, ctratt, descriptors, nmic, nsfeat, oncs,
    rescap, sgls,
};
use wire::nvme::log::AnaState;
use wire::nvme::property::VERSION_2_1;
use wire::nvme::text::padded;
use wire::nvme::{NSID_ALL, Nqn, Sqe, Status};

/// The least memory page, to which MDTS and its likes relate.
const PAGE: usize = 4096;
/// MDTS: a power of two of pages.
const DATA_MAX_SHIFT: u8 = (DATA_MAX / PAGE).trailing_zeros() as u8;
/// Data that fit in a command capsule: what hosts may always send on an admin queue.
pub(crate) const IN_CAPSULE: u32 = 8192;
/// ANATT: the longest time in ANA Change state, in seconds. Only a user can set that state.
const ANA_TRANSITION_S: u8 = 10;
/// Abort commands at once: as many as there are requests to abort.
const ABORTS_MAX: u8 = REQUESTS_MAX as u8;
/// CMIC: several ports, several controllers, asymmetric access.
const CMIC: u8 = 1 << 0 | 1 << 1 | 1 << 3;
/// ANACAP: all five states are reported, and a namespace never changes its group.
const ANACAP: u8 = 0b1_1111 | 1 << 6;
/// RESCAP of a namespace with reservations.
const RESCAP: u8 = rescap::PERSIST | rescap::ALL_TYPES | rescap::IGNORE_KEY_1_3;
/// FRMW: one slot (bits 3:1), read-only (bit 0).
const FRMW: u8 = 1 << 1 | 1 << 0;
/// LPA: effects log, extended data, supported pages.
const LPA: u8 = 1 << 1 | 1 << 2 | 1 << 5;
/// VWC: there may be a volatile cache; Flush takes one namespace at a time (bits 2:1 = 2).
const VWC: u8 = 1 << 0 | 2 << 1;
/// DCTYPE of a discovery controller that knows its own subsystems only.
const DCTYPE_DIRECT: u8 = 1;
/// MC: metadata follow each block's data, the only way over fabrics.
const MC_INTERLEAVED: u8 = 1 << 0;
/// FLBAS: the same for the format in use.
const FLBAS_INTERLEAVED: u8 = 1 << 4;
/// DLFEAT: deallocated blocks read as zeroes (1), and Write Zeroes may deallocate (bit 3).
const DLFEAT: u8 = 1 | 1 << 3;
/// NSFEAT of the independent structure: there is no volatile write cache.
const NO_WRITE_CACHE: u8 = 1 << 5;
/// NSTAT: the namespace is ready.
const READY: u8 = 1 << 0;
/// FUSES: Compare and Write.
const FUSED_COMPARE_WRITE: u16 = 1 << 0;

const NO_NAMESPACE: Status = Status::INVALID_NAMESPACE.dnr();

impl Controller {
    pub(super) fn identify(&self, id: &Identify) -> Result<Vec<u8>, Status> {
        let cns = Cns::from_u8(id.cns).ok_or(INVALID)?;
        if self.is_discovery() && cns != Cns::Controller {
            return Err(INVALID);
        }
        let nvm_only = |page: Vec<u8>| {
            if id.csi == CSI_NVM {
                Ok(page)
            } else {
                Err(INVALID)
            }
        };
        match cns {
            Cns::Controller => Ok(self.identify_controller().bytes().to_vec()),
            Cns::Namespace => self.of_namespace(id.nsid, namespace_page),
            Cns::ActiveNamespaces => self.active(id.nsid),
            Cns::CommandSetActiveNamespaces => nvm_only(self.active(id.nsid)?),
            Cns::Descriptors => {
                let namespace = self.visible(id.nsid)?.ok_or(NO_NAMESPACE)?;
                descriptor_page(&namespace)
            }
            Cns::CommandSetNamespace => nvm_only(self.of_namespace(id.nsid, |_, _, _| {
                NvmNamespaceIdentify::default().bytes().to_vec()
            })?),
            Cns::CommandSetController => nvm_only(command_set_page()),
            Cns::IndependentNamespace => match self.visible(id.nsid)? {
                Some(namespace) => Ok(independent_page(&namespace)),
                None => Ok(vec![0; IDENTIFY_LEN]),
            },
            Cns::SubsystemControllers => {
                let subsystem = self.association.subsystem().ok_or(INVALID)?;
                let ids: Vec<u16> = subsystem.ways().associations.keys().copied().collect();
                Ok(controller_list(ids, id.cntid))
            }
            Cns::CommandSets => Ok(command_sets().bytes().to_vec()),
            _ => Err(INVALID),
        }
    }

    /// The namespace, `None` if the NSID is valid but unused.
    fn visible(&self, nsid: u32) -> Result<Option<Arc<Namespace>>, Status> {
        let subsystem = self.association.subsystem().ok_or(INVALID)?;
        if nsid == 0 || nsid > subsystem.shape().max_namespaces {
            return Err(NO_NAMESPACE);
        }
        Ok(self.association.namespace(nsid))
    }

    /// A page about a namespace; zeroes for an unused NSID (NVMe Base 2.1, 3.2.1.4).
    fn of_namespace(
        &self,
        nsid: u32,
        page: impl FnOnce(&Namespace, &Geometry, AnaState) -> Vec<u8>,
    ) -> Result<Vec<u8>, Status> {
        match self.visible(nsid)? {
            None => Ok(vec![0; IDENTIFY_LEN]),
            // Without its size it cannot be described; zeroes would tell hosts that it is gone.
            Some(namespace) => match namespace.geometry() {
                Some(geometry) => {
                    let state = self.association.ana(&namespace);
                    Ok(page(&namespace, &geometry, state))
                }
                None => Err(Status::NAMESPACE_NOT_READY),
            },
        }
    }

    fn active(&self, after: u32) -> Result<Vec<u8>, Status> {
        if after >= NSID_ALL - 1 {
            return Err(NO_NAMESPACE);
        }
        let all = self.association.namespaces();
        Ok(active_namespaces(all.iter().map(|one| one.nsid), after))
    }

    /// FUSES. It is of the controller and not of a namespace, so that it is offered only as long as
    /// the host sees no namespace whose writers we cannot all hold off: a cluster that relies on
    /// it would be misled by such a namespace.
    fn fuses(&self) -> u16 {
        let all = self.association.namespaces();
        let shared = |one: &Arc<Namespace>| one.geometry().is_some_and(|it| it.shared);
        match all.iter().any(shared) {
            true => 0,
            false => FUSED_COMPARE_WRITE,
        }
    }

    fn identify_controller(&self) -> IdentifyController {
        match self.association.subsystem() {
            Some(subsystem) => {
                let mut page = io_controller(&subsystem.shape());
                page.fuses = self.fuses().into();
                page.cntlid = self.association.cntlid.into();
                page
            }
            None => {
                let mut page = common(&Nqn::discovery());
                page.cntrltype = ControllerType::Discovery as u8;
                page.dctype = DCTYPE_DIRECT;
                page.oaes = EventMask::DISCOVERY_CHANGE.bits().into();
                page.cntlid = self.association.cntlid.into();
                page
            }
        }
    }
}

/// What both kinds of controllers say.
fn common(nqn: &Nqn) -> IdentifyController {
    IdentifyController {
        sn: [b' '; 20],
        mn: padded("OPI Storage discovery"),
        fr: padded(FIRMWARE),
        mdts: DATA_MAX_SHIFT,
        ver: VERSION_2_1.into(),
        ctratt: ctratt::HOST_ID_128.into(),
        acl: ABORTS_MAX - 1,
        aerl: (REQUESTS_MAX - 1) as u8,
        lpa: LPA,
        elpe: (errors::ERRORS_MAX - 1) as u8,
        kas: KEEP_ALIVE_GRAIN_100MS.into(),
        maxcmd: (QUEUE_ENTRIES_MAX as u16).into(),
        sgls: (sgls::SUPPORTED | sgls::OFFSET | sgls::TRANSPORT).into(),
        subnqn: nqn.field(),
        ..IdentifyController::default()
    }
}

fn io_controller(shape: &Shape) -> IdentifyController {
    let commands = oncs::COMPARE
        | oncs::DATASET_MANAGEMENT
        | oncs::WRITE_ZEROES
        | oncs::FEATURES_SAVE
        | oncs::RESERVATIONS
        | oncs::TIMESTAMP
        | oncs::VERIFY;
    IdentifyController {
        sn: padded(&shape.serial),
        mn: padded(&shape.model),
        cmic: CMIC,
        oaes: (EventMask::NAMESPACE_ATTRIBUTE | EventMask::ANA_CHANGE)
            .bits()
            .into(),
        cntrltype: ControllerType::Io as u8,
        frmw: FRMW,
        anatt: ANA_TRANSITION_S,
        anacap: ANACAP,
        anagrpmax: shape.max_namespaces.into(),
        nanagrpid: shape.max_namespaces.into(),
        sqes: 0x66,
        cqes: 0x44,
        nn: shape.max_namespaces.into(),
        mnan: shape.max_namespaces.into(),
        oncs: commands.into(),
        vwc: VWC,
        ioccsz: ((Sqe::SIZE as u32 + IN_CAPSULE) / 16).into(),
        iorcsz: 1.into(),
        msdbd: 1,
        ..common(&shape.nqn)
    }
}

fn command_set_page() -> Vec<u8> {
    // Verify reads as much as one Read may; the other commands have no limit of their own.
    let page = NvmControllerIdentify {
        vsl: DATA_MAX_SHIFT,
        ..NvmControllerIdentify::default()
    };
    page.bytes().to_vec()
}

/// A count of blocks as the zero-based 16-bit fields want it.
fn zero_based(blocks: u32) -> u16 {
    u16::try_from(blocks.saturating_sub(1)).unwrap_or(u16::MAX)
}

fn reservations(namespace: &Namespace) -> u8 {
    match namespace.has_reservations() {
        true => RESCAP,
        false => 0,
    }
}

fn namespace_page(namespace: &Namespace, geometry: &Geometry, state: AnaState) -> Vec<u8> {
    // Cleared where it cannot be known (NVM Command Set 1.1, 4.1.5.1: NUSE).
    let used = match state {
        AnaState::Inaccessible | AnaState::PersistentLoss => 0,
        _ => geometry.blocks,
    };
    let mut page = IdentifyNamespace {
        nsze: geometry.blocks.into(),
        ncap: geometry.blocks.into(),
        nuse: used.into(),
        nsfeat: nsfeat::ATOMIC_UNITS,
        nmic: nmic::SHARED,
        rescap: reservations(namespace),
        dlfeat: DLFEAT,
        nawun: zero_based(geometry.atomic_blocks).into(),
        nawupf: zero_based(geometry.atomic_blocks).into(),
        nacwu: match geometry.shared {
            true => 0,
            false => zero_based(geometry.atomic_blocks),
        }
        .into(),
        nvmcap: u128::from(geometry.data_bytes()).into(),
        anagrpid: namespace.nsid.into(),
        nguid: namespace.identity.nguid,
        eui64: namespace.identity.eui64,
        ..IdentifyNamespace::default()
    };
    if geometry.optimal_blocks > 0 {
        let best = zero_based(geometry.optimal_blocks).into();
        page.nsfeat |= nsfeat::OPTIMAL_SIZES;
        (page.npwg, page.npwa, page.npdg, page.npda) = (best, best, best, best);
        page.nows = best;
    }
    if geometry.metadata_bytes > 0 {
        page.mc = MC_INTERLEAVED;
        page.flbas = FLBAS_INTERLEAVED;
    }
    page.lbaf[0] = BlockFormat {
        metadata: (geometry.metadata_bytes as u16).into(),
        block_shift: geometry.block_bytes.trailing_zeros() as u8,
        performance: 0,
    };
    page.bytes().to_vec()
}

fn descriptor_page(namespace: &Namespace) -> Result<Vec<u8>, Status> {
    let own = &namespace.identity;
    let mut list = Vec::new();
    if own.eui64 != [0; 8] {
        list.push(Descriptor::Eui64(own.eui64));
    }
    if own.nguid != [0; 16] {
        list.push(Descriptor::Nguid(own.nguid));
    }
    if own.uuid != [0; 16] {
        list.push(Descriptor::Uuid(own.uuid));
    }
    if list.is_empty() {
        // Its volume never came since the start: who it is will be known when it does.
        return Err(Status::NAMESPACE_NOT_READY);
    }
    list.push(Descriptor::CommandSet(CSI_NVM));
    Ok(descriptors(&list))
}

fn independent_page(namespace: &Namespace) -> Vec<u8> {
    let geometry = namespace.geometry();
    let cached = geometry.is_none_or(|geometry| geometry.write_cache);
    let page = IndependentNamespace {
        nsfeat: if cached { 0 } else { NO_WRITE_CACHE },
        nmic: nmic::SHARED,
        rescap: reservations(namespace),
        anagrpid: namespace.nsid.into(),
        nstat: if geometry.is_some() { READY } else { 0 },
        ..IndependentNamespace::default()
    };
    page.bytes().to_vec()
}
