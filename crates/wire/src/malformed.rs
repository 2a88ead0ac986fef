//! The error of every parser: which field, what was in it, and what it should have been.

use std::fmt;

/// Bytes that are not what the specification says they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// The field, by the name the specification gives it.
    pub field: &'static str,
    /// What was found there.
    pub value: u64,
    /// What it has to be.
    pub must: &'static str,
}

impl Malformed {
    /// Says that `field` holds `value` but `must` hold.
    pub const fn new(field: &'static str, value: u64, must: &'static str) -> Self {
        Malformed { field, value, must }
    }

    /// Says that a structure needs more bytes than the `len` there are.
    pub const fn short(structure: &'static str, len: usize) -> Self {
        Malformed {
            field: structure,
            value: len as u64,
            must: "have its full length in bytes",
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is {:#x}, but must {}",
            self.field, self.value, self.must
        )
    }
}

impl std::error::Error for Malformed {}
