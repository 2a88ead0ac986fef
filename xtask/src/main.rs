//! Tasks of the repository: `cargo xtask test`, `tidy` and `lab`.

mod lab;
mod process;
mod suite;
mod tidy;
mod workspace;

use std::env;
use std::process::ExitCode;

/// Exit status of a wrong command line.
const USAGE_ERROR: u8 = 2;

const USAGE: &str = "\
usage: cargo xtask <task>

tasks:
  test [--quick] [--only STEP]   the whole check; --quick leaves out guests and what they need
  tidy                           the rules of the house: arrows, sizes, unsafe, clocks, links
  lab                            build what the whole-system tests need (under target/lab)

steps of test, in order: fmt clippy tidy unit build lab system";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", rest @ ..] => match suite::Choice::parse(rest) {
            Ok(choice) => return suite::run(&choice),
            Err(e) => return usage(&e),
        },
        ["tidy"] => tidy::run(&workspace::root()),
        ["lab"] => lab::build(),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        [] => return usage("no task given"),
        [other, ..] => return usage(&format!("unknown task or arguments: {other}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("xtask: {problem}\n\n{USAGE}");
    ExitCode::from(USAGE_ERROR)
}
