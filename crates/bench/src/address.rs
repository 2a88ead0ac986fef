//! Where a subsystem is: `tcp://127.0.0.1:4420/nqn...`, or the flags of `nvme connect`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs as _};

use wire::nvme::Nqn;

/// The port that IANA gives NVMe over TCP.
const PORT: u16 = 4420;

/// A subsystem at an address.
#[derive(Clone, Debug, PartialEq)]
pub struct Address {
    /// Where it listens.
    pub socket: SocketAddr,
    /// Its name.
    pub subnqn: Nqn,
}

impl Address {
    /// Reads `tcp://host:port/NQN`; the port may be left out.
    ///
    /// # Errors
    /// It has another shape, the host is unknown, or the NQN breaks a rule.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shape = "write it as tcp://127.0.0.1:4420/NQN";
        let rest = text
            .strip_prefix("tcp://")
            .ok_or_else(|| format!("`{text}` is not an address: {shape}"))?;
        let (place, nqn) = rest
            .split_once('/')
            .ok_or_else(|| format!("`{text}` names no subsystem: {shape}"))?;
        // A colon inside brackets belongs to an IPv6 address.
        let bare = !place.rsplit(']').next().unwrap_or(place).contains(':');
        let place = if bare {
            format!("{place}:{PORT}")
        } else {
            place.to_owned()
        };
        Ok(Self {
            socket: resolve(&place)?,
            subnqn: nqn_of(nqn)?,
        })
    }

    /// Takes what `nvme connect` takes apart: an address, a port, a name.
    ///
    /// # Errors
    /// The host is unknown, or the NQN breaks a rule.
    pub fn from_parts(traddr: &str, trsvcid: u16, subnqn: &str) -> Result<Self, String> {
        let host = traddr.trim_start_matches('[').trim_end_matches(']');
        let place = if host.contains(':') {
            format!("[{host}]:{trsvcid}")
        } else {
            format!("{host}:{trsvcid}")
        };
        Ok(Self {
            socket: resolve(&place)?,
            subnqn: nqn_of(subnqn)?,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}/{}", self.socket, self.subnqn.as_str())
    }
}

fn resolve(place: &str) -> Result<SocketAddr, String> {
    let mut found = place
        .to_socket_addrs()
        .map_err(|e| format!("`{place}` is not an address: {e}"))?;
    found
        .next()
        .ok_or_else(|| format!("`{place}` has no address"))
}

fn nqn_of(text: &str) -> Result<Nqn, String> {
    Nqn::parse(text).map_err(|e| format!("`{text}` is not an NQN: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NQN: &str = "nqn.2024-01.org.example:s0";

    #[test]
    fn both_ways_to_write_an_address_mean_the_same() {
        for (url, traddr, port) in [
            ("tcp://127.0.0.1:4421/", "127.0.0.1", 4421),
            ("tcp://127.0.0.1/", "127.0.0.1", 4420),
            ("tcp://[::1]:5000/", "::1", 5000),
            ("tcp://[::1]/", "[::1]", 4420),
        ] {
            let one = Address::parse(&format!("{url}{NQN}")).unwrap();
            assert_eq!(one, Address::from_parts(traddr, port, NQN).unwrap());
            assert_eq!(Address::parse(&one.to_string()).unwrap(), one);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_shape() {
        for text in [
            "",
            "127.0.0.1:4420",
            "tcp://127.0.0.1:4420",
            "rdma://1.2.3.4/x",
        ] {
            assert!(
                Address::parse(text)
                    .unwrap_err()
                    .contains("tcp://127.0.0.1:4420/NQN")
            );
        }
        assert!(
            Address::parse("tcp://127.0.0.1/banana")
                .unwrap_err()
                .contains("NQN")
        );
        assert!(Address::parse("tcp://127.0.0.1:99999/nqn.2024-01.org:x").is_err());
    }
}
