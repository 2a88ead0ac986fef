//! [`Failure`]: why a command ended badly, as one line for people and an exit code for scripts.

use std::error::Error as StdError;
use std::fmt;

use tonic::{Code, Status};

/// Why a command did not do what it should.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    message: String,
    usage: bool,
    code: Option<Code>,
}

/// The result of one command.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The command was right, but failed: exit code 1.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            usage: false,
            code: None,
        }
    }

    /// The command itself is wrong: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            usage: true,
            code: None,
        }
    }

    /// 1 for a command that failed, 2 for one that made no sense.
    pub fn exit_code(&self) -> u8 {
        if self.usage { 2 } else { 1 }
    }

    /// The gRPC code, if a server answered with one.
    pub fn code(&self) -> Option<Code> {
        self.code
    }

    /// The same with something said before the message.
    #[must_use]
    pub fn context(mut self, about: impl fmt::Display) -> Self {
        self.message = format!("{about}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A server is free to send line breaks; an error stays one line.
        let mut lines = self
            .message
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty());
        f.write_str(lines.next().unwrap_or("failed without saying why"))?;
        lines.try_for_each(|line| write!(f, "; {line}"))
    }
}

impl StdError for Failure {}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let name = code_name(status.code());
        let message = match status.message() {
            "" => format!("the server answered {name}"),
            text => format!("{text} ({name})"),
        };
        Self {
            message,
            usage: false,
            code: Some(status.code()),
        }
    }
}

impl From<api::Error> for Failure {
    fn from(error: api::Error) -> Self {
        Self::usage(error.message)
    }
}

/// The last and most telling of a chain of causes.
pub(crate) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The name of a code, as the gRPC documents spell it.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_server_becomes_one_line() {
        let failure = Failure::from(Status::not_found("volume m0\ndoes not exist"));
        assert_eq!(failure.to_string(), "volume m0; does not exist (NOT_FOUND)");
        assert_eq!(failure.exit_code(), 1);
        assert_eq!(failure.code(), Some(Code::NotFound));
    }

    #[test]
    fn a_command_that_makes_no_sense_exits_with_2() {
        assert_eq!(Failure::usage("no such flag").exit_code(), 2);
    }
}
