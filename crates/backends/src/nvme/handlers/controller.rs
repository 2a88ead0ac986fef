//! The handler of `NvmeRemoteController`: what all paths to an array share.

use super::{Entry, Remotes, policy, settings, wait_for};
use crate::nvme::pcie::Drive;
use crate::nvme::remote::{Order, Remote};
use api::error::{Error, Result};
use api::ext::v1::NvmeRemoteControllerSettings;
use api::handler::{Fact, FactValue, Handler, Health, Job, Observed, Settings};
use api::names::ResourceName;
use api::storage::v1::{NvmeMultipath, NvmeRemoteController};
use blk::State;
use std::collections::BTreeMap;
use std::sync::Arc;

const MULTIPATH: &str = "nvme_remote_controller.multipath";
const QUEUES: &str = "nvme_remote_controller.io_queues_count";
const QUEUE_SIZE: &str = "nvme_remote_controller.queue_size";
const PSK: &str = "nvme_remote_controller.tcp.psk";

/// I/O queues of one association, at most: QID and the number of queues have 16 bits, and no
/// machine has so many reactors.
const QUEUES_MAX: i64 = 1024;
/// Commands in flight on a queue, at most: a queue of 65,535 entries holds one less.
const QUEUE_SIZE_MAX: i64 = 65_534;

/// See the file's head.
pub(in crate::nvme) struct ControllerHandler(pub(in crate::nvme) Arc<Remotes>);

/// What is known of a controller beside its I/O.
fn facts(reconnects: u64, (paths, live): (usize, usize)) -> Vec<Fact> {
    let fact = |name, help, value| Fact {
        name,
        help,
        unit: "",
        labels: Vec::new(),
        value,
    };
    vec![
        fact(
            "nvme_remote_controller_reconnects",
            "Associations made after the first of each path.",
            FactValue::Counter(reconnects),
        ),
        fact(
            "nvme_remote_controller_paths",
            "Paths there are.",
            FactValue::Gauge(paths as f64),
        ),
        fact(
            "nvme_remote_controller_paths_live",
            "Paths that serve.",
            FactValue::Gauge(live as f64),
        ),
    ]
}

fn between(field: &str, value: i64, most: i64) -> Result<()> {
    if (0..=most).contains(&value) {
        return Ok(());
    }
    let text = format!("{value} is outside 0 to {most}; 0 leaves it to the server");
    Err(Error::invalid(field, text))
}

impl Handler<NvmeRemoteController> for ControllerHandler {
    fn admit(
        &self,
        name: &ResourceName,
        new: &NvmeRemoteController,
        old: Option<&NvmeRemoteController>,
    ) -> Result<()> {
        if new.multipath() == NvmeMultipath::Unspecified {
            let text = "is required: NVME_MULTIPATH_DISABLE, NVME_MULTIPATH_FAILOVER or \
                        NVME_MULTIPATH_MULTIPATH";
            return Err(Error::invalid(MULTIPATH, text));
        }
        between(QUEUES, new.io_queues_count, QUEUES_MAX)?;
        between(QUEUE_SIZE, new.queue_size, QUEUE_SIZE_MAX)?;
        if new.tcp.as_ref().is_some_and(|tcp| !tcp.psk.is_empty()) {
            let text =
                format!("{PSK}: TLS is not implemented yet; leave it out to connect in the clear");
            return Err(Error::unimplemented(text).at(PSK));
        }
        if old.is_some_and(|old| old.io_queues_count != new.io_queues_count) {
            let text =
                format!("{QUEUES} cannot be changed in place: delete {name} and create it anew");
            return Err(Error::precondition(text).at(QUEUES));
        }
        let all = self.0.all();
        let paths = all.get(name.as_str()).map_or(0, |entry| entry.paths.len());
        if new.multipath() == NvmeMultipath::Disable && paths > 1 {
            let text = format!("{name} has {paths} paths; without multipath it may have one");
            return Err(Error::precondition(text).at(MULTIPATH));
        }
        Ok(())
    }

    fn admit_settings(
        &self,
        _: &ResourceName,
        _: &NvmeRemoteController,
        settings: &Settings,
    ) -> Result<()> {
        settings::admit(&settings.read()?)
    }

    fn settings_in_force(
        &self,
        _: &ResourceName,
        _: &NvmeRemoteController,
        settings: &Settings,
    ) -> Result<Settings> {
        Ok(Settings::new(&settings::in_force(settings.read()?)))
    }

    async fn create(&self, job: Job, spec: NvmeRemoteController) -> Result<NvmeRemoteController> {
        let known = self.0.all().contains_key(job.name.as_str());
        if known {
            return self.change(&job, spec);
        }
        let settings = job.settings()?;
        let world = &self.0.world;
        let rails = match spec.io_queues_count {
            0 => world.reactors.all().len(),
            count => usize::try_from(count).unwrap_or(1),
        };
        let entry = Entry {
            drive: Drive::new(world, job.name.id()),
            remote: Remote::start(
                world,
                job.name.id(),
                rails,
                policy(&spec, &settings),
                settings::times(&settings),
            ),
            spec: spec.clone(),
            settings,
            paths: BTreeMap::new(),
        };
        self.0.all().insert(job.name.to_string(), entry);
        Ok(spec)
    }

    async fn update(
        &self,
        job: Job,
        _: NvmeRemoteController,
        new: NvmeRemoteController,
    ) -> Result<NvmeRemoteController> {
        self.create(job, new).await
    }

    async fn delete(&self, name: ResourceName) -> Result<()> {
        let entry = self.0.all().remove(name.as_str());
        if let Some(entry) = entry {
            entry.drive.end();
            entry.remote.end();
        }
        Ok(())
    }

    async fn reset(&self, name: ResourceName) -> Result<()> {
        let drive = {
            let all = self.0.all();
            let entry = all.get(name.as_str());
            let entry = entry.ok_or_else(|| Error::not_found(name.to_string()))?;
            entry.remote.reset_paths();
            entry.drive.clone()
        };
        match drive.address() {
            Some(_) => wait_for(move || drive.reset()).await,
            None => Ok(()),
        }
    }

    fn observe(&self, name: &ResourceName, _: &mut NvmeRemoteController) -> Observed {
        let found = {
            let all = self.0.all();
            let entry = all.get(name.as_str());
            entry.map(|entry| (entry.remote.clone(), entry.drive.clone()))
        };
        let Some((remote, drive)) = found else {
            let health = Health::Offline("it could not be made yet".to_owned());
            return Observed {
                health,
                ..Default::default()
            };
        };
        let health = match (remote.state(), drive.state()) {
            (State::Online, State::Online) => Health::Online,
            (State::Offline(why), _) | (_, State::Offline(why)) => Health::Offline(why),
        };
        let mut count = remote.count();
        count.stats.add(&drive.tally());
        Observed {
            health,
            stats: Some(count.stats),
            facts: facts(count.reconnects, remote.paths_live()),
        }
    }
}

impl ControllerHandler {
    /// Takes over new settings: the choice of paths at once, the rest by connecting anew.
    fn change(&self, job: &Job, new: NvmeRemoteController) -> Result<NvmeRemoteController> {
        let settings: NvmeRemoteControllerSettings = job.settings()?;
        let mut all = self.0.all();
        let Some(entry) = all.get_mut(job.name.as_str()) else {
            return Err(Error::not_found(job.name.to_string()));
        };
        let times = settings::times(&settings);
        let policy = policy(&new, &settings);
        entry
            .remote
            .change(|table| table.choose(policy, times, engine::now()));
        for path in entry.remote.paths() {
            path.mail.order(Order::Tune(times));
        }
        entry.settings = settings;
        let old = std::mem::replace(&mut entry.spec, new.clone());
        if (old.queue_size, &old.tcp) != (new.queue_size, &new.tcp) {
            for made in entry.paths.values() {
                let Some(id) = made.path() else {
                    continue;
                };
                let wish = self.0.wish(&new, &made.spec, entry.remote.rails(), times)?;
                if let Some(path) = entry.remote.path(id) {
                    path.mail.order(Order::Reset(Some(wish)));
                }
            }
        }
        Ok(new)
    }
}
