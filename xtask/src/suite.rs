//! `cargo xtask test`: every check in order, a table of what happened, and one closing line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{Result, command, is_root, run as run_program};
use crate::{lab, tidy, workspace};

/// A step that takes longer than this hangs. The slowest one, a first build on two slow cores,
/// takes about a third of it.
const STEP_LIMIT: Duration = Duration::from_secs(45 * 60);

/// The steps in order: name, heading, needs guests.
const STEPS: [(&str, &str, bool); 7] = [
    ("fmt", "formatting", false),
    ("clippy", "clippy, warnings denied", false),
    ("tidy", "rules of the house", false),
    ("unit", "unit, pair, conformance and crash tests", false),
    ("build", "building opi", true),
    ("lab", "the lab: guest, kernel, foreign clients", true),
    ("system", "whole-system tests with real peers", true),
];

/// Which steps to run.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Choice {
    quick: bool,
    only: Option<String>,
}

impl Choice {
    /// Reads the arguments after `test`.
    pub(crate) fn parse(words: &[&str]) -> Result<Choice> {
        let mut choice = Choice::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--quick" => choice.quick = true,
                "--only" => {
                    let step = words.next().ok_or("--only needs a step")?;
                    if !STEPS.iter().any(|(name, ..)| name == step) {
                        return Err(format!("--only: no step is called {step}"));
                    }
                    choice.only = Some((*step).to_owned());
                }
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(choice)
    }

    fn includes(&self, name: &str, needs_guests: bool) -> bool {
        match &self.only {
            Some(only) => only == name,
            None => !(self.quick && needs_guests),
        }
    }
}

/// What one step came to.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Names of failed tests, for the summary.
    failures: Vec<String>,
    problem: Option<String>,
}

/// Runs the chosen steps and reports.
pub(crate) fn run(choice: &Choice) -> ExitCode {
    let chosen: Vec<_> = STEPS
        .iter()
        .filter(|(name, _, guests)| choice.includes(name, *guests))
        .collect();
    let mut table = Vec::new();
    let start = Instant::now();
    for (index, (name, heading, _)) in chosen.iter().enumerate() {
        println!("\n==> {}/{} {name}: {heading}", index + 1, chosen.len());
        let begun = Instant::now();
        let outcome = perform(name);
        let seconds = begun.elapsed().as_secs_f64();
        if let Some(problem) = &outcome.problem {
            println!("{name}: {problem}");
        }
        table.push((*name, seconds, outcome));
        // Nothing can be tested in a guest without the program or the guest.
        if matches!(*name, "build" | "lab") && table.last().is_some_and(|row| !row.2.is_good()) {
            break;
        }
    }
    println!();
    let (mut passed, mut failed) = (0, 0);
    for (name, seconds, outcome) in &table {
        println!("{}", row(name, *seconds, outcome));
        for test in &outcome.failures {
            println!("             {test}");
        }
        passed += outcome.passed;
        failed += outcome.failure_count();
    }
    for (name, ..) in chosen.iter().skip(table.len()) {
        println!("  {name:<8} not run, the step before it failed");
        failed += 1;
    }
    if table.iter().any(|(name, ..)| *name == "system") && !lab::has_go_client() {
        println!("  left out: the unmodified Go client (`cargo xtask lab` says why)");
    }
    println!("  total    {:>19.0} s", start.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Outcome {
    fn is_good(&self) -> bool {
        self.failure_count() == 0
    }

    /// Failed tests; a step that fails in another way counts as one.
    fn failure_count(&self) -> u64 {
        self.failed.max(u64::from(self.problem.is_some()))
    }

    fn of(result: Result<()>) -> Outcome {
        Outcome {
            problem: result.err(),
            ..Outcome::default()
        }
    }
}

fn row(name: &str, seconds: f64, outcome: &Outcome) -> String {
    let verdict = if outcome.is_good() { "ok" } else { "FAILED" };
    let tests = match (outcome.passed, outcome.failed) {
        (0, 0) => String::new(),
        (passed, failed) => format!("{passed} passed, {failed} failed"),
    };
    format!("  {name:<8} {verdict:<8} {seconds:>10.1} s   {tests}")
        .trim_end()
        .to_owned()
}

fn perform(name: &str) -> Outcome {
    match name {
        "fmt" => checked(cargo(&["fmt", "--all", "--", "--check"])),
        "clippy" => checked(cargo(&[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])),
        "tidy" => Outcome::of(tidy::run(&workspace::root())),
        "unit" => tested(cargo(&[
            "test",
            "--release",
            "--workspace",
            "--exclude",
            "tests",
            "--no-fail-fast",
        ])),
        "build" => checked(cargo(&["build", "--release", "-p", "opi"])),
        "lab" => Outcome::of(lab::build()),
        "system" if !is_root() => Outcome::of(Err(
            "guests need taps and network name spaces, so this step needs root; \
             run `sudo -E cargo xtask test`, or `cargo xtask test --quick` without guests"
                .into(),
        )),
        "system" => {
            let mut tests = cargo(&["test", "--release", "-p", "tests", "--no-fail-fast"]);
            tests.env("OPI_LAB", lab::dir());
            if lab::has_go_client() {
                tests.args(["--features", "go-client"]);
            }
            tested(tests)
        }
        other => unreachable!("{other} is in the table of steps"),
    }
}

/// This toolchain's cargo, in the workspace, reading nothing from the terminal.
fn cargo(arguments: &[&str]) -> Command {
    println!("    cargo {}", arguments.join(" "));
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut cargo = command(&program);
    cargo
        .args(arguments)
        .current_dir(workspace::root())
        .stdin(Stdio::null());
    cargo
}

/// A step whose exit status says everything.
fn checked(mut program: Command) -> Outcome {
    let result = program
        .spawn()
        .map_err(|e| format!("cannot start cargo: {e}"));
    Outcome::of(result.and_then(|child| finish(child, Instant::now() + STEP_LIMIT)))
}

/// A step that runs tests: prints what they print and adds their results up.
fn tested(mut program: Command) -> Outcome {
    let mut child = match program.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(e) => return Outcome::of(Err(format!("cannot start cargo: {e}"))),
    };
    let deadline = Instant::now() + STEP_LIMIT;
    let (lines, received) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Ends by itself when the last writer of the pipe has ended.
        thread::spawn(move || {
            for line in BufReader::new(stdout)
                .split(b'\n')
                .map_while(|line| line.ok())
            {
                if lines
                    .send(String::from_utf8_lossy(&line).into_owned())
                    .is_err()
                {
                    break;
                }
            }
        });
    }
    let mut outcome = Outcome::default();
    while let Ok(line) = received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        println!("{line}");
        outcome.count(&line);
    }
    outcome.problem = finish(child, deadline).err();
    if outcome.problem.is_none() && outcome.ignored > 0 {
        outcome.problem = Some(format!(
            "{} tests were ignored; none may be",
            outcome.ignored
        ));
    }
    if outcome.problem.is_none() && outcome.passed == 0 {
        outcome.problem = Some("no test ran".into());
    }
    outcome
}

impl Outcome {
    /// Adds a `test result: ok. 3 passed; 0 failed; 0 ignored; ...` line up, and notes the name in
    /// `test name ... FAILED`.
    fn count(&mut self, line: &str) {
        let line = line.trim();
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|l| l.strip_suffix(" ... FAILED"))
        {
            self.failures.push(name.to_owned());
        }
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

/// Waits for `child`, and ends it with all it started when `deadline` passes.
fn finish(mut child: Child, deadline: Instant) -> Result<()> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("cargo: {status}")),
            Ok(None) if Instant::now() >= deadline => {
                for pid in descendants(child.id()) {
                    // Gone already is as good as ended.
                    let _ = run_program(command("kill").args(["-KILL", &pid.to_string()]));
                }
                let _ = child.wait();
                return Err(format!("ended after {} s: it hangs", STEP_LIMIT.as_secs()));
            }
            Ok(None) => thread::sleep(Duration::from_millis(50)),
            Err(e) => return Err(format!("cannot wait for cargo: {e}")),
        }
    }
}

/// `root` and every process below it, children first.
fn descendants(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .map(|listing| {
            listing
                .flatten()
                .filter_map(|e| parent(&e.path()))
                .collect()
        })
        .unwrap_or_default();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(_, parent)| *parent == pid)
                .map(|(child, _)| child),
        );
        next += 1;
    }
    found.reverse();
    found
}

/// The process at `/proc/<pid>` and its parent, from the fourth field of `stat`, which follows a
/// name in parentheses that may contain anything.
fn parent(path: &std::path::Path) -> Option<(u32, u32)> {
    let pid = path.file_name()?.to_str()?.parse().ok()?;
    let stat = fs::read_to_string(path.join("stat")).ok()?;
    let after = stat.rsplit_once(')')?.1;
    Some((pid, after.split_whitespace().nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_runs_add_up() {
        let mut outcome = Outcome::default();
        outcome.count("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        outcome.count("test something ... ok");
        outcome.count("test result: FAILED. 2 passed; 4 failed; 0 ignored; finished in 0.10s");
        outcome.count("test a::b ... FAILED");
        assert_eq!((outcome.passed, outcome.failed, outcome.ignored), (5, 4, 1));
        assert_eq!(outcome.failures, ["a::b"]);
    }

    #[test]
    fn a_step_that_breaks_counts_as_one_failure() {
        assert_eq!(Outcome::of(Err("broken".into())).failure_count(), 1);
        assert_eq!(
            Outcome {
                failed: 3,
                ..Outcome::of(Err("x".into()))
            }
            .failure_count(),
            3
        );
    }

    #[test]
    fn only_known_steps_can_be_chosen() {
        assert!(Choice::parse(&["--only", "nothing"]).is_err());
        assert!(Choice::parse(&["--fast"]).is_err());
        let only = Choice::parse(&["--only", "lab"]).unwrap();
        assert!(only.includes("lab", true) && !only.includes("fmt", false));
    }

    #[test]
    fn quick_leaves_guests_out() {
        let quick = Choice::parse(&["--quick"]).unwrap();
        assert!(quick.includes("unit", false) && !quick.includes("system", true));
    }

    #[test]
    fn this_process_is_below_its_parent() {
        let own = std::process::id();
        let (_, above) = parent(&std::path::PathBuf::from(format!("/proc/{own}"))).unwrap();
        assert!(descendants(above).contains(&own));
    }
}
