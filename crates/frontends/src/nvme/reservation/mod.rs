//! Reservations of one namespace: a pure state machine (NVMe Base 2.1, 8.1.22).
//!
//! They belong to the namespace and not to its volume. A volume that two subsystems show is two
//! namespaces: a reservation of the one does not bind the hosts of the other, because we do not
//! offer dispersed namespaces (8.1.9), which would share theirs. Hosts that are to exclude each
//! other use one subsystem, by as many listeners as they like. The gate of fused commands, in
//! contrast, belongs to the volume.

mod desk;
mod record;

pub(crate) use desk::{Desk, Outcome};

use super::users::HostId;
use wire::nvme::Status;
use wire::nvme::features::reservation_mask;
use wire::nvme::log::ReservationNotice;
use wire::nvme::reservation::{
    AcquireAction, PersistChange, RegisterAction, Registrant, ReleaseAction, Report,
    ReservationType,
};

/// Hosts that may be registered with one namespace: far more than a cluster has, and a report of
/// them stays below one transfer.
pub(crate) const REGISTRANTS_MAX: usize = 1024;
/// CNTLID in a report: with dynamic controllers a host is not tied to one.
const CNTLID_DYNAMIC: u16 = 0xffff;

const CONFLICT: Status = Status::RESERVATION_CONFLICT.dnr();
const INVALID: Status = Status::INVALID_FIELD.dnr();

/// Who has registered, who holds the reservation, and what survives a restart.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Reservations {
    generation: u32,
    /// PTPL: registrations and reservation survive a loss of power.
    persist: bool,
    registrants: Vec<Key>,
    held: Option<Held>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Key {
    host: HostId,
    key: u64,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Held {
    rtype: ReservationType,
    /// The host that acquired it. With the "all registrants" types everybody registered holds it.
    holder: HostId,
}

/// A command that may change reservations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Request {
    /// Reservation Register.
    Register {
        /// RREGA.
        action: RegisterAction,
        /// IEKEY.
        ignore_key: bool,
        /// CPTPL.
        persist: PersistChange,
        /// CRKEY.
        current: u64,
        /// NRKEY.
        new: u64,
    },
    /// Reservation Acquire.
    Acquire {
        /// RACQA.
        action: AcquireAction,
        /// IEKEY.
        ignore_key: bool,
        /// RTYPE.
        rtype: ReservationType,
        /// CRKEY.
        current: u64,
        /// PRKEY.
        preempt: u64,
    },
    /// Reservation Release.
    Release {
        /// RRELA.
        action: ReleaseAction,
        /// IEKEY.
        ignore_key: bool,
        /// RTYPE.
        rtype: Option<ReservationType>,
        /// CRKEY.
        current: u64,
    },
    /// Set Features, Reservation Persistence.
    Persist(bool),
}

/// What a registered host is told (log page 80h).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Notice {
    /// Another host removed its registration.
    RegistrationPreempted,
    /// The reservation was released.
    ReservationReleased,
    /// Another host cleared the reservation.
    ReservationPreempted,
}

impl Notice {
    /// The bit of the Reservation Notification Mask that keeps it away.
    pub(crate) fn mask(self) -> u32 {
        match self {
            Self::RegistrationPreempted => reservation_mask::REGISTRATION_PREEMPTED,
            Self::ReservationReleased => reservation_mask::RESERVATION_RELEASED,
            Self::ReservationPreempted => reservation_mask::RESERVATION_PREEMPTED,
        }
    }

    /// What the log page calls it.
    pub(crate) fn page(self) -> ReservationNotice {
        match self {
            Self::RegistrationPreempted => ReservationNotice::RegistrationPreempted,
            Self::ReservationReleased => ReservationNotice::Released,
            Self::ReservationPreempted => ReservationNotice::Preempted,
        }
    }
}

/// What a request leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Change {
    /// The state afterwards.
    pub(crate) next: Reservations,
    /// Who is to be told what.
    pub(crate) notices: Vec<(HostId, Notice)>,
    /// Hosts whose commands must end before the request completes.
    pub(crate) fence: Vec<HostId>,
}

/// What a host may do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Access {
    /// Commands that read blocks.
    pub(crate) read: bool,
    /// Commands that change blocks, and Flush.
    pub(crate) write: bool,
}

impl Access {
    /// Nothing is reserved.
    pub(crate) const FULL: Self = Self {
        read: true,
        write: true,
    };
}

impl Reservations {
    /// What `host` may do now (NVMe Base 2.1, 8.1.22, the table of allowed commands).
    pub(crate) fn access(&self, host: &HostId) -> Access {
        let Some(held) = &self.held else {
            return Access::FULL;
        };
        let may = held.holder == *host
            || held.rtype.registrants_have_access() && self.key_of(host).is_some();
        Access {
            read: may || held.rtype.others_may_read(),
            write: may,
        }
    }

    /// Whether they survive a loss of power.
    pub(crate) fn persists(&self) -> bool {
        self.persist
    }

    /// What Reservation Report tells.
    pub(crate) fn report(&self) -> Report {
        let registrants = self.registrants.iter().map(|one| Registrant {
            cntlid: CNTLID_DYNAMIC,
            holder: self.holds(&one.host),
            hostid: one.host,
            key: one.key,
        });
        Report {
            generation: self.generation,
            rtype: self.held.as_ref().map(|held| held.rtype),
            persist: self.persist,
            registrants: registrants.collect(),
        }
    }

    fn key_of(&self, host: &HostId) -> Option<u64> {
        self.registrants
            .iter()
            .find(|one| one.host == *host)
            .map(|one| one.key)
    }

    fn holds(&self, host: &HostId) -> bool {
        self.held.as_ref().is_some_and(|held| {
            if held.rtype.all_hold() {
                self.key_of(host).is_some()
            } else {
                held.holder == *host
            }
        })
    }

    /// What becomes of a request of `host`. The state itself stays: the change counts once it is
    /// durable.
    ///
    /// # Errors
    /// The status to complete the command with.
    pub(crate) fn apply(&self, host: &HostId, request: &Request) -> Result<Change, Status> {
        let mut change = Change {
            next: self.clone(),
            ..Change::default()
        };
        match *request {
            Request::Register {
                action,
                ignore_key,
                persist,
                current,
                new,
            } => {
                let ignore_key = ignore_key.then_some(());
                change.register(host, action, ignore_key, current, new)?;
                match persist {
                    PersistChange::Unchanged => {}
                    PersistChange::Clear => change.next.persist = false,
                    PersistChange::Persist => change.next.persist = true,
                }
                change.next.bump();
            }
            Request::Acquire {
                action,
                ignore_key,
                rtype,
                current,
                preempt,
            } => {
                self.check(host, ignore_key, current)?;
                match action {
                    AcquireAction::Acquire => change.acquire(host, rtype)?,
                    AcquireAction::Preempt => change.preempt(host, rtype, preempt)?,
                    AcquireAction::PreemptAndAbort => {
                        change.preempt(host, rtype, preempt)?;
                        change.fence = change.notices.iter().map(|(host, _)| *host).collect();
                    }
                }
            }
            Request::Release {
                action,
                ignore_key,
                rtype,
                current,
            } => {
                self.check(host, ignore_key, current)?;
                match action {
                    ReleaseAction::Release => change.release(host, rtype)?,
                    ReleaseAction::Clear => change.clear(host),
                }
            }
            Request::Persist(persist) => change.next.persist = persist,
        }
        Ok(change)
    }

    /// Acquire and Release are for registrants, with their key (NVMe Base 2.1, 7.2 and 7.4).
    fn check(&self, host: &HostId, ignore_key: bool, current: u64) -> Result<(), Status> {
        if ignore_key {
            return Err(INVALID);
        }
        if self.key_of(host) == Some(current) {
            Ok(())
        } else {
            Err(CONFLICT)
        }
    }

    fn bump(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

impl Change {
    fn register(
        &mut self,
        host: &HostId,
        action: RegisterAction,
        ignore_key: Option<()>,
        current: u64,
        new: u64,
    ) -> Result<(), Status> {
        let known = self.next.key_of(host);
        match action {
            RegisterAction::Register | RegisterAction::Replace if new == 0 => Err(INVALID),
            RegisterAction::Register => match known {
                Some(key) if key == new => Ok(()),
                Some(_) => Err(CONFLICT),
                None if self.next.registrants.len() >= REGISTRANTS_MAX => {
                    Err(Status::INTERNAL_ERROR.dnr())
                }
                None => {
                    self.next.registrants.push(Key {
                        host: *host,
                        key: new,
                    });
                    Ok(())
                }
            },
            RegisterAction::Unregister | RegisterAction::Replace => {
                if known.is_none() || ignore_key.is_none() && known != Some(current) {
                    return Err(CONFLICT);
                }
                if action == RegisterAction::Unregister {
                    self.unregister(host);
                } else {
                    let own = self
                        .next
                        .registrants
                        .iter_mut()
                        .find(|one| one.host == *host);
                    own.expect("looked up above").key = new;
                }
                Ok(())
            }
        }
    }

    fn unregister(&mut self, host: &HostId) {
        let held = self.next.held.clone();
        self.next.registrants.retain(|one| one.host != *host);
        let Some(held) = held else { return };
        if held.rtype.all_hold() {
            match self.next.registrants.first() {
                None => self.next.held = None,
                // Somebody has to stand in the record; all registrants hold it alike.
                Some(next) if held.holder == *host => {
                    self.next.held = Some(Held {
                        holder: next.host,
                        ..held
                    });
                }
                Some(_) => {}
            }
        } else if held.holder == *host {
            self.next.held = None;
            self.tell_released(host, held.rtype);
        }
    }

    /// Tells the other registrants that the reservation is gone, if that changes their rights.
    fn tell_released(&mut self, host: &HostId, rtype: ReservationType) {
        if rtype.registrants_have_access() {
            let others = self.next.registrants.iter().filter(|one| one.host != *host);
            self.notices
                .extend(others.map(|one| (one.host, Notice::ReservationReleased)));
        }
    }

    fn acquire(&mut self, host: &HostId, rtype: ReservationType) -> Result<(), Status> {
        match &self.next.held {
            None => {
                self.next.held = Some(Held {
                    rtype,
                    holder: *host,
                });
                Ok(())
            }
            Some(held) if held.rtype == rtype && self.next.holds(host) => Ok(()),
            Some(_) => Err(CONFLICT),
        }
    }

    fn preempt(
        &mut self,
        host: &HostId,
        rtype: ReservationType,
        victim: u64,
    ) -> Result<(), Status> {
        let held = self.next.held.clone();
        let all_hold = held.as_ref().is_some_and(|held| held.rtype.all_hold());
        if victim == 0 && !all_hold {
            return Err(INVALID);
        }
        // With an "all registrants" reservation the key 0 stands for everybody else.
        let takes = match &held {
            Some(_) if all_hold => victim == 0,
            Some(held) => self.next.key_of(&held.holder) == Some(victim),
            None => false,
        };
        let matches = |one: &Key| victim == 0 || one.key == victim;
        if !takes && !self.next.registrants.iter().any(matches) {
            return Err(CONFLICT);
        }
        let victims = self
            .next
            .registrants
            .iter()
            .filter(|one| matches(one) && one.host != *host);
        let victims: Vec<HostId> = victims.map(|one| one.host).collect();
        if takes {
            self.next
                .registrants
                .retain(|one| !victims.contains(&one.host));
            let old = held.map(|held| held.rtype);
            self.next.held = Some(Held {
                rtype,
                holder: *host,
            });
            if let Some(old) = old.filter(|old| *old != rtype) {
                self.tell_released(host, old);
            }
        } else {
            // Those who hold something else are only unregistered, with what follows from it.
            for victim in &victims {
                let told = self.notices.len();
                self.unregister(victim);
                self.notices.truncate(told);
            }
        }
        let preempted = |host: HostId| (host, Notice::RegistrationPreempted);
        self.notices
            .splice(0..0, victims.into_iter().map(preempted));
        self.next.bump();
        Ok(())
    }

    fn release(&mut self, host: &HostId, rtype: Option<ReservationType>) -> Result<(), Status> {
        let Some(held) = self.next.held.clone().filter(|_| self.next.holds(host)) else {
            return Ok(());
        };
        if rtype != Some(held.rtype) {
            return Err(INVALID);
        }
        self.next.held = None;
        self.tell_released(host, held.rtype);
        Ok(())
    }

    fn clear(&mut self, host: &HostId) {
        self.next.held = None;
        let all = std::mem::take(&mut self.next.registrants);
        let others = all.into_iter().filter(|one| one.host != *host);
        self.notices
            .extend(others.map(|one| (one.host, Notice::ReservationPreempted)));
        self.next.bump();
    }
}

#[cfg(test)]
mod tests;
