//! The words a kind of resource goes by on the command line, and names in their short forms.

use api::kinds::{self, Kind};
use api::names::ResourceName;

use crate::failure::{Failure, Result};

/// The word that stands for every kind where that makes sense.
pub(crate) const ALL: &str = "all";

/// `mallocVolume` becomes `malloc-volume`.
pub(crate) fn kebab(camel: &str) -> String {
    let mut text = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        match c {
            '_' => text.push('-'),
            c if c.is_ascii_uppercase() => {
                if !text.is_empty() {
                    text.push('-');
                }
                text.push(c.to_ascii_lowercase());
            }
            c => text.push(c),
        }
    }
    text
}

/// The word for a kind: its singular in kebab case.
pub(crate) fn word(kind: &Kind) -> String {
    kebab(&kind.singular)
}

fn squash(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .collect::<String>()
        .to_lowercase()
}

/// The kind that a word means: any spelling of singular or plural, a unique beginning of one
/// (`malloc`), or a unique ending at a word boundary (`subsystem`).
///
/// # Errors
/// No kind or more than one fits; the message names those that do.
pub(crate) fn resolve(given: &str) -> Result<&'static Kind> {
    let wanted = squash(given);
    let names = |k: &Kind| {
        [
            squash(&k.singular),
            squash(&k.plural),
            squash(&k.collection),
        ]
    };
    let exact = kinds::all().iter().find(|k| names(k).contains(&wanted));
    if let Some(kind) = exact {
        return Ok(kind);
    }
    let begins = |k: &&Kind| names(k).iter().any(|n| n.starts_with(&wanted));
    let ends = |k: &&Kind| {
        [&k.singular, &k.plural].into_iter().any(|name| {
            let name = kebab(name);
            name.match_indices('-')
                .any(|(i, _)| squash(&name[i..]) == wanted)
        })
    };
    for test in [&begins as &dyn Fn(&&Kind) -> bool, &ends] {
        let found: Vec<&'static Kind> = kinds::all().iter().filter(|k| test(k)).collect();
        match found[..] {
            [] => {}
            [kind] if !wanted.is_empty() => return Ok(kind),
            _ => {
                let list = found.iter().map(|k| word(k)).collect::<Vec<_>>().join(", ");
                return Err(Failure::usage(format!(
                    "`{given}` is ambiguous: it could be {list}"
                )));
            }
        }
    }
    let list = kinds::all().iter().map(word).collect::<Vec<_>>().join(", ");
    Err(Failure::usage(format!(
        "`{given}` is not a kind of resource; there are {list}"
    )))
}

/// Splits `malloc-volume/m0` and full names such as `nvmeSubsystems/s/nvmeControllers/c` into the
/// kind and what names the resource.
pub(crate) fn split_name(text: &str) -> Option<(&'static Kind, String)> {
    if let Ok(name) = ResourceName::parse(text, "name") {
        return Some((name.kind(), name.to_string()));
    }
    let (head, rest) = text.split_once('/')?;
    let kind = resolve(head).ok()?;
    (!rest.is_empty()).then(|| (kind, rest.to_owned()))
}

/// The name of the parent that `--parent` means: a full name, `subsystem/s`, or the bare id.
///
/// # Errors
/// It fits none of these.
pub(crate) fn parent_name(kind: &'static Kind, given: &str) -> Result<ResourceName> {
    let Some(parent) = kind.parent() else {
        let message = format!(
            "{} belongs to no other resource: leave --parent out",
            word(kind)
        );
        return Err(Failure::usage(message));
    };
    let fits = |head: &str| {
        let (head, names) = (
            squash(head),
            [squash(&parent.singular), squash(&parent.plural)],
        );
        let tail = |name: &String| !head.is_empty() && name.ends_with(&head);
        names.iter().any(tail)
    };
    let id = match given.split_once('/') {
        Some((head, id)) if fits(head) => id,
        _ => given,
    };
    ResourceName::parse_for(parent, id, "--parent").map_err(|_| {
        let (word, pattern) = (word(parent), parent.pattern_text());
        Failure::usage(format!(
            "--parent: `{given}` names no {word}; write {pattern} or the id"
        ))
    })
}

/// The full name of the resource a person means: a full name, for children `parent/id`, or a bare
/// id with `--parent`. A name under `volumes/` is passed on, for servers that use that form.
///
/// # Errors
/// It fits none of these.
pub(crate) fn full_name(kind: &'static Kind, given: &str, parent: Option<&str>) -> Result<String> {
    if given.starts_with("volumes/") && kind.legacy_collection.is_some() {
        return Ok(given.to_owned());
    }
    resource_name(kind, given, parent).map(|name| name.to_string())
}

/// [`full_name`], parsed.
///
/// # Errors
/// It fits none of the forms.
pub(crate) fn resource_name(
    kind: &'static Kind,
    given: &str,
    parent: Option<&str>,
) -> Result<ResourceName> {
    if let Ok(name) = ResourceName::parse_for(kind, given, "name") {
        return Ok(name);
    }
    if kind.parent().is_some() {
        let parts = match (given.rsplit_once('/'), parent) {
            (None, Some(parent)) => Some((parent, given)),
            (Some((parent, id)), None) => Some((parent, id)),
            _ => None,
        };
        if let Some((parent, id)) = parts
            && let Ok(parent) = parent_name(kind, parent)
        {
            return Ok(ResourceName::new(kind, Some(&parent), id)?);
        }
    }
    let forms = match kind.parent() {
        Some(p) => format!(
            "{}, {}/id, or the id with --parent",
            kind.pattern_text(),
            word(p)
        ),
        None => format!("{} or the id", kind.pattern_text()),
    };
    Err(Failure::usage(format!(
        "`{given}` names no {}; write {forms}",
        word(kind)
    )))
}

/// The short form of a name, as tables show it: `m0`, and for children `s0/c0`.
pub(crate) fn short_name(name: &str) -> String {
    name.split('/')
        .skip(1)
        .step_by(2)
        .collect::<Vec<_>>()
        .join("/")
}

/// The first sentence of a comment, without its full stop.
pub(crate) fn first_sentence(comment: &str) -> &str {
    let paragraph = comment.split("\n\n").next().unwrap_or_default();
    let end = paragraph.find(". ").unwrap_or(paragraph.len());
    paragraph[..end].trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_sentence_ends_at_its_full_stop() {
        assert_eq!(first_sentence("One. Two.\n\nThree."), "One");
        assert_eq!(first_sentence("Version 1.2 of it."), "Version 1.2 of it");
        assert_eq!(first_sentence(""), "");
    }

    fn kind(word: &str) -> &'static Kind {
        resolve(word).unwrap()
    }

    #[test]
    fn a_kind_goes_by_many_spellings() {
        for given in [
            "malloc-volume",
            "mallocVolumes",
            "mallocvolume",
            "MALLOC_VOLUMES",
            "malloc",
        ] {
            assert_eq!(kind(given).collection, "mallocVolumes", "{given}");
        }
        assert_eq!(kind("subsystem").collection, "nvmeSubsystems");
        assert_eq!(kind("subsystems").collection, "nvmeSubsystems");
        assert_eq!(kind("nvme-path").collection, "nvmePaths");
    }

    #[test]
    fn an_ambiguous_word_names_what_it_could_be() {
        let failure = resolve("controller").unwrap_err();
        assert!(failure.to_string().contains("nvme-controller"), "{failure}");
        assert!(
            failure.to_string().contains("virtio-scsi-controller"),
            "{failure}"
        );
        assert_eq!(failure.exit_code(), 2);
        assert!(resolve("").is_err());
        assert!(
            resolve("banana")
                .unwrap_err()
                .to_string()
                .contains("there are aio-volume")
        );
    }

    #[test]
    fn names_are_taken_in_every_form() {
        let malloc = kind("malloc");
        for given in ["m0", "mallocVolumes/m0"] {
            assert_eq!(full_name(malloc, given, None).unwrap(), "mallocVolumes/m0");
        }
        assert_eq!(full_name(malloc, "volumes/m0", None).unwrap(), "volumes/m0");
        let controller = kind("nvme-controller");
        let wanted = "nvmeSubsystems/s/nvmeControllers/c";
        for (given, parent) in [
            (wanted, None),
            ("s/c", None),
            ("subsystem/s/c", None),
            ("c", Some("s")),
            ("c", Some("subsystem/s")),
            ("c", Some("nvme-subsystem/s")),
            ("c", Some("nvmeSubsystems/s")),
        ] {
            assert_eq!(
                full_name(controller, given, parent).unwrap(),
                wanted,
                "{given}"
            );
        }
    }

    #[test]
    fn a_child_without_its_parent_is_refused_with_the_forms() {
        let failure = full_name(kind("nvme-controller"), "c", None).unwrap_err();
        assert!(failure.to_string().contains("--parent"), "{failure}");
        let failure = full_name(kind("malloc"), "aioVolumes/a", None).unwrap_err();
        assert!(
            failure.to_string().contains("mallocVolumes/{volume}"),
            "{failure}"
        );
        assert!(parent_name(kind("malloc"), "s").is_err());
        assert!(parent_name(kind("nvme-controller"), "volume/s").is_err());
    }

    #[test]
    fn a_kind_and_a_name_can_be_one_word() {
        let (found, name) = split_name("nvmeSubsystems/s/nvmeControllers/c").unwrap();
        assert_eq!(
            (&*found.collection, &*name),
            ("nvmeControllers", "nvmeSubsystems/s/nvmeControllers/c")
        );
        let (found, name) = split_name("malloc-volume/m0").unwrap();
        assert_eq!((&*found.collection, &*name), ("mallocVolumes", "m0"));
        assert!(split_name("malloc-volume").is_none());
        assert!(split_name("/dev/sda").is_none());
    }

    #[test]
    fn tables_show_ids() {
        assert_eq!(short_name("mallocVolumes/m0"), "m0");
        assert_eq!(short_name("nvmeSubsystems/s/nvmeControllers/c"), "s/c");
    }
}
