//! The client against a server in memory, as a person uses it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod discovery;
mod fake;
mod help;
mod verbs;

use clap::Command;
use std::ffi::OsString;

/// The part of the program that this crate brings.
fn root() -> Command {
    Command::new("opi").subcommands(cli::commands())
}

/// Runs one command line, words apart by spaces; what it says, or its exit code and why it failed.
fn opi(line: &str) -> Result<String, (u8, String)> {
    let (said, ended) = run(line);
    ended.map(|()| said)
}

/// The same, with what it said before it failed.
fn run(line: &str) -> (String, Result<(), (u8, String)>) {
    let words = std::iter::once("opi")
        .chain(line.split_whitespace())
        .map(OsString::from);
    let failed = |f: cli::Failure| (f.exit_code(), f.to_string());
    let mut out = Vec::new();
    let run = |out: &mut Vec<u8>| {
        let args = cli::rewrite(words.collect()).map_err(failed)?;
        let root = root();
        let matches = root
            .clone()
            .try_get_matches_from(args)
            .map_err(|e| (2, cli::usage_line(&e)))?;
        let (verb, inner) = matches.subcommand().unwrap();
        cli::run(&root, verb, inner, out).map_err(failed)
    };
    let ended = run(&mut out);
    (String::from_utf8(out).unwrap(), ended)
}
