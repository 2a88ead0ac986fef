//! The admin commands that an initiator sends, each with its data or the room for it.

use super::association::Names;
use blk::{IoBuf, Nanos};
use wire::nvme::cmds::{Connect, Features, GetLog, Identify, PropertySize};
use wire::nvme::fabrics::ConnectData;
use wire::nvme::features::FeatureId;
use wire::nvme::identify::{CSI_NVM, Cns, IDENTIFY_LEN};
use wire::nvme::log::LogId;
use wire::nvme::property::{self, Configuration};
use wire::nvme::{AdminCmd, CNTLID_DYNAMIC, FabricsCmd, NSID_ALL, Sqe, Status};
use wire::nvme_tcp::Payload;

/// Entries of the admin queue, as Linux hosts ask for.
pub(super) const ADMIN_ENTRIES: u16 = 32;
/// CC with entry sizes of 64 and 16 bytes, as fabrics fix them.
const ENTRY_SIZES: (u8, u8) = (6, 4);

/// CC.SHN for a normal shutdown.
const SHUTDOWN_NORMAL: u8 = 1;

/// The Connect of an admin queue, to whichever controller the array makes for us.
pub(super) fn connect(names: &Names, keep_alive: Nanos) -> (Sqe, Payload) {
    let connect = Connect {
        record_format: 0,
        qid: 0,
        queue_entries: u32::from(ADMIN_ENTRIES),
        priority: 0,
        no_sq_flow_control: false,
        kato_ms: (keep_alive.0 / 1_000_000) as u32,
    };
    let data = connect_data(names, CNTLID_DYNAMIC);
    (FabricsCmd::Connect(connect).to_sqe(), data)
}

/// The data of a Connect to controller `cntlid`.
pub(super) fn connect_data(names: &Names, cntlid: u16) -> Payload {
    let data = ConnectData::new(names.hostid, cntlid, &names.subnqn, &names.hostnqn);
    Payload::ToController(IoBuf::from_slice(data.bytes()))
}

/// Property Get.
pub(super) fn get(offset: u32, size: PropertySize) -> (Sqe, Payload) {
    let sqe = FabricsCmd::PropertyGet { size, offset }.to_sqe();
    (sqe, Payload::None)
}

/// The Property Set that enables the controller.
pub(super) fn enable() -> (Sqe, Payload) {
    configure(0)
}

/// The Property Set that asks the controller to shut down (NVMe Base 2.1, 3.6.1).
pub(super) fn shut_down() -> (Sqe, Payload) {
    configure(SHUTDOWN_NORMAL)
}

fn configure(shutdown: u8) -> (Sqe, Payload) {
    let cc = Configuration {
        enable: true,
        shutdown,
        io_sqe_size: ENTRY_SIZES.0,
        io_cqe_size: ENTRY_SIZES.1,
        ..Configuration::default()
    };
    let set = FabricsCmd::PropertySet {
        size: PropertySize::Four,
        offset: property::CC,
        value: u64::from(cc.bits()),
    };
    (set.to_sqe(), Payload::None)
}

/// Identify.
pub(super) fn identify(cns: Cns, nsid: u32) -> (Sqe, Payload) {
    let identify = Identify {
        nsid,
        cns: cns as u8,
        cntid: 0,
        cns_specific: 0,
        csi: CSI_NVM,
        uuid_index: 0,
    };
    let sqe = AdminCmd::Identify(identify).to_sqe();
    (sqe, Payload::ToHost(IoBuf::alloc(IDENTIFY_LEN)))
}

/// Set Features.
pub(super) fn set_feature(id: FeatureId, value: u32) -> (Sqe, Payload) {
    let features = Features {
        nsid: 0,
        fid: id as u8,
        cdw11: value,
        cdw12: 0,
        cdw13: 0,
    };
    let sqe = AdminCmd::SetFeatures(features, false).to_sqe();
    (sqe, Payload::None)
}

/// Get Log Page: `len` bytes from `offset`.
pub(super) fn log(id: LogId, lsp: u8, offset: u64, len: u64) -> (Sqe, Payload) {
    let log = GetLog {
        nsid: NSID_ALL,
        lid: id as u8,
        lsp,
        retain_event: false,
        len,
        offset,
        lsi: 0,
        by_index: false,
        csi: 0,
        uuid_index: 0,
    };
    let sqe = AdminCmd::GetLogPage(log).to_sqe();
    (sqe, Payload::ToHost(IoBuf::alloc(len as usize)))
}

/// What a status is called; those of Fabrics commands have names of their own.
pub(super) fn status_name(status: Status, of_fabrics: bool) -> String {
    let name = status.fabrics_name().filter(|_| of_fabrics);
    name.map_or_else(|| status.to_string(), str::to_owned)
}
