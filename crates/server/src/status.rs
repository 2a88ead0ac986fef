//! Errors as clients see them: `google.rpc.Status` with details, and the HTTP status of each code.

use api::rpc::bad_request::FieldViolation;
use api::rpc::precondition_failure::Violation;
use api::rpc::{BadRequest, ErrorInfo, PreconditionFailure, ResourceInfo, RetryInfo, Status};
use api::{Code, Error};
use http::StatusCode;
use prost::Message as _;
use prost_types::Any;

/// Who defines the reasons in `ErrorInfo`.
const DOMAIN: &str = "opi-storage";
/// What a client should wait before it asks an unavailable server again, in seconds.
const RETRY_DELAY_S: i64 = 1;

/// Longest message, in bytes. gRPC sends errors in trailers, of which clients take 8 to 16 KiB, and
/// the details repeat the message.
const MESSAGE_MAX: usize = 1000;
/// Users that the details name at most, for the same reason.
const USERS_MAX: usize = 10;

/// The same error, small enough for a trailer.
fn bounded(error: &Error) -> Error {
    let mut error = error.clone();
    error.in_use_by.truncate(USERS_MAX);
    for text in [
        Some(&mut error.message),
        error.field.as_mut(),
        error.resource.as_mut(),
    ] {
        if let Some(text) = text.filter(|text| text.len() > MESSAGE_MAX) {
            text.truncate(text.floor_char_boundary(MESSAGE_MAX));
            text.push_str("...");
        }
    }
    error
}

/// The error as `google.rpc.Status`. What went wrong below stays here, in the log.
pub fn status(error: &Error) -> Status {
    if let Some(source) = &error.source {
        tracing::warn!(code = error.code.name(), error = error.message, cause = %source, "failed");
    }
    let error = bounded(error);
    Status {
        code: error.code.number(),
        details: details(&error),
        message: error.message,
    }
}

fn details(error: &Error) -> Vec<Any> {
    let mut details = vec![any("ErrorInfo", &info(error))];
    if let Some(field) = error
        .field
        .as_ref()
        .filter(|_| error.code == Code::InvalidArgument)
    {
        let violation = FieldViolation {
            field: field.clone(),
            description: error.message.clone(),
            reason: reason(error).to_owned(),
        };
        details.push(any(
            "BadRequest",
            &BadRequest {
                field_violations: vec![violation],
            },
        ));
    }
    if error.code == Code::FailedPrecondition {
        details.push(any("PreconditionFailure", &precondition(error)));
    }
    if let Some(name) = &error.resource {
        let kind = api::names::ResourceName::parse(name, "name").ok();
        let info = ResourceInfo {
            resource_type: kind
                .map(|n| n.kind().resource_type.clone())
                .unwrap_or_default(),
            resource_name: name.clone(),
            owner: String::new(),
            description: error.message.clone(),
        };
        details.push(any("ResourceInfo", &info));
    }
    if matches!(error.code, Code::Unavailable | Code::Aborted) {
        let delay = prost_types::Duration {
            seconds: RETRY_DELAY_S,
            nanos: 0,
        };
        details.push(any(
            "RetryInfo",
            &RetryInfo {
                retry_delay: Some(delay),
            },
        ));
    }
    details
}

fn info(error: &Error) -> ErrorInfo {
    let field = error.field.iter().map(|f| ("field".to_owned(), f.clone()));
    let resource = error
        .resource
        .iter()
        .map(|r| ("resource".to_owned(), r.clone()));
    let users = Some(error.in_use_by.join(",")).filter(|u| !u.is_empty());
    let users = users.into_iter().map(|u| ("in_use_by".to_owned(), u));
    let metadata = field.chain(resource).chain(users).collect();
    ErrorInfo {
        reason: reason(error).to_owned(),
        domain: DOMAIN.to_owned(),
        metadata,
    }
}

/// One constant for each situation a program may want to tell apart.
fn reason(error: &Error) -> &'static str {
    match error.code {
        Code::InvalidArgument if error.field.is_some() => "FIELD_INVALID",
        Code::FailedPrecondition if !error.in_use_by.is_empty() => "IN_USE",
        code => code.name(),
    }
}

fn precondition(error: &Error) -> PreconditionFailure {
    let violation = |kind: &str, subject: &str| Violation {
        r#type: kind.to_owned(),
        subject: subject.to_owned(),
        description: format!("{subject} stands in the way"),
    };
    let mut violations: Vec<_> = error
        .in_use_by
        .iter()
        .map(|u| violation("IN_USE", u))
        .collect();
    if violations.is_empty() {
        violations.push(violation(
            "STATE",
            error.resource.as_deref().unwrap_or_default(),
        ));
    }
    PreconditionFailure { violations }
}

fn any(name: &str, message: &impl prost::Message) -> Any {
    let type_url = format!("type.googleapis.com/google.rpc.{name}");
    Any {
        type_url,
        value: message.encode_to_vec(),
    }
}

/// The error as gRPC sends it.
pub fn to_tonic(error: &Error) -> tonic::Status {
    let code = tonic::Code::from_i32(error.code.number());
    let details = status(error).encode_to_vec();
    tonic::Status::with_details(code, &error.message, details.into())
}

/// The HTTP status of a code (the mapping of google.rpc.Code).
pub fn http_status(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => CLIENT_CLOSED_REQUEST,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Not registered, but what everybody uses for a request its client took back.
const CLIENT_CLOSED_REQUEST: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

#[cfg(test)]
mod tests {
    use super::*;

    fn detail<M: prost::Message + Default>(status: &Status, name: &str) -> Option<M> {
        let any = status.details.iter().find(|d| d.type_url.ends_with(name))?;
        Some(M::decode(any.value.as_slice()).unwrap())
    }

    #[test]
    fn a_wrong_field_is_named_in_the_details() {
        let status = status(&Error::invalid(
            "malloc_volume.block_size",
            "is 7, must be 512",
        ));
        assert_eq!(status.code, 3);
        let bad: BadRequest = detail(&status, "BadRequest").unwrap();
        assert_eq!(bad.field_violations[0].field, "malloc_volume.block_size");
        let info: ErrorInfo = detail(&status, "ErrorInfo").unwrap();
        assert_eq!(
            (&*info.reason, &*info.domain),
            ("FIELD_INVALID", "opi-storage")
        );
    }

    #[test]
    fn an_error_with_hundreds_of_users_fits_into_a_trailer() {
        let names =
            (0..300).map(|i| format!("nvmeSubsystems/s{i}/nvmeNamespaces/{}", "n".repeat(60)));
        let mut error = Error::precondition("m".repeat(100_000)).about("mallocVolumes/m0");
        error.in_use_by = names.collect();
        let status = status(&error);
        assert!(
            prost::Message::encoded_len(&status) < 8000,
            "{}",
            status.details.len()
        );
        assert!(status.message.ends_with("..."));
    }

    #[test]
    fn every_user_is_a_violated_precondition() {
        let mut error = Error::precondition("mallocVolumes/m is in use").about("mallocVolumes/m");
        error.in_use_by = vec!["qosVolumes/q".to_owned(), "virtioBlks/b".to_owned()];
        let status = status(&error);
        let failure: PreconditionFailure = detail(&status, "PreconditionFailure").unwrap();
        let subjects: Vec<_> = failure.violations.iter().map(|v| &*v.subject).collect();
        assert_eq!(subjects, ["qosVolumes/q", "virtioBlks/b"]);
        let info: ResourceInfo = detail(&status, "ResourceInfo").unwrap();
        assert_eq!(info.resource_type, "opi_api.storage.v1/MallocVolume");
    }

    #[test]
    fn what_went_wrong_below_is_not_sent() {
        let below = std::io::Error::other("/secret/path");
        let error = Error::internal("the store failed").caused_by(below);
        let bytes = status(&error).encode_to_vec();
        assert!(!String::from_utf8_lossy(&bytes).contains("secret"));
    }

    #[test]
    fn grpc_details_are_a_status_again() {
        let tonic = to_tonic(&Error::not_found("nullVolumes/n"));
        assert_eq!(tonic.code(), tonic::Code::NotFound);
        let status = Status::decode(tonic.details()).unwrap();
        assert_eq!(status.code, 5);
        assert_eq!(status.message, tonic.message());
    }
}
