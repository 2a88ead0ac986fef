//! What operators and their tools look at: `/metrics`, `/healthz`, `/readyz`, gRPC health.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use control::Catalogue;
use engine::{Backend, Reactors};
use tonic_health::server::HealthReporter;

use crate::metrics::{self, Process, Row};
use crate::service::Service;

#[derive(Clone)]
struct Shared {
    service: Service,
    reactors: usize,
    io_engine: &'static str,
}

/// How reactors wait, in a word.
pub(super) fn io_engine(reactors: &Reactors) -> &'static str {
    if reactors.backend() == Backend::Epoll {
        "epoll"
    } else {
        "uring"
    }
}

/// The routes.
pub(super) fn router(service: &Service, reactors: &Reactors) -> Router {
    let shared = Shared {
        service: service.clone(),
        reactors: reactors.all().len(),
        io_engine: io_engine(reactors),
    };
    Router::new()
        .route("/metrics", get(scrape))
        .route("/healthz", get(alive))
        .route("/readyz", get(ready))
        .with_state(shared)
}

/// What a service manager restarts the program by.
async fn alive(State(shared): State<Shared>) -> Response {
    if shared.service.is_broken() {
        return broken();
    }
    "ok\n".into_response()
}

fn broken() -> Response {
    let text = "a defect has stopped the store: restart the server\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn ready(State(shared): State<Shared>) -> Response {
    if shared.service.is_broken() {
        return broken();
    }
    if shared.service.is_restored() {
        return "ready\n".into_response();
    }
    let text = "the stored resources are being brought back\n";
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

async fn scrape(State(shared): State<Shared>) -> Response {
    let rows = shared.service.read(|catalogue| Ok(rows(catalogue))).await;
    let Ok(rows) = rows else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is shutting down\n",
        )
            .into_response();
    };
    let process = Process {
        version: env!("CARGO_PKG_VERSION"),
        io_engine: shared.io_engine,
        reactors: shared.reactors,
        pool_bytes: blk::pool_bytes(),
    };
    let page = metrics::render(&rows, &process);
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response()
}

/// Every resource, in the order of names, so that two scrapes can be compared.
fn rows(catalogue: &Catalogue) -> Vec<Row> {
    let mut names: Vec<_> = catalogue.names(None).collect();
    names.sort();
    let sights = names
        .into_iter()
        .filter_map(|name| catalogue.sight(name.as_str()).ok());
    sights.map(Row::from).collect()
}

/// Says SERVING for the whole server and for each of its services once everything is back, and
/// takes that back if the store breaks.
pub(super) async fn tell_health(service: Service, reporter: HealthReporter) {
    service.restored().await;
    tell(&reporter, tonic_health::ServingStatus::Serving).await;
    service.broken().await;
    tell(&reporter, tonic_health::ServingStatus::NotServing).await;
}

async fn tell(reporter: &HealthReporter, status: tonic_health::ServingStatus) {
    reporter.set_service_status("", status).await;
    for method in api::kinds::methods() {
        reporter
            .set_service_status(method.service.as_str(), status)
            .await;
    }
}
