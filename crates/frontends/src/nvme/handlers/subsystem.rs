//! The handler of `NvmeSubsystem`.

use super::settings::{cntlid_range, subsystem_in_force};
use super::{exists, fixed};
use crate::nvme::FIRMWARE;
use crate::nvme::target::{CntlidRange, Ways};
use crate::nvme::target::{NAMESPACES_DEFAULT, NAMESPACES_MAX, Shape, Subsystem, Target};
use api::error::{Error, Result};
use api::ext::v1::NvmeSubsystemSettings;
use api::handler::{Handler, Health, Job, Observed, Settings};
use api::names::ResourceName;
use api::storage::v1::{NvmeSubsystem, NvmeSubsystemSpec, NvmeSubsystemStatus};
use std::sync::Arc;
use wire::nvme::Nqn;

/// Characters of SN in Identify Controller.
const SERIAL_MAX: usize = 20;
/// Characters of MN in Identify Controller.
const MODEL_MAX: usize = 40;
/// MN of a subsystem whose `model_number` is empty.
const MODEL_DEFAULT: &str = "OPI Storage";

const NQN: &str = "nvme_subsystem.spec.nqn";
const SERIAL: &str = "nvme_subsystem.spec.serial_number";
const MODEL: &str = "nvme_subsystem.spec.model_number";
const MAX_NAMESPACES: &str = "nvme_subsystem.spec.max_namespaces";
const HOSTNQN: &str = "nvme_subsystem.spec.hostnqn";
const PSK: &str = "nvme_subsystem.spec.psk";

/// See the file's head.
pub(crate) struct SubsystemHandler(pub(crate) Arc<Target>);

fn nqn(text: &str, field: &str) -> Result<Nqn> {
    Nqn::parse(text).map_err(|error| Error::invalid(field, format!("`{text}`: {error}")))
}

fn text(value: &str, max: usize, field: &str) -> Result<()> {
    if value.chars().count() > max {
        let count = value.chars().count();
        let message = format!("has {count} characters, at most {max} are allowed");
        return Err(Error::invalid(field, message));
    }
    match value.chars().find(|c| !(' '..='~').contains(c)) {
        Some(c) => Err(Error::invalid(
            field,
            format!("holds {c:?}, which is not printable ASCII"),
        )),
        None => Ok(()),
    }
}

/// A serial number that is the same wherever and whenever the subsystem of this NQN is served.
fn serial_of(nqn: &Nqn) -> String {
    let id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, nqn.as_str().as_bytes());
    let mut digits = id.as_simple().to_string().to_uppercase();
    digits.truncate(SERIAL_MAX - 3);
    format!("OPI{digits}")
}

/// Checks a wish, and says what it comes to.
fn shape(spec: &NvmeSubsystemSpec) -> Result<Shape> {
    let own = nqn(&spec.nqn, NQN)?;
    if own.is_discovery() {
        let message = "is the name of the discovery subsystem, which every listener has already";
        return Err(Error::invalid(NQN, message));
    }
    text(&spec.serial_number, SERIAL_MAX, SERIAL)?;
    text(&spec.model_number, MODEL_MAX, MODEL)?;
    let max_namespaces = match u32::try_from(spec.max_namespaces) {
        Ok(0) => NAMESPACES_DEFAULT,
        Ok(count) if count <= NAMESPACES_MAX => count,
        _ => {
            let count = spec.max_namespaces;
            let message = format!("{count} is outside 0 (server's choice) to {NAMESPACES_MAX}");
            return Err(Error::invalid(MAX_NAMESPACES, message));
        }
    };
    let host = match spec.hostnqn.as_str() {
        "" => None,
        text => Some(nqn(text, HOSTNQN)?),
    };
    if !spec.psk.is_empty() {
        let message = "keys are not used yet: TLS comes with the security work; leave it out";
        return Err(Error::invalid(PSK, message));
    }
    let or = |text: &str, default: String| match text {
        "" => default,
        text => text.to_owned(),
    };
    let serial = or(&spec.serial_number, serial_of(&own));
    let model = or(&spec.model_number, MODEL_DEFAULT.to_owned());
    Ok(Shape {
        nqn: own,
        serial,
        model,
        max_namespaces,
        host,
    })
}

fn wish(resource: &NvmeSubsystem) -> Result<Shape> {
    let spec = resource.spec.as_ref();
    shape(spec.ok_or_else(|| Error::invalid("nvme_subsystem.spec", "is required"))?)
}

/// The resource as it is stored: with what was assigned.
fn filled(mut resource: NvmeSubsystem, shape: &Shape) -> NvmeSubsystem {
    if let Some(spec) = &mut resource.spec {
        spec.serial_number = shape.serial.clone();
        spec.model_number = shape.model.clone();
    }
    resource.status = Some(status());
    resource
}

fn status() -> NvmeSubsystemStatus {
    NvmeSubsystemStatus {
        firmware_revision: FIRMWARE.to_owned(),
        fru_guid: Vec::new(),
    }
}

/// What cannot follow while hosts are connected: they know the subsystem by it.
fn check_change(subsystem: &Subsystem, old: &Shape, new: &Shape) -> Result<()> {
    let differs = [
        (NQN, old.nqn != new.nqn),
        (SERIAL, old.serial != new.serial),
        (MODEL, old.model != new.model),
        (MAX_NAMESPACES, old.max_namespaces != new.max_namespaces),
    ];
    let hosts = subsystem.hosts();
    if let (Some((field, _)), [first, ..]) = (differs.iter().find(|(_, d)| *d), &hosts[..]) {
        let why = format!("cannot change while {first} is connected; disconnect the hosts first");
        return Err(fixed(field, &why));
    }
    match subsystem.namespaces().last_key_value() {
        Some((nsid, namespace)) if *nsid > new.max_namespaces => {
            let why = format!("{} has NSID {nsid}; delete it first", namespace.name);
            Err(fixed(MAX_NAMESPACES, &why))
        }
        _ => Ok(()),
    }
}

/// Whether everything that has a CNTLID keeps it in another range.
fn check_range(ways: &Ways, range: CntlidRange) -> Result<()> {
    let outside = |id: u16, who: &str| {
        let text = format!("{who} has {id}, outside {range}; delete or disconnect it first");
        Error::precondition(text).about(who)
    };
    let listeners = ways.listeners.values();
    if let Some(one) = listeners
        .into_iter()
        .find(|it| !range.holds(it.cntlid_first))
    {
        return Err(outside(one.cntlid_first, &one.name));
    }
    let associations = ways.associations.values();
    match associations.into_iter().find(|it| !range.holds(it.cntlid)) {
        Some(one) => Err(outside(one.cntlid, one.hostnqn.as_str())),
        None => Ok(()),
    }
}

impl SubsystemHandler {
    fn check_nqn(&self, name: &str, nqn: &Nqn) -> Result<()> {
        match self.0.subsystem_of(nqn) {
            Some(other) if other.name != name => Err(exists(NQN, nqn, &other.name)),
            _ => Ok(()),
        }
    }

    fn place(&self, name: &str, shape: &Shape, cntlids: CntlidRange) -> Result<()> {
        let mut directory = self.0.directory();
        if let Some(other) = directory
            .by_nqn
            .get(&shape.nqn)
            .filter(|other| other.name != name)
        {
            return Err(exists(NQN, &shape.nqn, &other.name));
        }
        let subsystem = match directory.subsystems.get(name).cloned() {
            Some(subsystem) => {
                let old = subsystem.shape();
                check_change(&subsystem, &old, shape)?;
                let mut ways = subsystem.ways();
                check_range(&ways, cntlids)?;
                ways.cntlids = cntlids;
                drop(ways);
                if *old == *shape {
                    return Ok(());
                }
                directory.by_nqn.remove(&old.nqn);
                subsystem.reshape(shape.clone());
                subsystem
            }
            None => {
                let subsystem = Subsystem::new(name.to_owned(), shape.clone());
                subsystem.ways().cntlids = cntlids;
                subsystem
            }
        };
        directory
            .subsystems
            .insert(name.to_owned(), subsystem.clone());
        directory
            .by_nqn
            .insert(shape.nqn.clone(), subsystem.clone());
        drop(directory);
        for association in subsystem.ways().associations.values() {
            if !shape.admits(&association.hostnqn) {
                let (host, only) = (&association.hostnqn, &shape.host);
                tracing::info!(subsystem = name, %host, ?only, "host is not allowed any more");
                association.close();
            }
        }
        self.0.discovery.changed();
        Ok(())
    }
}

impl Handler<NvmeSubsystem> for SubsystemHandler {
    fn admit(
        &self,
        name: &ResourceName,
        new: &NvmeSubsystem,
        old: Option<&NvmeSubsystem>,
    ) -> Result<()> {
        let shape = wish(new)?;
        self.check_nqn(name.as_str(), &shape.nqn)?;
        match (old, self.0.subsystem(name.as_str())) {
            (Some(_), Some(subsystem)) => check_change(&subsystem, &subsystem.shape(), &shape),
            _ => Ok(()),
        }
    }

    fn admit_settings(
        &self,
        name: &ResourceName,
        _resource: &NvmeSubsystem,
        settings: &Settings,
    ) -> Result<()> {
        let range = cntlid_range(&settings.read()?)?;
        match self.0.subsystem(name.as_str()) {
            Some(subsystem) => check_range(&subsystem.ways(), range),
            None => Ok(()),
        }
    }

    fn settings_in_force(
        &self,
        _name: &ResourceName,
        _resource: &NvmeSubsystem,
        settings: &Settings,
    ) -> Result<Settings> {
        let settings: NvmeSubsystemSettings = settings.read()?;
        Ok(Settings::new(&subsystem_in_force(settings)))
    }

    async fn create(&self, job: Job, spec: NvmeSubsystem) -> Result<NvmeSubsystem> {
        let shape = wish(&spec)?;
        let cntlids = cntlid_range(&job.settings()?)?;
        self.place(job.name.as_str(), &shape, cntlids)?;
        Ok(filled(spec, &shape))
    }

    async fn update(
        &self,
        job: Job,
        _old: NvmeSubsystem,
        new: NvmeSubsystem,
    ) -> Result<NvmeSubsystem> {
        self.create(job, new).await
    }

    async fn delete(&self, name: ResourceName) -> Result<()> {
        let mut directory = self.0.directory();
        if let Some(subsystem) = directory.subsystems.remove(name.as_str()) {
            directory.by_nqn.remove(&subsystem.shape().nqn);
        }
        Ok(())
    }

    fn observe(&self, name: &ResourceName, resource: &mut NvmeSubsystem) -> Observed {
        let subsystem = self.0.subsystem(name.as_str());
        resource.status = Some(status());
        let health = match &subsystem {
            Some(_) => Health::Online,
            None => Health::Offline("it is not in service".to_owned()),
        };
        Observed {
            health,
            stats: subsystem.map(|subsystem| subsystem.stats.tally()),
            ..Default::default()
        }
    }
}
