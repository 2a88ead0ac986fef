//! Bytes on the wire and typed values: NVMe, NVMe over Fabrics, and the NVMe/TCP connection.
//!
//! Everything here is pure. [`nvme`] holds the data structures of the NVMe specifications, each
//! with its size and field offsets asserted when it is compiled, and the parsers that turn a
//! submission queue entry into a typed command. [`nvme_tcp`] holds the PDUs of the TCP transport
//! and two state machines, one per end of a connection; they are fed bytes and the time, and hand
//! out what to send. Nothing in this crate opens a socket, reads a clock or starts a thread.

#[macro_use]
mod layout;
mod malformed;
pub mod nvme;
pub mod nvme_tcp;

pub use malformed::Malformed;
