//! Driving what is recorded: at the start in the order of dependence, and again after failures.

use api::error::{Error, Result};
use api::names::ResourceName;
use std::collections::{HashMap, HashSet};

use super::discovered::is_discovered;
use super::{Catalogue, Entry, State, Step, refs};
use crate::effect::{Call, Effect, Moment};
use crate::record::{Phase, Stored};

/// The resources that have not been driven since the start.
#[derive(Default)]
pub(super) struct Restoring {
    left: HashSet<ResourceName>,
    /// How many of its parent and bases each one still waits for.
    waits: HashMap<ResourceName, usize>,
    /// Who waits for a resource.
    followers: HashMap<ResourceName, Vec<ResourceName>>,
    told: bool,
}

impl Restoring {
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty()
    }
}

impl Catalogue {
    /// Takes over what was durable and drives it: parents and bases first, everything else at
    /// once. Ends with [`Effect::Restored`].
    ///
    /// # Errors
    /// Two records contradict each other.
    pub fn restore(&mut self, stored: Vec<Stored>, now: Moment) -> Result<Vec<Effect>> {
        let mut fx = Vec::new();
        let names: Vec<_> = stored.iter().map(|s| s.name.clone()).collect();
        for one in stored {
            self.restore_entry(one, now);
        }
        for name in &names {
            let entry = self.entry(name).expect("it was just entered");
            let mut before: HashSet<_> = entry.bases.iter().map(|b| b.name.clone()).collect();
            // What was found is known to the handler of its parent once that is up.
            let found = before.iter().filter(|b| is_discovered(b.kind()));
            let above: Vec<_> = found.filter_map(ResourceName::parent).collect();
            before.extend(above);
            before.extend(name.parent());
            before.retain(|b| self.entry(b).is_some());
            self.restoring.waits.insert(name.clone(), before.len());
            for one in before {
                self.restoring
                    .followers
                    .entry(one)
                    .or_default()
                    .push(name.clone());
            }
        }
        self.check_circles(&names)?;
        self.restoring.left = names.iter().cloned().collect();
        let first: Vec<_> = names
            .iter()
            .filter(|n| self.restoring.waits.get(*n) == Some(&0))
            .cloned()
            .collect();
        for name in first {
            self.start(&name, now, &mut fx);
        }
        self.tell_if_restored(&mut fx);
        Ok(fx)
    }

    fn restore_entry(&mut self, stored: Stored, now: Moment) {
        let mut entry = Entry {
            // What nobody was told of stays out of sight until it is there.
            visible: !matches!(stored.phase, Phase::Creating | Phase::Abandoned),
            name: stored.name,
            phase: stored.phase,
            form: stored.form,
            next: stored.next,
            state: State::Pending,
            since_ns: now.unix_ns,
            bases: Vec::new(),
            uuid: None,
            attempts: 0,
            retry: None,
        };
        entry.bases = refs::bases_of(&entry);
        self.insert(entry);
    }

    /// Records that wait for each other in a circle would never be driven.
    fn check_circles(&self, names: &[ResourceName]) -> Result<()> {
        let mut waits = self.restoring.waits.clone();
        let mut ready: Vec<_> = names.iter().filter(|n| waits[*n] == 0).cloned().collect();
        let mut seen = 0;
        while let Some(name) = ready.pop() {
            seen += 1;
            for follower in self.restoring.followers.get(&name).into_iter().flatten() {
                let left = waits.get_mut(follower).expect("every name has a count");
                *left -= 1;
                if *left == 0 {
                    ready.push(follower.clone());
                }
            }
        }
        if seen == names.len() {
            return Ok(());
        }
        let circle = names
            .iter()
            .find(|n| waits[*n] > 0)
            .map(ToString::to_string);
        let circle = circle.unwrap_or_default();
        Err(Error::precondition(format!(
            "the store is damaged: {circle} stands on itself"
        )))
    }

    /// Drives a resource for the first time since the start.
    fn start(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        let Some(entry) = self.entry(name) else {
            return;
        };
        match entry.phase {
            Phase::Deleting | Phase::Abandoned => {
                let call = Call::Delete { name: name.clone() };
                self.call(name, Step::DeleteCall, call, fx);
            }
            Phase::Creating => self.drive(name, Step::CreateCall, now, fx),
            Phase::Ready | Phase::Updating | Phase::Unset => {
                self.drive(name, Step::Replay, now, fx);
            }
        }
    }

    /// Drives a resource again, now or when the task that works on it ends.
    pub(super) fn redrive(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        if self.tasks.contains_key(name) {
            self.again.insert(name.clone());
            return;
        }
        let Some(entry) = self.entry(name) else {
            return;
        };
        // One that is still to be driven since the start will see the change then.
        if self.restoring.left.contains(name) {
            return;
        }
        match entry.phase {
            Phase::Abandoned => self.start(name, now, fx),
            Phase::Ready | Phase::Updating if entry.visible => {
                self.drive(name, Step::Replay, now, fx);
            }
            _ => {}
        }
    }

    fn drive(&mut self, name: &ResourceName, step: Step, now: Moment, fx: &mut Vec<Effect>) {
        if let Err(error) = self.handlers.of(&name.kind().collection) {
            return self.cannot_drive(name, error, now, fx);
        }
        let parent = name.parent().and_then(|parent| {
            let entry = self.entry(&parent);
            let reason = match entry.map(|e| &e.state) {
                Some(State::Failed(why)) => format!("{parent} is not up: {why}"),
                Some(_) => return None,
                None => format!("{parent} does not exist"),
            };
            Some(reason)
        });
        match parent {
            // It is driven again when its parent comes up; until then trying is of no use.
            Some(reason) => self.cannot_drive(name, Error::unavailable(reason), now, fx),
            None => self.call_create(name, step, now, fx),
        }
    }

    /// A resource cannot be driven, and trying again by itself is of no use.
    pub(super) fn cannot_drive(
        &mut self,
        name: &ResourceName,
        error: Error,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        if self.held(name).phase == Phase::Creating {
            // Nobody was told that it exists, so it may as well never have.
            self.undone(name, error, fx);
        } else {
            self.failed(name, &error.message, false, now, fx);
        }
    }

    /// True for a resource that is recorded and was not driven since the start.
    pub(super) fn awaits_start(&self, name: &ResourceName) -> bool {
        self.restoring.left.contains(name)
    }

    /// A resource has been driven: those that waited for it may go on.
    pub(super) fn settled(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        if !self.restoring.left.remove(name) {
            return;
        }
        for follower in self.restoring.followers.remove(name).unwrap_or_default() {
            let waits = self
                .restoring
                .waits
                .get_mut(&follower)
                .expect("every name has a count");
            *waits -= 1;
            if *waits == 0 {
                self.start(&follower, now, fx);
            }
        }
        self.tell_if_restored(fx);
    }

    fn tell_if_restored(&mut self, fx: &mut Vec<Effect>) {
        if self.restoring.is_done() && !self.restoring.told {
            self.restoring.told = true;
            self.restoring.waits = HashMap::new();
            fx.push(Effect::Restored);
        }
    }
}
