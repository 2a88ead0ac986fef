//! What can go wrong between a host and a subsystem.

use std::fmt;
use std::io;
use std::time::Duration;

use wire::nvme::Status;
use wire::nvme_tcp::Closed;

/// Why a command or a connection failed.
#[derive(Debug)]
pub enum HostError {
    /// The socket failed.
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// The controller completed a command with an error.
    Refused {
        /// The command.
        what: String,
        /// The status.
        status: Status,
        /// The status has the meaning it has for Fabrics commands.
        fabrics: bool,
        /// DW0 of the completion: for Connect, which parameter was wrong.
        dw0: u32,
    },
    /// The connection ended.
    Closed {
        /// What was being done.
        what: String,
        /// Why it ended.
        why: Closed,
    },
    /// The controller broke the protocol.
    Protocol(String),
    /// No answer came in time.
    Timeout {
        /// What was being done.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// What was asked for cannot be done with this controller or namespace.
    Invalid(String),
}

impl HostError {
    /// The NVMe status, if the controller gave one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Refused {
                what,
                status,
                fabrics: true,
                dw0,
            } => {
                let name = status.fabrics_name().unwrap_or("error");
                let (sct, sc) = (status.sct(), status.sc());
                write!(
                    f,
                    "{what} was refused: {name} ({sct:x}h/{sc:02x}h, dword 0 {dw0:#x})"
                )
            }
            Self::Refused { what, status, .. } => write!(f, "{what} failed: {status}"),
            Self::Closed { what, why } => {
                let why = match why {
                    Closed::ByPeer(fes, fei) => {
                        return write!(
                            f,
                            "{what}: the controller ended the connection: {fes:?} (FEI {fei:#x})"
                        );
                    }
                    Closed::ByUs => "the connection was ended for a protocol error",
                    Closed::InitTimeout => "the controller did not initialise the connection",
                    Closed::Lost => "the controller closed the connection",
                };
                write!(f, "{what}: {why}")
            }
            Self::Protocol(text) | Self::Invalid(text) => f.write_str(text),
            Self::Timeout { what, after } => write!(f, "{what}: no answer within {after:?}"),
        }
    }
}

impl std::error::Error for HostError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
