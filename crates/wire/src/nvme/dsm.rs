//! The range list of a Dataset Management command.

use zerocopy::little_endian::{U32, U64};

layout! {
    /// One range (NVM Command Set 1.1, 3.2.3).
    pub struct DsmRange: 16 {
        /// Context attributes; hints that nothing here uses.
        0: pub attributes: U32,
        /// Length in logical blocks; not zero-based, zero is an empty range.
        4: pub blocks: U32,
        /// First logical block.
        8: pub slba: U64,
    }
}

/// The most ranges one command can carry, since NR is a zero-based byte.
pub const RANGES_MAX: usize = 256;

/// The ranges in a Dataset Management payload: `count` of them, or as many as the bytes hold.
pub fn ranges(data: &[u8], count: usize) -> impl Iterator<Item = DsmRange> + '_ {
    let whole = data
        .chunks_exact(DsmRange::SIZE)
        .take(count.min(RANGES_MAX));
    whole.filter_map(|bytes| DsmRange::from_prefix(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_in_order_and_a_torn_one_is_left_out() {
        let bytes: Vec<u8> = (1..=40).collect();
        let read: Vec<DsmRange> = ranges(&bytes, 9).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0].attributes.get(), 0x0403_0201);
        assert_eq!(read[0].blocks.get(), 0x0807_0605);
        assert_eq!(read[0].slba.get(), 0x100f_0e0d_0c0b_0a09);
        assert_eq!(read[1].bytes(), &bytes[16..32]);
        assert_eq!(ranges(&bytes, 1).count(), 1);
    }
}
