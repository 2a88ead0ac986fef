//! The discovery log page: which subsystems a host may use, at addresses that it can use.

use super::target::Target;
use std::net::{IpAddr, SocketAddr};
use wire::nvme::Nqn;
use wire::nvme::log::{AddressFamily, DiscoveryEntry, SubsystemType, TREQ_NO_SQ_FLOW_CONTROL};

/// ASQSZ: entries that an admin queue may have; hosts ask for 32.
const ADMIN_ENTRIES: u16 = 128;

/// The entries for `host`, who reached us at the address `via`.
pub(crate) fn entries(target: &Target, host: &Nqn, via: SocketAddr) -> Vec<DiscoveryEntry> {
    let subsystems: Vec<_> = target.directory().subsystems.values().cloned().collect();
    let mut entries = Vec::new();
    for subsystem in subsystems {
        let shape = subsystem.shape();
        if !shape.admits(host) {
            continue;
        }
        let ways = subsystem.ways();
        for listener in ways
            .listeners
            .values()
            .filter(|listener| !listener.is_closing())
        {
            let Some(address) = reachable(listener.port.address(), via) else {
                continue;
            };
            let family = match address {
                SocketAddr::V4(_) => AddressFamily::Ipv4,
                SocketAddr::V6(_) => AddressFamily::Ipv6,
            };
            let (ip, port) = (address.ip().to_string(), address.port());
            let kind = SubsystemType::Nvm;
            let mut entry = DiscoveryEntry::tcp(kind, &shape.nqn, family, &ip, port);
            entry.treq |= TREQ_NO_SQ_FLOW_CONTROL;
            entry.portid = listener.port.number().into();
            entry.asqsz = ADMIN_ENTRIES.into();
            entries.push(entry);
        }
    }
    entries
}

/// The address at which a host that reached us at `via` can reach a listener at `at`; `None` if
/// there is no such address, as for a loopback listener and a host elsewhere.
fn reachable(at: SocketAddr, via: SocketAddr) -> Option<SocketAddr> {
    if at.is_ipv4() != via.is_ipv4() && (at.ip().is_unspecified() || is_loopback(at.ip())) {
        // The family says nothing of what else the host can reach, except on this machine.
        let local = is_loopback(via.ip());
        return match (local, at.ip().is_unspecified(), at) {
            (false, _, _) => None,
            (true, false, at) => Some(at),
            (true, true, SocketAddr::V4(_)) => Some(SocketAddr::from(([127, 0, 0, 1], at.port()))),
            (true, true, SocketAddr::V6(_)) => Some(SocketAddr::new(
                std::net::Ipv6Addr::LOCALHOST.into(),
                at.port(),
            )),
        };
    }
    if at.ip().is_unspecified() {
        return Some(SocketAddr::new(via.ip(), at.port()));
    }
    if is_loopback(at.ip()) && !is_loopback(via.ip()) {
        return None;
    }
    Some(at)
}

fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(at: &str, via: &str) -> Option<String> {
        let [at, via] = [at, via].map(|text| text.parse().unwrap());
        reachable(at, via).map(|address| address.to_string())
    }

    #[test]
    fn a_wildcard_is_told_as_the_address_the_host_used() {
        assert_eq!(
            reach("0.0.0.0:4420", "10.0.0.1:8009"),
            Some("10.0.0.1:4420".into())
        );
        assert_eq!(
            reach("[::]:4420", "[fd00::1]:8009"),
            Some("[fd00::1]:4420".into())
        );
        assert_eq!(reach("[::]:4420", "10.0.0.1:8009"), None);
        assert_eq!(
            reach("[::]:4420", "127.0.0.1:8009"),
            Some("[::1]:4420".into())
        );
        assert_eq!(
            reach("0.0.0.0:4420", "[::1]:8009"),
            Some("127.0.0.1:4420".into())
        );
    }

    #[test]
    fn a_fixed_address_is_told_as_it_is() {
        assert_eq!(
            reach("10.0.0.2:4420", "10.0.0.1:8009"),
            Some("10.0.0.2:4420".into())
        );
        assert_eq!(
            reach("[fd00::2]:4420", "10.0.0.1:8009"),
            Some("[fd00::2]:4420".into())
        );
    }

    #[test]
    fn a_loopback_address_is_told_on_this_machine_only() {
        assert_eq!(reach("127.0.0.1:4420", "10.0.0.1:8009"), None);
        assert_eq!(
            reach("127.0.0.1:4420", "127.0.0.1:8009"),
            Some("127.0.0.1:4420".into())
        );
        assert_eq!(reach("[::1]:4420", "10.0.0.1:8009"), None);
        assert_eq!(
            reach("[::1]:4420", "127.0.0.1:8009"),
            Some("[::1]:4420".into())
        );
    }
}
