//! The REST interface: HTTP and JSON, transcoded by the `google.api.http` annotations to the same
//! calls that gRPC makes.

mod json;
mod query;
pub(crate) mod routes;
pub(crate) mod template;

use std::convert::Infallible;
use std::sync::Arc;

use api::kinds::Verb;
use api::{Code, Error};
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};
use tokio_stream::StreamExt as _;

use crate::calls::{Dispatch, Meta, Replies};
use crate::status;
use routes::{Body as RouteBody, Found, Route, Routes};

/// Largest request body; the largest resource is a few kilobytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// What all answers are.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Serves the REST interface.
#[derive(Clone)]
pub struct Rest {
    dispatch: Dispatch,
    routes: Arc<Routes>,
}

/// An error with the HTTP status it deserves, which is not always that of its code.
struct Failure {
    status: StatusCode,
    error: Box<Error>,
    allow: Option<HeaderValue>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = status::http_status(error.code);
        Self {
            status,
            error: Box::new(error),
            allow: None,
        }
    }
}

impl Failure {
    fn with(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self {
            status,
            error: Box::new(Error::new(code, message)),
            allow: None,
        }
    }
}

impl Rest {
    /// Serves the calls of `dispatch`.
    pub fn new(dispatch: Dispatch) -> Self {
        Self {
            dispatch,
            routes: Arc::new(Routes::new()),
        }
    }

    /// Answers one request. Errors are answers too.
    pub async fn serve(&self, request: Request<Body>, meta: Meta) -> Response {
        match self.answer(request, meta).await {
            Ok(response) => response,
            Err(failure) => failure_response(&failure),
        }
    }

    async fn answer(&self, request: Request<Body>, mut meta: Meta) -> Result<Response, Failure> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        // hyper leaves the body of an answer to HEAD out.
        let verb = if head.method == Method::HEAD {
            &Method::GET
        } else {
            &head.method
        };
        let (route, variables) = match self.routes.find(verb, path) {
            Found::Route(route, variables) => (route, variables),
            Found::OtherVerb(verbs) => return other_verb(verb, path, &verbs),
            Found::Nothing => {
                let text = format!("there is no {path} here; /openapi.json lists what there is");
                return Err(Failure::with(StatusCode::NOT_FOUND, Code::NotFound, text));
            }
        };
        check_origin(&head.headers)?;
        let body = self.read(body, &mut meta).await?;
        if !body.is_empty() && !matches!(route.body, RouteBody::None) {
            check_content_type(&head.headers)?;
        }
        let query = head.uri.query().unwrap_or_default();
        let message = build(route, variables, query, &body)?;
        if route.method.descriptor.is_server_streaming() {
            let replies = self.dispatch.watch(route.method, message, meta).await?;
            return Ok(stream(replies));
        }
        let reply = self.dispatch.call(route.method, message, meta).await?;
        Ok(respond(StatusCode::OK, json::print(&reply).into()))
    }
}

impl Rest {
    async fn read(&self, body: Body, meta: &mut Meta) -> Result<Bytes, Failure> {
        let read = self.dispatch.read(body, BODY_BYTES_MAX, meta).await;
        read.map_err(|error| {
            let status = match error.code {
                Code::ResourceExhausted => StatusCode::PAYLOAD_TOO_LARGE,
                Code::DeadlineExceeded => StatusCode::REQUEST_TIMEOUT,
                other => status::http_status(other),
            };
            Failure {
                status,
                ..Failure::from(error)
            }
        })
    }
}

/// Puts the request message together from path, query and body.
fn build(
    route: &Route,
    variables: Vec<(&str, String)>,
    query: &str,
    body: &[u8],
) -> Result<DynamicMessage, Error> {
    let mut request = DynamicMessage::new(route.method.descriptor.input());
    let mut taken: Vec<&str> = variables.iter().map(|(field, _)| *field).collect();
    let mut paths = Vec::new();
    match &route.body {
        RouteBody::None if !body.is_empty() => {
            let why = format!(
                "must be empty: {} takes none",
                route.method.descriptor.name()
            );
            return Err(Error::invalid("body", why));
        }
        RouteBody::Whole if !query.is_empty() => {
            return Err(Error::invalid(
                "query",
                "must be empty: all fields go into the body",
            ));
        }
        RouteBody::Whole if !body.is_empty() => {
            request = json::parse(body, &request_type(route), "")?.message;
        }
        RouteBody::Field(field) => {
            taken.push(field.name());
            if !body.is_empty() {
                let inner = field.kind();
                let inner = inner
                    .as_message()
                    .expect("the annotations name message fields");
                let parsed = json::parse(body, inner, &format!("{}.", field.name()))?;
                paths = mask_of(&parsed);
                request.set_field(field, Value::Message(parsed.message));
            }
        }
        RouteBody::None | RouteBody::Whole => {}
    }
    query::apply(query, &taken, &mut request)?;
    for (field, value) in variables {
        query::set_variable(&mut request, field, value)?;
    }
    if let Some(parent) = route.parent {
        let parent = Value::String(parent.to_owned());
        request.set_field_by_name("parent", parent);
    }
    fill_mask(route, paths, &mut request);
    Ok(request)
}

fn request_type(route: &Route) -> prost_reflect::MessageDescriptor {
    route.method.descriptor.input()
}

/// The mask that a PATCH body implies: every field in it. Left out are keys sent empty, because
/// that is how a GET shows them, and sending back what was read must not erase a key; a mask that
/// names the key does.
fn mask_of(parsed: &json::Parsed) -> Vec<String> {
    use prost_reflect::ReflectMessage as _;
    let secrets = api::fields::secret_paths(&parsed.message.descriptor());
    let sent = api::fields::take_secrets(&mut parsed.message.clone());
    let empty = |path: &String| secrets.contains(path) && !sent.iter().any(|(p, _)| p == path);
    parsed.paths.iter().filter(|p| !empty(p)).cloned().collect()
}

fn fill_mask(route: &Route, paths: Vec<String>, request: &mut DynamicMessage) {
    let Some(field) = &route.method.fields.mask else {
        return;
    };
    let updates = matches!(route.method.verb, Verb::Update | Verb::UpdateSettings);
    let wanted = route.verb == Method::PATCH && updates;
    if !wanted || request.has_field(field) || paths.is_empty() {
        return;
    }
    if let Value::Message(mask) = request.get_field_mut(field) {
        let paths = paths.into_iter().map(Value::String).collect();
        mask.set_field_by_name("paths", Value::List(paths));
    }
}

/// Only JSON is understood. curl calls it a form unless told otherwise, and the scripts of OPI's
/// reference bridge do not tell it, so that name is let through; a form posted by a page of
/// another web site carries its origin and ends in [`check_origin`].
fn check_content_type(headers: &HeaderMap) -> Result<(), Failure> {
    let sent = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let kind = sent.split(';').next().unwrap_or_default().trim();
    let names = ["application/json", "application/x-www-form-urlencoded"];
    if names.iter().any(|name| kind.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    let shown = if kind.is_empty() { "absent" } else { kind };
    let text = format!("content-type is {shown}, must be application/json");
    Err(Failure::with(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::InvalidArgument,
        text,
    ))
}

/// A page of another web site may not use a browser that can reach this server.
fn check_origin(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| {
        headers
            .get(name)
            .and_then(|v: &HeaderValue| v.to_str().ok())
    };
    let Some(origin) = text(header::ORIGIN) else {
        return Ok(());
    };
    let authority = origin
        .split_once("://")
        .map_or(origin, |(_, authority)| authority);
    // HTTP/2 has the authority in the URI and no Host header; browsers speak it over TLS only.
    if text(header::HOST).is_none_or(|host| host == authority) {
        return Ok(());
    }
    let text = format!("pages of {origin} may not call this server");
    Err(Failure::with(
        StatusCode::FORBIDDEN,
        Code::PermissionDenied,
        text,
    ))
}

/// The path exists for other HTTP methods: OPTIONS asks for them, anything else is a mistake.
fn other_verb(verb: &Method, path: &str, verbs: &[&Method]) -> Result<Response, Failure> {
    let mut names: Vec<&str> = verbs.iter().map(|v| v.as_str()).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.sort_unstable();
    let allow = HeaderValue::from_str(&names.join(", ")).expect("methods are tokens");
    if verb == Method::OPTIONS {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().insert(header::ALLOW, allow);
        return Ok(response);
    }
    let text = format!("{path} has no {verb}; it has {}", names.join(", "));
    let failure = Failure::with(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, text);
    Err(Failure {
        allow: Some(allow),
        ..failure
    })
}

/// The answer of routes that are no calls, such as `/metrics`, to an HTTP method they lack.
pub async fn not_allowed(request: Request<Body>) -> Response {
    let text = format!("{} has no {}", request.uri().path(), request.method());
    let failure = Failure::with(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, text);
    failure_response(&failure)
}

/// The answer to a request that is not looked at any further.
pub(crate) fn refuse(error: Error) -> Response {
    failure_response(&Failure::from(error))
}

fn respond(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

fn failure_response(failure: &Failure) -> Response {
    let mut response = respond(failure.status, error_json(&failure.error).into());
    if let Some(allow) = &failure.allow {
        response.headers_mut().insert(header::ALLOW, allow.clone());
    }
    response
}

/// `google.rpc.Status` as JSON.
fn error_json(error: &Error) -> Vec<u8> {
    let status = status::status(error);
    let kind = api::pool().get_message_by_name("google.rpc.Status");
    let kind = kind.expect("proto/google/rpc declares it");
    let message = DynamicMessage::decode(kind, status.encode_to_vec().as_slice());
    json::print(&message.expect("encoded from the same type"))
}

/// One JSON object to a line: `{"result": ...}` for each answer, `{"error": ...}` at the end of a
/// watch that failed.
fn stream(replies: Replies) -> Response {
    let lines = replies.map(|reply| {
        let (key, json) = match &reply {
            Ok(message) => ("result", json::print(message)),
            Err(error) => ("error", error_json(error)),
        };
        let mut line = format!("{{\"{key}\":").into_bytes();
        line.extend(json);
        line.extend(b"}\n");
        Ok::<_, Infallible>(Bytes::from(line))
    });
    respond(StatusCode::OK, Body::from_stream(lines))
}

#[cfg(test)]
mod tests;
