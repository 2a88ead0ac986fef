//! Get Features and Set Features (NVMe Base 2.1, 5.1.11 and 5.1.25).

use super::{Answer, Answered, Controller, INVALID};
use crate::nvme::io::Flushes;
use crate::nvme::queue::Ticket;
use crate::nvme::reservation::{Outcome, Request};
use crate::nvme::target::Namespace;
use blk::{IoBuf, Nanos};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use wire::nvme::aer::EventMask;
use wire::nvme::cmds::Features;
use wire::nvme::features::{
    FeatureId, HOST_ID_EXTENDED, QueueCounts, Select, Timestamp, capabilities, reservation_mask,
};
use wire::nvme::{NSID_ALL, Status};

/// The features of a controller that serves I/O.
const IO_FEATURES: &[FeatureId] = &[
    FeatureId::Arbitration,
    FeatureId::PowerManagement,
    FeatureId::TemperatureThreshold,
    FeatureId::ErrorRecovery,
    FeatureId::VolatileWriteCache,
    FeatureId::NumberOfQueues,
    FeatureId::WriteAtomicity,
    FeatureId::AsyncEvents,
    FeatureId::Timestamp,
    FeatureId::KeepAlive,
    FeatureId::HostBehavior,
    FeatureId::HostId,
    FeatureId::ReservationMask,
    FeatureId::ReservationPersistence,
];
/// The features of a discovery controller.
const DISCOVERY_FEATURES: &[FeatureId] = &[
    FeatureId::AsyncEvents,
    FeatureId::KeepAlive,
    FeatureId::HostId,
];

/// Over temperature threshold that is never reached.
const TEMPERATURE_MAX: u16 = 0xffff;
/// THSEL in CDW11: the under temperature threshold.
const UNDER_TEMPERATURE: u32 = 1 << 20;
/// TMPSEL and THSEL in CDW11.
const TEMPERATURE_WHICH: u32 = 0x3f << 16;
/// The largest TMPSEL that names a sensor; Fh names all.
const SENSORS: u32 = 8;
/// DULBE of Error Recovery: reading deallocated blocks fails. We do not offer it.
const DEALLOCATED_ERROR: u32 = 1 << 16;
const EVERY_NOTICE: u32 = reservation_mask::REGISTRATION_PREEMPTED
    | reservation_mask::RESERVATION_RELEASED
    | reservation_mask::RESERVATION_PREEMPTED;
/// Bytes of Host Behavior Support that have a meaning: ACRE, ETDAS, LBAFEE.
const BEHAVIOR_BYTES: usize = 3;

/// The values that only this controller cares for.
pub(super) struct Values {
    arbitration: u32,
    write_atomicity: u32,
    temperatures: BTreeMap<u32, u16>,
    /// By NSID, so there are no more than namespaces.
    error_recovery: BTreeMap<u32, u32>,
    behavior: [u8; BEHAVIOR_BYTES],
    /// The timestamp, when it was set, and whether by the host.
    timestamp: (u64, Nanos, bool),
}

impl Values {
    pub(super) fn new(now: Nanos) -> Self {
        Self {
            // Bits 2:0: no limit to an arbitration burst.
            arbitration: 7,
            write_atomicity: 0,
            temperatures: BTreeMap::new(),
            error_recovery: BTreeMap::new(),
            behavior: [0; BEHAVIOR_BYTES],
            timestamp: (0, now, false),
        }
    }

    fn timestamp(&self, now: Nanos) -> Timestamp {
        let (at, set, by_host) = self.timestamp;
        Timestamp::new(at + now.since(set).0 / 1_000_000, by_host)
    }

    fn temperature(&self, cdw11: u32) -> Result<u32, Status> {
        let which = temperature_key(cdw11)?;
        let default = if which & UNDER_TEMPERATURE == 0 {
            TEMPERATURE_MAX
        } else {
            0
        };
        let value = self.temperatures.get(&which).copied().unwrap_or(default);
        Ok(u32::from(value) | which)
    }
}

/// Which sensor and threshold CDW11 names.
fn temperature_key(cdw11: u32) -> Result<u32, Status> {
    let sensor = cdw11 >> 16 & 0xf;
    // THSEL has two bits, of which the upper is reserved.
    let known = (sensor <= SENSORS || sensor == 0xf) && cdw11 >> 21 & 1 == 0;
    if known {
        Ok(cdw11 & TEMPERATURE_WHICH)
    } else {
        Err(INVALID)
    }
}

fn counts(queues: u16) -> u64 {
    let count = u32::from(queues);
    u64::from(
        QueueCounts {
            submission: count,
            completion: count,
        }
        .bits(),
    )
}

impl Controller {
    pub(super) fn features(&self) -> &'static [FeatureId] {
        if self.is_discovery() {
            DISCOVERY_FEATURES
        } else {
            IO_FEATURES
        }
    }

    fn feature(&self, fid: u8) -> Result<FeatureId, Status> {
        FeatureId::from_u8(fid)
            .filter(|id| self.features().contains(id))
            .ok_or(INVALID)
    }

    fn namespace_of(&self, nsid: u32) -> Result<Arc<Namespace>, Status> {
        self.association
            .namespace(nsid)
            .ok_or(Status::INVALID_NAMESPACE.dnr())
    }

    /// The namespaces that a Set Features of a namespace's feature is about.
    fn namespaces_of(&self, nsid: u32) -> Result<Vec<Arc<Namespace>>, Status> {
        match nsid {
            NSID_ALL => Ok(self.association.namespaces()),
            nsid => Ok(vec![self.namespace_of(nsid)?]),
        }
    }

    /// Refuses a feature of a namespace that is out of reach, or that it does not have.
    fn check_namespace(&self, id: FeatureId, nsid: u32) -> Result<(), Status> {
        if !id.is_namespace_specific() || nsid == NSID_ALL {
            return Ok(());
        }
        let namespace = self.namespace_of(nsid)?;
        if let Some(status) = self.association.ana(&namespace).refusal() {
            return Err(status);
        }
        let reservations = matches!(
            id,
            FeatureId::ReservationMask | FeatureId::ReservationPersistence
        );
        if reservations && !namespace.has_reservations() {
            return Err(INVALID);
        }
        Ok(())
    }

    pub(super) fn get_feature(&self, now: Nanos, feature: &Features, select: Select) -> Answered {
        let id = self.feature(feature.fid)?;
        match select {
            Select::Current => {
                self.check_namespace(id, feature.nsid)?;
                self.current(now, id, feature)
            }
            Select::Capabilities => {
                let changeable = id != FeatureId::HostId;
                let bits = capabilities(false, id.is_namespace_specific(), changeable);
                Ok(Answer::Done(u64::from(bits)))
            }
            // Nothing is saved, so the saved value is the default.
            Select::Default | Select::Saved => self.default(now, id, feature),
        }
    }

    fn default(&self, now: Nanos, id: FeatureId, feature: &Features) -> Answered {
        let values = Values::new(now);
        Ok(match id {
            FeatureId::Arbitration => Answer::Done(u64::from(values.arbitration)),
            FeatureId::TemperatureThreshold => {
                Answer::Done(u64::from(values.temperature(feature.cdw11)?))
            }
            FeatureId::VolatileWriteCache => Answer::Done(1),
            FeatureId::NumberOfQueues => Answer::Done(counts(self.association.limits.queues)),
            FeatureId::Timestamp => Answer::Data(values.timestamp(now).bytes().to_vec()),
            FeatureId::HostBehavior => Answer::Data(vec![0; id.data_len()]),
            FeatureId::HostId => return self.current(now, id, feature),
            _ => Answer::Done(0),
        })
    }

    fn current(&self, now: Nanos, id: FeatureId, feature: &Features) -> Answered {
        let nsid = feature.nsid;
        let value = match id {
            FeatureId::Arbitration => self.values.arbitration,
            FeatureId::PowerManagement => 0,
            FeatureId::TemperatureThreshold => self.values.temperature(feature.cdw11)?,
            FeatureId::ErrorRecovery => {
                let nsid = self.namespace_of(nsid)?.nsid;
                self.values.error_recovery.get(&nsid).copied().unwrap_or(0)
            }
            FeatureId::VolatileWriteCache => u32::from(self.association.write_cache()),
            FeatureId::NumberOfQueues => {
                return Ok(Answer::Done(counts(self.association.queue_limit())));
            }
            FeatureId::WriteAtomicity => self.values.write_atomicity,
            FeatureId::AsyncEvents => self.events.enabled().bits(),
            FeatureId::KeepAlive => self.keep_alive.kato_ms,
            FeatureId::ReservationMask => self
                .association
                .reservation_mask(self.namespace_of(nsid)?.nsid),
            FeatureId::ReservationPersistence => {
                u32::from(self.namespace_of(nsid)?.desk.persists())
            }
            FeatureId::Timestamp => {
                return Ok(Answer::Data(self.values.timestamp(now).bytes().to_vec()));
            }
            FeatureId::HostBehavior => {
                let mut page = vec![0; id.data_len()];
                page[..BEHAVIOR_BYTES].copy_from_slice(&self.values.behavior);
                return Ok(Answer::Data(page));
            }
            // Over fabrics host identifiers have 128 bits (NVMe Base 2.1, 5.1.25.1.28).
            FeatureId::HostId if feature.cdw11 & HOST_ID_EXTENDED != 0 => {
                return Ok(Answer::Data(self.association.host.to_vec()));
            }
            _ => return Err(INVALID),
        };
        Ok(Answer::Done(u64::from(value)))
    }

    /// The feature of a Set Features, if it may be set so.
    fn settable(&self, feature: &Features, save: bool, data: &IoBuf) -> Result<FeatureId, Status> {
        let id = self.feature(feature.fid)?;
        if save {
            return Err(Status::FEATURE_NOT_SAVEABLE.dnr());
        }
        if !id.is_namespace_specific() && feature.nsid != 0 && feature.nsid != NSID_ALL {
            return Err(Status::FEATURE_NOT_NAMESPACE_SPECIFIC.dnr());
        }
        if data.len() < id.data_len() {
            return Err(Status::SGL_LENGTH_INVALID.dnr());
        }
        self.check_namespace(id, feature.nsid)?;
        Ok(id)
    }

    pub(super) fn set_feature(
        &mut self,
        now: Nanos,
        ticket: Ticket,
        feature: &Features,
        save: bool,
        data: &IoBuf,
    ) -> Answered {
        let id = self.settable(feature, save, data)?;
        let value = feature.cdw11;
        match id {
            FeatureId::Arbitration => self.values.arbitration = value,
            // There is one power state, without workload hints.
            FeatureId::PowerManagement if value & 0x1f != 0 => return Err(INVALID),
            FeatureId::PowerManagement => {}
            FeatureId::TemperatureThreshold => {
                self.values
                    .temperatures
                    .insert(temperature_key(value)?, value as u16);
            }
            FeatureId::ErrorRecovery if value & DEALLOCATED_ERROR != 0 => return Err(INVALID),
            FeatureId::ErrorRecovery => {
                for namespace in self.namespaces_of(feature.nsid)? {
                    self.values
                        .error_recovery
                        .insert(namespace.nsid, value & 0xffff);
                }
            }
            FeatureId::VolatileWriteCache => {
                return Ok(self.set_write_cache(ticket, value & 1 == 1));
            }
            FeatureId::NumberOfQueues => {
                let wanted = QueueCounts::parse(value)?;
                let wanted = wanted.submission.min(wanted.completion);
                return Ok(Answer::Done(counts(
                    self.association.set_queue_limit(wanted)?,
                )));
            }
            FeatureId::WriteAtomicity => self.values.write_atomicity = value & 1,
            FeatureId::AsyncEvents => self.events.enable(EventMask::from_bits_retain(value)),
            FeatureId::KeepAlive => self.keep_alive.kato_ms = value,
            FeatureId::ReservationMask => {
                for namespace in self.namespaces_of(feature.nsid)? {
                    let mask = value & EVERY_NOTICE;
                    self.association.set_reservation_mask(namespace.nsid, mask);
                }
            }
            FeatureId::ReservationPersistence => {
                return self.set_persistence(ticket, feature.nsid, value & 1 == 1);
            }
            FeatureId::Timestamp => {
                let stamp = Timestamp::from_prefix(&data.to_vec()).map_err(|_| INVALID)?;
                self.values.timestamp = (stamp.get(), now, true);
            }
            FeatureId::HostBehavior => data.copy_to(0, &mut self.values.behavior),
            // Connect has set it for good (NVMe Base 2.1, 5.1.25.1.28).
            FeatureId::HostId => return Err(Status::COMMAND_SEQUENCE.dnr()),
            _ => return Err(INVALID),
        }
        Ok(Answer::Done(0))
    }

    /// Volatile Write Cache; to do without completes once nothing is in the caches any more.
    fn set_write_cache(&mut self, ticket: Ticket, on: bool) -> Answer {
        self.association.set_write_cache(on);
        if on {
            return Answer::Done(0);
        }
        let flushes = Flushes::new(&self.association);
        self.cache_off.push_back((ticket, flushes));
        Answer::Later
    }

    /// Reservation Persistence; completes once the change is durable for every namespace meant.
    fn set_persistence(&self, ticket: Ticket, nsid: u32, on: bool) -> Answered {
        let mut all = self.namespaces_of(nsid)?;
        all.retain(|namespace| namespace.has_reservations());
        if all.is_empty() {
            return Ok(Answer::Done(0));
        }
        let left = Arc::new((AtomicUsize::new(all.len()), Mutex::new(Status::SUCCESS)));
        for namespace in all {
            let (left, inbox) = (left.clone(), self.inbox.clone());
            let done = move |outcome: Outcome| {
                let mut worst = left.1.lock().expect("no holder of the status panics");
                if let Err(status) = outcome {
                    *worst = status;
                }
                if left.0.fetch_sub(1, SeqCst) == 1 {
                    inbox.push(ticket, *worst);
                }
            };
            namespace
                .desk
                .submit(self.association.host, Request::Persist(on), Box::new(done));
        }
        Ok(Answer::Later)
    }
}
