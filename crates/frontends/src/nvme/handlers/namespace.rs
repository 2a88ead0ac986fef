//! The handler of `NvmeNamespace`.

use super::{exists, fixed, parent};
use crate::nvme::fused::Gate;
use crate::nvme::reservation::Desk;
use crate::nvme::target::{Namespace, Subsystem, Target};
use api::error::{Code, Error, Result};
use api::handler::{Handler, Health, Job, Observed};
use api::names::ResourceName;
use api::storage::v1::nvme_namespace_status::{OperState, State};
use api::storage::v1::{NvmeNamespace, NvmeNamespaceSpec, NvmeNamespaceStatus};
use blk::{Identity, Subscriber, Volume};
use engine::Latch;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::Poll;

const NSID: &str = "nvme_namespace.spec.host_nsid";
const NGUID: &str = "nvme_namespace.spec.nguid";
const EUI64: &str = "nvme_namespace.spec.eui64";
const UUID: &str = "nvme_namespace.spec.uuid";
const VOLUME: &str = "nvme_namespace.spec.volume_name_ref";
/// The field as the job names it.
const VOLUME_REF: &str = "spec.volume_name_ref";

/// See the file's head.
pub(crate) struct NamespaceHandler {
    target: Arc<Target>,
    /// Namespaces are placed one at a time, so that two cannot take the same identifier.
    placing: Mutex<()>,
}

/// 16 bytes as 32 hexadecimal digits, plain or with the hyphens of a UUID. Empty is all zeroes.
fn parse_id(text: &str, field: &str) -> Result<[u8; 16]> {
    if text.is_empty() {
        return Ok([0; 16]);
    }
    let plain = matches!(text.len(), 32 | 36);
    match uuid::Uuid::try_parse(text) {
        Ok(id) if plain && !id.is_nil() => Ok(id.into_bytes()),
        _ => {
            let message = format!(
                "`{text}` is not 32 hexadecimal digits (not all zero), plain or 8-4-4-4-12"
            );
            Err(Error::invalid(field, message))
        }
    }
}

/// What the client fixed of the identity; zeroes stand for the rest.
fn wished_identity(spec: &NvmeNamespaceSpec) -> Result<Identity> {
    Ok(Identity {
        uuid: parse_id(&spec.uuid, UUID)?,
        nguid: parse_id(&spec.nguid, NGUID)?,
        eui64: spec.eui64.cast_unsigned().to_be_bytes(),
    })
}

/// Fills the gaps of a wished identity from the volume's own.
fn complete(wished: Identity, volume: &dyn Volume, name: &str) -> Identity {
    let geometry = volume.geometry();
    let own = geometry.identity;
    let first = |ids: [[u8; 16]; 3]| {
        ids.into_iter()
            .find(|id| *id != [0; 16])
            .unwrap_or_default()
    };
    // A volume without a name of its own gets one that stays with the resource. One that others
    // may show as well keeps to its own: with any other it would be another disk there.
    let made = match geometry.shared && own != Identity::default() {
        true => [0; 16],
        false => uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).into_bytes(),
    };
    let uuid = first([wished.uuid, own.uuid, made]);
    let nguid = first([wished.nguid, own.nguid, uuid]);
    let eui64 = if wished.eui64 == [0; 8] {
        own.eui64
    } else {
        wished.eui64
    };
    Identity { uuid, nguid, eui64 }
}

fn wish(resource: &NvmeNamespace) -> Result<&NvmeNamespaceSpec> {
    let spec = resource.spec.as_ref();
    spec.ok_or_else(|| Error::invalid("nvme_namespace.spec", "is required"))
}

fn check_nsid(nsid: i32, max: u32) -> Result<u32> {
    match u32::try_from(nsid) {
        Ok(nsid) if nsid <= max => Ok(nsid),
        _ => {
            let message =
                format!("{nsid} is outside 0 (server's choice) to {max}, the max_namespaces");
            Err(Error::invalid(NSID, message))
        }
    }
}

/// The NSID that was asked for, or the lowest free one.
fn choose_nsid(
    wished: u32,
    max: u32,
    name: &str,
    all: &BTreeMap<u32, Arc<Namespace>>,
) -> Result<u32> {
    if wished != 0 {
        return match all.get(&wished) {
            Some(other) if other.name != name => Err(exists(NSID, wished, &other.name)),
            _ => Ok(wished),
        };
    }
    (1..=max)
        .find(|nsid| !all.contains_key(nsid))
        .ok_or_else(|| {
            let text =
                format!("{NSID}: all {max} namespaces that max_namespaces allows are in use");
            Error::new(Code::ResourceExhausted, text).at(NSID)
        })
}

/// Two namespaces of one host must not pass for one (NVMe Base 2.1, 4.7.1): within a subsystem
/// identifiers never repeat, and elsewhere only for the same volume.
fn check_unique(
    identity: &Identity,
    name: &str,
    volume: Option<&Arc<dyn Volume>>,
    others: &[(bool, Arc<Namespace>)],
) -> Result<()> {
    for (same_subsystem, other) in others.iter().filter(|(_, other)| other.name != name) {
        let same_volume = match (volume, &other.volume) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            _ => false,
        };
        if same_volume && !same_subsystem {
            continue;
        }
        let (own, taken) = (identity, &other.identity);
        let text = |bytes: &[u8; 16]| uuid::Uuid::from_bytes(*bytes).to_string();
        if own.uuid != [0; 16] && own.uuid == taken.uuid {
            return Err(exists(UUID, text(&own.uuid), &other.name));
        }
        if own.nguid != [0; 16] && own.nguid == taken.nguid {
            return Err(exists(NGUID, text(&own.nguid), &other.name));
        }
        if own.eui64 != [0; 8] && own.eui64 == taken.eui64 {
            let number = u64::from_be_bytes(own.eui64);
            return Err(exists(EUI64, number, &other.name));
        }
    }
    Ok(())
}

/// Checks a change: what hosts know the namespace by stays. Identifiers may be left out, or be
/// given as they were or as they are `shown`.
fn check_change(old: &NvmeNamespaceSpec, new: &NvmeNamespaceSpec, shown: Identity) -> Result<()> {
    if old.volume_name_ref != new.volume_name_ref {
        let why = "another volume under the same namespace would pass for the old data; delete \
                   the namespace and create it anew";
        return Err(fixed(VOLUME, why));
    }
    if new.host_nsid != 0 && new.host_nsid != old.host_nsid {
        return Err(fixed(
            NSID,
            "hosts know the namespace by it; delete and create it anew",
        ));
    }
    let (was, wish) = (wished_identity(old)?, wished_identity(new)?);
    let keeps = |wish: &[u8], was: &[u8], shown: &[u8]| {
        wish.iter().all(|byte| *byte == 0) || wish == was || wish == shown
    };
    for (field, fits) in [
        (UUID, keeps(&wish.uuid, &was.uuid, &shown.uuid)),
        (NGUID, keeps(&wish.nguid, &was.nguid, &shown.nguid)),
        (EUI64, keeps(&wish.eui64, &was.eui64, &shown.eui64)),
    ] {
        if !fits {
            let why = "hosts would take the namespace for another disk; delete it and create it \
                       anew";
            return Err(fixed(field, why));
        }
    }
    Ok(())
}

impl NamespaceHandler {
    pub(crate) fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            placing: Mutex::new(()),
        }
    }

    /// All namespaces, each with whether it is in the given subsystem.
    fn all(&self, subsystem: &Arc<Subsystem>) -> Vec<(bool, Arc<Namespace>)> {
        let directory = self.target.directory();
        let subsystems = directory.subsystems.values();
        let all = subsystems.flat_map(|one| {
            let own = Arc::ptr_eq(one, subsystem);
            let all = one.namespaces();
            all.values()
                .map(|namespace| (own, namespace.clone()))
                .collect::<Vec<_>>()
        });
        all.collect()
    }

    fn find(&self, name: &ResourceName) -> Option<(Arc<Subsystem>, Arc<Namespace>)> {
        let subsystem = self.target.subsystem(name.parent()?.as_str())?;
        let namespace = subsystem.namespace_named(name.as_str())?;
        Some((subsystem, namespace))
    }

    /// A namespace object for the volume that is there now, if one is.
    fn make(
        &self,
        subsystem: &Arc<Subsystem>,
        old: Option<&Arc<Namespace>>,
        name: &str,
        nsid: u32,
        wished: Identity,
        volume: Option<Arc<dyn Volume>>,
    ) -> Arc<Namespace> {
        let identity = match &volume {
            Some(volume) => complete(wished, &**volume, name),
            None => old.map_or(wished, |old| old.identity),
        };
        let key = reservations_key(name);
        Arc::new(Namespace {
            nsid,
            name: name.to_owned(),
            gate: volume
                .as_ref()
                .map_or_else(|| Arc::new(Gate::default()), |v| self.target.gate(v)),
            identity,
            stats: old.map_or_else(Arc::default, |old| old.stats.clone()),
            desk: old.map_or_else(
                || Desk::open(self.target.keep.clone(), key),
                |o| o.desk.clone(),
            ),
            users: Arc::default(),
            before: old.map_or_else(Vec::new, |old| old.lists_of_users()),
            remembered: old.and_then(|old| old.geometry()),
            subsystem: Arc::downgrade(subsystem),
            closing: AtomicBool::new(false),
            volume,
        })
    }

    /// Puts the namespace in its place; returns the object it replaces.
    fn place(
        &self,
        job: &Job,
        spec: &NvmeNamespaceSpec,
    ) -> Result<(Arc<Namespace>, Option<Arc<Namespace>>)> {
        let _placing = self.placing.lock().expect("no holder of the place panics");
        let subsystem = parent(&self.target, &job.name)?;
        let (name, volume) = (job.name.as_str(), job.volume(VOLUME_REF));
        let wished = wished_identity(spec)?;
        let max = subsystem.shape().max_namespaces;
        let old = subsystem.namespace_named(name);
        let asked = check_nsid(spec.host_nsid, max)?;
        let asked = if asked == 0 {
            old.as_ref().map_or(0, |old| old.nsid)
        } else {
            asked
        };
        if let Some(old) = old
            .as_ref()
            .filter(|old| same(old.volume.as_ref(), volume.as_ref()))
        {
            return Ok((old.clone(), None));
        }
        let others = self.all(&subsystem);
        let new = subsystem.edit_namespaces(|all| {
            let nsid = choose_nsid(asked, max, name, all)?;
            let new = self.make(&subsystem, old.as_ref(), name, nsid, wished, volume);
            check_unique(&new.identity, name, new.volume.as_ref(), &others)?;
            // Marked before the hosts' queues are told to look again.
            if let Some(old) = all.insert(nsid, new.clone()) {
                old.close();
            }
            Ok::<_, Error>(new)
        })?;
        if let Some(volume) = &new.volume {
            let weak: Weak<Namespace> = Arc::downgrade(&new);
            volume.subscribe(weak as Weak<dyn Subscriber>);
        }
        Ok((new, old))
    }
}

fn reservations_key(name: &str) -> String {
    format!("nvme/reservations/{name}")
}

/// Waits until a desk has forgotten everything.
async fn forget(desk: &Desk) -> std::result::Result<(), String> {
    let forgotten = Arc::new((Latch::default(), OnceLock::new()));
    let tell = forgotten.clone();
    desk.forget(Box::new(move |result| {
        tell.1.get_or_init(|| result);
        tell.0.open();
    }));
    let (latch, result) = &*forgotten;
    poll_fn(|cx| match latch.is_open_or_wake(cx.waker()) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
    result.get().cloned().unwrap_or(Ok(()))
}

fn same(one: Option<&Arc<dyn Volume>>, two: Option<&Arc<dyn Volume>>) -> bool {
    match (one, two) {
        (Some(one), Some(two)) => Arc::ptr_eq(one, two),
        (None, None) => true,
        _ => false,
    }
}

impl Handler<NvmeNamespace> for NamespaceHandler {
    fn admit(
        &self,
        name: &ResourceName,
        new: &NvmeNamespace,
        _old: Option<&NvmeNamespace>,
    ) -> Result<()> {
        let spec = wish(new)?;
        wished_identity(spec)?;
        let subsystem = name
            .parent()
            .and_then(|parent| self.target.subsystem(parent.as_str()));
        let Some(subsystem) = subsystem else {
            return check_nsid(spec.host_nsid, i32::MAX.cast_unsigned()).map(drop);
        };
        let max = subsystem.shape().max_namespaces;
        let nsid = check_nsid(spec.host_nsid, max)?;
        if nsid != 0 {
            choose_nsid(nsid, max, name.as_str(), &subsystem.namespaces())?;
        }
        Ok(())
    }

    async fn create(&self, job: Job, mut resource: NvmeNamespace) -> Result<NvmeNamespace> {
        let (new, replaced) = self.place(&job, wish(&resource)?)?;
        if let Some(old) = replaced {
            old.users.gone().await;
        }
        if let Some(spec) = &mut resource.spec {
            spec.host_nsid = new.nsid.cast_signed();
        }
        resource.status = Some(status(&new));
        Ok(resource)
    }

    async fn update(
        &self,
        job: Job,
        old: NvmeNamespace,
        new: NvmeNamespace,
    ) -> Result<NvmeNamespace> {
        let shown = self
            .find(&job.name)
            .map(|(_, namespace)| namespace.identity);
        let before = wish(&old)?;
        check_change(before, wish(&new)?, shown.unwrap_or_default())?;
        let mut kept = new;
        if let Some(spec) = &mut kept.spec {
            spec.host_nsid = before.host_nsid;
            // What was fixed stays fixed: an identifier left out means "as it is".
            for (now, was) in [
                (&mut spec.uuid, &before.uuid),
                (&mut spec.nguid, &before.nguid),
            ] {
                if now.is_empty() {
                    now.clone_from(was);
                }
            }
            if spec.eui64 == 0 {
                spec.eui64 = before.eui64;
            }
        }
        self.create(job, kept).await
    }

    async fn delete(&self, name: ResourceName) -> Result<()> {
        let key = reservations_key(name.as_str());
        let desk = match self.find(&name) {
            Some((subsystem, namespace)) => {
                subsystem.edit_namespaces(|all| {
                    all.remove(&namespace.nsid);
                    namespace.close();
                });
                namespace.users.gone().await;
                namespace.desk.clone()
            }
            None if self.target.keep.get(&key).is_none() => return Ok(()),
            // An earlier deletion went no further.
            None => Desk::open(self.target.keep.clone(), key),
        };
        forget(&desk).await.map_err(|error| {
            let text = format!(
                "{}: its reservations cannot be forgotten: {error}",
                name.as_str()
            );
            Error::unavailable(text)
        })
    }

    fn observe(&self, name: &ResourceName, resource: &mut NvmeNamespace) -> Observed {
        let Some((_, namespace)) = self.find(name) else {
            resource.status = Some(NvmeNamespaceStatus {
                state: State::Disabled.into(),
                oper_state: OperState::Offline.into(),
            });
            let health = Health::Offline("it is not in service".to_owned());
            return Observed {
                health,
                stats: None,
                ..Default::default()
            };
        };
        resource.status = Some(status(&namespace));
        if let Some(spec) = &mut resource.spec {
            show_identity(spec, &namespace.identity);
        }
        let health = namespace.offline().map_or(Health::Online, Health::Offline);
        Observed {
            health,
            stats: Some(namespace.stats.tally()),
            ..Default::default()
        }
    }
}

fn status(namespace: &Namespace) -> NvmeNamespaceStatus {
    let oper = if namespace.is_online() {
        OperState::Online
    } else {
        OperState::Offline
    };
    NvmeNamespaceStatus {
        state: State::Enabled.into(),
        oper_state: oper.into(),
    }
}

/// Shows the identifiers that hosts see where the client left the choice to us. They are not
/// stored, so that a memory volume that comes back empty comes back as another disk.
fn show_identity(spec: &mut NvmeNamespaceSpec, identity: &Identity) {
    if spec.uuid.is_empty() && identity.uuid != [0; 16] {
        spec.uuid = uuid::Uuid::from_bytes(identity.uuid).to_string();
    }
    if spec.nguid.is_empty() && identity.nguid != [0; 16] {
        spec.nguid = uuid::Uuid::from_bytes(identity.nguid)
            .as_simple()
            .to_string();
    }
    if spec.eui64 == 0 {
        spec.eui64 = u64::from_be_bytes(identity.eui64).cast_signed();
    }
}
