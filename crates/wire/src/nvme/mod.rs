//! NVMe data structures: commands, completions, identify, log pages, features, fabrics.
//!
//! `bits` are the bytes, `cmds` the typed commands parsed from them, and the rest the payloads. The
//! numbers come from NVM Express Base 2.1, NVM Command Set 1.1 and NVMe over TCP 1.1.

pub mod aer;
pub mod bits;
pub mod cmds;
pub mod dsm;
pub mod fabrics;
pub mod features;
pub mod identify;
pub mod log;
pub mod nqn;
pub mod opcode;
pub mod property;
pub mod reservation;
pub mod sgl;
pub mod status;
pub mod text;

pub use bits::{Cqe, Fuse, Sqe};
pub use cmds::{AdminCmd, FabricsCmd, IoCmd, IoOp, Rw};
pub use nqn::Nqn;
pub use opcode::{AdminOpcode, IoOpcode};
pub use status::Status;

/// The NSID that means "all namespaces" (NVMe Base 2.1, 3.2.1.2).
pub const NSID_ALL: u32 = 0xffff_ffff;
/// The CNTLID in a Connect command that asks for a new controller (NVMe Base 2.1, 6.3).
pub const CNTLID_DYNAMIC: u16 = 0xffff;
/// The largest CNTLID a controller may have (NVMe Base 2.1, 3.1.3.3).
pub const CNTLID_MAX: u16 = 0xffef;
