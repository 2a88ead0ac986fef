//! Which names a listener on loopback answers to.
//!
//! A page of another web site can point its own name at 127.0.0.1 (DNS rebinding); the browser
//! then takes this server for that site's, and no rule of origins stands between them. What the
//! page cannot change is the name that the browser sends along.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::names::echo;
use api::{Code, Error};
use axum::body::Body;
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::uri::Authority;
use http::{Request, header};

use crate::status::to_tonic;
use crate::{grpc, rest};

/// Names that clients may use beside `localhost` and the addresses of loopback.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<[String]>);

impl Names {
    /// These names, without ports.
    pub fn new(names: Vec<String>) -> Self {
        Self(names.into())
    }

    /// Whether names are looked at: beyond loopback a page can only be kept out by TLS, which
    /// checks the name itself.
    pub(super) fn matter(listener: SocketAddr, tls: bool) -> bool {
        !tls && listener.ip().to_canonical().is_loopback()
    }

    /// Whether a client may call the server so.
    fn admit(&self, authority: &str) -> bool {
        let Ok(authority) = authority.parse::<Authority>() else {
            return false;
        };
        let host = authority.host();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let address = bare.parse::<IpAddr>().ok();
        host.eq_ignore_ascii_case("localhost")
            || address.is_some_and(|a| a.to_canonical().is_loopback())
            || self.0.iter().any(|name| host.eq_ignore_ascii_case(name))
    }
}

/// Answers requests that call the server by a name that is not its own with PERMISSION_DENIED.
/// A request without any name comes from no browser.
pub(super) async fn check(
    State(names): State<Names>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let in_uri = request.uri().authority().map(|a| a.as_str().as_bytes());
    let in_head = request.headers().get_all(header::HOST).iter();
    let mut called = in_uri.into_iter().chain(in_head.map(|v| v.as_bytes()));
    let foreign = called.find(|name| !str::from_utf8(name).is_ok_and(|name| names.admit(name)));
    let Some(name) = foreign else {
        return next.run(request).await;
    };
    let text = format!(
        "`{}` is not a name of this server: call it localhost or by its address, or start it with \
         --allowed-hosts",
        echo(&String::from_utf8_lossy(name))
    );
    let error = Error::new(Code::PermissionDenied, text);
    if grpc::is_grpc(request.headers()) {
        let refusal: http::Response<tonic::body::Body> = to_tonic(&error).into_http();
        refusal.into_response()
    } else {
        rest::refuse(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_own_names_and_those_it_was_given() {
        let names = Names::new(vec!["xpu.example".to_owned()]);
        for own in [
            "localhost",
            "LOCALHOST:8082",
            "127.0.0.1:8082",
            "127.8.0.1",
            "[::1]:50051",
            "[::ffff:127.0.0.1]",
            "xpu.example:1",
            "XPU.example",
        ] {
            assert!(names.admit(own), "{own}");
        }
        for foreign in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "[::2]",
            "evil.xpu.example",
            "a b",
        ] {
            assert!(!names.admit(foreign), "{foreign}");
        }
    }

    #[test]
    fn names_matter_in_the_clear_on_loopback_only() {
        let matter = |address: &str, tls| Names::matter(address.parse().unwrap(), tls);
        assert!(matter("127.0.0.1:1", false) && matter("[::1]:1", false));
        assert!(!matter("127.0.0.1:1", true) && !matter("192.0.2.1:1", false));
        assert!(!matter("0.0.0.0:1", false));
    }
}
