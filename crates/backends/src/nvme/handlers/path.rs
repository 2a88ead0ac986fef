//! The handler of `NvmePath`: one way to an array.

use super::{Entry, Made, Remotes, Way, nqn, settings, wait_for};
use crate::nvme::path::Condition;
use crate::nvme::pcie::{Address, Drive};
use crate::nvme::remote::Namespace;
use crate::nvme::socket::Place;
use api::error::{Error, Result};
use api::handler::{Fact, FactValue, Handler, Health, Job, Observed};
use api::names::ResourceName;
use api::storage::v1::{
    FabricsPath, NvmeAddressFamily, NvmeMultipath, NvmePath, NvmeTransportType,
};
use blk::State;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wire::nvme::log::AnaState;

const TRTYPE: &str = "nvme_path.trtype";
pub(super) const TRADDR: &str = "nvme_path.traddr";
const FABRICS: &str = "nvme_path.fabrics";
const TRSVCID: &str = "nvme_path.fabrics.trsvcid";
const ADRFAM: &str = "nvme_path.fabrics.adrfam";
const SOURCE: &str = "nvme_path.fabrics.source_traddr";
const SOURCE_PORT: &str = "nvme_path.fabrics.source_trsvcid";
pub(super) const SUBNQN: &str = "nvme_path.fabrics.subnqn";
pub(super) const HOSTNQN: &str = "nvme_path.fabrics.hostnqn";

/// Longest name of a host, in bytes (RFC 1035, 2.3.4).
pub(in crate::nvme) const HOST_MAX: usize = 253;

/// States of a path.
const CONNECTING: &str = "connecting";
const LIVE: &str = "live";
const LOST: &str = "lost";

/// Namespaces of a path whose state is told, at most: what is told of one path must leave room for
/// others in a page and in a scrape.
const NAMESPACES_TOLD_MAX: usize = 64;

/// What is known of a path beside its I/O.
fn facts(state: &'static str, reconnects: u64, shown: &[(u32, AnaState)]) -> Vec<Fact> {
    let mut facts = vec![
        Fact {
            name: "nvme_path_state",
            help: "Whether there is an association with the array.",
            unit: "",
            labels: Vec::new(),
            value: FactValue::State {
                now: state,
                all: &[CONNECTING, LIVE, LOST],
            },
        },
        Fact {
            name: "nvme_path_reconnects",
            help: "Associations made after the first.",
            unit: "",
            labels: Vec::new(),
            value: FactValue::Counter(reconnects),
        },
    ];
    let told = shown.iter().take(NAMESPACES_TOLD_MAX);
    facts.extend(told.map(|(nsid, state)| Fact {
        name: "nvme_path_ana_state",
        help: "How well the array says that a namespace is reached through this path.",
        unit: "",
        labels: vec![("nsid", nsid.to_string())],
        value: FactValue::State {
            now: ana_word(*state),
            all: &ANA_WORDS,
        },
    }));
    facts
}

/// ANA states as nvme-cli spells them.
const ANA_WORDS: [&str; 5] = [
    "optimized",
    "non-optimized",
    "inaccessible",
    "persistent-loss",
    "change",
];

const fn ana_word(state: AnaState) -> &'static str {
    ANA_WORDS[match state {
        AnaState::Optimized => 0,
        AnaState::NonOptimized => 1,
        AnaState::Inaccessible => 2,
        AnaState::PersistentLoss => 3,
        AnaState::Change => 4,
    }]
}

/// See the file's head.
pub(in crate::nvme) struct PathHandler(pub(in crate::nvme) Arc<Remotes>);

/// Where a path leads.
enum Target {
    Tcp(Place),
    Pcie(Address),
}

impl Target {
    fn parse(spec: &NvmePath) -> Result<Self> {
        match spec.trtype() {
            NvmeTransportType::Tcp => place(spec).map(Self::Tcp),
            NvmeTransportType::Pcie => address(spec).map(Self::Pcie),
            NvmeTransportType::Unspecified => {
                let text = "is required: NVME_TRANSPORT_TYPE_TCP or NVME_TRANSPORT_TYPE_PCIE";
                Err(Error::invalid(TRTYPE, text))
            }
            other => {
                let text = format!(
                    "{TRTYPE}: {} needs hardware that this platform does not drive; use \
                     NVME_TRANSPORT_TYPE_TCP",
                    other.as_str_name()
                );
                Err(Error::unimplemented(text).at(TRTYPE))
            }
        }
    }
}

/// Where a drive of this machine is.
fn address(spec: &NvmePath) -> Result<Address> {
    if spec.fabrics.is_some() {
        return Err(Error::invalid(FABRICS, "must be absent for PCIe"));
    }
    Address::parse(&spec.traddr).ok_or_else(|| {
        let shown: String = spec.traddr.chars().take(40).collect();
        let text = format!(
            "{shown:?} is no PCI address; take domain:bus:device.function in hexadecimal digits, \
             as in 0000:01:00.0"
        );
        Error::invalid(TRADDR, text)
    })
}

/// Where an array is.
fn place(spec: &NvmePath) -> Result<Place> {
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

/// A drive is the only path of its controller: the kernel joins the ports of one by itself, and
/// what comes over a network is not to be taken for the same namespace by its identifiers alone.
fn check_mix(entry: &Entry, name: &ResourceName, target: &Target) -> Result<()> {
    let wants_drive = matches!(target, Target::Pcie(_));
    let mut others = entry
        .paths
        .iter()
        .filter(|(path, _)| *path != name.as_str());
    let is_drive = |made: &Made| matches!(made.way, Way::Pcie);
    let other = others.find(|(_, made)| wants_drive || is_drive(made));
    if let Some((other, _)) = other {
        let text = format!(
            "{other} is there already, and a PCIe path is the only one of its controller; create \
             another controller for this one"
        );
        return Err(Error::precondition(text).at(TRTYPE).about(other.clone()));
    }
    Ok(())
}

/// Checks that no namespaces are left that came by a path of the other sort.
fn check_left(left: &[Namespace]) -> Result<()> {
    if let Some(left) = left.first() {
        let text = format!(
            "somebody still uses {} of this controller, which came by another transport; create \
             another controller for this path",
            left.id
        );
        return Err(Error::precondition(text).at(TRTYPE));
    }
    Ok(())
}

impl PathHandler {
    fn admit_names(&self, new: &NvmePath) -> Result<()> {
        let fabrics = new.fabrics.clone().unwrap_or_default();
        let subnqn = nqn(SUBNQN, &fabrics.subnqn)?;
        if subnqn.is_discovery() {
            let text = "is the discovery subsystem, which has no namespaces";
            return Err(Error::invalid(SUBNQN, text));
        }
        self.0.host(&fabrics.hostnqn).map(|_| ())
    }

    /// Makes a path to a drive. While it is being taken the path is listed already, so that no
    /// other comes beside it.
    async fn create_pcie(&self, job: Job, spec: NvmePath, address: Address) -> Result<NvmePath> {
        let spec = NvmePath {
            traddr: address.to_string(),
            ..spec
        };
        let made = |spec: &NvmePath| Made {
            way: Way::Pcie,
            spec: spec.clone(),
        };
        let parent = job.name.parent().map(|parent| parent.to_string());
        let parent = parent.unwrap_or_default();
        let (drive, old) = {
            let mut all = self.0.all();
            check_free(&all, &parent, address)?;
            let entry = all.get_mut(&parent).ok_or_else(no_controller)?;
            check_mix(entry, &job.name, &Target::Pcie(address))?;
            entry.remote.forget_unused();
            check_left(&entry.remote.namespaces())?;
            let old = entry.paths.insert(job.name.to_string(), made(&spec));
            (entry.drive.clone(), old)
        };
        let taken = {
            let (drive, all) = (drive.clone(), !job.replay);
            wait_for(move || drive.attach(address, all)).await
        };
        if let Err(error) = taken {
            if let Some(entry) = self.0.all().get_mut(&parent) {
                match old {
                    Some(old) => entry.paths.insert(job.name.to_string(), old),
                    None => entry.paths.remove(job.name.as_str()),
                };
            }
            return Err(error);
        }
        drive.watch(&self.0.world);
        Ok(spec)
    }
}

/// Checks that no other controller has the drive.
fn check_free(all: &BTreeMap<String, Entry>, parent: &str, address: Address) -> Result<()> {
    let mut others = all.iter().filter(|(name, _)| *name != parent);
    let Some((other, _)) = others.find(|(_, entry)| entry.drive.address() == Some(address)) else {
        return Ok(());
    };
    let text = format!("{TRADDR}: the drive at {address} is in use by {other}");
    let mut error = Error::precondition(text).at(TRADDR);
    error.in_use_by.push(other.clone());
    Err(error)
}

fn no_controller() -> Error {
    Error::unavailable("its controller could not be made yet; it is tried again")
}

impl Handler<NvmePath> for PathHandler {
    fn admit(&self, name: &ResourceName, new: &NvmePath, old: Option<&NvmePath>) -> Result<()> {
        let target = Target::parse(new)?;
        if let Target::Tcp(_) = target {
            self.admit_names(new)?;
        }
        if old.is_some_and(|old| old.trtype != new.trtype) {
            let text =
                format!("{TRTYPE} cannot be changed in place: delete {name} and create it anew");
            return Err(Error::precondition(text).at(TRTYPE));
        }
        let all = self.0.all();
        let parent = name.parent().map(|parent| parent.to_string());
        let Some(entry) = parent.as_ref().and_then(|parent| all.get(parent)) else {
            return Ok(());
        };
        check_mix(entry, name, &target)?;
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
        let place = match Target::parse(&spec)? {
            Target::Pcie(address) => return self.create_pcie(job, spec, address).await,
            Target::Tcp(place) => place,
        };
        let (remote, wish, old) = {
            let all = self.0.all();
            let parent = job.name.parent().map(|parent| parent.to_string());
            let entry = parent.as_ref().and_then(|parent| all.get(parent));
            let entry = entry.ok_or_else(no_controller)?;
            check_left(&entry.drive.namespaces())?;
            let old = entry.paths.get(job.name.as_str());
            if old.is_some_and(|old| old.spec == spec) {
                return Ok(spec);
            }
            let wish = {
                let times = settings::times(&entry.settings);
                self.0
                    .wish(&entry.spec, &spec, entry.remote.rails(), times)?
            };
            (entry.remote.clone(), wish, old.and_then(Made::path))
        };
        // At a start nobody waits for arrays: what they carry comes back when they do.
        let id = self.0.start_path(&remote, wish, place, !job.replay).await;
        if let Some(old) = old {
            Remotes::stop_path(&remote, old).await;
        }
        let made = Made {
            way: Way::Tcp(id),
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
            entry.and_then(|entry| {
                let made = entry.paths.remove(name.as_str())?;
                Some((entry.remote.clone(), entry.drive.clone(), made.way))
            })
        };
        match made {
            Some((remote, _, Way::Tcp(id))) => Remotes::stop_path(&remote, id).await,
            Some((_, drive, Way::Pcie)) => {
                return wait_for(move || {
                    drive.detach();
                    Ok(())
                })
                .await;
            }
            None => {}
        }
        Ok(())
    }

    fn observe(&self, name: &ResourceName, _: &mut NvmePath) -> Observed {
        let found = {
            let all = self.0.all();
            let parent = name.parent().map(|parent| parent.to_string());
            let entry = parent.as_ref().and_then(|parent| all.get(parent));
            entry.and_then(|entry| {
                let way = entry.paths.get(name.as_str())?.way;
                Some((entry.remote.clone(), entry.drive.clone(), way))
            })
        };
        let (remote, id) = match found {
            Some((remote, _, Way::Tcp(id))) => (remote, id),
            Some((_, drive, Way::Pcie)) => return observe_drive(&drive),
            None => {
                let health = Health::Offline("it could not be made yet".to_owned());
                return Observed {
                    health,
                    ..Observed::default()
                };
            }
        };
        let (health, state) = match remote.condition(id) {
            Some(Condition::Live) => (Health::Online, LIVE),
            Some(Condition::Lost(why)) => (Health::Offline(why), LOST),
            Some(Condition::New) | None => {
                let health = Health::Offline("it is being connected".to_owned());
                (health, CONNECTING)
            }
        };
        let path = remote.path(id);
        let reconnects = path
            .as_ref()
            .map_or(0, |path| path.reconnects.load(Ordering::Relaxed));
        Observed {
            health,
            stats: path.map(|path| path.stats.tally()),
            facts: facts(state, reconnects, &remote.ana_states(id)),
        }
    }
}

fn observe_drive(drive: &Drive) -> Observed {
    Observed {
        health: match drive.state() {
            State::Online => Health::Online,
            State::Offline(why) => Health::Offline(why),
        },
        stats: Some(drive.tally()),
        ..Observed::default()
    }
}
