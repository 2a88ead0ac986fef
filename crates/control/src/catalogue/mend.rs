//! Records that are known to differ from memory are written again until the store takes them.
//!
//! That is so after a failed write, and after a deletion: once the intent to delete is durable and
//! the handler is done, nobody has to wait for the record to go.

use api::error::Result;
use api::names::ResourceName;
use blk::Nanos;
use std::collections::{BTreeMap, BTreeSet};

use super::Catalogue;
use crate::effect::{Effect, Moment, Operation};
use crate::record::{Form, Secret};
use crate::store::{Batch, Write};

/// How long to wait after a failed attempt: a full disk is not emptied within milliseconds.
const PAUSE: Nanos = Nanos::from_secs(1);

type Work = BTreeMap<ResourceName, BTreeSet<String>>;

/// Which records differ, and the sealed files that go with them.
#[derive(Default)]
pub(super) struct Mend {
    waiting: Work,
    running: Option<(Operation, Work)>,
    not_before: Option<Nanos>,
}

impl Mend {
    pub(super) fn deadline(&self) -> Option<Nanos> {
        self.not_before
            .filter(|_| !self.waiting.is_empty() && self.running.is_none())
    }

    /// True while the record of a resource is not known to be as memory has it.
    pub(super) fn awaits(&self, name: &ResourceName) -> bool {
        let running = self.running.as_ref();
        self.waiting.contains_key(name) || running.is_some_and(|(_, work)| work.contains_key(name))
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.running.is_none()
    }
}

impl Catalogue {
    /// Makes the record of a resource durable as it is in memory, or gone if it is not there, in
    /// the background. `secrets` are erased unless the resource still has them.
    pub(super) fn mend(
        &mut self,
        name: &ResourceName,
        secrets: &[Secret],
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let files = self.mend.waiting.entry(name.clone()).or_default();
        files.extend(secrets.iter().map(Secret::file));
        self.mend_due(now, fx);
    }

    pub(super) fn mend_due(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        let early = self.mend.not_before.is_some_and(|at| at > now.mono);
        if early || self.mend.running.is_some() || self.mend.waiting.is_empty() {
            return;
        }
        let work = std::mem::take(&mut self.mend.waiting);
        let mut batch = Batch::default();
        for (name, files) in &work {
            match self.entry(name) {
                Some(entry) => {
                    let forms = [Some(&entry.form), entry.next.as_ref()];
                    let secrets = forms.into_iter().flatten().flat_map(|f: &Form| &f.secrets);
                    let kept: BTreeSet<_> = secrets.map(Secret::file).collect();
                    batch.erase.extend(files.difference(&kept).cloned());
                    batch.writes.extend(self.record(name, &[]).writes);
                }
                None => {
                    batch.erase.extend(files.iter().cloned());
                    batch.writes.push(Write::Delete {
                        name: name.to_string(),
                    });
                }
            }
        }
        let operation = self.operation();
        self.mend.running = Some((operation, work));
        self.mend.not_before = None;
        fx.push(Effect::Write(operation, batch));
    }

    /// Takes the outcome of a mending write; false if it belongs to another effect.
    pub(super) fn mended(
        &mut self,
        operation: Operation,
        result: &Result<Vec<u8>>,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) -> bool {
        let running = self.mend.running.as_ref();
        if running.is_none_or(|(running, _)| *running != operation) {
            return false;
        }
        let (_, work) = self
            .mend
            .running
            .take()
            .expect("it was looked at just above");
        if result.is_err() {
            for (name, files) in work {
                self.mend.waiting.entry(name).or_default().extend(files);
            }
            self.mend.not_before = Some(now.mono + PAUSE);
        }
        self.mend_due(now, fx);
        true
    }
}
