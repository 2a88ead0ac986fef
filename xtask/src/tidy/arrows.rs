//! Who may use whom. A crate uses lower rows only, never its neighbours.

use super::Finding;

/// The rows of the house, lowest first. A new crate gets a place here before anything else.
const ROWS: &[(&str, &[&str])] = &[
    ("the seam", &["blk"]),
    ("vocabulary", &["api", "wire"]),
    ("the world", &["engine"]),
    ("knowing things", &["control"]),
    (
        "making things real",
        &["backends", "middleends", "frontends"],
    ),
    ("making things real, all of them", &["drivers"]),
    ("programs", &["server", "cli", "csi", "bench"]),
    ("binary", &["opi"]),
    ("around the house", &["tests", "xtask"]),
];

fn row_of(name: &str) -> Option<usize> {
    ROWS.iter().position(|(_, crates)| crates.contains(&name))
}

/// Checks one `Cargo.toml`.
pub(super) fn check(file: &str, text: &str) -> Vec<Finding> {
    let Some(dir) = file.strip_suffix("/Cargo.toml") else {
        return Vec::new();
    };
    if dir == "fuzz" {
        return Vec::new();
    }
    let name = dir.rsplit('/').next().unwrap_or(dir);
    let Some(own) = row_of(name) else {
        return vec![Finding::new(
            file,
            1,
            "arrows",
            format!("crate `{name}` has no row; give it one in xtask/src/tidy/arrows.rs"),
        )];
    };
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            in_dependencies = line.ends_with("dependencies]");
            continue;
        }
        if !in_dependencies {
            continue;
        }
        let key = line.split(['=', '.', ' ']).next().unwrap_or_default();
        let Some(other) = row_of(key) else { continue };
        if other >= own {
            findings.push(Finding::new(
                file,
                index + 1,
                "arrows",
                format!(
                    "`{name}` ({}) may not use `{key}` ({}); only lower rows, see ARCHITECTURE.md",
                    ROWS[own].0, ROWS[other].0
                ),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_neighbour_may_not_be_used() {
        let text = "[package]\nname = \"frontends\"\n\n[dependencies]\nbackends.workspace = true\n";
        let found = check("crates/frontends/Cargo.toml", text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 5);
    }

    #[test]
    fn lower_rows_and_foreign_crates_may_be_used() {
        let text = "[dependencies]\nblk.workspace = true\nserde = \"1\"\n[dev-dependencies]\n\
                    engine = { path = \"x\" }\n";
        assert_eq!(check("crates/control/Cargo.toml", text), []);
    }

    #[test]
    fn an_arrow_upwards_is_found_among_tests_too() {
        let text = "[dev-dependencies]\nserver = { path = \"../server\" }\n";
        assert_eq!(check("crates/blk/Cargo.toml", text).len(), 1);
    }

    #[test]
    fn a_crate_without_a_row_is_found() {
        assert_eq!(check("crates/helpers/Cargo.toml", "").len(), 1);
    }
}
