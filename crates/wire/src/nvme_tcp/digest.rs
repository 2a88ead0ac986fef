//! CRC-32C, the digest of headers and data (NVMe TCP 1.1, 3.4.1).

use crc_fast::{CrcAlgorithm, Digest};

/// The digest of `bytes`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// A digest computed piece by piece, as data arrive or lie in separate pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crc32c(u32);

impl Crc32c {
    /// The digest of nothing yet.
    pub const fn new() -> Self {
        Crc32c(u32::MAX)
    }

    /// Adds `bytes`.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(self.0));
        digest.update(bytes);
        self.0 = digest.get_state() as u32;
    }

    /// The digest of everything added.
    #[inline]
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

impl Default for Crc32c {
    fn default() -> Self {
        Self::new()
    }
}

/// The digest of a buffer's bytes from `start` to `end`.
pub(super) fn of_range(crc: &mut Crc32c, buf: &blk::IoBuf, start: usize, end: usize) {
    let mut at = 0;
    for slice in buf.slices() {
        if at >= end {
            return;
        }
        let (from, to) = (start.max(at), end.min(at + slice.len()));
        if from < to {
            crc.update(&slice[from - at..to - at]);
        }
        at += slice.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 3720, B.4.
    #[test]
    fn the_published_examples_hold() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let data: Vec<u8> = (0..10_000_u32).map(|n| (n * 7) as u8).collect();
        for cut in [0, 1, 3, 255, 256, 4096, 9999, 10_000] {
            let mut crc = Crc32c::new();
            crc.update(&data[..cut]);
            crc.update(&data[cut..]);
            assert_eq!(crc.finish(), crc32c(&data), "{cut}");
        }
        let buf = blk::IoBuf::from_slice(&data);
        let mut crc = Crc32c::new();
        of_range(&mut crc, &buf, 100, 9000);
        assert_eq!(crc.finish(), crc32c(&data[100..9000]));
    }
}
