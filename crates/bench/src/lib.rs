//! The load generator `opi bench`, and the blocking NVMe/TCP host that it and others use.

mod address;
mod check;
mod command;
mod cpu;
pub mod host;
mod limit;
mod load;
mod stamp;

pub use address::Address;
pub use check::{Checked, check};
pub use command::{BenchError, command, run};
pub use limit::{Responder, Shape};
pub use load::{
    Cost, Latency, Load, Mismatch, MismatchKind, Order, Progress, Report, Side, Verified,
};
