//! Why an I/O failed, in terms that every front-end can map to its own status code.

/// Why an I/O failed. Small and `Copy`: the data path carries it by value.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum IoError {
    /// The blocks lie outside the volume.
    OutOfRange,
    /// The buffer does not fit the blocks, or is not aligned as the volume demands.
    Misaligned,
    /// The volume does not do this operation.
    Unsupported,
    /// The medium failed; asking again will not help.
    Medium,
    /// The medium is full or a quota is spent.
    NoSpace,
    /// A compare found other data.
    Miscompare,
    /// Somebody else's reservation or a read-only medium forbids it.
    Denied,
    /// The path to the medium is gone; another path may work, and so may a later try.
    Transport,
    /// The volume is offline for now; it is expected back.
    Offline,
    /// The submitter took the request back.
    Aborted,
    /// Memory or queue places ran out; a later try may work.
    Busy,
}

impl IoError {
    /// All of them, in the order of their indices.
    pub const ALL: [Self; 11] = [
        Self::OutOfRange,
        Self::Misaligned,
        Self::Unsupported,
        Self::Medium,
        Self::NoSpace,
        Self::Miscompare,
        Self::Denied,
        Self::Transport,
        Self::Offline,
        Self::Aborted,
        Self::Busy,
    ];

    /// The place in [`IoError::ALL`], for tables.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for IoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "the blocks lie outside the volume",
            Self::Misaligned => "the buffer does not fit the blocks",
            Self::Unsupported => "the volume does not do this operation",
            Self::Medium => "the medium failed",
            Self::NoSpace => "the medium is full",
            Self::Miscompare => "the data differs",
            Self::Denied => "access is denied",
            Self::Transport => "the path to the medium is gone",
            Self::Offline => "the volume is offline",
            Self::Aborted => "the request was taken back",
            Self::Busy => "out of memory or queue places for now",
        })
    }
}

impl std::error::Error for IoError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_has_the_index_of_its_place() {
        for (index, error) in IoError::ALL.into_iter().enumerate() {
            assert_eq!(error.index(), index);
        }
    }
}
