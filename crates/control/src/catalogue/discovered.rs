//! Resources that nobody creates: they are found below a parent, shown, referred to, never stored.

use api::error::{Error, Result};
use api::kinds::{self, Kind, Verb};
use api::names::ResourceName;
use prost_reflect::DynamicMessage;

use super::{Catalogue, refs};
use crate::record;

/// A resource that its handler found.
pub(super) struct Discovered {
    pub(super) name: ResourceName,
    pub(super) bytes: Vec<u8>,
}

/// Whether resources of a kind are found and not created.
pub(super) fn is_discovered(kind: &Kind) -> bool {
    kind.method(&Verb::Create).is_none()
}

impl Catalogue {
    /// What is there of a discovered kind, in order of names: below one parent, or below all.
    pub(super) fn discovered(
        &self,
        kind: &'static Kind,
        parent: Option<&ResourceName>,
    ) -> Vec<Discovered> {
        let (Some(above), Ok(handler)) = (kind.parent(), self.handlers.of(&kind.collection)) else {
            return Vec::new();
        };
        let shelf = self.shelves.get(above.collection.as_str()).into_iter();
        let parents = shelf.flat_map(|shelf| shelf.values());
        let parents = parents.filter(|e| e.visible && parent.is_none_or(|p| *p == e.name));
        let mut found = Vec::new();
        for entry in parents {
            for (id, bytes) in handler.discovered(&entry.name) {
                // An id that no name can hold is a defect of the handler; it is not shown.
                if let Ok(name) = ResourceName::new(kind, Some(&entry.name), &id) {
                    found.push(Discovered { name, bytes });
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// All that is there of any discovered kind, or of one.
    pub(super) fn all_discovered(&self, kind: Option<&'static Kind>) -> Vec<Discovered> {
        let kinds = kinds::all().iter().filter(|k| is_discovered(k));
        let kinds = kinds.filter(|k| kind.is_none_or(|one| one.collection == k.collection));
        kinds.flat_map(|k| self.discovered(k, None)).collect()
    }

    /// One resource of a discovered kind.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub(super) fn find_discovered(&self, name: &ResourceName) -> Result<Discovered> {
        let parent = name.parent();
        let found = self.discovered(name.kind(), parent.as_ref()).into_iter();
        let mut found = found.filter(|one| one.name == *name);
        found.next().ok_or_else(|| Error::not_found(name.as_str()))
    }

    /// A resource of a discovered kind as a client sees it.
    pub(super) fn show_discovered(&self, one: &Discovered) -> Result<DynamicMessage> {
        let kind = one.name.kind();
        let mut shown = record::decode(kind, &one.bytes).map_err(|d| Error::internal(d.0))?;
        record::set_name(&mut shown, one.name.as_str());
        Ok(shown)
    }

    /// The discovered volumes that a text without a collection can mean: an identifier that the
    /// volume carries, or the id of its parent with its own behind it.
    pub(super) fn discovered_by_id(&self, text: &str) -> Vec<ResourceName> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let digits = digits.to_ascii_lowercase();
        let means = |one: &Discovered| {
            let parent = one.name.parent();
            let parent = parent.as_ref().map_or("", ResourceName::id);
            let joined = text.strip_prefix(parent) == Some(one.name.id());
            joined || refs::identifiers_of(one.name.kind(), &one.bytes).contains(&digits)
        };
        let kinds = kinds::all()
            .iter()
            .filter(|k| k.is_volume && is_discovered(k));
        let all = kinds.flat_map(|k| self.discovered(k, None));
        all.filter(means).map(|one| one.name).collect()
    }
}
