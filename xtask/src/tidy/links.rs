//! Links in Markdown: a relative link leads to a file that exists, an anchor to a heading.

use std::fs;
use std::path::Path;

use super::Finding;

/// Checks the links of one Markdown file.
pub(super) fn check(root: &Path, file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for target in targets(line) {
            if let Some(problem) = problem(root, file, text, target) {
                findings.push(Finding::new(file, index + 1, "link", problem));
            }
        }
    }
    findings
}

/// The targets of inline links in a line, without those inside code spans.
fn targets(line: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (index, span) in line.split('`').enumerate() {
        if index % 2 == 1 {
            continue;
        }
        let mut rest = span;
        while let Some((_, after)) = rest.split_once("](") {
            let (target, remaining) = after.split_once(')').unwrap_or((after, ""));
            found.push(target.split_whitespace().next().unwrap_or_default());
            rest = remaining;
        }
    }
    found
}

fn problem(root: &Path, file: &str, own: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let parent = Path::new(file).parent().unwrap_or(Path::new(""));
    let destination = root.join(parent).join(path);
    if !path.is_empty() && !destination.exists() {
        return Some(format!("`{target}` leads nowhere; correct the path"));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = if path.is_empty() {
        own.to_owned()
    } else {
        fs::read_to_string(&destination).unwrap_or_default()
    };
    let known = text
        .lines()
        .filter(|l| l.starts_with('#'))
        .any(|l| slug(l) == anchor);
    (!known).then(|| format!("`{target}`: there is no such heading; correct the anchor"))
}

/// The anchor a forge makes of a heading.
fn slug(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| {
            if c == ' ' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_found() {
        let root = crate::workspace::root();
        assert_eq!(check(&root, "x.md", "see [a](no/such/file.md)").len(), 1);
        assert_eq!(
            check(&root, "x.md", "see [a](Cargo.toml) and `[b](nothing)`"),
            []
        );
    }

    #[test]
    fn an_anchor_needs_its_heading() {
        let root = crate::workspace::root();
        let text = "## What it is, really\n[a](#what-it-is-really) [b](#missing)\n";
        let found = check(&root, "x.md", text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 2);
    }

    #[test]
    fn addresses_elsewhere_are_left_alone() {
        let text = "[a](https://example.org/x) [m](mailto:a@example.org)";
        assert_eq!(check(&crate::workspace::root(), "x.md", text), []);
    }
}
