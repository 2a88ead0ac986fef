//! The beginning of a change: everything that can be refused is refused here, before anything is
//! written.

use api::error::{Code, Error, Result};
use api::fields;
use api::kinds::{Kind, Verb};
use api::mask::{self, Mask};
use api::names::{self, IdRule, ResourceName};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

use super::{Catalogue, Entry, RESOURCES_MAX, State, Step, Task, Wanted, refs};
use crate::effect::{Answer, Call, Change, Effect, Moment, Ticket};
use crate::record::{self, Form, Phase, Secret};

/// How many differing fields an error lists.
const FIELDS_SHOWN_MAX: usize = 8;

impl Catalogue {
    /// The resource that a change is about.
    pub(super) fn target(&self, change: &Change) -> Result<ResourceName> {
        match change {
            Change::Create {
                kind,
                parent,
                id,
                fresh_id,
                ..
            } => {
                self.handlers.of(&kind.collection)?;
                let parent = match kind.parent() {
                    Some(kind) => Some(ResourceName::parse_for(kind, parent, "parent")?),
                    None => None,
                };
                if id.is_empty() {
                    return ResourceName::new(kind, parent.as_ref(), fresh_id);
                }
                let method = kind.method(&Verb::Create);
                let field = method.and_then(|m| m.fields.id.as_ref());
                names::check_new_id(id, self.id_rule(), field.map_or("id", |f| f.name()))?;
                ResourceName::new(kind, parent.as_ref(), id)
            }
            Change::Update { kind, resource, .. } => {
                self.handlers.of(&kind.collection)?;
                let name = resource.get_field_by_name("name");
                let name = name.as_deref().and_then(Value::as_str).unwrap_or_default();
                let field = format!("{}.name", resource_field(kind));
                ResourceName::parse_for(kind, name, &field)
            }
            Change::UpdateSettings { kind, settings, .. } => self.settings_target(kind, settings),
            Change::Delete { kind, name, .. } | Change::Reset { kind, name } => {
                self.named(kind, name)
            }
        }
    }

    /// A resource of a kind that is served, by any form of its name.
    pub(super) fn named(&self, kind: &'static Kind, name: &str) -> Result<ResourceName> {
        self.handlers.of(&kind.collection)?;
        ResourceName::parse_for(kind, name, "name")
    }

    fn id_rule(&self) -> IdRule {
        if self.settings.legacy_names {
            IdRule::Legacy
        } else {
            IdRule::Strict
        }
    }

    /// Begins a change of a resource that no task works on.
    pub(super) fn begin(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        change: Change,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) {
        let ready = match change {
            Change::Create { resource, .. } => self.begin_create(ticket, name, resource, now, fx),
            Change::Update {
                resource,
                mask,
                allow_missing,
                ..
            } => {
                let known = self.entry(name).is_some_and(|e| e.visible);
                match (known, allow_missing) {
                    (true, _) => self.begin_update(ticket, name, resource, &mask, fx),
                    (false, true) => {
                        let field = format!("{}.name", resource_field(name.kind()));
                        names::check_new_id(name.id(), self.id_rule(), &field)
                            .and_then(|()| self.begin_create(ticket, name, resource, now, fx))
                    }
                    (false, false) => Err(Error::not_found(name.as_str())),
                }
            }
            Change::UpdateSettings { settings, mask, .. } => {
                self.begin_update_settings(ticket, name, settings, &mask, fx)
            }
            Change::Delete { allow_missing, .. } => {
                self.begin_delete(ticket, name, allow_missing, fx)
            }
            Change::Reset { .. } => self.begin_reset(ticket, name, fx),
        };
        let reply = match ready {
            Ok(None) => return,
            Ok(Some(answer)) => Ok(answer),
            Err(error) if error.resource.is_none() => Err(error.about(name.as_str())),
            Err(error) => Err(error),
        };
        fx.push(Effect::Reply(ticket, reply));
    }

    fn begin_create(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        mut resource: DynamicMessage,
        now: Moment,
        fx: &mut Vec<Effect>,
    ) -> Result<Option<Answer>> {
        let kind = name.kind();
        fields::clear_output_only(&mut resource);
        resource.clear_field_by_name("name");
        match self.entry(name) {
            Some(entry) if entry.visible => {
                return self.same_again(entry, resource).map(Some);
            }
            Some(_) => {
                let text = format!("an earlier attempt to make {name} is being undone: try again");
                return Err(Error::new(Code::Aborted, text));
            }
            None => {}
        }
        let handler = self.handlers.of(&kind.collection)?;
        fields::check_required(&resource).map_err(|e| inside(kind, e))?;
        if let Some(parent) = name.parent() {
            if self.entry(&parent).is_none() {
                return Err(Error::not_found(parent.as_str()).at("parent"));
            }
            self.check_usable(&parent, "parent")?;
        }
        let bases = self
            .resolve(kind, &mut resource)
            .map_err(|e| inside(kind, e))?;
        self.check_claims(name, &bases, handler.claim())
            .map_err(|e| inside(kind, e))?;
        let form = Form::take(name, resource, &self.keys);
        let whole = form.whole(kind).map_err(Error::internal)?;
        handler
            .admit(name, &whole, None)
            .map_err(|e| inside(kind, e))?;
        if self.count >= RESOURCES_MAX {
            let text = format!("there are {RESOURCES_MAX} resources, the most this server keeps");
            return Err(Error::new(Code::ResourceExhausted, text));
        }
        self.insert(Entry {
            name: name.clone(),
            phase: Phase::Creating,
            form,
            next: None,
            visible: false,
            state: State::Pending,
            since_ns: now.unix_ns,
            bases,
            uuid: None,
            attempts: 0,
            retry: None,
        });
        let secrets = self.held(name).form.secrets.clone();
        let batch = self.record(name, &secrets);
        self.hold(name, ticket, Step::CreateIntent);
        self.write(name, Step::CreateIntent, batch, fx);
        Ok(None)
    }

    /// A create of what exists: fine if it is what was asked for before.
    fn same_again(&self, entry: &Entry, mut resource: DynamicMessage) -> Result<Answer> {
        let kind = entry.name.kind();
        self.resolve_leniently(kind, &mut resource);
        let secrets = record::take_secrets(&entry.name, &mut resource, &self.keys);
        let sent = record::decode(kind, &entry.form.sent).map_err(|d| Error::internal(d.0))?;
        let mut differ = mask::diff(&sent, &resource);
        let changed = |one: &[Secret], other: &[Secret]| {
            let new = one.iter().filter(|s| !other.contains(s));
            new.map(|s| s.field.clone()).collect::<Vec<_>>()
        };
        differ.extend(changed(&secrets, &entry.form.secrets));
        differ.extend(changed(&entry.form.secrets, &secrets));
        differ.sort();
        differ.dedup();
        let Some(first) = differ.first().cloned() else {
            return Ok(Answer::Resource(self.show(entry)?));
        };
        differ.truncate(FIELDS_SHOWN_MAX);
        let name = &entry.name;
        let text = format!(
            "{name} exists and was created with another {}",
            differ.join(", ")
        );
        let error = Error::new(Code::AlreadyExists, text)
            .about(name.as_str())
            .at(first);
        Err(inside(kind, error))
    }

    fn begin_update(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        mut resource: DynamicMessage,
        paths: &[String],
        fx: &mut Vec<Effect>,
    ) -> Result<Option<Answer>> {
        let kind = name.kind();
        let handler = self.handlers.of(&kind.collection)?;
        fields::clear_output_only(&mut resource);
        resource.clear_field_by_name("name");
        let mask = Mask::parse(paths, &kind.message, "update_mask")?;
        let entry = self.entry(name).expect("the caller saw it");
        if entry.phase == Phase::Deleting {
            return Err(Error::precondition(format!("{name} is being deleted")));
        }
        let next = self.apply(entry, &mask, &resource)?;
        if self.is_so(entry, &next) {
            return self.unchanged(ticket, name, Wanted::Resource, fx);
        }
        let bases = refs::bases_in(kind, &next.spec);
        if bases != refs::bases_in(kind, &entry.form.spec) {
            self.check_claims(name, &bases, handler.claim())
                .map_err(|e| inside(kind, e))?;
        }
        let whole = next.whole(kind).map_err(|field| unopened(name, &field))?;
        // A secret that could not be opened is about to be replaced; without it, the old form is
        // shown to the handler as far as it is known.
        let old = entry
            .form
            .whole(kind)
            .unwrap_or_else(|_| entry.form.spec.clone());
        handler
            .admit(name, &whole, Some(&old))
            .map_err(|e| inside(kind, e))?;
        // One whose sealed file is lost is sealed again, though it is the same secret.
        let kept = |s: &&Secret| s.value.is_some();
        let old: Vec<_> = entry.form.secrets.iter().filter(kept).collect();
        let new = next.secrets.iter().filter(|s| !old.contains(s));
        let seal: Vec<_> = new.cloned().collect();
        self.intend_update(ticket, name, next, &seal, Wanted::Resource, fx);
        Ok(None)
    }

    /// Whether an update asks for what is there. What failed is worth another attempt, even if
    /// nothing else is asked for.
    pub(super) fn is_so(&self, entry: &Entry, next: &Form) -> bool {
        *next == entry.form && entry.state == State::Up
    }

    /// The end of an update that asks for what is there.
    pub(super) fn unchanged(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        wanted: Wanted,
        fx: &mut Vec<Effect>,
    ) -> Result<Option<Answer>> {
        if !self.mend.awaits(name) {
            let entry = self.entry(name).expect("the caller saw it");
            return self.answer(entry, wanted).map(Some);
        }
        // It is so, and only its record is behind: success is told once that is stored.
        let batch = self.record(name, &[]);
        self.hold_for(name, ticket, Step::UpdateStore(Vec::new()), wanted);
        self.write(name, Step::UpdateStore(Vec::new()), batch, fx);
        Ok(None)
    }

    /// Writes that a resource shall have another form.
    pub(super) fn intend_update(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        next: Form,
        seal: &[Secret],
        wanted: Wanted,
        fx: &mut Vec<Effect>,
    ) {
        let entry = self.held(name);
        entry.phase = Phase::Updating;
        entry.next = Some(next);
        self.relink(name);
        let batch = self.record(name, seal);
        self.hold_for(name, ticket, Step::UpdateIntent, wanted);
        self.write(name, Step::UpdateIntent, batch, fx);
    }

    /// The form that an update asks for.
    fn apply(&self, entry: &Entry, mask: &Mask, sent: &DynamicMessage) -> Result<Form> {
        let (name, kind) = (&entry.name, entry.name.kind());
        let read = |bytes: &[u8]| record::decode(kind, bytes).map_err(|d| Error::internal(d.0));
        let with_secrets = |mut message: DynamicMessage| {
            // A secret whose file is lost counts as absent: only sending it anew helps.
            for secret in &entry.form.secrets {
                if let Some(value) = &secret.value {
                    fields::put_secret(&mut message, &secret.field, value)?;
                }
            }
            Ok::<_, Error>(message)
        };
        // References that stay as they are were resolved when they came, and need not be again.
        let apply = |before: &DynamicMessage| {
            let mut after = before.clone();
            mask.apply(sent, &mut after);
            self.resolve_changed(kind, before, &mut after)
                .map_err(|e| inside(kind, e))?;
            Ok::<_, Error>(after)
        };
        let mut spec = apply(&with_secrets(read(&entry.form.spec)?)?)?;
        fields::check_required(&spec).map_err(|e| inside(kind, e))?;
        let mut sent_so_far = apply(&with_secrets(read(&entry.form.sent)?)?)?;
        sent_so_far.clear_field_by_name("name");
        let secrets = record::take_secrets(name, &mut spec, &self.keys);
        fields::clear_secrets(&mut sent_so_far);
        record::set_name(&mut spec, name.as_str());
        Ok(Form {
            sent: sent_so_far.encode_to_vec(),
            spec: spec.encode_to_vec(),
            secrets,
            settings: entry.form.settings.clone(),
        })
    }

    fn begin_delete(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        allow_missing: bool,
        fx: &mut Vec<Effect>,
    ) -> Result<Option<Answer>> {
        if !self.entry(name).is_some_and(|e| e.visible) {
            let missing = Err(Error::not_found(name.as_str()));
            return if allow_missing {
                Ok(Some(Answer::Gone))
            } else {
                missing
            };
        }
        self.check_unused(name)?;
        let entry = self.held(name);
        entry.phase = Phase::Deleting;
        let batch = self.record(name, &[]);
        self.hold(name, ticket, Step::DeleteIntent);
        self.write(name, Step::DeleteIntent, batch, fx);
        Ok(None)
    }

    /// A reset is the handler's alone: a crash in the middle of it leaves what was.
    fn begin_reset(
        &mut self,
        ticket: Ticket,
        name: &ResourceName,
        fx: &mut Vec<Effect>,
    ) -> Result<Option<Answer>> {
        if !self.entry(name).is_some_and(|e| e.visible) {
            return Err(Error::not_found(name.as_str()));
        }
        self.check_usable(name, "name")?;
        self.hold(name, ticket, Step::ResetCall);
        self.call(
            name,
            Step::ResetCall,
            Call::Reset { name: name.clone() },
            fx,
        );
        Ok(None)
    }

    fn hold(&mut self, name: &ResourceName, ticket: Ticket, step: Step) {
        self.hold_for(name, ticket, step, Wanted::Resource);
    }

    fn hold_for(&mut self, name: &ResourceName, ticket: Ticket, step: Step, wanted: Wanted) {
        let task = Task {
            step,
            ticket: Some(ticket),
            wanted,
        };
        let before = self.tasks.insert(name.clone(), task);
        assert!(before.is_none(), "two tasks work on {name}");
        self.unschedule(name);
    }
}

/// Why a resource whose secret cannot be opened cannot be driven.
pub(super) fn unopened(name: &ResourceName, field: &str) -> Error {
    let text = format!(
        "the sealed file of {field} is gone, damaged or sealed with another key file: send \
         {field} again with an update"
    );
    Error::precondition(text).about(name.as_str())
}

/// The field of create and update requests that holds the resource.
fn resource_field(kind: &Kind) -> &str {
    let method = kind
        .method(&Verb::Create)
        .or_else(|| kind.method(&Verb::Update));
    let field = method.and_then(|m| m.fields.resource.as_ref());
    field.map_or("resource", |f| f.name())
}

/// The same error, with its field seen from the request, as handlers name it already.
fn inside(kind: &Kind, error: Error) -> Error {
    below(resource_field(kind), error)
}

/// The same error, with its field seen from the request that holds `resource`.
pub(super) fn below(resource: &str, mut error: Error) -> Error {
    let Some(field) = error.field.take() else {
        return error;
    };
    let seen = field
        .strip_prefix(resource)
        .is_some_and(|rest| rest.starts_with('.'));
    if seen || field == "parent" {
        return error.at(field);
    }
    let whole = format!("{resource}.{field}");
    // Messages lead with the field they are about, and must name the same one.
    if let Some(rest) = error.message.strip_prefix(&format!("{field}: ")) {
        error.message = format!("{whole}: {rest}");
    }
    error.at(whole)
}
