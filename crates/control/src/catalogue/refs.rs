//! References between resources: how they are read, what they may name, and who claims what.

use api::error::{Code, Error, Result};
use api::handler::Claim;
use api::kinds::{self, Kind, Target};
use api::names::{ResourceName, VolumeRef};
use prost_reflect::{DynamicMessage, FieldDescriptor, Value};
use std::collections::BTreeSet;

use super::discovered::is_discovered;
use super::{Catalogue, Entry, State};
use crate::effect::Base;
use crate::record::{self, Phase};

/// How many names an error lists.
const NAMES_SHOWN_MAX: usize = 5;
/// Volumes below one another at most; every layer costs latency, and sane stacks have four.
const CHAIN_MAX: usize = 16;

impl Catalogue {
    /// Replaces every reference in `resource` by the full name of what it means, and returns them.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a malformed or ambiguous one, NOT_FOUND for one that names nothing.
    pub(super) fn resolve(&self, kind: &Kind, resource: &mut DynamicMessage) -> Result<Vec<Base>> {
        let mut bases = Vec::new();
        for reference in &kind.references {
            let Some(text) = text_at(resource, &reference.path) else {
                continue;
            };
            let name = self.meant(reference.target, &text, &reference.dotted)?;
            set_at(resource, &reference.path, name.to_string());
            bases.push(Base {
                field: reference.dotted.clone(),
                name,
            });
        }
        Ok(bases)
    }

    /// As [`Catalogue::resolve`], for the references in `after` that differ from those in `before`.
    pub(super) fn resolve_changed(
        &self,
        kind: &Kind,
        before: &DynamicMessage,
        after: &mut DynamicMessage,
    ) -> Result<()> {
        for reference in &kind.references {
            let (old, new) = (
                text_at(before, &reference.path),
                text_at(after, &reference.path),
            );
            if let Some(text) = new.filter(|text| old.as_ref() != Some(text)) {
                let name = self.meant(reference.target, &text, &reference.dotted)?;
                set_at(after, &reference.path, name.to_string());
            }
        }
        Ok(())
    }

    /// As [`Catalogue::resolve`], for comparison only: what cannot be resolved stays as it is.
    pub(super) fn resolve_leniently(&self, kind: &Kind, resource: &mut DynamicMessage) {
        for reference in &kind.references {
            let Some(text) = text_at(resource, &reference.path) else {
                continue;
            };
            if let Ok(name) = self.meant(reference.target, &text, &reference.dotted) {
                set_at(resource, &reference.path, name.to_string());
            }
        }
    }

    fn meant(&self, target: Target, text: &str, field: &str) -> Result<ResourceName> {
        let name = match target {
            Target::Collection(collection) => {
                let kind = kinds::by_collection(collection);
                ResourceName::parse_for(kind.expect("the table names kinds"), text, field)?
            }
            Target::Volume => match VolumeRef::parse(text, field)? {
                VolumeRef::Name(name) => name,
                VolumeRef::Id(id) => return self.volume_by_id(&id, text, field),
            },
        };
        if self.exists(&name) {
            return Ok(name);
        }
        let message = format!("{field}: {name} does not exist");
        Err(Error::new(Code::NotFound, message)
            .about(name.as_str())
            .at(field))
    }

    fn volume_by_id(&self, id: &str, text: &str, field: &str) -> Result<ResourceName> {
        let mut found = self.ids.get(id).cloned().unwrap_or_default();
        if let Some(uuid) = normal_uuid(id) {
            found.extend(self.uuids.get(&uuid).into_iter().flatten().cloned());
        }
        found.extend(self.discovered_by_id(id));
        let mut names = found.iter();
        match (names.next(), names.next()) {
            (Some(name), None) => Ok(name.clone()),
            (None, _) => {
                let message = format!("{field}: no volume is called {text}");
                Err(Error::new(Code::NotFound, message).about(text).at(field))
            }
            (Some(_), Some(_)) => {
                let names = listed(&found);
                let message = format!("`{text}` can mean {names}: give the full name");
                Err(Error::invalid(field, message))
            }
        }
    }

    fn exists(&self, name: &ResourceName) -> bool {
        if !is_discovered(name.kind()) {
            return self.entry(name).is_some();
        }
        // Discovered resources are not entered: their handler knows them.
        let handler = self.handlers.of(&name.kind().collection);
        handler.is_ok_and(|h| h.volume(name).is_some())
    }

    /// Checks that something new can be built on `name` now.
    pub(super) fn check_usable(&self, name: &ResourceName, field: &str) -> Result<()> {
        let Some(entry) = self.entry(name) else {
            return Ok(());
        };
        let refuse = |code, why: String| {
            Err(Error::new(code, format!("{name} {why}"))
                .about(name.as_str())
                .at(field))
        };
        match (entry.phase, &entry.state) {
            (Phase::Creating, _) => refuse(
                Code::Aborted,
                "is still being created: try again".to_owned(),
            ),
            (Phase::Deleting, _) => refuse(Code::FailedPrecondition, "is being deleted".to_owned()),
            (_, State::Failed(why)) => refuse(
                Code::FailedPrecondition,
                format!("cannot be used now: {why}"),
            ),
            (_, State::Pending) => refuse(
                Code::Unavailable,
                "is still being restored: try again".to_owned(),
            ),
            (_, State::Up) => Ok(()),
        }
    }

    /// Checks that `user` may use `bases` as `claim` says, and that it does not stand on itself.
    pub(super) fn check_claims(
        &self,
        user: &ResourceName,
        bases: &[Base],
        claim: Claim,
    ) -> Result<()> {
        for Base { field, name } in bases {
            self.check_usable(name, field)?;
            let mut others = self
                .users
                .get(name)
                .into_iter()
                .flatten()
                .filter(|(n, _)| *n != user);
            let blocker = match claim {
                Claim::Exclusive => others.next(),
                Claim::Shared => others.find(|(_, claim)| **claim == Claim::Exclusive),
            };
            if let Some((other, _)) = blocker {
                let message = format!("{field}: {name} is in use by {other}, which shares it not");
                let mut error = Error::precondition(message).about(name.as_str()).at(field);
                error.in_use_by = vec![other.to_string()];
                return Err(error);
            }
            let below = self.below(name);
            if name == user || below.contains(user) {
                let message = format!("{name} stands on {user} itself");
                return Err(Error::invalid(field, message));
            }
            if below.len() >= CHAIN_MAX {
                let message =
                    format!("{name} has {CHAIN_MAX} volumes below it, the most there may be");
                return Err(Error::precondition(message).at(field));
            }
        }
        Ok(())
    }

    /// The volumes below a resource, nearest first.
    pub(super) fn below(&self, name: &ResourceName) -> Vec<ResourceName> {
        let mut found: Vec<ResourceName> = Vec::new();
        let mut level = vec![name.clone()];
        while !level.is_empty() && found.len() <= CHAIN_MAX {
            let bases = level
                .iter()
                .filter_map(|n| self.entry(n))
                .flat_map(|e| &e.bases);
            let next: BTreeSet<_> = bases
                .map(|b| &b.name)
                .filter(|n| n.kind().is_volume)
                .collect();
            level = next
                .into_iter()
                .filter(|n| !found.contains(n))
                .cloned()
                .collect();
            found.extend(level.iter().cloned());
        }
        found
    }

    /// Enters what a resource refers to into the index of users.
    pub(super) fn link(&mut self, name: &ResourceName) {
        let claim = self.handlers.of(&name.kind().collection).map(|h| h.claim());
        let claim = claim.unwrap_or_default();
        let entry = self.entry(name).expect("it is entered");
        let bases: Vec<_> = entry.bases.iter().map(|b| b.name.clone()).collect();
        for base in bases {
            self.users
                .entry(base)
                .or_default()
                .insert(name.clone(), claim);
        }
    }

    /// The reverse of [`Catalogue::link`].
    pub(super) fn unlink(&mut self, name: &ResourceName) {
        let entry = self.entry(name).expect("it is entered");
        let bases: Vec<_> = entry.bases.iter().map(|b| b.name.clone()).collect();
        for base in bases {
            if let Some(users) = self.users.get_mut(&base) {
                users.remove(name);
                if users.is_empty() {
                    self.users.remove(&base);
                }
            }
        }
    }

    /// Sets what a resource refers to, by the forms that it has now.
    pub(super) fn relink(&mut self, name: &ResourceName) {
        self.unlink(name);
        let entry = self.held(name);
        entry.bases = bases_of(entry);
        self.link(name);
    }

    /// Who stands in the way of deleting a resource.
    pub(super) fn check_unused(&self, name: &ResourceName) -> Result<()> {
        let mut in_use: BTreeSet<_> = self
            .users
            .get(name)
            .into_iter()
            .flatten()
            .map(|u| u.0.clone())
            .collect();
        // What was found below it is used through it.
        let below = self.users.iter().filter(|(base, _)| base.is_below(name));
        let below = below.filter(|(base, _)| is_discovered(base.kind()));
        in_use.extend(below.flat_map(|(_, users)| users.keys().cloned()));
        let users = in_use.len();
        in_use.extend(self.children(name, 4 * NAMES_SHOWN_MAX));
        if in_use.is_empty() {
            return Ok(());
        }
        let how = if users > 0 { "is in use by" } else { "has" };
        let message = format!("{name} {how} {}: delete that first", listed(&in_use));
        let mut error = Error::precondition(message).about(name.as_str());
        error.in_use_by = in_use.iter().map(ToString::to_string).collect();
        Err(error)
    }
}

/// What the forms of an entry refer to, without repetition.
pub(super) fn bases_of(entry: &Entry) -> Vec<Base> {
    let mut bases: Vec<Base> = Vec::new();
    for form in [Some(&entry.form), entry.next.as_ref()]
        .into_iter()
        .flatten()
    {
        for base in bases_in(entry.name.kind(), &form.spec) {
            if !bases.contains(&base) {
                bases.push(base);
            }
        }
    }
    bases
}

/// What an encoded resource refers to; its references are full names already.
pub(super) fn bases_in(kind: &Kind, spec: &[u8]) -> Vec<Base> {
    let Ok(message) = record::decode(kind, spec) else {
        return Vec::new();
    };
    let named = kind.references.iter().filter_map(|reference| {
        let text = text_at(&message, &reference.path)?;
        let name = ResourceName::parse(&text, &reference.dotted).ok()?;
        Some(Base {
            field: reference.dotted.clone(),
            name,
        })
    });
    named.collect()
}

/// The UUID of an encoded volume, if it has one.
pub(super) fn uuid_of(kind: &Kind, spec: &[u8]) -> Option<String> {
    let field = kind.message.get_field_by_name("uuid")?;
    let message = record::decode(kind, spec).ok()?;
    normal_uuid(message.get_field(&field).as_str()?)
}

/// The identifiers of an encoded discovered volume, as hexadecimal digits: UUID, NGUID, EUI-64.
pub(super) fn identifiers_of(kind: &Kind, bytes: &[u8]) -> Vec<String> {
    let Ok(message) = record::decode(kind, bytes) else {
        return Vec::new();
    };
    let value = |name| {
        let field = kind.message.get_field_by_name(name)?;
        match &*message.get_field(&field) {
            Value::String(text) => normal_uuid(text),
            Value::I64(0) => None,
            Value::I64(number) => Some(format!("{number:016x}")),
            _ => None,
        }
    };
    ["uuid", "nguid", "eui64"]
        .into_iter()
        .filter_map(value)
        .collect()
}

/// 32 hexadecimal digits in lower case, from a UUID with or without hyphens.
fn normal_uuid(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let fits = digits.len() == 32 && digits.chars().all(|c| c.is_ascii_hexdigit());
    fits.then(|| digits.to_ascii_lowercase())
}

fn listed(names: &BTreeSet<ResourceName>) -> String {
    let shown: Vec<_> = names
        .iter()
        .take(NAMES_SHOWN_MAX)
        .map(ToString::to_string)
        .collect();
    match names.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The text in a field further down; `None` if it is empty or absent.
pub(super) fn text_at(message: &DynamicMessage, path: &[FieldDescriptor]) -> Option<String> {
    let [field, rest @ ..] = path else {
        return None;
    };
    if !message.has_field(field) {
        return None;
    }
    match &*message.get_field(field) {
        Value::String(text) if rest.is_empty() => Some(text.clone()),
        Value::Message(inner) => text_at(inner, rest),
        _ => None,
    }
}

/// Sets the text of a field that [`text_at`] found.
pub(super) fn set_at(message: &mut DynamicMessage, path: &[FieldDescriptor], text: String) {
    let [field, rest @ ..] = path else { return };
    if rest.is_empty() {
        message.set_field(field, Value::String(text));
    } else if let Value::Message(inner) = message.get_field_mut(field) {
        set_at(inner, rest, text);
    }
}
