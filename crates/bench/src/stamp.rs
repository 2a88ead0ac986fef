//! Stamps: what a block holds so that reading it back tells stale, misplaced and torn data apart.
//!
//! Every eight bytes of a block depend on the seed of the run, the block's address and the number
//! of times it was written; the first words spell these out, so that a wrong block can be named.

/// First word of every stamped block.
const MAGIC: u64 = 0x5041_4d53_2d49_504f;
/// Words that spell out what the rest is made from.
const HEADER_WORDS: usize = 4;
/// What was found instead of what was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MismatchKind {
    /// Nothing but zeroes.
    Zeroes,
    /// An older version of this block.
    Stale {
        /// How often the block found had been written.
        found: u32,
    },
    /// A version of this block that was never completed, or never written.
    Newer {
        /// How often the block found claims to have been written.
        found: u32,
    },
    /// The block of another address.
    Misplaced {
        /// The address it belongs to.
        found: u64,
    },
    /// A block stamped by another run.
    Foreign,
    /// The beginning is right, and the rest is not: torn, or damaged.
    Torn {
        /// First wrong byte in the block.
        offset: usize,
    },
    /// No stamp at all.
    Garbage,
}

/// A cheap mix of 64 bits in which every bit counts (the finaliser of SplitMix64).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

fn word(i: usize, seed: u64, lba: u64, generation: u32) -> u64 {
    match i {
        0 => MAGIC,
        1 => seed,
        2 => lba,
        3 => u64::from(generation),
        _ => {
            let base = seed ^ lba.rotate_left(20) ^ u64::from(generation).rotate_left(48);
            mix(base.wrapping_add((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
        }
    }
}

/// Fills one block.
pub(crate) fn fill(block: &mut [u8], seed: u64, lba: u64, generation: u32) {
    for (i, bytes) in block.chunks_mut(8).enumerate() {
        let len = bytes.len();
        bytes.copy_from_slice(&word(i, seed, lba, generation).to_le_bytes()[..len]);
    }
}

/// Compares one block with what it should hold.
pub(crate) fn check(
    block: &[u8],
    seed: u64,
    lba: u64,
    generation: u32,
) -> Result<(), MismatchKind> {
    let wrong = block.chunks(8).enumerate().position(|(i, bytes)| {
        word(i, seed, lba, generation).to_le_bytes()[..bytes.len()] != *bytes
    });
    let Some(at) = wrong else { return Ok(()) };
    let found = |i: usize| {
        let bytes = block.get(i * 8..i * 8 + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    if at >= HEADER_WORDS {
        return Err(MismatchKind::Torn { offset: at * 8 });
    }
    Err(match () {
        () if block.iter().all(|b| *b == 0) => MismatchKind::Zeroes,
        () if found(0) != MAGIC => MismatchKind::Garbage,
        () if found(1) != seed => MismatchKind::Foreign,
        () if found(2) != lba => MismatchKind::Misplaced { found: found(2) },
        () => {
            let found = u32::try_from(found(3)).unwrap_or(u32::MAX);
            if found < generation {
                MismatchKind::Stale { found }
            } else {
                MismatchKind::Newer { found }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(seed: u64, lba: u64, generation: u32) -> Vec<u8> {
        let mut block = vec![0; 520];
        fill(&mut block, seed, lba, generation);
        block
    }

    #[test]
    fn a_block_is_what_was_written() {
        assert_eq!(check(&block(1, 2, 3), 1, 2, 3), Ok(()));
        let mut odd = vec![0; 515];
        fill(&mut odd, 1, 2, 3);
        assert_eq!(check(&odd, 1, 2, 3), Ok(()));
    }

    #[test]
    fn each_sort_of_damage_has_its_name() {
        let found = |block: &[u8]| check(block, 1, 2, 3).unwrap_err();
        assert_eq!(found(&[0; 520]), MismatchKind::Zeroes);
        assert_eq!(found(&[9; 520]), MismatchKind::Garbage);
        assert_eq!(found(&block(7, 2, 3)), MismatchKind::Foreign);
        assert_eq!(found(&block(1, 5, 3)), MismatchKind::Misplaced { found: 5 });
        assert_eq!(found(&block(1, 2, 2)), MismatchKind::Stale { found: 2 });
        assert_eq!(found(&block(1, 2, 4)), MismatchKind::Newer { found: 4 });
        let mut torn = block(1, 2, 3);
        torn[256..].copy_from_slice(&block(1, 2, 2)[256..]);
        assert_eq!(found(&torn), MismatchKind::Torn { offset: 256 });
        let mut flipped = block(1, 2, 3);
        flipped[519] ^= 1;
        assert_eq!(found(&flipped), MismatchKind::Torn { offset: 512 });
    }
}
