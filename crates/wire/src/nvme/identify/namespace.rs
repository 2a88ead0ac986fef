//! Identify Namespace, in its three parts: NVM, NVM extended, and independent of the command set.

use zerocopy::little_endian::{U16, U32, U64, U128};

/// LBA formats a namespace can list.
pub const FORMATS_MAX: usize = 64;

/// Bits of NSFEAT.
pub mod nsfeat {
    /// THINP: NUSE may be less than NCAP.
    pub const THIN: u8 = 1 << 0;
    /// NSABP: the atomic units of the namespace count, not those of the controller.
    pub const ATOMIC_UNITS: u8 = 1 << 1;
    /// DAE: reading deallocated blocks may fail.
    pub const DEALLOCATED_ERROR: u8 = 1 << 2;
    /// UIDREUSE: NGUID and EUI-64 are never used again.
    pub const NEVER_REUSED: u8 = 1 << 3;
    /// OPTPERF: NPWG, NPWA, NPDG, NPDA and NOWS are given.
    pub const OPTIMAL_SIZES: u8 = 1 << 4;
}

/// Bits of NMIC.
pub mod nmic {
    /// The namespace may be attached to several controllers.
    pub const SHARED: u8 = 1 << 0;
}

/// Bits of RESCAP.
pub mod rescap {
    /// Persist through power loss.
    pub const PERSIST: u8 = 1 << 0;
    /// All six reservation types.
    pub const ALL_TYPES: u8 = 0x7e;
    /// Ignore Existing Key as revision 1.3 defines it.
    pub const IGNORE_KEY_1_3: u8 = 1 << 7;
}

layout! {
    /// LBA format (NVM Command Set 1.1, 4.1.5.1).
    pub struct BlockFormat: 4 {
        /// MS: metadata bytes per block.
        0: pub metadata: U16,
        /// LBADS: block size as a power of two; 0 for a format that is not there.
        2: pub block_shift: u8,
        /// RP: relative performance, 0 best.
        3: pub performance: u8,
    }
}

layout! {
    /// Identify Namespace data of the NVM command set (NVM Command Set 1.1, 4.1.5.1).
    pub struct IdentifyNamespace: 4096 {
        /// Size, in blocks.
        0: pub nsze: U64,
        /// Capacity, in blocks.
        8: pub ncap: U64,
        /// Utilisation, in blocks.
        16: pub nuse: U64,
        /// Features: [`nsfeat`].
        24: pub nsfeat: u8,
        /// LBA formats, zero-based.
        25: pub nlbaf: u8,
        /// Format in use: index in bits 3:0 and 6:5, bit 4 set if metadata follow each block.
        26: pub flbas: u8,
        /// Metadata capabilities: bit 0 with the data, bit 1 apart.
        27: pub mc: u8,
        /// Protection capabilities.
        28: pub dpc: u8,
        /// Protection in use.
        29: pub dps: u8,
        /// Sharing: [`nmic`].
        30: pub nmic: u8,
        /// Reservations: [`rescap`].
        31: pub rescap: u8,
        /// Format progress.
        32: pub fpi: u8,
        /// Deallocation: bits 2:0 = 1 if such blocks read as zeroes, bit 3 DEAC.
        33: pub dlfeat: u8,
        /// Atomic write unit, blocks zero-based.
        34: pub nawun: U16,
        /// Atomic write unit through power failure, blocks zero-based.
        36: pub nawupf: U16,
        /// Atomic compare and write unit, blocks zero-based.
        38: pub nacwu: U16,
        /// Atomic boundary, blocks zero-based.
        40: pub nabsn: U16,
        /// Atomic boundary offset, in blocks.
        42: pub nabo: U16,
        /// Atomic boundary through power failure, blocks zero-based.
        44: pub nabspf: U16,
        /// Optimal I/O boundary, in blocks.
        46: pub noiob: U16,
        /// Capacity, in bytes.
        48: pub nvmcap: U128,
        /// Preferred write granularity, blocks zero-based.
        64: pub npwg: U16,
        /// Preferred write alignment, blocks zero-based.
        66: pub npwa: U16,
        /// Preferred deallocation granularity, blocks zero-based.
        68: pub npdg: U16,
        /// Preferred deallocation alignment, blocks zero-based.
        70: pub npda: U16,
        /// Optimal write size, blocks zero-based.
        72: pub nows: U16,
        /// Copy: most blocks of one source range.
        74: pub mssrl: U16,
        /// Copy: most blocks.
        76: pub mcl: U32,
        /// Copy: most source ranges, zero-based.
        80: pub msrc: u8,
        /// Key per I/O status.
        81: pub kpios: u8,
        /// Formats with unique attributes, zero-based.
        82: pub nulbaf: u8,
        /// Reserved: zero.
        83: pub _reserved1: u8,
        /// Key per I/O alignment and granularity.
        84: pub kpiodaag: U32,
        /// Reserved: zero.
        88: pub _reserved2: [u8; 4],
        /// ANA group.
        92: pub anagrpid: U32,
        /// Reserved: zero.
        96: pub _reserved3: [u8; 3],
        /// Attributes: bit 0 write protected.
        99: pub nsattr: u8,
        /// NVM set.
        100: pub nvmsetid: U16,
        /// Endurance group.
        102: pub endgid: U16,
        /// NGUID, most significant byte first.
        104: pub nguid: [u8; 16],
        /// EUI-64, most significant byte first.
        120: pub eui64: [u8; 8],
        /// LBA formats.
        128: pub lbaf: [BlockFormat; FORMATS_MAX],
        /// Vendor specific.
        384: pub vendor: [u8; 3712],
    }
}

impl IdentifyNamespace {
    /// Index of the LBA format in use.
    pub fn format_index(&self) -> usize {
        usize::from(self.flbas & 0x0f) | usize::from(self.flbas >> 5 & 3) << 4
    }

    /// The LBA format in use.
    pub fn format(&self) -> BlockFormat {
        self.lbaf[self.format_index()]
    }

    /// Whether metadata follow each block's data, as fabrics require.
    pub fn metadata_interleaved(&self) -> bool {
        self.flbas >> 4 & 1 == 1
    }

    /// Bytes of a block without metadata; `None` when the format is not one.
    pub fn block_size(&self) -> Option<u32> {
        match self.format().block_shift {
            // 512 bytes is the least the specification allows; above 2^31 no host can follow.
            shift @ 9..=31 => Some(1 << shift),
            _ => None,
        }
    }
}

layout! {
    /// The NVM command set's own namespace data, CNS 05h (NVM Command Set 1.1, 4.1.5.3).
    pub struct NvmNamespaceIdentify: 4096 {
        /// Logical block storage tag mask.
        0: pub lbstm: U64,
        /// Protection information capabilities.
        8: pub pic: u8,
        /// Protection information format attributes.
        9: pub pifa: u8,
        /// Reserved: zero.
        10: pub _reserved1: [u8; 2],
        /// Extended LBA formats: storage tag size in bits 6:0, protection format in bits 8:7.
        12: pub elbaf: [U32; FORMATS_MAX],
        /// Preferred deallocation granularity, large, in blocks.
        268: pub npdgl: U32,
        /// Preferred read granularity, blocks zero-based.
        272: pub nprg: U32,
        /// Preferred read alignment, blocks zero-based.
        276: pub npra: U32,
        /// Optimal read size, blocks zero-based.
        280: pub nors: U32,
        /// Preferred deallocation alignment, large, in blocks.
        284: pub npdal: U32,
        /// Reserved: zero.
        288: pub _reserved2: [u8; 3808],
    }
}

layout! {
    /// Namespace data that no command set changes, CNS 08h (NVMe Base 2.1, 5.1.13.2.8).
    pub struct IndependentNamespace: 4096 {
        /// Features: bits of its own; bit 3 UIDREUSE, bit 4 rotational media, bit 5 VWC.
        0: pub nsfeat: u8,
        /// Sharing: [`nmic`].
        1: pub nmic: u8,
        /// Reservations: [`rescap`].
        2: pub rescap: u8,
        /// Format progress.
        3: pub fpi: u8,
        /// ANA group.
        4: pub anagrpid: U32,
        /// Attributes: bit 0 write protected.
        8: pub nsattr: u8,
        /// Reserved: zero.
        9: pub _reserved1: u8,
        /// NVM set.
        10: pub nvmsetid: U16,
        /// Endurance group.
        12: pub endgid: U16,
        /// Status: bit 0 set when the namespace is ready.
        14: pub nstat: u8,
        /// Key per I/O status.
        15: pub kpios: u8,
        /// Key per I/O tags.
        16: pub maxkt: U16,
        /// Reserved: zero.
        18: pub _reserved2: [u8; 4078],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_namespace_is_read() {
        let bytes = include_bytes!("../../../tests/golden/identify_namespace.bin");
        let id = IdentifyNamespace::from_prefix(bytes).unwrap();
        assert_eq!(
            (id.nsze.get(), id.ncap.get(), id.nuse.get()),
            (16_384, 16_384, 16_384)
        );
        assert_eq!(
            (id.nlbaf, id.format_index(), id.block_size()),
            (0, 0, Some(512))
        );
        assert_eq!(id.format().metadata.get(), 0);
        assert_eq!(id.nmic, nmic::SHARED);
        assert_eq!(id.nsfeat & nsfeat::ATOMIC_UNITS, nsfeat::ATOMIC_UNITS);
        let nguid = [0x11, 0x11, 0x11, 0x11, 0x22, 0x22, 0x33, 0x33];
        assert_eq!(id.nguid[..8], nguid);
        assert_eq!(
            id.nguid[8..],
            [0x44, 0x44, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55]
        );
        assert_eq!(id.bytes(), bytes);
    }

    #[test]
    fn a_format_index_has_two_more_bits_further_up() {
        let mut id = IdentifyNamespace {
            flbas: 0x5f,
            ..Default::default()
        };
        assert_eq!(id.format_index(), 0x2f);
        assert!(id.metadata_interleaved());
        assert_eq!(id.block_size(), None);
        id.lbaf[0x2f].block_shift = 12;
        assert_eq!(id.block_size(), Some(4096));
    }
}
