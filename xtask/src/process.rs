//! Running other programs: found in the path, retried where the network is involved, and with
//! an error that shows what they said.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// Anything that went wrong, as one message for the person at the terminal.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// Administration programs live here on Debian, though not in every user's path.
const SYSTEM_DIRS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Tries of a step that uses the network. Mirrors fail for seconds, not for minutes.
const TRIES: u32 = 4;

/// Lines of a failed program's output that an error repeats.
const SHOWN_LINES: usize = 25;

/// Where `program` is, if it is installed.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_DIRS.iter().map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command for `program`, looked up as [`find`] does.
pub(crate) fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| PathBuf::from(program)))
}

/// Runs `command` to its end and returns what it printed on standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = Path::new(command.get_program()).display().to_string();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{name}: cannot be started: {e}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = stdout.lines().chain(stderr.lines()).collect();
    let tail = said[said.len().saturating_sub(SHOWN_LINES)..].join("\n    ");
    Err(format!("{name}: {}\n    {tail}", output.status))
}

/// Runs the command that `make` builds until it succeeds, at most [`TRIES`] times.
pub(crate) fn retried(what: &str, mut make: impl FnMut() -> Command) -> Result<String> {
    let mut pause = Duration::from_secs(2);
    for attempt in 1.. {
        match run(&mut make()) {
            Ok(out) => return Ok(out),
            Err(e) if attempt == TRIES => return Err(format!("{what}: {e}")),
            Err(e) => {
                let first = e.lines().last().unwrap_or_default().trim();
                println!("      {what}: try {attempt} of {TRIES} failed ({first}), again");
                thread::sleep(pause);
                pause *= 3;
            }
        }
    }
    unreachable!("the last try returns")
}

/// Whether this process may change the machine.
pub(crate) fn is_root() -> bool {
    run(command("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_says_what_it_printed() {
        let error = run(command("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        assert!(
            error.contains("out") && error.contains("err") && error.contains('3'),
            "{error}"
        );
    }

    #[test]
    fn a_missing_program_is_not_found() {
        assert_eq!(find("no-such-program-anywhere"), None);
    }
}
