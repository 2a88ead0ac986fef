//! The help texts, word for word. `UPDATE_GOLDEN=1 cargo test -p cli` writes them anew.

use clap::Command;
use std::path::PathBuf;

/// Columns of the texts that are compared, whatever the terminal has.
const COLUMNS: usize = 100;

fn help(path: &[&str]) -> String {
    let mut command = crate::root().term_width(COLUMNS);
    command.build();
    let mut found: &mut Command = &mut command;
    for word in path {
        found = found.find_subcommand_mut(word).unwrap();
    }
    // The environment of whoever runs the tests must not show.
    let help = found
        .clone()
        .mut_args(|a| a.hide_env_values(true))
        .render_long_help()
        .to_string();
    help.lines()
        .map(|l| l.trim_end().to_owned() + "\n")
        .collect()
}

#[track_caller]
fn compare(path: &[&str]) {
    let name = format!("{}.txt", path.join("-"));
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/client/golden")
        .join(name);
    let text = help(path);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(text == wanted, "{} differs from:\n{text}", file.display());
}

#[test]
fn the_help_of_the_verbs_is_as_agreed() {
    for verb in ["get", "apply", "top"] {
        compare(&[verb]);
    }
}

#[test]
fn the_help_of_resources_comes_from_the_descriptors() {
    compare(&["create", "malloc-volume"]);
    compare(&["create", "nvme-controller"]);
    compare(&["update", "nvme-subsystem"]);
}
