//! What is shown of the resources: one, a page of them, and how they are doing.

use api::error::{Error, Result};
use api::fields;
use api::handler::{Fact, Health, Observed};
use api::kinds::{self, Kind};
use api::names::{self, ResourceName};
use blk::Tally;
use prost_reflect::DynamicMessage;
use std::ops::Bound;

use super::discovered::{Discovered, is_discovered};
use super::{Catalogue, Entry, State, refs};
use crate::page::Page;
use crate::record::{self, Phase};

/// Resources in a page when the client names no number (AIP-158).
pub const PAGE_SIZE_DEFAULT: usize = 50;
/// Resources in a page at most: a page must stay well below the largest message.
pub const PAGE_SIZE_MAX: usize = 250;
/// Reads the children of all parents (AIP-159).
const ANY_PARENT: &str = "-";
/// The listing that page tokens of [`Catalogue::sights`] belong to.
const SIGHTS: &str = "observations";

/// How a resource is doing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Condition {
    /// Being made, changed, or not driven yet since the start.
    Pending,
    /// As asked for, and working.
    Ready,
    /// As asked for; something below is lost.
    Offline(String),
    /// Could not be brought back; it is tried again.
    Failed(String),
    /// Being removed.
    Deleting,
}

/// What can be seen of a resource at one moment.
#[derive(Clone, Debug)]
pub struct Sight {
    /// The resource.
    pub name: ResourceName,
    /// How it is doing.
    pub condition: Condition,
    /// Since when it is up or failed, in nanoseconds since the Unix epoch.
    pub since_ns: u64,
    /// What it counted; `None` for kinds that do no I/O.
    pub stats: Option<Tally>,
    /// What else is known of it.
    pub facts: Vec<Fact>,
    /// The volumes below, nearest first.
    pub chain: Vec<ResourceName>,
    /// Who refers to it.
    pub users: Vec<ResourceName>,
}

impl Catalogue {
    /// One resource.
    ///
    /// # Errors
    /// UNIMPLEMENTED, INVALID_ARGUMENT for a malformed name, NOT_FOUND.
    pub fn get(&self, kind: &'static Kind, name: &str) -> Result<DynamicMessage> {
        let name = self.named(kind, name)?;
        if is_discovered(kind) {
            return self.show_discovered(&self.find_discovered(&name)?);
        }
        self.show(self.visible(&name)?)
    }

    /// A page of the resources of one kind, in order of their names, and the next page's token.
    ///
    /// # Errors
    /// UNIMPLEMENTED; INVALID_ARGUMENT for a negative size or a token that is not ours;
    /// NOT_FOUND for a parent that does not exist.
    pub fn list(
        &self,
        kind: &'static Kind,
        parent: &str,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<DynamicMessage>, String)> {
        self.handlers.of(&kind.collection)?;
        let size = page_entries(page_size)?;
        let prefix = self.list_prefix(kind, parent)?;
        let page = Page::read(&self.keys, page_token, &kind.collection, &prefix)?;
        if is_discovered(kind) {
            return self.list_discovered(kind, size, page, &prefix);
        }
        let after = match page.last.as_str() {
            "" => Bound::Included(prefix.as_str()),
            last => Bound::Excluded(last),
        };
        let shelf = self.shelves.get(kind.collection.as_str());
        let found = shelf
            .into_iter()
            .flat_map(|s| s.range::<str, _>((after, Bound::Unbounded)));
        let mut found = found
            .take_while(|(name, _)| name.starts_with(&prefix))
            .filter(|(_, e)| e.visible);
        let shown: Vec<_> = found.by_ref().take(size).map(|(_, entry)| entry).collect();
        let next = match (shown.last(), found.next()) {
            (Some(last), Some(_)) => Page {
                last: last.name.to_string(),
                ..page
            }
            .token(&self.keys),
            _ => String::new(),
        };
        let shown = shown
            .into_iter()
            .map(|entry| self.show(entry))
            .collect::<Result<_>>()?;
        Ok((shown, next))
    }

    fn list_discovered(
        &self,
        kind: &'static Kind,
        size: usize,
        page: Page,
        prefix: &str,
    ) -> Result<(Vec<DynamicMessage>, String)> {
        let mut found = self.discovered(kind, None);
        found.retain(|one| one.name.as_str().starts_with(prefix));
        found.retain(|one| one.name.as_str() > page.last.as_str());
        let more = found.len() > size;
        found.truncate(size);
        let next = match found.last() {
            Some(last) if more => Page {
                last: last.name.to_string(),
                ..page
            }
            .token(&self.keys),
            _ => String::new(),
        };
        let shown = found.iter().map(|one| self.show_discovered(one));
        Ok((shown.collect::<Result<_>>()?, next))
    }

    /// What the names in a list begin with.
    fn list_prefix(&self, kind: &Kind, parent: &str) -> Result<String> {
        // Five lists of top-level kinds demand a parent, which can mean nothing.
        let Some(parent_kind) = kind.parent() else {
            return Ok(String::new());
        };
        let (_, last) = parent.rsplit_once('/').unwrap_or(("", parent));
        if last == ANY_PARENT {
            return Ok(String::new());
        }
        let name = ResourceName::parse_for(parent_kind, parent, "parent")?;
        self.visible(&name).map_err(|e| e.at("parent"))?;
        Ok(format!("{name}/{}/", kind.collection))
    }

    /// What a resource counted.
    ///
    /// # Errors
    /// As [`Catalogue::get`].
    pub fn stats(&self, kind: &'static Kind, name: &str) -> Result<Tally> {
        let name = self.named(kind, name)?;
        Ok(self.look_at(&name)?.stats.unwrap_or_default())
    }

    /// How one resource of any kind is doing. Its name may be short where only one fits.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a malformed or ambiguous name, NOT_FOUND.
    pub fn sight(&self, name: &str) -> Result<Sight> {
        let full = ResourceName::parse(name, "name");
        let full = full.or_else(|error| self.only_match(name).ok_or(error)?)?;
        self.look_at(&full)
    }

    fn look_at(&self, name: &ResourceName) -> Result<Sight> {
        if is_discovered(name.kind()) {
            return self.look_discovered(&self.find_discovered(name)?);
        }
        self.look(self.visible(name)?)
    }

    fn look_discovered(&self, one: &Discovered) -> Result<Sight> {
        let handler = self.handlers.of(&one.name.kind().collection)?;
        let (_, observed) = handler.observe(&one.name, &one.bytes)?;
        let condition = match observed.health {
            Health::Offline(why) => Condition::Offline(why),
            Health::Online => Condition::Ready,
        };
        let above = one.name.parent();
        let above = above.and_then(|parent| self.entry(&parent));
        Ok(Sight {
            condition,
            since_ns: above.map_or(0, |entry| entry.since_ns),
            stats: observed.stats,
            facts: observed.facts,
            chain: Vec::new(),
            users: self.users_of(&one.name),
            name: one.name.clone(),
        })
    }

    fn users_of(&self, name: &ResourceName) -> Vec<ResourceName> {
        let users = self.users.get(name).into_iter().flatten();
        users.map(|(user, _)| user.clone()).collect()
    }

    /// The one resource with this id; an error if several have it.
    fn only_match(&self, text: &str) -> Option<Result<ResourceName>> {
        let id = match text.split_once('/') {
            None => text,
            Some((kinds::LEGACY_COLLECTION, id)) => id,
            Some(_) => return None,
        };
        let legacy_only = id.len() < text.len();
        let kinds = kinds::all().iter().filter(|k| k.parent().is_none());
        let kinds = kinds.filter(|k| !legacy_only || k.legacy_collection.is_some());
        let names = kinds.filter_map(|k| ResourceName::new(k, None, id).ok());
        let found: Vec<_> = names.filter(|n| self.visible(n).is_ok()).collect();
        match &found[..] {
            [] => None,
            [one] => Some(Ok(one.clone())),
            [one, other, ..] => {
                let message = format!("`{text}` can mean {one} and {other}: give the full name");
                Some(Err(Error::invalid("name", message)))
            }
        }
    }

    /// How many resources are doing, in order of their names: those below `parent`, if it is not
    /// empty, and of one kind, if given; and the next page's token.
    ///
    /// # Errors
    /// INVALID_ARGUMENT and NOT_FOUND as in [`Catalogue::list`].
    pub fn sights(
        &self,
        parent: &str,
        kind: Option<&'static Kind>,
        page_size: i32,
        page_token: &str,
    ) -> Result<(Vec<Sight>, String)> {
        let size = page_entries(page_size)?;
        let prefix = match parent {
            "" => String::new(),
            parent => {
                let name = ResourceName::parse(parent, "parent")?;
                self.visible(&name).map_err(|e| e.at("parent"))?;
                format!("{name}/")
            }
        };
        let scope = format!("{prefix} {}", kind.map_or("", |k| &k.collection));
        let page = Page::read(&self.keys, page_token, SIGHTS, &scope)?;
        let mut names: Vec<_> = self
            .names(kind)
            .filter(|n| n.as_str() > page.last.as_str())
            .collect();
        names.retain(|n| n.as_str().starts_with(&prefix));
        names.sort();
        let more = names.len() > size;
        names.truncate(size);
        let next = match names.last() {
            Some(last) if more => Page {
                last: last.to_string(),
                ..page
            }
            .token(&self.keys),
            _ => String::new(),
        };
        let sights = names.iter().map(|name| self.look_at(name));
        Ok((sights.collect::<Result<_>>()?, next))
    }

    /// The names of what can be seen, of one kind or of all, in no order.
    pub fn names(&self, kind: Option<&'static Kind>) -> impl Iterator<Item = ResourceName> {
        let shelves = self.shelves.iter();
        let shelves = shelves.filter(move |(c, _)| kind.is_none_or(|k| k.collection == **c));
        let entries = shelves.flat_map(|(_, shelf)| shelf.values());
        let stored = entries.filter(|e| e.visible).map(|e| e.name.clone());
        stored.chain(self.all_discovered(kind).into_iter().map(|one| one.name))
    }

    pub(super) fn visible(&self, name: &ResourceName) -> Result<&Entry> {
        let entry = self.entry(name).filter(|e| e.visible);
        entry.ok_or_else(|| Error::not_found(name.as_str()))
    }

    fn observe(&self, entry: &Entry) -> Result<(Vec<u8>, Observed)> {
        match self.handlers.of(&entry.name.kind().collection) {
            Ok(handler) => handler.observe(&entry.name, &entry.form.spec),
            Err(_) => Ok((entry.form.spec.clone(), Observed::default())),
        }
    }

    /// A resource as a client sees it.
    pub(super) fn show(&self, entry: &Entry) -> Result<DynamicMessage> {
        let kind = entry.name.kind();
        let (bytes, _) = self.observe(entry)?;
        let mut shown = record::decode(kind, &bytes).map_err(|d| Error::internal(d.0))?;
        fields::clear_secrets(&mut shown);
        if !self.settings.legacy_names {
            record::set_name(&mut shown, entry.name.as_str());
            return Ok(shown);
        }
        record::set_name(&mut shown, &names::legacy_name(&entry.name));
        for reference in &kind.references {
            let text = refs::text_at(&shown, &reference.path);
            let name = text.and_then(|t| ResourceName::parse(&t, &reference.dotted).ok());
            if let Some(name) = name {
                refs::set_at(&mut shown, &reference.path, names::legacy_name(&name));
            }
        }
        Ok(shown)
    }

    fn look(&self, entry: &Entry) -> Result<Sight> {
        let (_, observed) = self.observe(entry)?;
        let condition = match (entry.phase, &entry.state, observed.health) {
            (Phase::Deleting | Phase::Abandoned, _, _) => Condition::Deleting,
            (_, State::Failed(why), _) => Condition::Failed(why.clone()),
            (Phase::Creating | Phase::Updating, _, _) | (_, State::Pending, _) => {
                Condition::Pending
            }
            (_, State::Up, Health::Offline(why)) => Condition::Offline(why),
            (_, State::Up, Health::Online) => Condition::Ready,
        };
        Ok(Sight {
            name: entry.name.clone(),
            condition,
            since_ns: entry.since_ns,
            stats: observed.stats,
            facts: observed.facts,
            chain: self.below(&entry.name),
            users: self.users_of(&entry.name),
        })
    }
}

/// How many resources a page holds.
fn page_entries(page_size: i32) -> Result<usize> {
    match usize::try_from(page_size) {
        Ok(0) => Ok(PAGE_SIZE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_SIZE_MAX)),
        Err(_) => {
            let message = format!(
                "{page_size} is negative; give 1 to {PAGE_SIZE_MAX}, or 0 for {PAGE_SIZE_DEFAULT}"
            );
            Err(Error::invalid("page_size", message))
        }
    }
}
