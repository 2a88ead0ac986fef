//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! Each finding is `file:line: rule: what to do`. The rules and their exceptions are tables in
//! `arrows.rs` (who may use whom) and `rules.rs` (what a file may contain).

mod arrows;
mod families;
mod links;
mod rules;
mod source;

use std::fmt;
use std::fs;
use std::path::Path;

use crate::process::Result;
use crate::workspace;

/// One breach of a rule.
#[derive(Debug, PartialEq)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    advice: String,
}

impl Finding {
    fn new(file: &str, line: usize, rule: &'static str, advice: impl Into<String>) -> Finding {
        Finding {
            file: file.to_owned(),
            line,
            rule,
            advice: advice.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: {}: {}",
            self.file, self.line, self.rule, self.advice
        )
    }
}

/// Checks the workspace at `root` and prints what is wrong.
pub(crate) fn run(root: &Path) -> Result<()> {
    let (files, findings) = check(root);
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {files} files are in order");
            Ok(())
        }
        n => Err(format!("{n} breaches of the rules of the house")),
    }
}

/// The number of files looked at, and every breach found.
fn check(root: &Path) -> (usize, Vec<Finding>) {
    let files = workspace::files(root);
    let mut findings = Vec::new();
    for file in &files {
        // What is not UTF-8 (a recorded trace, an image) is data, not text.
        let Ok(text) = fs::read_to_string(root.join(file)) else {
            continue;
        };
        findings.extend(rules::text(file, &text));
        if file.ends_with(".rs") {
            findings.extend(rules::rust(file, &source::Source::parse(&text)));
        } else if file.ends_with(".md") {
            findings.extend(links::check(root, file, &text));
        }
        if file.ends_with("Cargo.toml") {
            findings.extend(arrows::check(file, &text));
        }
    }
    findings.extend(families::check(root));
    (files.len(), findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_house_is_in_order() {
        let (files, findings) = check(&workspace::root());
        let listed: Vec<String> = findings.iter().map(ToString::to_string).collect();
        assert!(files > 10, "only {files} files were found");
        assert!(findings.is_empty(), "{}", listed.join("\n"));
    }
}
