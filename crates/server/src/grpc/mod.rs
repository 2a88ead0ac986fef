//! gRPC: one generic service for every method in the descriptors.

pub mod reflection;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use api::codec::DynamicCodec;
use api::kinds::{self, Method};
use api::{Code, Error};
use axum::body::Body;
use http::{HeaderMap, Request};
use prost_reflect::DynamicMessage;
use tokio_stream::{Stream, StreamExt as _};
use tonic::server::{Grpc, ServerStreamingService, UnaryService};
use tonic::{Response, Status};

use crate::calls::{Dispatch, Meta};
use crate::status::to_tonic;

/// Largest message in either direction; a full page of the largest resources is below 1 MiB.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What stands before each message (gRPC over HTTP/2, Length-Prefixed-Message).
const FRAME_BYTES: usize = 5;

/// Whether a request speaks gRPC, and not REST.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// Serves one request. The answer is gRPC whatever was asked.
pub async fn serve(
    dispatch: &Dispatch,
    request: Request<Body>,
    meta: Meta,
) -> http::Response<tonic::body::Body> {
    let Some(method) = kinds::method_by_path(request.uri().path()) else {
        let text = format!("there is no method {}", request.uri().path());
        return to_tonic(&Error::unimplemented(text)).into_http();
    };
    let mut meta = match time_limit(request.headers()) {
        Ok(time) => Meta { time, ..meta },
        Err(error) => return to_tonic(&error).into_http(),
    };
    // All methods take one message, so the body is whole before the call begins.
    let (head, body) = request.into_parts();
    let body = dispatch.read(body, FRAME_BYTES + MESSAGE_BYTES_MAX, &mut meta);
    let request = match body.await {
        Ok(bytes) => Request::from_parts(head, Body::from(bytes)),
        Err(error) => return to_tonic(&error).into_http(),
    };
    let codec = DynamicCodec::new(method.descriptor.input()).refusing(to_tonic);
    let mut grpc = Grpc::new(codec)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = Call {
        dispatch: dispatch.clone(),
        method,
        meta,
    };
    if method.descriptor.is_server_streaming() {
        grpc.server_streaming(call, request).await
    } else {
        grpc.unary(call, request).await
    }
}

/// One request on its way to the dispatcher.
struct Call {
    dispatch: Dispatch,
    method: &'static Method,
    meta: Meta,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Answers = Pin<Box<dyn Stream<Item = Result<DynamicMessage, Status>> + Send>>;

impl UnaryService<DynamicMessage> for Call {
    type Response = DynamicMessage;
    type Future = Answer<DynamicMessage>;

    fn call(&mut self, request: tonic::Request<DynamicMessage>) -> Self::Future {
        let (dispatch, method) = (self.dispatch.clone(), self.method);
        let meta = self.meta.clone();
        Box::pin(async move {
            let reply = dispatch.call(method, request.into_inner(), meta).await;
            reply.map(Response::new).map_err(|e| to_tonic(&e))
        })
    }
}

impl ServerStreamingService<DynamicMessage> for Call {
    type Response = DynamicMessage;
    type ResponseStream = Answers;
    type Future = Answer<Answers>;

    fn call(&mut self, request: tonic::Request<DynamicMessage>) -> Self::Future {
        let (dispatch, method) = (self.dispatch.clone(), self.method);
        let meta = self.meta.clone();
        Box::pin(async move {
            let replies = dispatch.watch(method, request.into_inner(), meta).await;
            let replies = replies.map_err(|e| to_tonic(&e))?;
            let answers: Answers = Box::pin(replies.map(|r| r.map_err(|e| to_tonic(&e))));
            Ok(Response::new(answers))
        })
    }
}

/// The `grpc-timeout` header: at most eight digits and a unit (gRPC over HTTP/2, Requests).
///
/// # Errors
/// It is something else.
pub(crate) fn time_limit(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let read = || {
        let text = value.to_str().ok()?;
        let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let count: u64 = digits.parse().ok()?;
        match unit {
            "H" => Some(Duration::from_secs(count * 3600)),
            "M" => Some(Duration::from_secs(count * 60)),
            "S" => Some(Duration::from_secs(count)),
            "m" => Some(Duration::from_millis(count)),
            "u" => Some(Duration::from_micros(count)),
            "n" => Some(Duration::from_nanos(count)),
            _ => None,
        }
    };
    let wrong = || {
        let text = format!("grpc-timeout {value:?} is not digits with a unit, as in 10S");
        Error::new(Code::InvalidArgument, text)
    };
    read().map(Some).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> Option<Option<Duration>> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        time_limit(&headers).ok()
    }

    #[test]
    fn a_time_limit_is_digits_with_a_unit() {
        assert_eq!(time_limit(&HeaderMap::new()).unwrap(), None);
        assert_eq!(limit("10S"), Some(Some(Duration::from_secs(10))));
        assert_eq!(limit("250m"), Some(Some(Duration::from_millis(250))));
        assert_eq!(
            limit("99999999H"),
            Some(Some(Duration::from_secs(99_999_999 * 3600)))
        );
        for text in ["", "S", "10", "10s", "-1S", "123456789S", "1 S"] {
            assert_eq!(limit(text), None, "{text}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let is = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", kind.parse().unwrap());
            is_grpc(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto"));
        assert!(!is("application/json") && !is_grpc(&HeaderMap::new()));
    }
}
