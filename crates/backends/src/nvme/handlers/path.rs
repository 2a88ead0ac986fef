//! The handler of `NvmePath`: one way to an array.

use super::{Made, Remotes, nqn};
use crate::nvme::path::Condition;
use crate::nvme::socket::Place;
use api::error::{Error, Result};
use api::handler::{Handler, Health, Job, Observed};
use api::names::ResourceName;
use api::storage::v1::{
    FabricsPath, NvmeAddressFamily, NvmeMultipath, NvmePath, NvmeTransportType,
};
use std::net::IpAddr;
use std::sync::Arc;

const TRTYPE: &str = "nvme_path.trtype";
const TRADDR: &str = "nvme_path.traddr";
const FABRICS: &str = "nvme_path.fabrics";
const TRSVCID: &str = "nvme_path.fabrics.trsvcid";
const ADRFAM: &str = "nvme_path.fabrics.adrfam";
const SOURCE: &str = "nvme_path.fabrics.source_traddr";
const SOURCE_PORT: &str = "nvme_path.fabrics.source_trsvcid";
pub(super) const SUBNQN: &str = "nvme_path.fabrics.subnqn";
pub(super) const HOSTNQN: &str = "nvme_path.fabrics.hostnqn";

/// Longest name of a host, in bytes (RFC 1035, 2.3.4).
pub(in crate::nvme) const HOST_MAX: usize = 253;

/// See the file's head.
pub(in crate::nvme) struct PathHandler(pub(in crate::nvme) Arc<Remotes>);

/// Where a path leads.
fn place(spec: &NvmePath) -> Result<Place> {
    match spec.trtype() {
        NvmeTransportType::Tcp => {}
        NvmeTransportType::Unspecified => {
            let text = "is required; NVME_TRANSPORT_TYPE_TCP is served";
            return Err(Error::invalid(TRTYPE, text));
        }
        other => {
            let text = format!(
                "{TRTYPE}: {} needs hardware that this platform does not drive; use \
                 NVME_TRANSPORT_TYPE_TCP",
                other.as_str_name()
            );
            return Err(Error::unimplemented(text).at(TRTYPE));
        }
    }
    let Some(fabrics) = &spec.fabrics else {
        return Err(Error::invalid(FABRICS, "is required for TCP"));
    };
    if spec.traddr.is_empty() || spec.traddr.len() > HOST_MAX {
        let text = "must be an address or the name of a host, of 1 to 253 bytes";
        return Err(Error::invalid(TRADDR, text));
    }
    let port = port(TRSVCID, fabrics.trsvcid, 1)?;
    let (ipv6, family) = match fabrics.adrfam() {
        NvmeAddressFamily::Ipv4 => (false, "IPv4"),
        NvmeAddressFamily::Ipv6 => (true, "IPv6"),
        _ => {
            let text = "must be NVME_ADDRESS_FAMILY_IPV4 or NVME_ADDRESS_FAMILY_IPV6 for TCP";
            return Err(Error::invalid(ADRFAM, text));
        }
    };
    if let Ok(address) = spec.traddr.parse::<IpAddr>()
        && address.is_ipv6() != ipv6
    {
        let text = format!("says {family}, but {address} is not {family}");
        return Err(Error::invalid(ADRFAM, text));
    }
    Ok(Place {
        host: spec.traddr.clone(),
        port,
        ipv6,
        source: source(fabrics, ipv6, family)?,
        source_port: self::port(SOURCE_PORT, fabrics.source_trsvcid, 0)?,
    })
}

fn source(fabrics: &FabricsPath, ipv6: bool, family: &str) -> Result<Option<IpAddr>> {
    let text = &fabrics.source_traddr;
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_ipv6() == ipv6 => Ok(Some(address)),
        _ => Err(Error::invalid(
            SOURCE,
            format!("{text:?} is no {family} address"),
        )),
    }
}

fn port(field: &str, value: i64, least: u16) -> Result<u16> {
    let port = u16::try_from(value).ok().filter(|&port| port >= least);
    port.ok_or_else(|| Error::invalid(field, format!("{value} is no TCP port, {least} to 65535")))
}

impl Handler<NvmePath> for PathHandler {
    fn admit(&self, name: &ResourceName, new: &NvmePath, _: Option<&NvmePath>) -> Result<()> {
        place(new)?;
        let fabrics = new.fabrics.clone().unwrap_or_default();
        let subnqn = nqn(SUBNQN, &fabrics.subnqn)?;
        if subnqn.is_discovery() {
            let text = "is the discovery subsystem, which has no namespaces";
            return Err(Error::invalid(SUBNQN, text));
        }
        self.0.host(&fabrics.hostnqn)?;
        let all = self.0.all();
        let parent = name.parent().map(|parent| parent.to_string());
        let Some(entry) = parent.as_ref().and_then(|parent| all.get(parent)) else {
            return Ok(());
        };
        let others = entry.paths.keys().filter(|path| *path != name.as_str());
        if entry.spec.multipath() == NvmeMultipath::Disable
            && let Some(other) = { others }.next()
        {
            let text = format!(
                "{other} is there already, and its controller allows one path: set its multipath \
                 to NVME_MULTIPATH_FAILOVER or NVME_MULTIPATH_MULTIPATH"
            );
            return Err(Error::precondition(text).about(other.clone()));
        }
        Ok(())
    }

    async fn create(&self, job: Job, spec: NvmePath) -> Result<NvmePath> {
        let place = place(&spec)?;
        let (remote, wish, old) = {
            let all = self.0.all();
            let parent = job.name.parent().map(|parent| parent.to_string());
            let entry = parent.as_ref().and_then(|parent| all.get(parent));
            let entry = entry.ok_or_else(|| {
                Error::unavailable("its controller could not be made yet; it is tried again")
            })?;
            let old = entry.paths.get(job.name.as_str());
            if old.is_some_and(|old| old.spec == spec) {
                return Ok(spec);
            }
            let wish = self.0.wish(&entry.spec, &spec, entry.remote.rails())?;
            (entry.remote.clone(), wish, old.map(|old| old.id))
        };
        // At a start nobody waits for arrays: what they carry comes back when they do.
        let id = self.0.start_path(&remote, wish, place, !job.replay).await;
        if let Some(old) = old {
            Remotes::stop_path(&remote, old).await;
        }
        let made = Made {
            id,
            spec: spec.clone(),
        };
        let mut all = self.0.all();
        let parent = job.name.parent().map(|parent| parent.to_string());
        if let Some(entry) = parent.and_then(|parent| all.get_mut(&parent)) {
            entry.paths.insert(job.name.to_string(), made);
        }
        Ok(spec)
    }

    /// The new way is there before the old one goes.
    async fn update(&self, job: Job, _: NvmePath, new: NvmePath) -> Result<NvmePath> {
        self.create(job, new).await
    }

    async fn delete(&self, name: ResourceName) -> Result<()> {
        let made = {
            let mut all = self.0.all();
            let parent = name.parent().map(|parent| parent.to_string());
            let entry = parent.and_then(|parent| all.get_mut(&parent));
            entry.and_then(|entry| Some((entry.remote.clone(), entry.paths.remove(name.as_str())?)))
        };
        if let Some((remote, made)) = made {
            Remotes::stop_path(&remote, made.id).await;
        }
        Ok(())
    }

    fn observe(&self, name: &ResourceName, _: &mut NvmePath) -> Observed {
        let found = {
            let all = self.0.all();
            let parent = name.parent().map(|parent| parent.to_string());
            let entry = parent.as_ref().and_then(|parent| all.get(parent));
            entry.and_then(|entry| Some((entry.remote.clone(), entry.paths.get(name.as_str())?.id)))
        };
        let Some((remote, id)) = found else {
            let health = Health::Offline("it could not be made yet".to_owned());
            return Observed {
                health,
                stats: None,
                ..Default::default()
            };
        };
        let health = match remote.condition(id) {
            Some(Condition::Live) => Health::Online,
            Some(Condition::Lost(why)) => Health::Offline(why),
            Some(Condition::New) | None => Health::Offline("it is being connected".to_owned()),
        };
        let stats = remote.path(id).map(|path| path.stats.tally());
        Observed {
            health,
            stats,
            ..Default::default()
        }
    }
}
