//! Resource names: `nvmeSubsystems/s/nvmeControllers/c` (AIP-122), the short forms clients may
//! send, and the form the reference bridge uses.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Error;
use crate::kinds::{self, Kind, LEGACY_COLLECTION, SETTINGS, Segment};

/// Longest id in characters: that of a DNS label, on which AIP-122 builds.
pub const ID_CHARS_MAX: usize = 63;
/// Longest name accepted at all, in bytes; real ones have at most two collections and two ids.
const NAME_BYTES_MAX: usize = 512;
/// How much of a wrong value is repeated in an error, in characters.
const ECHO_CHARS_MAX: usize = 80;

/// The name of one resource. Cheap to clone; ordered by its text.
#[derive(Clone)]
pub struct ResourceName {
    kind: &'static Kind,
    text: Arc<str>,
}

/// What a `volume_name_ref` says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum VolumeRef {
    /// A full name of one kind.
    Name(ResourceName),
    /// An id alone, or below `volumes/`: right if exactly one volume has it.
    Id(String),
}

/// Which ids a client may choose.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum IdRule {
    /// AIP-122: `[a-z]([a-z0-9-]{0,61}[a-z0-9])?`, or a UUID.
    #[default]
    Strict,
    /// What the reference bridge can keep: `[A-Za-z0-9_.][A-Za-z0-9_.-]{0,62}`.
    Legacy,
}

impl ResourceName {
    /// Puts a name together. `parent` must be of the parent kind, and absent for top-level kinds.
    ///
    /// # Errors
    /// The id holds something no name can hold, or the parent is of the wrong kind.
    pub fn new(kind: &'static Kind, parent: Option<&Self>, id: &str) -> Result<Self, Error> {
        check_segment(id, "id")?;
        if parent.map(|p| p.kind) != kind.parent() {
            let pattern = kind.pattern_text();
            let message = format!("does not fit the pattern {pattern}");
            return Err(Error::invalid("parent", message));
        }
        let collection = &kind.collection;
        let text = match parent {
            Some(parent) => format!("{parent}/{collection}/{id}"),
            None => format!("{collection}/{id}"),
        };
        Ok(Self {
            kind,
            text: text.into(),
        })
    }

    /// Reads a full name of any kind, as in `mallocVolumes/m0`.
    ///
    /// # Errors
    /// No kind has this pattern, or an id holds something no name can hold. `field` is what the
    /// error names.
    pub fn parse(text: &str, field: &str) -> Result<Self, Error> {
        check_length(text, field)?;
        let segments: Vec<&str> = text.split('/').collect();
        let kind = segments
            .len()
            .checked_sub(2)
            .and_then(|i| kinds::by_collection(segments[i]));
        let Some(kind) = kind else {
            let message = format!(
                "`{}` is not a resource name; it looks like mallocVolumes/m0",
                echo(text)
            );
            return Err(Error::invalid(field, message));
        };
        Self::match_pattern(kind, &segments, text, field)
    }

    /// Reads a name where the method or the field fixes the kind: the full name, for the kinds
    /// of the reference bridge `volumes/x`, and for top-level kinds the bare id.
    ///
    /// # Errors
    /// It is none of these. `field` is what the error names.
    pub fn parse_for(kind: &'static Kind, text: &str, field: &str) -> Result<Self, Error> {
        check_length(text, field)?;
        let segments: Vec<&str> = text.split('/').collect();
        match segments[..] {
            [id] if kind.parent().is_none() => {
                check_segment(id, field)?;
                Self::new(kind, None, id)
            }
            [LEGACY_COLLECTION, id] if kind.legacy_collection.is_some() => {
                check_segment(id, field)?;
                Self::new(kind, None, id)
            }
            _ => Self::match_pattern(kind, &segments, text, field),
        }
    }

    /// Reads the name of settings, and says whose they are: `x/settings`, where `x` is any form
    /// that [`ResourceName::parse_for`] takes.
    ///
    /// # Errors
    /// It is none of these. `field` is what the error names.
    pub fn parse_settings(kind: &'static Kind, text: &str, field: &str) -> Result<Self, Error> {
        let owner = text
            .strip_suffix(SETTINGS)
            .and_then(|t| t.strip_suffix('/'));
        let Some(owner) = owner else {
            let (text, pattern) = (echo(text), kind.pattern_text());
            let message = format!("`{text}` does not fit the pattern {pattern}/{SETTINGS}");
            return Err(Error::invalid(field, message));
        };
        Self::parse_for(kind, owner, field)
    }

    fn match_pattern(
        kind: &'static Kind,
        segments: &[&str],
        text: &str,
        field: &str,
    ) -> Result<Self, Error> {
        let fits = segments.len() == kind.pattern.len()
            && kind
                .pattern
                .iter()
                .zip(segments)
                .all(|(pattern, segment)| match pattern {
                    Segment::Literal(literal) => literal == segment,
                    Segment::Variable(_) => true,
                });
        if !fits {
            let pattern = kind.pattern_text();
            let message = format!("`{}` does not fit the pattern {pattern}", echo(text));
            return Err(Error::invalid(field, message));
        }
        for id in segments.iter().skip(1).step_by(2) {
            check_segment(id, field)?;
        }
        Ok(Self {
            kind,
            text: text.into(),
        })
    }

    /// What it is the name of.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// The last segment.
    pub fn id(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The name of the resource it belongs to.
    pub fn parent(&self) -> Option<Self> {
        let kind = self.kind.parent()?;
        let (head, _id) = self.text.rsplit_once('/')?;
        let (parent, _collection) = head.rsplit_once('/')?;
        Some(Self {
            kind,
            text: parent.into(),
        })
    }

    /// Whether it belongs to `other`, directly or further down.
    pub fn is_below(&self, other: &Self) -> bool {
        self.text
            .strip_prefix(&*other.text)
            .is_some_and(|rest| rest.starts_with('/'))
    }
}

impl VolumeRef {
    /// Reads the value of a `volume_name_ref`.
    ///
    /// # Errors
    /// It is neither a name nor an id, or names something that is not a volume.
    pub fn parse(text: &str, field: &str) -> Result<Self, Error> {
        check_length(text, field)?;
        let segments: Vec<&str> = text.split('/').collect();
        match segments[..] {
            [id] | [LEGACY_COLLECTION, id] => {
                check_segment(id, field)?;
                Ok(Self::Id(id.to_owned()))
            }
            _ => {
                let name = ResourceName::parse(text, field)?;
                if !name.kind.is_volume {
                    let message = format!("`{}` is not a volume", echo(text));
                    return Err(Error::invalid(field, message));
                }
                Ok(Self::Name(name))
            }
        }
    }
}

/// The name as the reference bridge writes it: `volumes/m0` for the kinds where it does, else the
/// name itself.
pub fn legacy_name(name: &ResourceName) -> String {
    match name.kind.legacy_collection {
        Some(collection) => format!("{collection}/{}", name.id()),
        None => name.to_string(),
    }
}

/// Checks an id a client wishes for a new resource.
///
/// # Errors
/// It breaks `rule`; the message says where. `field` is what the error names.
pub fn check_new_id(id: &str, rule: IdRule, field: &str) -> Result<(), Error> {
    check_segment(id, field)?;
    if rule == IdRule::Legacy || is_uuid(id) {
        return Ok(());
    }
    let wrong = |why: String| {
        let message = format!("`{id}` {why} (AIP-122)");
        Err(Error::invalid(field, message))
    };
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if let Some(c) = id.chars().find(|&c| !allowed(c)) {
        return wrong(format!("holds {c:?}, but only a-z, 0-9 and - may be used"));
    }
    if !id.starts_with(|c: char| c.is_ascii_lowercase()) {
        return wrong("must start with a letter".to_owned());
    }
    if id.ends_with('-') {
        return wrong("must not end with a hyphen".to_owned());
    }
    Ok(())
}

/// Whether it is a UUID in the form the server writes: lower case with hyphens.
fn is_uuid(id: &str) -> bool {
    let uuid = Uuid::try_parse(id).ok();
    uuid.is_some_and(|u| u.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()) == id)
}

/// Checks what every id in every name must obey, whoever chose it.
fn check_segment(id: &str, field: &str) -> Result<(), Error> {
    let wrong = |why: String| {
        let message = format!("`{}` {why}", echo(id));
        Err(Error::invalid(field, message))
    };
    if id.is_empty() {
        return wrong("has an empty id; give 1 to 63 characters".to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(c) = id.chars().find(|&c| !allowed(c)) {
        return wrong(format!("holds {c:?}, which no resource name may"));
    }
    if id.len() > ID_CHARS_MAX {
        return wrong(format!(
            "has {} characters, at most {ID_CHARS_MAX} may be used",
            id.len()
        ));
    }
    if id.starts_with('-') {
        return wrong("must not start with a hyphen".to_owned());
    }
    Ok(())
}

fn check_length(text: &str, field: &str) -> Result<(), Error> {
    if text.is_empty() {
        let message = "is empty, but a resource name is needed";
        return Err(Error::invalid(field, message));
    }
    if text.len() > NAME_BYTES_MAX {
        let message = format!("has {} bytes, at most {NAME_BYTES_MAX} may be", text.len());
        return Err(Error::invalid(field, message));
    }
    Ok(())
}

/// The beginning of a wrong value, for an error; control characters are escaped.
pub fn echo(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(ECHO_CHARS_MAX)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(ECHO_CHARS_MAX).is_some() {
        shown.push_str("...");
    }
    shown
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResourceName({})", self.text)
    }
}

impl PartialEq for ResourceName {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for ResourceName {}

impl PartialOrd for ResourceName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ResourceName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl std::hash::Hash for ResourceName {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(collection: &str) -> &'static Kind {
        kinds::by_collection(collection).unwrap()
    }

    #[test]
    fn a_full_name_is_read_and_printed() {
        let name = ResourceName::parse("nvmeSubsystems/s/nvmeControllers/c", "name").unwrap();
        assert_eq!(name.kind().collection, "nvmeControllers");
        assert_eq!(name.id(), "c");
        assert_eq!(name.parent().unwrap().to_string(), "nvmeSubsystems/s");
        assert!(name.is_below(&name.parent().unwrap()));
        assert_eq!(name.to_string(), "nvmeSubsystems/s/nvmeControllers/c");
        assert!(name.parent().unwrap().parent().is_none());
    }

    #[test]
    fn a_name_is_not_below_one_that_only_begins_the_same() {
        let one = ResourceName::parse("nvmeSubsystems/s/nvmeControllers/c", "name").unwrap();
        let other = ResourceName::parse("nvmeSubsystems/ss", "name").unwrap();
        let exact = ResourceName::parse("nvmeSubsystems/s", "name").unwrap();
        assert!(!one.is_below(&other));
        assert!(!exact.is_below(&exact));
    }

    #[test]
    fn three_forms_are_understood_where_the_kind_is_fixed() {
        for text in ["mallocVolumes/m0", "volumes/m0", "m0"] {
            let name = ResourceName::parse_for(kind("mallocVolumes"), text, "name").unwrap();
            assert_eq!(name.to_string(), "mallocVolumes/m0");
        }
    }

    #[test]
    fn a_subsystem_has_no_legacy_form_and_a_child_no_bare_id() {
        let subsystem = ResourceName::parse_for(kind("nvmeSubsystems"), "volumes/s", "name");
        let error = subsystem.unwrap_err();
        let expected = "name: `volumes/s` does not fit the pattern nvmeSubsystems/{subsystem}";
        assert_eq!(error.message, expected);
        assert!(ResourceName::parse_for(kind("nvmeSubsystems"), "s", "name").is_ok());
        assert!(ResourceName::parse_for(kind("nvmeControllers"), "c", "name").is_err());
    }

    #[test]
    fn a_name_of_another_kind_does_not_fit() {
        let error = ResourceName::parse_for(kind("mallocVolumes"), "nullVolumes/n", "name");
        let error = error.unwrap_err();
        assert_eq!(error.field.as_deref(), Some("name"));
        assert!(
            error
                .message
                .ends_with("does not fit the pattern mallocVolumes/{volume}")
        );
    }

    #[test]
    fn garbage_is_refused_without_panic() {
        let long = "x".repeat(5000);
        for text in [
            "",
            "/",
            "//",
            "a/",
            "/a",
            "mallocVolumes/",
            "mallocVolumes/a b",
            "\u{0}",
            "mallocVolumes/-a",
            "mallocVolumes/a/b",
            "nvmeControllers/c",
            "volumes/x",
            &long,
            "mallocVolumes/\u{e9}",
        ] {
            assert!(ResourceName::parse(text, "name").is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_volume_reference_is_a_name_or_an_id() {
        let name = ResourceName::parse("nullVolumes/n", "ref").unwrap();
        assert_eq!(
            VolumeRef::parse("nullVolumes/n", "ref").unwrap(),
            VolumeRef::Name(name)
        );
        let id = |text: &str| VolumeRef::Id(text.to_owned());
        assert_eq!(VolumeRef::parse("volumes/n", "ref").unwrap(), id("n"));
        assert_eq!(VolumeRef::parse("Malloc0", "ref").unwrap(), id("Malloc0"));
        let error = VolumeRef::parse("virtioBlks/b", "ref").unwrap_err();
        assert_eq!(error.message, "ref: `virtioBlks/b` is not a volume");
    }

    #[test]
    fn new_ids_follow_aip_122() {
        let check = |id: &str| check_new_id(id, IdRule::Strict, "null_volume_id");
        for id in [
            "a",
            "a1",
            "my-disk-0",
            &"a".repeat(63),
            "1b4e28ba-2fa1-41d2-883f-b9a761bde3fb",
        ] {
            assert!(check(id).is_ok(), "{id}");
        }
        for (id, why) in [
            ("Disk", "holds 'D', but only a-z, 0-9 and - may be used"),
            ("a_b", "holds '_', but only a-z, 0-9 and - may be used"),
            ("a/b", "holds '/', which no resource name may"),
            ("1a", "must start with a letter"),
            ("a-", "must not end with a hyphen"),
            ("-a", "must not start with a hyphen"),
            (&"a".repeat(64), "has 64 characters, at most 63 may be used"),
            ("", "has an empty id; give 1 to 63 characters"),
        ] {
            let error = check(id).unwrap_err();
            assert!(error.message.contains(why), "{}", error.message);
            assert!(
                error.message.starts_with("null_volume_id: `"),
                "{}",
                error.message
            );
        }
    }

    #[test]
    fn the_legacy_rule_admits_capitals() {
        for id in ["Malloc0", "a_b", "x.y", "0"] {
            assert!(check_new_id(id, IdRule::Legacy, "id").is_ok(), "{id}");
        }
        assert!(check_new_id("a/b", IdRule::Legacy, "id").is_err());
    }

    #[test]
    fn eight_kinds_have_a_legacy_name() {
        let legacy = |text: &str| legacy_name(&ResourceName::parse(text, "name").unwrap());
        assert_eq!(legacy("mallocVolumes/m0"), "volumes/m0");
        assert_eq!(legacy("virtioBlks/b"), "volumes/b");
        assert_eq!(legacy("nvmeSubsystems/s"), "nvmeSubsystems/s");
        assert_eq!(
            kinds::all()
                .iter()
                .filter(|k| k.legacy_collection.is_some())
                .count(),
            8
        );
    }

    #[test]
    fn settings_are_named_below_what_they_belong_to() {
        let arrays = kind("nvmeRemoteControllers");
        for text in ["nvmeRemoteControllers/r/settings", "r/settings"] {
            let owner = ResourceName::parse_settings(arrays, text, "name").unwrap();
            assert_eq!(owner.to_string(), "nvmeRemoteControllers/r");
        }
        for text in [
            "",
            "settings",
            "/settings",
            "nvmeRemoteControllers/r",
            "nvmeRemoteControllers/rsettings",
            "nvmeRemoteControllers/r/settings/settings",
            "mallocVolumes/r/settings",
        ] {
            let error = ResourceName::parse_settings(arrays, text, "name").unwrap_err();
            assert_eq!(error.field.as_deref(), Some("name"), "{text}: {error}");
        }
    }

    #[test]
    fn a_parent_of_the_wrong_kind_is_refused() {
        let volume = ResourceName::parse("mallocVolumes/m0", "name").unwrap();
        assert!(ResourceName::new(kind("nvmeControllers"), Some(&volume), "c").is_err());
        assert!(ResourceName::new(kind("nvmeControllers"), None, "c").is_err());
        assert!(ResourceName::new(kind("mallocVolumes"), Some(&volume), "c").is_err());
    }
}
