//! Scatter-gather list descriptors, the two kinds that a command over TCP may carry.

use zerocopy::little_endian::{U32, U64};

use super::status::Status;

layout! {
    /// SGL descriptor (NVMe Base 2.1, 4.3.2).
    pub struct SglDescriptor: 16 {
        /// Address, or offset into the capsule's data.
        0: pub address: U64,
        /// Length of the data, in bytes.
        8: pub length: U32,
        /// Reserved: zero.
        12: pub _reserved: [u8; 3],
        /// SGL descriptor type in bits 7:4, sub type in bits 3:0.
        15: pub identifier: u8,
    }
}

/// Identifier of a data block descriptor whose address is an offset into the capsule.
pub const DATA_BLOCK_OFFSET: u8 = 0x01;
/// Identifier of a transport data block: the transport moves the data by its own means.
pub const TRANSPORT_DATA_BLOCK: u8 = 0x5a;

/// Where the data of a command over fabrics is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataPointer {
    /// In the command capsule, `offset` bytes into its data.
    InCapsule {
        /// Bytes from the start of the capsule's data.
        offset: u64,
        /// Bytes.
        length: u32,
    },
    /// Moved by the transport: C2HData, or R2T and H2CData.
    Transport {
        /// Bytes.
        length: u32,
    },
}

impl SglDescriptor {
    /// Data of `length` bytes that starts the capsule's data.
    pub fn in_capsule(length: u32) -> Self {
        SglDescriptor {
            length: length.into(),
            identifier: DATA_BLOCK_OFFSET,
            ..SglDescriptor::default()
        }
    }

    /// Data of `length` bytes that the transport moves.
    pub fn transport(length: u32) -> Self {
        SglDescriptor {
            length: length.into(),
            identifier: TRANSPORT_DATA_BLOCK,
            ..SglDescriptor::default()
        }
    }

    /// The descriptor as NVMe/TCP allows it (NVMe TCP 1.1, 3.3.2.1 and 3.4).
    ///
    /// # Errors
    /// SGL Descriptor Type Invalid for every other kind of descriptor.
    #[inline]
    pub fn parse(&self) -> Result<DataPointer, Status> {
        let length = self.length.get();
        match self.identifier {
            DATA_BLOCK_OFFSET => Ok(DataPointer::InCapsule {
                offset: self.address.get(),
                length,
            }),
            TRANSPORT_DATA_BLOCK => Ok(DataPointer::Transport { length }),
            _ => Err(Status::SGL_TYPE_INVALID.dnr()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_each_kind_has_the_bytes_linux_sends() {
        // The SGL of Linux' nvme-tcp for 4 KiB in the capsule, and for 4 KiB by R2T.
        let inline = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x01];
        let by_transport = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0x5a];
        assert_eq!(SglDescriptor::in_capsule(4096).bytes(), inline);
        assert_eq!(SglDescriptor::transport(4096).bytes(), by_transport);
    }

    #[test]
    fn a_keyed_descriptor_is_refused() {
        let mut sgl = SglDescriptor::transport(1);
        sgl.identifier = 0x40;
        assert_eq!(sgl.parse(), Err(Status::SGL_TYPE_INVALID.dnr()));
    }
}
