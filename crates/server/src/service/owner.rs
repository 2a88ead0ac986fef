//! The task that owns the catalogue and carries out its effects.

use api::error::{Error, Result};
use api::handler::{Handlers, Job, Settings};
use api::names::ResourceName;
use control::{
    Answer, Base, Call, Catalogue, Change, Effect, Moment, Operation, Outcome, Stored, Ticket,
};
use engine::Latch;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, oneshot, watch};

use super::Writer;

/// What the owner is sent.
pub(super) enum Message {
    /// A client wants a change.
    Change(Box<Change>, oneshot::Sender<Result<Answer>>),
    /// Somebody wants to look.
    Read(Box<dyn FnOnce(&Catalogue) + Send>),
    /// An effect has ended.
    Outcome(Outcome),
    /// End when nothing is under way.
    Close(oneshot::Sender<()>),
}

/// Owns the catalogue.
pub(super) struct Owner {
    catalogue: Catalogue,
    writer: Writer,
    outcomes: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
    waiting: HashMap<Ticket, oneshot::Sender<Result<Answer>>>,
    tickets: u64,
    latch: Arc<Latch>,
    restored: watch::Sender<bool>,
    closing: Vec<oneshot::Sender<()>>,
}

/// The time now, on both clocks.
pub(super) fn moment() -> Moment {
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let unix_ns = u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX);
    Moment {
        mono: engine::now(),
        unix_ns,
    }
}

impl Owner {
    pub(super) fn new(
        catalogue: Catalogue,
        writer: Writer,
        outcomes: mpsc::UnboundedSender<Message>,
        messages: mpsc::UnboundedReceiver<Message>,
        latch: Arc<Latch>,
        restored: watch::Sender<bool>,
    ) -> Self {
        let (waiting, closing) = (HashMap::new(), Vec::new());
        Self {
            catalogue,
            writer,
            outcomes,
            messages,
            waiting,
            tickets: 0,
            latch,
            restored,
            closing,
        }
    }

    /// Drives what was stored, then serves in a task.
    pub(super) fn start(mut self, stored: Vec<Stored>) -> Result<()> {
        let effects = self.catalogue.restore(stored, moment())?;
        self.carry_out(effects);
        tokio::spawn(self.run());
        Ok(())
    }

    async fn run(mut self) {
        loop {
            if !self.closing.is_empty() && self.catalogue.is_settled() {
                break;
            }
            let deadline = self.catalogue.deadline();
            let pause = deadline.map(|at| at.since(engine::now()).duration());
            tokio::select! {
                message = self.messages.recv() => {
                    let Some(message) = message else { break };
                    self.take(message);
                }
                () = sleep(pause) => {
                    let effects = self.catalogue.tick(moment());
                    self.carry_out(effects);
                }
            }
        }
        self.writer.flush().await;
        for done in self.closing {
            // Who asked may have lost patience.
            let _ = done.send(());
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Read(look) => look(&self.catalogue),
            Message::Close(done) => self.closing.push(done),
            Message::Change(_, reply) if !self.closing.is_empty() => {
                let _ = reply.send(Err(super::closing()));
            }
            Message::Change(change, reply) => {
                self.tickets += 1;
                let ticket = Ticket(self.tickets);
                self.waiting.insert(ticket, reply);
                let effects = self.catalogue.change(ticket, *change, moment());
                self.carry_out(effects);
            }
            Message::Outcome(outcome) => {
                log(&outcome);
                let effects = self.catalogue.finish(outcome, moment());
                self.carry_out(effects);
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Write(operation, batch) => {
                    let outcomes = self.outcomes.clone();
                    self.writer.write(
                        batch,
                        Box::new(move |result| {
                            report(&outcomes, Outcome::Written(operation, result));
                        }),
                    );
                }
                Effect::Call(operation, call) => self.call(operation, call),
                Effect::Reply(ticket, reply) => {
                    let waiting = self.waiting.remove(&ticket);
                    let waiting = waiting.expect("every ticket gets one reply");
                    // A client that left does not want to know.
                    let _ = waiting.send(reply);
                }
                Effect::Restored => {
                    self.latch.open();
                    self.restored.send_replace(true);
                    tracing::info!(
                        resources = self.catalogue.len(),
                        "everything stored is driven"
                    );
                }
            }
        }
    }

    fn call(&self, operation: Operation, call: Call) {
        let (outcomes, handlers) = (self.outcomes.clone(), self.catalogue.handlers().clone());
        tokio::spawn(async move {
            let name = target(&call).clone();
            // In a task of its own, so that a handler that panics fails one call and no more.
            let result = match tokio::spawn(perform(handlers, call)).await {
                Ok(result) => result,
                Err(error) => {
                    tracing::error!(%name, %error, "a handler panicked");
                    Err(Error::internal(format!(
                        "a defect stopped the handler of {name}"
                    )))
                }
            };
            report(&outcomes, Outcome::Called(operation, result));
        });
    }
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}

/// Hands an outcome to the owner, if it is still there.
fn report(outcomes: &mpsc::UnboundedSender<Message>, outcome: Outcome) {
    // The owner leaves only when no outcome is outstanding, or with the whole program.
    let _ = outcomes.send(Message::Outcome(outcome));
}

fn log(outcome: &Outcome) {
    match outcome {
        Outcome::Written(_, Err(error)) => {
            tracing::error!(error = error.message, "the store refuses a record");
        }
        Outcome::Called(_, Err(error)) => {
            let resource = error.resource.as_deref().unwrap_or_default();
            tracing::warn!(
                resource,
                code = error.code.name(),
                error = error.message,
                "handler"
            );
        }
        _ => {}
    }
}

fn target(call: &Call) -> &ResourceName {
    match call {
        Call::Create { name, .. }
        | Call::Update { name, .. }
        | Call::Delete { name }
        | Call::Reset { name } => name,
    }
}

async fn perform(handlers: Arc<Handlers>, call: Call) -> Result<Vec<u8>> {
    let handler = handlers.of(&target(&call).kind().collection)?;
    let name = target(&call).clone();
    let done = match call {
        Call::Create {
            name,
            replay,
            bases,
            spec,
            settings,
        } => {
            let job = job(&handlers, name, replay, bases, settings);
            handler.create(job, spec).await
        }
        Call::Update {
            name,
            bases,
            old,
            new,
            settings,
        } => {
            let job = job(&handlers, name, false, bases, settings);
            handler.update(job, old, new).await
        }
        Call::Delete { name } => handler.delete(name).await.map(|()| Vec::new()),
        Call::Reset { name } => handler.reset(name).await.map(|()| Vec::new()),
    };
    done.map_err(|e| about(e, &name))
}

fn about(error: Error, name: &ResourceName) -> Error {
    if error.resource.is_some() {
        error
    } else {
        error.about(name.as_str())
    }
}

fn job(
    handlers: &Handlers,
    name: ResourceName,
    replay: bool,
    bases: Vec<Base>,
    settings: Settings,
) -> Job {
    let volumes = bases.into_iter().filter_map(|base| {
        let volume = handlers
            .of(&base.name.kind().collection)
            .ok()?
            .volume(&base.name)?;
        Some((base.field, volume))
    });
    Job {
        name,
        replay,
        volumes: volumes.collect(),
        settings,
    }
}
