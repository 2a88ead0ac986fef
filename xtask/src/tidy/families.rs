//! Every folder of a family crate is installed: it stands in the `TYPES` list of its `lib.rs`.

use std::fs;
use std::path::Path;

use super::Finding;

/// Crates with one folder per kind of thing.
const FAMILIES: [&str; 4] = ["backends", "middleends", "frontends", "drivers"];

/// Checks the family crates that exist.
pub(super) fn check(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for family in FAMILIES {
        let src = root.join("crates").join(family).join("src");
        let Ok(lib) = fs::read_to_string(src.join("lib.rs")) else {
            continue;
        };
        let Ok(listing) = fs::read_dir(&src) else {
            continue;
        };
        let mut folders: Vec<String> = listing
            .flatten()
            .filter(|entry| entry.path().is_dir())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        folders.sort();
        findings.extend(missing(
            &format!("crates/{family}/src/lib.rs"),
            &lib,
            &folders,
        ));
    }
    findings
}

fn missing(file: &str, lib: &str, folders: &[String]) -> Vec<Finding> {
    // A family that installs nothing yet has no list to stand in.
    let Some(start) = lib.find("pub static TYPES") else {
        return Vec::new();
    };
    let list = &lib[start..];
    let list = &list[..list.find("];").unwrap_or(list.len())];
    let line = lib[..start].lines().count() + 1;
    folders
        .iter()
        .filter(|folder| !list.contains(&format!("{folder}::")))
        .map(|folder| {
            let advice = format!("folder `{folder}` is not in TYPES; add `&{folder}::...` to it");
            Finding::new(file, line, "types", advice)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_installed_is_found() {
        let lib =
            "mod null;\nmod aio;\npub static TYPES: &[&dyn Install] = &[\n    &null::Null,\n];";
        let found = missing("lib.rs", lib, &["aio".into(), "null".into()]);
        assert_eq!(found.len(), 1);
        assert!(found[0].advice.contains("aio"));
        assert_eq!(found[0].line, 3);
    }
}
