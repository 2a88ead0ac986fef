//! The handler of `NvmeController`: a TCP listener of a subsystem.

use super::settings::{ana_states, controller_in_force};
use super::{exists, fixed, parent};
use crate::nvme::target::{AnaStates, CNTLID_RANGE, Limits, Listener, QUEUES_MAX};
use crate::nvme::target::{Subsystem, Target, Ways};
use crate::nvme::tcp;
use api::error::{Code, Error, Result};
use api::ext::v1::NvmeControllerSettings;
use api::handler::{Handler, Health, Job, Observed, Settings};
use api::names::ResourceName;
use api::storage::v1::nvme_controller_spec::Endpoint;
use api::storage::v1::{
    FabricsEndpoint, NvmeAddressFamily, NvmeController, NvmeControllerSpec, NvmeControllerStatus,
    NvmeTransportType, QosLimit,
};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use wire::nvme::CNTLID_MAX;

const CNTLID: &str = "nvme_controller.spec.nvme_controller_id";
const TRTYPE: &str = "nvme_controller.spec.trtype";
const FABRICS: &str = "nvme_controller.spec.fabrics_id";
const PCIE: &str = "nvme_controller.spec.pcie_id";
const TRADDR: &str = "nvme_controller.spec.fabrics_id.traddr";
const TRSVCID: &str = "nvme_controller.spec.fabrics_id.trsvcid";
const ADRFAM: &str = "nvme_controller.spec.fabrics_id.adrfam";

/// Over fabrics a submission queue entry has 64 bytes (NVMe Base 2.1, 3.3.3.1), 2 to the 6th.
const SQES: i32 = 6;
/// Over fabrics a completion queue entry has 16 bytes, 2 to the 4th.
const CQES: i32 = 4;

/// See the file's head.
pub(crate) struct ControllerHandler(pub(crate) Arc<Target>);

fn wish(resource: &NvmeController) -> Result<&NvmeControllerSpec> {
    let spec = resource.spec.as_ref();
    spec.ok_or_else(|| Error::invalid("nvme_controller.spec", "is required"))
}

/// The address to listen at.
fn address(spec: &NvmeControllerSpec) -> Result<SocketAddr> {
    match NvmeTransportType::try_from(spec.trtype) {
        Ok(NvmeTransportType::Tcp) => {}
        Ok(NvmeTransportType::Unspecified) | Err(_) => {
            return Err(Error::invalid(
                TRTYPE,
                "is required; NVME_TRANSPORT_TYPE_TCP is served",
            ));
        }
        Ok(other) => {
            let text = format!(
                "{TRTYPE}: {} is not implemented on this platform; use NVME_TRANSPORT_TYPE_TCP",
                other.as_str_name()
            );
            return Err(Error::unimplemented(text).at(TRTYPE));
        }
    }
    match &spec.endpoint {
        Some(Endpoint::FabricsId(endpoint)) => fabrics_address(endpoint),
        Some(Endpoint::PcieId(_)) => Err(Error::invalid(
            PCIE,
            "does not go with TCP; give fabrics_id instead",
        )),
        None => Err(Error::invalid(FABRICS, "is required for TCP")),
    }
}

fn fabrics_address(endpoint: &FabricsEndpoint) -> Result<SocketAddr> {
    let FabricsEndpoint {
        traddr,
        trsvcid,
        adrfam,
    } = endpoint;
    let ip: IpAddr = traddr.parse().map_err(|_| {
        let message = format!("`{traddr}` is neither a dotted IPv4 nor an IPv6 address");
        Error::invalid(TRADDR, message)
    })?;
    let port: u16 = match trsvcid.parse() {
        Ok(0) => {
            let message = "0 would be a port nobody knows; give 1 to 65535, as in 4420";
            return Err(Error::invalid(TRSVCID, message));
        }
        Ok(port) => port,
        Err(_) => {
            let message = format!("`{trsvcid}` is not a TCP port, 1 to 65535");
            return Err(Error::invalid(TRSVCID, message));
        }
    };
    let (name, fits) = match NvmeAddressFamily::try_from(*adrfam) {
        Ok(NvmeAddressFamily::Ipv4) => ("IPv4", ip.is_ipv4()),
        Ok(NvmeAddressFamily::Ipv6) => ("IPv6", ip.is_ipv6()),
        _ => {
            let message = "must be NVME_ADDRESS_FAMILY_IPV4 or NVME_ADDRESS_FAMILY_IPV6 for TCP";
            return Err(Error::invalid(ADRFAM, message));
        }
    };
    if !fits {
        return Err(Error::invalid(
            ADRFAM,
            format!("says {name}, but {traddr} is not {name}"),
        ));
    }
    if ip.is_multicast() {
        return Err(Error::invalid(
            TRADDR,
            format!("{ip} is a multicast address"),
        ));
    }
    Ok(SocketAddr::new(ip, port))
}

fn not_negative(value: i32, field: &str) -> Result<u32> {
    u32::try_from(value).map_err(|_| {
        let field = format!("nvme_controller.spec.{field}");
        Error::invalid(
            field,
            format!("{value} is negative; 0 leaves it to the server"),
        )
    })
}

fn entry_size(value: i32, needed: i32, field: &str) -> Result<()> {
    if value == 0 || (needed..=15).contains(&value) {
        return Ok(());
    }
    let bytes = 1 << needed;
    let message = format!(
        "{value} is outside {needed} to 15: it is the most, as a power of two, and fabrics fix \
         the size at {bytes} bytes; 0 leaves it to the server"
    );
    Err(Error::invalid(
        format!("nvme_controller.spec.{field}"),
        message,
    ))
}

fn limits(spec: &NvmeControllerSpec) -> Result<Limits> {
    let queues = [(spec.max_nsq, "max_nsq"), (spec.max_ncq, "max_ncq")];
    let mut smallest = u32::from(QUEUES_MAX);
    for (value, field) in queues {
        match not_negative(value, field)? {
            0 => {}
            count => smallest = smallest.min(count),
        }
    }
    entry_size(spec.sqes, SQES, "sqes")?;
    entry_size(spec.cqes, CQES, "cqes")?;
    for (limit, field) in [
        (&spec.min_limit, "min_limit"),
        (&spec.max_limit, "max_limit"),
    ] {
        if limit
            .as_ref()
            .is_some_and(|limit| *limit != QosLimit::default())
        {
            let message = "limits of a controller are not kept yet; leave it out";
            return Err(Error::invalid(
                format!("nvme_controller.spec.{field}"),
                message,
            ));
        }
    }
    let namespaces = not_negative(spec.max_namespaces, "max_namespaces")?;
    Ok(Limits {
        queues: smallest as u16,
        namespaces,
    })
}

/// The first CNTLID the client wants, if any.
fn wished_cntlid(spec: &NvmeControllerSpec) -> Result<Option<u16>> {
    match spec.nvme_controller_id {
        None | Some(-1) => Ok(None),
        Some(id) => match u16::try_from(id) {
            Ok(id) if id <= CNTLID_MAX => Ok(Some(id)),
            _ => {
                let message = format!("{id} is outside 0 to {CNTLID_MAX}; -1 lets us choose");
                Err(Error::invalid(CNTLID, message))
            }
        },
    }
}

/// A CNTLID that no other listener of the subsystem begins with.
fn choose_cntlid(ways: &Ways, name: &str, wished: Option<u16>) -> Result<u16> {
    let others = ways.listeners.values();
    let others: Vec<&Arc<Listener>> = others.filter(|other| other.name != name).collect();
    if let Some(id) = wished {
        if !ways.cntlids.holds(id) {
            let why = format!(
                "{id} is outside {}, the range of the subsystem",
                ways.cntlids
            );
            return Err(Error::precondition(format!("{CNTLID}: {why}")).at(CNTLID));
        }
        return match others.iter().find(|other| other.cntlid_first == id) {
            Some(other) => Err(exists(CNTLID, id, &other.name)),
            None => Ok(id),
        };
    }
    let free = |id: &u16| {
        others
            .iter()
            .all(|o| o.cntlid_first.abs_diff(*id) >= CNTLID_RANGE)
    };
    let (first, last) = (ways.cntlids.first.max(1), ways.cntlids.last);
    let mut choices = (first..=last).step_by(usize::from(CNTLID_RANGE));
    choices.find(free).ok_or_else(|| {
        let text = format!(
            "{CNTLID}: every range of {CNTLID_RANGE} within {} is taken; choose one, or delete a \
             controller",
            ways.cntlids
        );
        Error::new(Code::ResourceExhausted, text).at(CNTLID)
    })
}

impl ControllerHandler {
    fn find(&self, name: &ResourceName) -> Option<(Arc<Subsystem>, Arc<Listener>)> {
        let subsystem = self.0.subsystem(name.parent()?.as_str())?;
        let listener = subsystem.ways().listeners.get(name.as_str()).cloned()?;
        Some((subsystem, listener))
    }

    /// The listener, opened.
    async fn open(
        &self,
        subsystem: &Arc<Subsystem>,
        name: &str,
        spec: &NvmeControllerSpec,
        ana: AnaStates,
    ) -> Result<Arc<Listener>> {
        let port = tcp::open_port(&self.0, address(spec)?).await?;
        let made = self.enter(subsystem, name, spec, port.clone(), ana);
        if made.is_err() {
            tcp::close_port(&self.0, &port).await;
        }
        made
    }

    fn enter(
        &self,
        subsystem: &Arc<Subsystem>,
        name: &str,
        spec: &NvmeControllerSpec,
        port: Arc<tcp::Port>,
        ana: AnaStates,
    ) -> Result<Arc<Listener>> {
        let limits = limits(spec)?;
        let mut ways = subsystem.ways();
        let cntlid = choose_cntlid(&ways, name, wished_cntlid(spec)?)?;
        if let Some(other) = ways
            .listeners
            .values()
            .find(|one| Arc::ptr_eq(&one.port, &port))
        {
            return Err(exists(TRADDR, port.address(), &other.name));
        }
        let listener = Arc::new(Listener::new(name.to_owned(), port, cntlid, limits, ana));
        ways.listeners.insert(name.to_owned(), listener.clone());
        Ok(listener)
    }
}

/// The resource as it is stored: with the CNTLID that was chosen.
fn filled(mut resource: NvmeController, listener: &Listener) -> NvmeController {
    if let Some(spec) = &mut resource.spec {
        spec.nvme_controller_id = Some(i32::from(listener.cntlid_first));
    }
    resource.status = Some(NvmeControllerStatus {
        active: listener.users.count() > 0,
    });
    resource
}

impl Handler<NvmeController> for ControllerHandler {
    fn admit(
        &self,
        name: &ResourceName,
        new: &NvmeController,
        _old: Option<&NvmeController>,
    ) -> Result<()> {
        let spec = wish(new)?;
        address(spec)?;
        limits(spec)?;
        let wished = wished_cntlid(spec)?;
        match name
            .parent()
            .and_then(|parent| self.0.subsystem(parent.as_str()))
        {
            Some(subsystem) => choose_cntlid(&subsystem.ways(), name.as_str(), wished).map(drop),
            None => Ok(()),
        }
    }

    fn admit_settings(
        &self,
        _name: &ResourceName,
        _resource: &NvmeController,
        settings: &Settings,
    ) -> Result<()> {
        ana_states(&settings.read()?).map(drop)
    }

    fn settings_in_force(
        &self,
        _name: &ResourceName,
        _resource: &NvmeController,
        settings: &Settings,
    ) -> Result<Settings> {
        let settings: NvmeControllerSettings = settings.read()?;
        Ok(Settings::new(&controller_in_force(settings)))
    }

    async fn create(&self, job: Job, resource: NvmeController) -> Result<NvmeController> {
        let (spec, ana) = (wish(&resource)?, ana_states(&job.settings()?)?);
        let listener = match self.find(&job.name) {
            Some((subsystem, listener)) if listener.port.address() == address(spec)? => {
                listener.limits.store(Arc::new(limits(spec)?));
                if **listener.ana.load() != ana {
                    listener.ana.store(Arc::new(ana));
                    subsystem.namespaces_changed();
                }
                listener
            }
            Some(_) => return Err(fixed(TRADDR, "the listener is open at another address")),
            None => {
                let subsystem = parent(&self.0, &job.name)?;
                let listener = self.open(&subsystem, job.name.as_str(), spec, ana).await?;
                self.0.discovery.changed();
                listener
            }
        };
        Ok(filled(resource, &listener))
    }

    async fn update(
        &self,
        job: Job,
        old: NvmeController,
        mut new: NvmeController,
    ) -> Result<NvmeController> {
        let was = wish(&old)?.clone();
        let spec = new.spec.as_mut();
        let spec = spec.ok_or_else(|| Error::invalid("nvme_controller.spec", "is required"))?;
        if spec.trtype == 0 {
            spec.trtype = was.trtype;
        }
        if spec.endpoint.is_none() {
            spec.endpoint.clone_from(&was.endpoint);
        }
        if address(spec)? != address(&was)? {
            let why = "hosts are connected to it; create another controller for a new address";
            return Err(fixed(TRADDR, why));
        }
        match wished_cntlid(spec)? {
            None => spec.nvme_controller_id = was.nvme_controller_id,
            id if id != wished_cntlid(&was)? => {
                return Err(fixed(
                    CNTLID,
                    "is fixed; delete the controller and create it anew",
                ));
            }
            Some(_) => {}
        }
        self.create(job, new).await
    }

    async fn delete(&self, name: ResourceName) -> Result<()> {
        let Some((subsystem, listener)) = self.find(&name) else {
            return Ok(());
        };
        listener.close();
        self.0.discovery.changed();
        listener.users.gone().await;
        let removed = subsystem.ways().listeners.remove(name.as_str());
        if removed.is_some() {
            tcp::close_port(&self.0, &listener.port).await;
        }
        self.0.discovery.changed();
        Ok(())
    }

    fn observe(&self, name: &ResourceName, resource: &mut NvmeController) -> Observed {
        let found = self.find(name).map(|(_, listener)| listener);
        let active = found
            .as_ref()
            .is_some_and(|listener| listener.users.count() > 0);
        resource.status = Some(NvmeControllerStatus { active });
        let health = match found {
            Some(_) => Health::Online,
            None => Health::Offline("it does not listen".to_owned()),
        };
        Observed {
            health,
            stats: found.map(|listener| listener.stats.tally()),
            ..Default::default()
        }
    }
}
