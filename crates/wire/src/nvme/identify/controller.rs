//! Identify Controller, and its part for the NVM command set.

use zerocopy::little_endian::{U16, U32, U64, U128};

/// CNTRLTYPE: what a controller is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ControllerType {
    /// Serves I/O.
    Io = 1,
    /// Serves the discovery log page.
    Discovery = 2,
    /// Serves management only.
    Administrative = 3,
}

/// Bits of OACS, the optional admin commands.
pub mod oacs {
    /// Security Send and Receive.
    pub const SECURITY: u16 = 1 << 0;
    /// Format NVM.
    pub const FORMAT: u16 = 1 << 1;
    /// Namespace Management.
    pub const NAMESPACE_MANAGEMENT: u16 = 1 << 3;
}

/// Bits of ONCS, the optional I/O commands.
pub mod oncs {
    /// Compare.
    pub const COMPARE: u16 = 1 << 0;
    /// Write Uncorrectable.
    pub const WRITE_UNCORRECTABLE: u16 = 1 << 1;
    /// Dataset Management.
    pub const DATASET_MANAGEMENT: u16 = 1 << 2;
    /// Write Zeroes.
    pub const WRITE_ZEROES: u16 = 1 << 3;
    /// Save and Select fields of Features commands.
    pub const FEATURES_SAVE: u16 = 1 << 4;
    /// Reservations.
    pub const RESERVATIONS: u16 = 1 << 5;
    /// Timestamp feature.
    pub const TIMESTAMP: u16 = 1 << 6;
    /// Verify.
    pub const VERIFY: u16 = 1 << 7;
    /// Copy.
    pub const COPY: u16 = 1 << 8;
}

/// Bits of CTRATT, the controller attributes.
pub mod ctratt {
    /// 128-bit host identifiers.
    pub const HOST_ID_128: u32 = 1 << 0;
    /// Keep-alive by traffic: any command restarts the timer.
    pub const TRAFFIC_KEEP_ALIVE: u32 = 1 << 6;
    /// Extended LBA formats.
    pub const EXTENDED_FORMATS: u32 = 1 << 15;
}

/// Bits of SGLS, the kinds of scatter-gather lists.
pub mod sgls {
    /// SGLs without alignment rules.
    pub const SUPPORTED: u32 = 1 << 0;
    /// An address may be an offset into the capsule.
    pub const OFFSET: u32 = 1 << 20;
    /// Transport data blocks.
    pub const TRANSPORT: u32 = 1 << 21;
}

layout! {
    /// Power state descriptor (NVMe Base 2.1, 5.1.13.2.1): only the fields a virtual drive has.
    pub struct PowerState: 32 {
        /// MP: most power, in units of 0.01 W.
        0: pub max_power: U16,
        /// Reserved: zero.
        2: pub _reserved: [u8; 30],
    }
}

layout! {
    /// Identify Controller data (NVMe Base 2.1, 5.1.13.2.1). Fields have the names of the table.
    pub struct IdentifyController: 4096 {
        /// PCI vendor ID.
        0: pub vid: U16,
        /// PCI subsystem vendor ID.
        2: pub ssvid: U16,
        /// Serial number, space-padded.
        4: pub sn: [u8; 20],
        /// Model number, space-padded.
        24: pub mn: [u8; 40],
        /// Firmware revision, space-padded.
        64: pub fr: [u8; 8],
        /// Recommended arbitration burst, as a power of two.
        72: pub rab: u8,
        /// IEEE OUI, least significant byte first.
        73: pub ieee: [u8; 3],
        /// Multi-path: bit 0 several ports, bit 1 several controllers, bit 3 ANA.
        76: pub cmic: u8,
        /// Most data per command: pages of CAP.MPSMIN, as a power of two; 0 for no limit.
        77: pub mdts: u8,
        /// Controller ID.
        78: pub cntlid: U16,
        /// Version, as in property VS.
        80: pub ver: U32,
        /// RTD3 resume latency, in microseconds.
        84: pub rtd3r: U32,
        /// RTD3 entry latency, in microseconds.
        88: pub rtd3e: U32,
        /// Optional asynchronous events, bits as in [`EventMask`](crate::nvme::aer::EventMask).
        92: pub oaes: U32,
        /// Controller attributes: [`ctratt`].
        96: pub ctratt: U32,
        /// Read recovery levels.
        100: pub rrls: U16,
        /// Boot partition capabilities.
        102: pub bpcap: u8,
        /// Reserved: zero.
        103: pub _reserved1: u8,
        /// Subsystem shutdown latency, in microseconds.
        104: pub nssl: U32,
        /// Reserved: zero.
        108: pub _reserved2: [u8; 2],
        /// Power loss signalling.
        110: pub plsi: u8,
        /// Controller type: [`ControllerType`].
        111: pub cntrltype: u8,
        /// FRU GUID.
        112: pub fguid: [u8; 16],
        /// Command retry delay 1, in units of 100 ms.
        128: pub crdt1: U16,
        /// Command retry delay 2, in units of 100 ms.
        130: pub crdt2: U16,
        /// Command retry delay 3, in units of 100 ms.
        132: pub crdt3: U16,
        /// Controller reachability capabilities.
        134: pub crcap: u8,
        /// Reserved: zero.
        135: pub _reserved3: [u8; 118],
        /// NVM subsystem report (management interface).
        253: pub nvmsr: u8,
        /// VPD write cycles.
        254: pub vwci: u8,
        /// Management endpoint capabilities.
        255: pub mec: u8,
        /// Optional admin commands: [`oacs`].
        256: pub oacs: U16,
        /// Abort commands at once, zero-based.
        258: pub acl: u8,
        /// Asynchronous event requests at once, zero-based.
        259: pub aerl: u8,
        /// Firmware updates: bit 0 slot 1 read-only, bits 3:1 number of slots.
        260: pub frmw: u8,
        /// Log pages: bit 0 SMART per namespace, 1 effects, 2 extended data, 5 supported pages.
        261: pub lpa: u8,
        /// Error log entries, zero-based.
        262: pub elpe: u8,
        /// Power states, zero-based.
        263: pub npss: u8,
        /// Format of vendor-specific admin commands.
        264: pub avscc: u8,
        /// Autonomous power state transitions.
        265: pub apsta: u8,
        /// Warning temperature, in kelvins.
        266: pub wctemp: U16,
        /// Critical temperature, in kelvins.
        268: pub cctemp: U16,
        /// Longest firmware activation, in units of 100 ms.
        270: pub mtfa: U16,
        /// Host memory buffer, preferred, in units of 4 KiB.
        272: pub hmpre: U32,
        /// Host memory buffer, least, in units of 4 KiB.
        276: pub hmmin: U32,
        /// Total capacity, in bytes.
        280: pub tnvmcap: U128,
        /// Unallocated capacity, in bytes.
        296: pub unvmcap: U128,
        /// Replay protected memory.
        312: pub rpmbs: U32,
        /// Extended self-test time, in minutes.
        316: pub edstt: U16,
        /// Self-test options.
        318: pub dsto: u8,
        /// Firmware update granularity, in units of 4 KiB.
        319: pub fwug: u8,
        /// Granularity of the keep-alive timer, in units of 100 ms; 0 for none.
        320: pub kas: U16,
        /// Host controlled thermal management.
        322: pub hctma: U16,
        /// Least thermal management temperature, in kelvins.
        324: pub mntmt: U16,
        /// Most thermal management temperature, in kelvins.
        326: pub mxtmt: U16,
        /// Sanitize capabilities.
        328: pub sanicap: U32,
        /// Host memory buffer least descriptor entry size, in units of 4 KiB.
        332: pub hmminds: U32,
        /// Host memory buffer most descriptors.
        336: pub hmmaxd: U16,
        /// Largest NVM set ID.
        338: pub nsetidmax: U16,
        /// Largest endurance group ID.
        340: pub endgidmax: U16,
        /// Longest ANA transition, in seconds.
        342: pub anatt: u8,
        /// ANA capabilities: bits 4:0 states reported, 6 group ID stays, 7 group ID nonzero.
        343: pub anacap: u8,
        /// Largest ANA group ID.
        344: pub anagrpmax: U32,
        /// Number of ANA groups.
        348: pub nanagrpid: U32,
        /// Persistent event log size, in units of 64 KiB.
        352: pub pels: U32,
        /// Domain.
        356: pub domain: U16,
        /// Key per I/O.
        358: pub kpioc: u8,
        /// Reserved: zero.
        359: pub _reserved4: u8,
        /// Longest firmware activation without reset, in units of 100 ms.
        360: pub mptfawr: U16,
        /// Reserved: zero.
        362: pub _reserved5: [u8; 6],
        /// Most capacity of an endurance group, in bytes.
        368: pub megcap: U128,
        /// Thermal management hysteresis.
        384: pub tmpthha: u8,
        /// Reserved: zero.
        385: pub _reserved6: u8,
        /// Command quiesce time, in milliseconds.
        386: pub cqt: U16,
        /// Reserved: zero.
        388: pub _reserved7: [u8; 124],
        /// Submission queue entry size: least in bits 3:0, most in bits 7:4, as powers of two.
        512: pub sqes: u8,
        /// Completion queue entry size, likewise.
        513: pub cqes: u8,
        /// Commands a host should have outstanding on one queue at most.
        514: pub maxcmd: U16,
        /// Largest namespace ID.
        516: pub nn: U32,
        /// Optional I/O commands: [`oncs`].
        520: pub oncs: U16,
        /// Fused operations: bit 0 Compare and Write.
        522: pub fuses: U16,
        /// Format and secure erase attributes.
        524: pub fna: u8,
        /// Volatile write cache: bit 0 present, bits 2:1 = 3 if flush takes "all namespaces".
        525: pub vwc: u8,
        /// Atomic write unit in normal operation, blocks zero-based.
        526: pub awun: U16,
        /// Atomic write unit through power failure, blocks zero-based.
        528: pub awupf: U16,
        /// Format of vendor-specific I/O commands.
        530: pub icsvscc: u8,
        /// Namespace write protection.
        531: pub nwpc: u8,
        /// Atomic compare and write unit, blocks zero-based.
        532: pub acwu: U16,
        /// Copy descriptor formats.
        534: pub cdfs: U16,
        /// Scatter-gather lists: [`sgls`].
        536: pub sgls: U32,
        /// Most namespaces that can be attached; 0 means NN.
        540: pub mnan: U32,
        /// Most domain namespace attachments.
        544: pub maxdna: U128,
        /// Most I/O controller namespace attachments.
        560: pub maxcna: U32,
        /// Optimal aggregated queue depth.
        564: pub oaqd: U32,
        /// Recommended host-initiated refresh interval, in days.
        568: pub rhiri: u8,
        /// Host-initiated refresh time, in minutes.
        569: pub hirt: u8,
        /// Most memory of migratable controllers.
        570: pub cmmrtd: U16,
        /// Most memory of migratable NVM subsystems.
        572: pub nmmrtd: U16,
        /// Least memory range tracking granularity.
        574: pub minmrtg: u8,
        /// Most memory range tracking granularity.
        575: pub maxmrtg: u8,
        /// Tracking attributes.
        576: pub trattr: u8,
        /// Reserved: zero.
        577: pub _reserved8: u8,
        /// Most controller user data migration queues.
        578: pub mcudmq: U16,
        /// Most subsystem user data migration queues.
        580: pub mnsudmq: U16,
        /// Most controllers' memory ranges.
        582: pub mcmr: U16,
        /// Most subsystem's memory ranges.
        584: pub nmcmr: U16,
        /// Most controller data queue memory ranges.
        586: pub mcdqpc: U16,
        /// Reserved: zero.
        588: pub _reserved9: [u8; 180],
        /// Name of the subsystem, NUL-terminated.
        768: pub subnqn: [u8; 256],
        /// Reserved: zero.
        1024: pub _reserved10: [u8; 768],
        /// Largest command capsule, in units of 16 bytes.
        1792: pub ioccsz: U32,
        /// Largest response capsule, in units of 16 bytes.
        1796: pub iorcsz: U32,
        /// Offset of data in a capsule, in units of 16 bytes.
        1800: pub icdoff: U16,
        /// Fabrics controller attributes: bit 0 set for static controllers.
        1802: pub fcatt: u8,
        /// Most SGL data block descriptors in a capsule.
        1803: pub msdbd: u8,
        /// Optional Fabrics commands: bit 0 Disconnect.
        1804: pub ofcs: U16,
        /// Type of a discovery controller.
        1806: pub dctype: u8,
        /// Cross-controller reset limit.
        1807: pub ccrl: u8,
        /// Reserved: zero.
        1808: pub _reserved11: [u8; 240],
        /// Power states.
        2048: pub psd: [PowerState; 32],
        /// Vendor specific.
        3072: pub vendor: [u8; 1024],
    }
}

impl IdentifyController {
    /// Most data of one command in bytes, with 4 KiB as the least page; `None` for no limit.
    pub fn data_max(&self) -> Option<usize> {
        match self.mdts {
            0 => None,
            // 2^51 pages and up exceed what an address can say: as good as no limit.
            shift => 4096_usize
                .checked_shl(u32::from(shift))
                .filter(|&len| len != 0),
        }
    }

    /// Most data in a command capsule, in bytes.
    pub fn in_capsule_data(&self) -> usize {
        (self.ioccsz.get() as usize)
            .saturating_mul(16)
            .saturating_sub(crate::nvme::Sqe::SIZE)
    }
}

layout! {
    /// Identify Controller data of the NVM command set (NVM Command Set 1.1, 4.1.5.4).
    pub struct NvmControllerIdentify: 4096 {
        /// Verify: most blocks, in pages as a power of two; 0 for no limit.
        0: pub vsl: u8,
        /// Write Zeroes: likewise.
        1: pub wzsl: u8,
        /// Write Uncorrectable: likewise.
        2: pub wusl: u8,
        /// Dataset Management: most ranges, 0 for no limit.
        3: pub dmrl: u8,
        /// Dataset Management: most blocks of a range, 0 for no limit.
        4: pub dmrsl: U32,
        /// Dataset Management: most blocks of all ranges, 0 for no limit.
        8: pub dmsl: U64,
        /// Key per I/O.
        16: pub kpiocap: u8,
        /// Write Zeroes with deallocation: as for `wzsl`.
        17: pub wzdsl: u8,
        /// Admin commands of the command set.
        18: pub aocs: U16,
        /// Version of the command set specification.
        20: pub ver: U32,
        /// Reserved: zero.
        24: pub _reserved: [u8; 4072],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvme::text;

    #[test]
    fn the_limits_a_host_needs_are_computed_without_overflow() {
        let mut id = IdentifyController {
            mdts: 8,
            ioccsz: 516.into(),
            ..Default::default()
        };
        assert_eq!(id.data_max(), Some(1 << 20));
        assert_eq!(id.in_capsule_data(), 8192);
        (id.mdts, id.ioccsz) = (0, 0.into());
        assert_eq!((id.data_max(), id.in_capsule_data()), (None, 0));
        (id.mdts, id.ioccsz) = (255, u32::MAX.into());
        assert_eq!(id.data_max(), None);
        assert!(id.in_capsule_data() > 0);
    }

    #[test]
    fn a_recorded_controller_is_read() {
        let bytes = include_bytes!("../../../tests/golden/identify_controller.bin");
        let id = IdentifyController::from_prefix(bytes).unwrap();
        assert_eq!((id.vid.get(), id.ssvid.get()), (0x8086, 0x8086));
        assert_eq!(text::trimmed(&id.sn), "SPDK00000000000001");
        assert_eq!(text::trimmed(&id.mn), "SPDK bdev Controller");
        assert_eq!(text::trimmed(&id.fr), "26.09");
        assert_eq!((id.rab, id.ieee, id.mdts), (6, [0xe4, 0xd2, 0x5c], 5));
        assert_eq!(id.ver.get(), 0x0002_0000);
        assert_eq!(id.ctratt.get() & ctratt::HOST_ID_128, 1);
        assert_eq!((id.acl, id.aerl, id.elpe, id.kas.get()), (3, 3, 127, 100));
        assert_eq!(
            (id.sqes, id.cqes, id.maxcmd.get(), id.nn.get()),
            (0x66, 0x44, 128, 32)
        );
        let oncs = id.oncs.get();
        assert_eq!(oncs & oncs::VERIFY, 0);
        assert_ne!(oncs & oncs::RESERVATIONS, 0);
        assert_ne!(oncs & oncs::WRITE_ZEROES, 0);
        assert_eq!((id.fuses.get(), id.vwc & 1), (1, 1));
        assert_ne!(id.sgls.get() & sgls::OFFSET, 0);
        assert_eq!(text::trimmed(&id.subnqn), "nqn.2016-06.io.spdk:cnode1");
        assert_eq!(id.in_capsule_data(), 4096);
        assert_eq!(id.cntrltype, ControllerType::Io as u8);
        assert_eq!(id.bytes(), bytes);
    }
}
