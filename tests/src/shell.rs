//! Programs run by the harness.

use std::fmt;
use std::process::{Command, Stdio};

/// What a program or a step in a guest said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// What was run, for messages.
    pub what: String,
    /// Exit status; 124 after a time-out, 128 and more after a signal.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub text: String,
}

impl Output {
    /// The text, if the status is 0; panics with all that was said otherwise.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.status == 0, "{self}");
        self.text
    }

    /// The text, if the status is not 0; panics otherwise.
    #[track_caller]
    pub fn err(self) -> String {
        assert!(self.status != 0, "this should have failed:\n{self}");
        self.text
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\nended with status {}:\n{}",
            self.what.trim(),
            self.status,
            self.text
        )
    }
}

/// Runs a program on this machine to its end.
///
/// # Panics
/// When the program cannot be started.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let what = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{what}: cannot be started: {e}"));
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    let status = output.status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt;
        128 + output.status.signal().unwrap_or(0)
    });
    Output { what, status, text }
}
