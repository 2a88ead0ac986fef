//! NVMe over TCP: the PDUs, and the two ends of a connection as pure state machines.
//!
//! [`Controller`] and [`Host`] have the same shape. Bytes go in by `receive`; while data are on
//! their way, `direct` says where the next ones belong, so that a socket can be read straight into
//! their buffer; `next_event` tells what happened; `transmit` moves what is to be sent into a
//! gather list. Time is an argument: `deadline` says when `expire` wants to be called.

pub mod bits;
mod controller;
pub mod digest;
mod framer;
mod host;
mod life;
mod pdu;

pub use controller::{Command, Controller, Event, Limits, Slot};
pub use host::{Completed, Host, HostConfig, HostEvent, Payload, Unsent, UnsentReason};
pub use pdu::{ALIGNMENT_MAX, Digests, Fatal, FatalStatus, MAXH2CDATA_MIN, PduType, TERM_DATA_MAX};

/// What the two ends agreed on when the connection was initialised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Digests in force.
    pub digests: Digests,
    /// Alignment of data in PDUs to the controller, in bytes.
    pub to_controller_alignment: u32,
    /// Alignment of data in PDUs to the host, in bytes.
    pub to_host_alignment: u32,
    /// R2Ts outstanding per command, at most.
    pub r2t_max: u32,
    /// Most data in one H2CData, in bytes.
    pub h2c_data_max: u32,
}

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer sent a TermReq: its FES and FEI.
    ByPeer(FatalStatus, u32),
    /// This end sent a TermReq, and the peer has had its time to read it.
    ByUs,
    /// The peer did not initialise the connection in time.
    InitTimeout,
    /// The owner said that the socket is gone.
    Lost,
}

/// Bytes of alignment that a zero-based count of dwords stands for.
const fn alignment_bytes(dwords: u8) -> u32 {
    (dwords as u32 + 1) * 4
}
