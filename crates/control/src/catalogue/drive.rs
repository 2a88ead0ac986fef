//! The steps of a task, one outcome after the other, and what a resource's fate means to others.

use api::error::{Error, Result};
use api::names::ResourceName;
use blk::Nanos;

use super::{Catalogue, State, Step, change, refs};
use crate::effect::{Answer, Base, Call, Effect, Moment};
use crate::record::{Phase, Secret};
use crate::store::{Batch, Write};

/// The first pause before a failed resource is tried again; it doubles with every failure.
const RETRY_FIRST: Nanos = Nanos::from_secs(1);
/// The longest pause.
const RETRY_MAX: Nanos = Nanos::from_secs(60);

impl Catalogue {
    /// Takes the outcome of the step that a task waited for, and begins the next one.
    pub(super) fn advance(
        &mut self,
        name: &ResourceName,
        result: Result<Vec<u8>>,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let task = self
            .tasks
            .get_mut(name)
            .expect("an outcome belongs to a task");
        // The step is put back by whatever comes next.
        let step = std::mem::replace(&mut task.step, Step::Replay);
        match (step, result) {
            (Step::CreateIntent | Step::DeleteIntent | Step::UpdateIntent, Err(error)) => {
                self.intent_failed(name, error, now, fx);
            }
            (Step::CreateIntent, Ok(_)) => self.call_create(name, Step::CreateCall, now, fx),
            (Step::CreateCall, Ok(made)) => self.created(name, &made, fx),
            (Step::CreateCall | Step::CreateStore, Err(error)) => self.undo(name, error, fx),
            (Step::CreateStore, Ok(_)) => self.came_up(name, now, fx),
            (Step::CreateUndo(error), Ok(_)) => self.undone(name, error, fx),
            (Step::CreateUndo(error), Err(trouble)) => self.abandon(name, error, &trouble, fx),
            (Step::CreateAbandon(error), stored) => {
                if stored.is_err() {
                    self.mend(name, &[], now, fx);
                }
                self.abandoned(name, error, now, fx);
            }
            (Step::CreateForget(error), stored) => {
                self.forgotten(name, error, stored.is_err(), now, fx);
            }
            (Step::UpdateIntent, Ok(_)) => self.call_update(name, Step::UpdateCall, now, fx),
            (Step::UpdateCall, Ok(made)) => self.updated(name, &made, fx),
            (Step::UpdateCall, Err(error)) => self.revert_update(name, error, fx),
            (Step::UpdateStore(_), Ok(_)) => self.came_up(name, now, fx),
            (Step::UpdateStore(gone), Err(error)) => {
                self.updated_unstored(name, &gone, error, now, fx);
            }
            (Step::UpdateRevert(error) | Step::DeleteRevert(error), stored) => {
                if stored.is_err() {
                    self.mend(name, &[], now, fx);
                }
                self.reverted(name, error, now, fx);
            }
            (Step::DeleteIntent, Ok(_)) => {
                let call = Call::Delete { name: name.clone() };
                self.call(name, Step::DeleteCall, call, fx);
            }
            (Step::DeleteCall, Ok(_)) => self.deleted(name, now, fx),
            (Step::DeleteCall, Err(error)) => self.not_deleted(name, error, now, fx),
            (Step::ResetCall, result) => {
                self.end(name, |_| result.map(|_| Answer::Done), now, fx);
            }
            (Step::Replay, Ok(made)) => self.replayed(name, &made, now, fx),
            (Step::Replay, Err(error)) => self.failed(name, &error.message, true, now, fx),
            (Step::ReplayUpdate, result) => self.replayed_update(name, result, fx),
            (Step::ReplayStore, stored) => {
                if stored.is_err() {
                    self.mend(name, &[], now, fx);
                }
                self.came_up(name, now, fx);
            }
        }
    }

    /// The volumes of a job that can be used now.
    fn usable(&self, bases: Vec<Base>) -> Vec<Base> {
        let up = |base: &Base| match self.entry(&base.name) {
            Some(entry) => entry.state == State::Up,
            None => true,
        };
        bases.into_iter().filter(up).collect()
    }

    /// Calls the handler's `create`, for the first time or to bring back what was.
    pub(super) fn call_create(
        &mut self,
        name: &ResourceName,
        step: Step,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let entry = self.entry(name).expect("it has a task");
        let replay = entry.phase != Phase::Creating;
        match entry.form.whole(name.kind()) {
            Ok(spec) => {
                let bases = self.usable(refs::bases_in(name.kind(), &entry.form.spec));
                let call = Call::Create {
                    name: name.clone(),
                    replay,
                    bases,
                    spec,
                    settings: entry.form.settings.clone(),
                };
                self.call(name, step, call, fx);
            }
            Err(field) => {
                let error = change::unopened(name, &field);
                self.cannot_drive(name, error, now, fx);
            }
        }
    }

    /// Calls the handler's `update`. What could not be brought back is made as it shall be.
    fn call_update(&mut self, name: &ResourceName, step: Step, now: Moment, fx: &mut Vec<Effect>) {
        let entry = self.entry(name).expect("it has a task");
        let next = entry
            .next
            .as_ref()
            .expect("a resource being updated has a next form");
        let bases = self.usable(refs::bases_in(name.kind(), &next.spec));
        let (name_, kind) = (name.clone(), name.kind());
        let settings = next.settings.clone();
        let new = match next.whole(kind) {
            Ok(new) => new,
            Err(field) => {
                let error = change::unopened(name, &field);
                return self.advance_with(name, step, Err(error), now, fx);
            }
        };
        let there = entry.state == State::Up || matches!(step, Step::ReplayUpdate);
        let call = match (there, entry.form.whole(kind)) {
            (true, Ok(old)) => Call::Update {
                name: name_,
                bases,
                old,
                new,
                settings,
            },
            _ => Call::Create {
                name: name_,
                replay: true,
                bases,
                spec: new,
                settings,
            },
        };
        self.call(name, step, call, fx);
    }

    /// Goes on as if the step had ended so.
    fn advance_with(
        &mut self,
        name: &ResourceName,
        step: Step,
        result: Result<Vec<u8>>,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        self.tasks.get_mut(name).expect("it has a task").step = step;
        self.advance(name, result, now, fx);
    }

    /// The intent is not known to be durable: nothing was done, and nothing is to remain.
    fn intent_failed(
        &mut self,
        name: &ResourceName,
        error: Error,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let entry = self.held(name);
        if entry.phase == Phase::Creating {
            let secrets = entry.form.secrets.clone();
            self.remove(name);
            self.mend(name, &secrets, now, fx);
        } else {
            // Its next attempt was put off for this change.
            if matches!(entry.state, State::Failed(_)) {
                self.again.insert(name.clone());
            }
            let secrets = self.drop_next(name);
            self.mend(name, &secrets, now, fx);
        }
        self.end(name, |_| Err(error), now, fx);
    }

    /// Goes back to the form that was; returns the secrets of the other one.
    fn drop_next(&mut self, name: &ResourceName) -> Vec<Secret> {
        let entry = self.held(name);
        entry.phase = Phase::Ready;
        let next = entry.next.take();
        self.relink(name);
        next.map(|n| n.secrets).unwrap_or_default()
    }

    fn created(&mut self, name: &ResourceName, made: &[u8], fx: &mut Vec<Effect>) {
        let entry = self.held(name);
        match entry.form.made(name, made) {
            Ok(form) => {
                entry.form = form;
                entry.phase = Phase::Ready;
                self.index_uuid(name);
                let batch = self.record(name, &[]);
                self.write(name, Step::CreateStore, batch, fx);
            }
            Err(damage) => self.undo(name, Error::internal(damage.0), fx),
        }
    }

    /// A first create failed: whatever it did is taken back.
    fn undo(&mut self, name: &ResourceName, error: Error, fx: &mut Vec<Effect>) {
        self.held(name).phase = Phase::Creating;
        let call = Call::Delete { name: name.clone() };
        self.call(name, Step::CreateUndo(error), call, fx);
    }

    pub(super) fn undone(&mut self, name: &ResourceName, error: Error, fx: &mut Vec<Effect>) {
        let files = self
            .held(name)
            .form
            .secrets
            .iter()
            .map(Secret::file)
            .collect();
        let delete = Write::Delete {
            name: name.to_string(),
        };
        let batch = Batch {
            seal: Vec::new(),
            writes: vec![delete],
            erase: files,
        };
        self.write(name, Step::CreateForget(error), batch, fx);
    }

    /// What a failed create left could not be taken back yet: that goes on in the background.
    fn abandon(
        &mut self,
        name: &ResourceName,
        mut error: Error,
        trouble: &Error,
        fx: &mut Vec<Effect>,
    ) {
        error.message = format!("{error}; and what was made of it is still there: {trouble}");
        self.held(name).phase = Phase::Abandoned;
        let batch = self.record(name, &[]);
        self.write(name, Step::CreateAbandon(error), batch, fx);
    }

    fn abandoned(&mut self, name: &ResourceName, error: Error, now: Moment, fx: &mut Vec<Effect>) {
        self.schedule(name, now);
        self.settled(name, now, fx);
        self.end(name, |_| Err(error), now, fx);
    }

    fn forgotten(
        &mut self,
        name: &ResourceName,
        error: Error,
        unsure: bool,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let secrets = self.held(name).form.secrets.clone();
        self.remove(name);
        if unsure {
            self.mend(name, &secrets, now, fx);
        }
        self.settled(name, now, fx);
        self.end(name, |_| Err(error), now, fx);
    }

    fn updated(&mut self, name: &ResourceName, made: &[u8], fx: &mut Vec<Effect>) {
        let gone = self.held(name).form.secrets.clone();
        match self.take_next(name, made) {
            Ok(batch) => self.write(name, Step::UpdateStore(gone), batch, fx),
            Err(error) => self.revert_update(name, error, fx),
        }
    }

    /// The handler made the update and its record could not be stored. What is made stays: it
    /// cannot always be taken back (a volume does not shrink). The record follows in the
    /// background; until then the durable intent leads a restart to the same form. The client is
    /// told of a failure, since nothing final is durable yet.
    fn updated_unstored(
        &mut self,
        name: &ResourceName,
        gone: &[Secret],
        mut error: Error,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        error.message = format!(
            "{}; {name} is changed already and its record is stored as soon as that is possible: \
             send the update again to be sure",
            error.message
        );
        self.mend(name, gone, now, fx);
        self.up(name, now, fx);
        self.end(name, |_| Err(error), now, fx);
    }

    /// Makes the next form the form; returns the batch that says so.
    fn take_next(&mut self, name: &ResourceName, made: &[u8]) -> Result<Batch> {
        let entry = self.held(name);
        let next = entry
            .next
            .as_ref()
            .expect("a resource being updated has a next form");
        let form = next
            .made(name, made)
            .map_err(|damage| Error::internal(damage.0))?;
        let old = std::mem::replace(&mut entry.form, form);
        entry.next = None;
        entry.phase = Phase::Ready;
        let gone = old
            .secrets
            .iter()
            .filter(|s| !entry.form.secrets.contains(s));
        let erase = gone.map(Secret::file).collect();
        self.relink(name);
        self.index_uuid(name);
        Ok(Batch {
            erase,
            ..self.record(name, &[])
        })
    }

    /// The handler refused the update: the record says again what was.
    fn revert_update(&mut self, name: &ResourceName, error: Error, fx: &mut Vec<Effect>) {
        let batch = self.without_next(name);
        self.write(name, Step::UpdateRevert(error), batch, fx);
    }

    /// Goes back to the form that was; returns the batch that says so.
    fn without_next(&mut self, name: &ResourceName) -> Batch {
        let dropped = self.drop_next(name);
        let form = &mut self.held(name).form;
        let mut erase = Vec::new();
        for secret in dropped {
            match form.secrets.iter_mut().find(|s| **s == secret) {
                // The intent sealed it, so a file that was lost is there again.
                Some(same) => same.value = same.value.take().or(secret.value),
                None => erase.push(secret.file()),
            }
        }
        Batch {
            erase,
            ..self.record(name, &[])
        }
    }

    fn not_deleted(
        &mut self,
        name: &ResourceName,
        error: Error,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        if self.held(name).phase == Phase::Abandoned {
            return self.abandoned(name, error, now, fx);
        }
        self.held(name).phase = Phase::Ready;
        let batch = self.record(name, &[]);
        self.write(name, Step::DeleteRevert(error), batch, fx);
    }

    /// A change failed and the record says again what was. Half of the change may have happened,
    /// so the handler is asked to make it as it was.
    fn reverted(&mut self, name: &ResourceName, error: Error, now: Moment, fx: &mut Vec<Effect>) {
        self.again.insert(name.clone());
        self.settled(name, now, fx);
        self.end(name, |_| Err(error), now, fx);
    }

    fn deleted(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        let entry = self.held(name);
        let mut secrets = entry.form.secrets.clone();
        secrets.extend(entry.next.iter().flat_map(|n| n.secrets.clone()));
        self.remove(name);
        self.mend(name, &secrets, now, fx);
        self.settled(name, now, fx);
        self.end(name, |_| Ok(Answer::Gone), now, fx);
    }

    /// What was recorded is there again.
    fn replayed(&mut self, name: &ResourceName, made: &[u8], now: Moment, fx: &mut Vec<Effect>) {
        let entry = self.held(name);
        let form = match entry.form.made(name, made) {
            Ok(form) => form,
            Err(damage) => return self.failed(name, &damage.0, true, now, fx),
        };
        let changed = form != entry.form;
        entry.form = form;
        let updating = entry.next.is_some();
        self.index_uuid(name);
        if updating {
            // The update that a crash or a failure cut short comes next, on what is there again.
            self.call_update(name, Step::ReplayUpdate, now, fx);
        } else if changed {
            let batch = self.record(name, &[]);
            self.write(name, Step::ReplayStore, batch, fx);
        } else {
            self.came_up(name, now, fx);
        }
    }

    fn replayed_update(
        &mut self,
        name: &ResourceName,
        result: Result<Vec<u8>>,
        fx: &mut Vec<Effect>,
    ) {
        let batch = result.and_then(|made| self.take_next(name, &made));
        let batch = batch.unwrap_or_else(|_| {
            // Nobody was told that the update succeeded, so it may as well not have happened.
            self.without_next(name)
        });
        self.write(name, Step::ReplayStore, batch, fx);
    }

    /// The resource is there, and so is its record: whoever waits is answered.
    fn came_up(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        self.up(name, now, fx);
        let wanted = self.tasks.get(name).map(|t| t.wanted).unwrap_or_default();
        let shown = |me: &Self| {
            let entry = me.entry(name).expect("it just came up");
            me.answer(entry, wanted)
        };
        self.end(name, shown, now, fx);
    }

    /// The resource is there: those that stand on it are told.
    fn up(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        let entry = self.held(name);
        entry.visible = true;
        entry.attempts = 0;
        let was_failed = matches!(entry.state, State::Failed(_));
        entry.enter(State::Up, now);
        self.unschedule(name);
        self.settled(name, now, fx);
        if was_failed {
            self.tell_dependents(name, now, fx);
        }
    }

    /// The resource could not be brought back: it stays listed, is tried again, and those that
    /// stand on it are told.
    pub(super) fn failed(
        &mut self,
        name: &ResourceName,
        reason: &str,
        retry: bool,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let entry = self.held(name);
        let was_up = entry.state == State::Up;
        entry.visible = true;
        entry.enter(State::Failed(reason.to_owned()), now);
        self.unschedule(name);
        if retry {
            self.schedule(name, now);
        }
        self.settled(name, now, fx);
        if was_up {
            self.tell_dependents(name, now, fx);
        }
        let error = Error::unavailable(reason).about(name.as_str());
        self.end(name, |_| Err(error), now, fx);
    }

    /// Plans another attempt, later with every failure.
    fn schedule(&mut self, name: &ResourceName, now: Moment) {
        self.unschedule(name);
        let entry = self.held(name);
        let doubled = RETRY_FIRST.0.saturating_mul(1 << entry.attempts.min(16));
        let at = now.mono + Nanos(doubled.min(RETRY_MAX.0));
        entry.attempts = entry.attempts.saturating_add(1);
        entry.retry = Some(at);
        self.retries.insert((at, name.clone()));
    }

    pub(super) fn unschedule(&mut self, name: &ResourceName) {
        if let Some(at) = self.entry_mut(name).and_then(|e| e.retry.take()) {
            self.retries.remove(&(at, name.clone()));
        }
    }

    /// Drives the users and children of a resource again, since what they stand on changed.
    fn tell_dependents(&mut self, name: &ResourceName, now: Moment, fx: &mut Vec<Effect>) {
        let users = self
            .users
            .get(name)
            .into_iter()
            .flatten()
            .map(|(user, _)| user.clone());
        let mut dependents: Vec<_> = users.collect();
        dependents.extend(self.children(name, usize::MAX));
        for dependent in dependents {
            self.redrive(&dependent, now, fx);
        }
    }
}

impl super::Entry {
    fn enter(&mut self, state: State, now: Moment) {
        if self.state != state {
            self.state = state;
            self.since_ns = now.unix_ns;
        }
    }
}
