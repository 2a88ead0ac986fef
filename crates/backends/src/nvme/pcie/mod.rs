//! Local drives: the namespaces of the NVMe controller at a PCI address, through the block devices
//! that the kernel has for them.

mod address;
mod drive;
mod sysfs;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod usage;
mod volume;
mod watch;

pub(super) use address::Address;
pub(super) use drive::Drive;

use api::Code;
use api::error::Error;

/// Why a drive cannot be had, in words for a person.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Trouble {
    code: Code,
    text: String,
}

impl Trouble {
    fn new(code: Code, text: String) -> Self {
        Self { code, text }
    }

    /// It is not in the state that is needed.
    fn state(text: String) -> Self {
        Self::new(Code::FailedPrecondition, text)
    }

    /// The error of a request that named the drive in this field.
    pub(super) fn at(self, field: &str) -> Error {
        Error::new(self.code, format!("{field}: {}", self.text)).at(field)
    }
}
