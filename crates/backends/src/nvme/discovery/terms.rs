//! Questions and answers in the terms of the API.

use crate::nvme::handlers::HOST_MAX;
use crate::nvme::socket::Place;
use api::error::{Error, Result};
use api::ext::v1::nvme_discovery_entry as entry;
use api::ext::v1::{DiscoverNvmeSubsystemsRequest, NvmeDiscoveryEntry};
use api::storage::v1::{NvmeAddressFamily, NvmeTransportType};
use std::net::IpAddr;
use wire::nvme::log::{
    AddressFamily, DiscoveryRecord, SecureChannel, SubsystemType, TcpSecurity, Transport,
};

/// The port for discovery over TCP, as IANA has it.
const PORT: u16 = 8009;

const TRTYPE: &str = "trtype";
const TRADDR: &str = "traddr";
const TRSVCID: &str = "trsvcid";
const ADRFAM: &str = "adrfam";
const SOURCE: &str = "source_traddr";

/// Where a question is to go.
pub(super) fn place(request: &DiscoverNvmeSubsystemsRequest) -> Result<Place> {
    if request.trtype() != NvmeTransportType::Tcp {
        let text = format!(
            "{TRTYPE}: {} is not served; use NVME_TRANSPORT_TYPE_TCP",
            request.trtype().as_str_name()
        );
        return Err(Error::unimplemented(text).at(TRTYPE));
    }
    let host = request.traddr.clone();
    if host.is_empty() || host.len() > HOST_MAX {
        let text = "must be an address or the name of a host, of 1 to 253 bytes";
        return Err(Error::invalid(TRADDR, text));
    }
    let address = host.parse::<IpAddr>().ok();
    let ipv6 = match request.adrfam() {
        NvmeAddressFamily::Unspecified => address.is_some_and(|address| address.is_ipv6()),
        NvmeAddressFamily::Ipv4 => false,
        NvmeAddressFamily::Ipv6 => true,
        other => {
            let text = format!("{} is not of TCP", other.as_str_name());
            return Err(Error::invalid(ADRFAM, text));
        }
    };
    if let Some(address) = address.filter(|address| address.is_ipv6() != ipv6) {
        let text = format!("does not fit {address}");
        return Err(Error::invalid(ADRFAM, text));
    }
    let port = match request.trsvcid {
        0 => PORT,
        port => u16::try_from(port).map_err(|_| {
            let text = format!("{port} is no TCP port, 1 to 65535");
            Error::invalid(TRSVCID, text)
        })?,
    };
    let source = match request.source_traddr.as_str() {
        "" => None,
        text => {
            let address = text.parse::<IpAddr>().ok();
            let address = address.filter(|address| address.is_ipv6() == ipv6);
            let wrong = || Error::invalid(SOURCE, format!("{text:?} does not fit {host}"));
            Some(address.ok_or_else(wrong)?)
        }
    };
    Ok(Place {
        host,
        port,
        ipv6,
        source,
        source_port: 0,
    })
}

/// Where an entry refers to.
pub(super) fn referred(
    record: &DiscoveryRecord,
    request: &DiscoverNvmeSubsystemsRequest,
) -> std::result::Result<Place, String> {
    if record.transport != Some(Transport::Tcp) {
        return Err("only TCP is served".to_owned());
    }
    let address = record.address.parse::<IpAddr>();
    let address = address.map_err(|_| "TRADDR is no address".to_owned())?;
    let port = record.service.parse::<u16>().ok().filter(|port| *port > 0);
    let source = request.source_traddr.parse::<IpAddr>().ok();
    Ok(Place {
        host: address.to_string(),
        port: port.ok_or("TRSVCID is no TCP port")?,
        ipv6: address.is_ipv6(),
        source: source.filter(|source| source.is_ipv6() == address.is_ipv6()),
        source_port: 0,
    })
}

/// An entry as the API has it.
pub(super) fn message(record: DiscoveryRecord) -> NvmeDiscoveryEntry {
    let subtype = match record.subtype {
        Some(SubsystemType::Referral) => entry::SubsystemType::Referral,
        Some(SubsystemType::Nvm) => entry::SubsystemType::Nvm,
        Some(SubsystemType::CurrentDiscovery) => entry::SubsystemType::CurrentDiscovery,
        None => entry::SubsystemType::Unspecified,
    };
    let trtype = match record.transport {
        Some(Transport::Rdma) => NvmeTransportType::Rdma,
        Some(Transport::FibreChannel) => NvmeTransportType::Fc,
        Some(Transport::Tcp) => NvmeTransportType::Tcp,
        Some(Transport::Loop) => NvmeTransportType::Custom,
        None => NvmeTransportType::Unspecified,
    };
    let adrfam = match record.family {
        Some(AddressFamily::Ipv4) => NvmeAddressFamily::Ipv4,
        Some(AddressFamily::Ipv6) => NvmeAddressFamily::Ipv6,
        Some(AddressFamily::InfiniBand) => NvmeAddressFamily::Ib,
        Some(AddressFamily::FibreChannel) => NvmeAddressFamily::Fc,
        Some(AddressFamily::IntraHost) => NvmeAddressFamily::IntraHost,
        None => NvmeAddressFamily::Unspecified,
    };
    let secure_channel = match record.secure_channel {
        Some(SecureChannel::Required) => entry::SecureChannel::Required,
        Some(SecureChannel::NotRequired) => entry::SecureChannel::NotRequired,
        Some(SecureChannel::NotSpecified) | None => entry::SecureChannel::Unspecified,
    };
    let sectype = match record.security {
        Some(TcpSecurity::None) => entry::SecurityType::None,
        Some(TcpSecurity::Tls12) => entry::SecurityType::Tls12,
        Some(TcpSecurity::Tls13) => entry::SecurityType::Tls13,
        None => entry::SecurityType::Unspecified,
    };
    NvmeDiscoveryEntry {
        subtype: subtype.into(),
        trtype: trtype.into(),
        adrfam: adrfam.into(),
        traddr: record.address,
        trsvcid: record.service,
        subnqn: record.subsystem.as_str().to_owned(),
        secure_channel: secure_channel.into(),
        sectype: sectype.into(),
        sq_flow_control_disable_supported: record.no_sq_flow_control,
        portid: record.port_id.into(),
        cntlid: record.cntlid.into(),
        asqsz: record.admin_entries_max.into(),
        eflags: record.flags.into(),
    }
}
