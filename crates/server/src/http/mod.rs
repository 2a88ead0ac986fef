//! One application for both protocols: gRPC by its content type, everything else is HTTP.

mod greeting;
pub mod host;
pub mod listen;
pub mod tls;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::Request;
use tonic_health::server::HealthReporter;

use crate::calls::{Dispatch, Meta};
use crate::rest::Rest;
use crate::{grpc, openapi, rest};

/// The other end of a connection, attached to every request that comes by it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Its certificate in DER form, where TLS asked for one.
    pub certificate: Option<Arc<[u8]>>,
}

#[derive(Clone)]
struct Shared {
    dispatch: Dispatch,
    rest: Rest,
}

/// Puts everything together: the calls by gRPC and REST, reflection, health, the documents, and
/// what `more` brings (`/metrics` and the like). The health service says SERVING for nothing until
/// the reporter is told so.
pub async fn app(dispatch: Dispatch, more: Router) -> (Router, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    // The library begins with SERVING.
    let not_yet = tonic_health::ServingStatus::NotServing;
    reporter.set_service_status("", not_yet).await;
    let router = Router::<Shared>::new()
        .route_service("/grpc.health.v1.Health/{method}", health)
        .route_service(
            "/grpc.reflection.v1.ServerReflection/{method}",
            grpc::reflection::v1(),
        )
        .route_service(
            "/grpc.reflection.v1alpha.ServerReflection/{method}",
            grpc::reflection::v1alpha(),
        )
        .merge(openapi::router())
        .merge(more.with_state(()))
        .fallback(either)
        .method_not_allowed_fallback(rest::not_allowed)
        .with_state(Shared {
            rest: Rest::new(dispatch.clone()),
            dispatch,
        });
    (router, reporter)
}

/// What no other route takes.
async fn either(State(shared): State<Shared>, request: Request<Body>) -> Response {
    let peer = request.extensions().get::<Peer>();
    let meta = Meta {
        peer: peer.map(|p| p.address),
        certificate: peer.and_then(|p| p.certificate.clone()),
        ..Meta::default()
    };
    if grpc::is_grpc(request.headers()) {
        grpc::serve(&shared.dispatch, request, meta)
            .await
            .into_response()
    } else {
        shared.rest.serve(request, meta).await
    }
}

#[cfg(test)]
mod tests;
