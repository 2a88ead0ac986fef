//! [`Error`], the one error of the control plane: a gRPC code, and text that says what to do.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The gRPC status codes that this project answers with. `UNKNOWN` is not among them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Code {
    /// The caller took the request back.
    Cancelled = 1,
    /// The request is wrong in itself, whatever the state of the system.
    InvalidArgument = 3,
    /// The deadline passed before the work was done.
    DeadlineExceeded = 4,
    /// No such resource.
    NotFound = 5,
    /// A resource of that name or identifier exists, and differs.
    AlreadyExists = 6,
    /// The caller may not do this.
    PermissionDenied = 7,
    /// A limit is reached.
    ResourceExhausted = 8,
    /// The system is not in a state that allows this.
    FailedPrecondition = 9,
    /// A concurrent change got in the way; trying again may work.
    Aborted = 10,
    /// Nothing here does this.
    Unimplemented = 12,
    /// A defect of this software, or a failed disk under its store.
    Internal = 13,
    /// Something needed is not there for now; trying again may work.
    Unavailable = 14,
    /// The caller did not say who it is.
    Unauthenticated = 16,
}

impl Code {
    /// The name as `google.rpc.Code` spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "CANCELLED",
            Self::InvalidArgument => "INVALID_ARGUMENT",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::FailedPrecondition => "FAILED_PRECONDITION",
            Self::Aborted => "ABORTED",
            Self::Unimplemented => "UNIMPLEMENTED",
            Self::Internal => "INTERNAL",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unauthenticated => "UNAUTHENTICATED",
        }
    }

    /// The number on the wire.
    pub const fn number(self) -> i32 {
        self as i32
    }
}

/// Why a request cannot be served.
#[derive(Clone, Debug)]
pub struct Error {
    /// What sort of failure.
    pub code: Code,
    /// Lower case, no full stop; names the field and the value, and says the way out.
    pub message: String,
    /// The resource it is about, by name.
    pub resource: Option<String>,
    /// The field of the request it is about, as a path such as `aio_volume.block_size`.
    pub field: Option<String>,
    /// Resources that stand in the way, by name.
    pub in_use_by: Vec<String>,
    /// What went wrong below; printed once, at the edge, and never sent to clients.
    pub source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The result of control-plane work.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with only a code and a message.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            message,
            resource: None,
            field: None,
            in_use_by: Vec::new(),
            source: None,
        }
    }

    /// The field is wrong. The message is prefixed with the field's path.
    pub fn invalid(field: impl Into<String>, message: impl fmt::Display) -> Self {
        let field = field.into();
        let mut error = Self::new(Code::InvalidArgument, format!("{field}: {message}"));
        error.field = Some(field);
        error
    }

    /// There is no such resource.
    pub fn not_found(resource: impl Into<String>) -> Self {
        let resource = resource.into();
        Self::new(Code::NotFound, format!("{resource} does not exist")).about(resource)
    }

    /// The state of the system does not allow it.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Code::FailedPrecondition, message)
    }

    /// Nothing here does this.
    pub fn unimplemented(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    /// Something needed is not there for now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, message)
    }

    /// A defect of ours, or a failed disk under the store.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Names the resource it is about.
    pub fn about(mut self, resource: impl Into<String>) -> Self {
        self.resource = Some(resource.into());
        self
    }

    /// Names the field it is about, without touching the message.
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Keeps what went wrong below.
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_deref()
            .map(|e| e as &(dyn StdError + 'static))
    }
}
