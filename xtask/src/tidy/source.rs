//! Rust text seen just well enough for the rules: comments and literals blanked out, functions
//! measured, test code told from product code.

/// One Rust file.
pub(super) struct Source {
    /// The lines as written.
    pub(super) lines: Vec<String>,
    /// The same lines with comments and the insides of literals replaced by spaces.
    pub(super) code: Vec<String>,
    /// The line, counted from 0, at which the tests at the end of the file begin.
    pub(super) tests_from: usize,
}

/// One function.
#[derive(Debug, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) lines: usize,
}

impl Source {
    /// Takes a file apart.
    pub(super) fn parse(text: &str) -> Source {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let code: Vec<String> = blank(text).lines().map(str::to_owned).collect();
        let tests_from = code
            .windows(2)
            .position(|pair| {
                pair[0].trim() == "#[cfg(test)]" && pair[1].trim_start().starts_with("mod tests")
            })
            .unwrap_or(code.len());
        Source {
            lines,
            code,
            tests_from,
        }
    }

    /// Every function with a body.
    pub(super) fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (index, line) in self.code.iter().enumerate() {
            for name in function_names(line) {
                let end = self.body_end(index, name.0);
                if let Some(end) = end {
                    let lines = end - index + 1;
                    found.push(Function {
                        name: name.1,
                        line: index + 1,
                        lines,
                    });
                }
            }
        }
        found
    }

    /// The line of the brace that closes the body of the function at `line`, `column`.
    fn body_end(&self, line: usize, column: usize) -> Option<usize> {
        let (mut depth, mut round) = (0_i32, 0_i32);
        for (index, text) in self.code.iter().enumerate().skip(line) {
            let start = if index == line { column } else { 0 };
            for c in text[start..].chars() {
                match c {
                    '(' | '[' if depth == 0 => round += 1,
                    ')' | ']' if depth == 0 => round -= 1,
                    ';' if depth == 0 && round == 0 => return None,
                    '{' => depth += 1,
                    '}' => {
                        depth -= 1;
                        if depth == 0 && round == 0 {
                            return Some(index);
                        }
                    }
                    _ => {}
                }
            }
        }
        None
    }
}

/// Column and name of the functions declared on a line.
fn function_names(line: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in line.match_indices("fn ") {
        let before = line[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let name: String = line[at + 3..]
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect();
        if !name.is_empty() {
            found.push((at, name));
        }
    }
    found
}

/// What the scanner is inside of.
enum Inside {
    Code,
    LineComment,
    BlockComment(u32),
    Text,
    RawText(usize),
}

/// `text` with comments and the insides of literals replaced by spaces, line for line.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut inside = Inside::Code;
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let mut taken = 1;
        let mut kept = false;
        match inside {
            Inside::Code => match (c, next) {
                ('/', '/') => inside = Inside::LineComment,
                ('/', '*') => (inside, taken) = (Inside::BlockComment(1), 2),
                ('"', _) => inside = Inside::Text,
                ('r', '"' | '#') if raw_hashes(&chars, at).is_some() => {
                    let hashes = raw_hashes(&chars, at).unwrap_or(0);
                    (inside, taken) = (Inside::RawText(hashes), hashes + 2);
                }
                ('\'', _) => taken = character(&chars, at),
                _ => kept = true,
            },
            Inside::LineComment if c == '\n' => inside = Inside::Code,
            Inside::LineComment => {}
            Inside::BlockComment(depth) => match (c, next) {
                ('/', '*') => (inside, taken) = (Inside::BlockComment(depth + 1), 2),
                ('*', '/') if depth == 1 => (inside, taken) = (Inside::Code, 2),
                ('*', '/') => (inside, taken) = (Inside::BlockComment(depth - 1), 2),
                _ => {}
            },
            Inside::Text if c == '\\' => taken = 2,
            Inside::Text if c == '"' => inside = Inside::Code,
            Inside::Text => {}
            Inside::RawText(hashes) => {
                let closes = c == '"'
                    && chars[at + 1..]
                        .iter()
                        .take(hashes)
                        .filter(|c| **c == '#')
                        .count()
                        == hashes;
                if closes {
                    (inside, taken) = (Inside::Code, hashes + 1);
                }
            }
        }
        for &c in chars[at..].iter().take(taken) {
            let shown = kept || c == '\n';
            out.push(if shown { c } else { ' ' });
        }
        at += taken;
    }
    out
}

/// The number of `#` of a raw string literal that starts at `at`, if one does.
fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let before = at.checked_sub(1).and_then(|before| chars.get(before));
    // `br"..."` is one too; `for"` is not.
    if before.is_some_and(|c| (c.is_alphanumeric() || *c == '_') && *c != 'b') {
        return None;
    }
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

/// The length of the character literal at `at`, or 1 for the quote of a lifetime.
fn character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            let close = chars[at + 3..].iter().position(|c| *c == '\'');
            close.map_or(1, |close| close + 4)
        }
        (Some(_), Some('\'')) => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let text = "let a = \"unsafe { \\\" }\"; // unsafe\n/* unsafe /* x */ y */ let b = 'u';\n\
                    let c = r#\"unsafe \" }\"#; let d: &'a str = b'\\'';";
        let code = blank(text);
        assert!(!code.contains("unsafe"), "{code}");
        assert_eq!(code.lines().count(), 3);
        assert!(code.contains("let b =") && code.contains("let c =") && code.contains("let d: &"));
        assert_eq!(code.chars().filter(|c| *c == '}').count(), 0);
    }

    #[test]
    fn functions_are_measured_over_their_bodies() {
        let text = "trait T {\n    fn no_body(&self);\n}\n\
                    fn long(\n    x: [u8; 4],\n) -> u8 {\n    \
                    if x[0] == 0 {\n        1\n    } else {\n        2\n    }\n}\n";
        let functions = Source::parse(text).functions();
        assert_eq!(
            functions,
            [Function {
                name: "long".into(),
                line: 4,
                lines: 9
            }]
        );
    }

    #[test]
    fn tests_at_the_end_are_told_apart() {
        let source = Source::parse("fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(source.tests_from, 2);
    }
}
