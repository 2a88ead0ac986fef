//! What a file may contain.

use super::Finding;
use super::source::Source;

/// Lines of a Rust file. Beyond this a reader loses the thread.
const FILE_LINES: usize = 700;

/// Lines of a function: one screen.
const FUNCTION_LINES: usize = 70;

/// Columns of a line of Rust.
const COLUMNS: usize = 100;

/// Files whose text must be ASCII, so that it looks the same everywhere.
const TEXT: [&str; 10] = [
    ".rs", ".toml", ".proto", ".sh", ".md", ".py", ".html", ".tsv", ".yml", ".yaml",
];

/// Where `unsafe` may stand: shared memory and system calls, each wrapped once.
const UNSAFE_PLACES: [&str; 2] = ["crates/engine/src/sys", "crates/blk/src/buf"];

/// Crates that may read clocks, start threads and sleep: the engine and the programs.
const WORLDLY: [&str; 9] = [
    "crates/engine/",
    "crates/server/",
    "crates/cli/",
    "crates/csi/",
    "crates/bench/",
    "crates/opi/",
    "fuzz/",
    "tests/",
    "xtask/",
];

/// Calls that touch the world.
const WORLD: [&str; 4] = [
    "Instant::now",
    "SystemTime::now",
    "thread::spawn",
    "thread::sleep",
];

/// Endings and names that say nothing about what a thing is.
const EMPTY_NAMES: [&str; 5] = ["Manager", "Helper", "Info", "Common", "Utils"];

/// File names of the same kind.
const EMPTY_FILES: [&str; 6] = [
    "utils.rs",
    "util.rs",
    "helpers.rs",
    "helper.rs",
    "common.rs",
    "manager.rs",
];

/// Checks what holds for every kind of text.
pub(super) fn text(file: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let ascii = TEXT.iter().any(|end| file.ends_with(end));
    // Spelled in pieces, so that this table does not find itself.
    let places = [
        concat!("/wo", "rk/"),
        concat!("/tmp/", "briefs"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("shared/", "facts"),
        concat!("shared/", "design"),
        concat!("pkg", ".dev/"),
    ];
    let unfinished = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
    ];
    for (index, line) in text.lines().enumerate() {
        let at = index + 1;
        if ascii && let Some(c) = line.chars().find(|c| !c.is_ascii()) {
            let advice = format!("character {:?} (U+{:04X}); write it in ASCII", c, c as u32);
            findings.push(Finding::new(file, at, "ascii", advice));
        }
        if let Some(place) = places.iter().find(|place| line.contains(**place)) {
            let advice = format!("`{place}` is a place of one machine; name it another way");
            findings.push(Finding::new(file, at, "place", advice));
        }
        if let Some(mark) = unfinished.iter().find(|mark| line.contains(**mark)) {
            let advice = format!("`{mark}`: finish it, or write the limit down as one");
            findings.push(Finding::new(file, at, "unfinished", advice));
        }
        if file.ends_with(".rs") && line.chars().count() > COLUMNS && !line.contains("http") {
            let advice = format!("more than {COLUMNS} columns; break the line");
            findings.push(Finding::new(file, at, "columns", advice));
        }
    }
    findings
}

/// Checks what holds for Rust.
pub(super) fn rust(file: &str, source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source
        .lines
        .first()
        .is_some_and(|line| line.starts_with("//! "))
    {
        let advice = "the first line must say what the file is: `//! ...`";
        findings.push(Finding::new(file, 1, "opening", advice));
    }
    if source.lines.len() > FILE_LINES {
        let advice = format!(
            "{} lines; split at {FILE_LINES}, aim at 300",
            source.lines.len()
        );
        findings.push(Finding::new(file, FILE_LINES, "file length", advice));
    }
    let name = file.rsplit('/').next().unwrap_or(file);
    if EMPTY_FILES.contains(&name) {
        findings.push(Finding::new(
            file,
            1,
            "name",
            "name the file after what is in it",
        ));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES {
            let advice = format!(
                "`{}` has {} lines; a function fits a screen of {FUNCTION_LINES}",
                function.name, function.lines
            );
            findings.push(Finding::new(file, function.line, "function length", advice));
        }
    }
    for (index, code) in source.code.iter().enumerate() {
        let in_tests = index >= source.tests_from || is_test_file(file);
        for (rule, advice) in line_rules(file, code, in_tests) {
            findings.push(Finding::new(file, index + 1, rule, advice));
        }
    }
    findings
}

/// Integration tests, benches, simulations and the harness; the product's own files are not.
fn is_test_file(file: &str) -> bool {
    let folders = ["/tests/", "/benches/", "/examples/", "/sim/"];
    // A test module too long for the end of its file lives beside it.
    let names = ["/tests.rs", "/testing.rs"];
    file.starts_with("tests/")
        || folders.iter().any(|folder| file.contains(folder))
        || names.iter().any(|name| file.ends_with(name))
}

fn line_rules(file: &str, code: &str, in_tests: bool) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    if has_word(code, "unsafe") && !may_be_unsafe(file) {
        let advice = "`unsafe` stands in engine::sys, blk::buf or a `sys.rs` only; wrap it there";
        found.push(("unsafe", advice.to_owned()));
    }
    if !in_tests && (code.contains(".unwrap()") || code.contains(".unwrap_err()")) {
        let advice = "return the error, or `expect` with the reason why it cannot happen";
        found.push(("unwrap", advice.to_owned()));
    }
    if code.contains("#[ignore") {
        found.push(("ignore", "a test runs or goes; none is skipped".to_owned()));
    }
    if !WORLDLY.iter().any(|place| file.starts_with(place)) {
        for call in WORLD {
            // A sleep in a pure crate's tests hides a race; a thread there may well find one.
            if code.contains(call) && (!in_tests || call == "thread::sleep") {
                let advice = format!("`{call}` belongs to the engine or a program; pass it in");
                found.push(("world", advice));
            }
        }
    }
    for keyword in ["struct ", "enum ", "trait ", "mod "] {
        let Some(name) = declared(code, keyword) else {
            continue;
        };
        if EMPTY_NAMES.iter().any(|empty| name.ends_with(empty)) {
            found.push((
                "name",
                format!("`{name}` says nothing; use the field's own word"),
            ));
        }
    }
    found
}

fn may_be_unsafe(file: &str) -> bool {
    UNSAFE_PLACES.iter().any(|place| file.starts_with(place)) || file.ends_with("/sys.rs")
}

/// The name declared by `keyword` on this line, if it stands as a word.
fn declared<'a>(code: &'a str, keyword: &str) -> Option<&'a str> {
    let at = code.find(keyword)?;
    let before = code[..at].chars().next_back();
    if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let name = &code[at + keyword.len()..];
    Some(
        name.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or(name),
    )
}

/// Whether `word` stands in `code` by itself, so not in `unsafe_code`.
fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        !code[..at].chars().next_back().is_some_and(part)
            && !code[at + word.len()..].chars().next().is_some_and(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(file: &str, text: &str) -> Vec<&'static str> {
        rust(file, &Source::parse(text))
            .iter()
            .map(|finding| finding.rule)
            .collect()
    }

    #[test]
    fn a_file_must_say_what_it_is() {
        assert_eq!(rules_of("crates/blk/src/a.rs", "fn a() {}\n"), ["opening"]);
        assert!(rules_of("crates/blk/src/a.rs", "//! Says it.\n").is_empty());
    }

    #[test]
    fn unsafe_stands_in_named_places_only() {
        let text = "//! x\n#![deny(unsafe_code)]\nlet a = unsafe { b };\n";
        assert_eq!(rules_of("crates/wire/src/a.rs", text), ["unsafe"]);
        assert!(rules_of("crates/engine/src/sys/ring.rs", text).is_empty());
        assert!(rules_of("crates/frontends/src/vhost_blk/sys.rs", text).is_empty());
    }

    #[test]
    fn an_unwrap_is_allowed_in_tests_only() {
        let text =
            "//! x\nfn a() { b.unwrap() }\n#[cfg(test)]\nmod tests {\nfn c() { d.unwrap() }\n}\n";
        assert_eq!(rules_of("crates/wire/src/a.rs", text), ["unwrap"]);
        assert!(rules_of("crates/wire/tests/a.rs", text).is_empty());
    }

    #[test]
    fn clocks_and_threads_stay_in_the_engine_and_the_programs() {
        let text = "//! x\nfn a() { std::time::Instant::now(); std::thread::sleep(b); }\n";
        assert_eq!(
            rules_of("crates/control/src/a.rs", text),
            ["world", "world"]
        );
        assert!(rules_of("crates/engine/src/a.rs", text).is_empty());
    }

    #[test]
    fn a_function_longer_than_a_screen_is_found() {
        let text = format!("//! x\nfn a() {{\n{}}}\n", "    b();\n".repeat(70));
        assert_eq!(rules_of("crates/blk/src/a.rs", &text), ["function length"]);
    }

    #[test]
    fn names_that_say_nothing_are_found() {
        let text = "//! x\npub struct VolumeManager;\nstruct Manage;\n";
        assert_eq!(rules_of("crates/blk/src/a.rs", text), ["name"]);
        assert_eq!(rules_of("crates/blk/src/utils.rs", "//! x\n"), ["name"]);
    }

    #[test]
    fn a_place_of_one_machine_is_found() {
        let found = text("README.md", concat!("see /ho", "me/me/x"));
        assert_eq!(found.iter().map(|f| f.rule).collect::<Vec<_>>(), ["place"]);
    }

    #[test]
    fn letters_beyond_ascii_are_found() {
        assert_eq!(text("a.rs", "// caf\u{e9}")[0].rule, "ascii");
        assert_eq!(text("a.bin", "caf\u{e9}"), []);
    }
}
