//! The HTTP interface for operators, probes and Prometheus.
//!
//! | path | answer |
//! |---|---|
//! | `/metrics` | all metrics in the exposition format |
//! | `/livez` | 200 while every worker goes on, else 503: only a restart helps |
//! | `/readyz` | 200 when every condition is met, else 503, with the reasons ([`Readiness`]) |
//! | `/api/v1/status` | what this node is |
//! | `/api/v1/nodes`, `/api/v1/nodes/{node}` | the nodes of the cluster |
//! | `POST /api/v1/nodes/{node}/drain` | drains a node: `{"remove": true}` to remove it then, `{"cancel": true}` to stop |
//! | `DELETE /api/v1/nodes/{node}` | removes a node that is down; `?force=true` one that is up and does not serve |
//! | `/api/v1/raft-groups` | the groups, their replicas and leaders |
//!
//! A node is named by its name or its number, or, where that could be a name, as `id:` and its number.
//!
//! Errors are problem details [RFC 9457]. `/api` is closed on any address but loopback: there is no token yet to ask
//! for. Probes and metrics are open everywhere.
//!
//! Invariants: a handler takes no lock that traffic waits for; the number of connections and the time each may take
//! are bounded ([`connection`]).

mod cluster;
mod connection;
mod problem;
mod readiness;

#[cfg(test)]
mod tests;

pub use readiness::Readiness;

use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use tokio::net::TcpListener;

use crate::metrics::{self, Metrics};
use crate::node::Shared;
use connection::BoundedListener;
use problem::Problem;

/// What the handlers need. Cloning shares it.
#[derive(Clone, Debug)]
pub struct AdminState(Arc<Inner>);

struct Inner {
    node: String,
    metrics: Metrics,
    readiness: Readiness,
    /// There as soon as the node knows whose it is.
    shared: Arc<OnceLock<Arc<Shared>>>,
    stuck: Box<dyn Fn() -> Option<String> + Send + Sync>,
    started: Instant,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl AdminState {
    /// For the node of that name; the uptime counts from now. `stuck` says what no longer goes on, if anything; it must
    /// not block.
    pub(crate) fn new(
        node: &str,
        metrics: Metrics,
        readiness: Readiness,
        shared: Arc<OnceLock<Arc<Shared>>>,
        stuck: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            node: node.to_owned(),
            metrics,
            readiness,
            shared,
            stuck: Box::new(stuck),
            started: Instant::now(),
        }))
    }
}

/// Serves until `shutdown` resolves, then ends open connections once each is done with its request.
///
/// # Errors
///
/// Where the listener has no address.
pub async fn serve(
    listener: TcpListener,
    state: AdminState,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let is_loopback = listener.local_addr()?.ip().is_loopback();
    let router = router(state, is_loopback);
    axum::serve(BoundedListener::new(listener), router)
        .with_graceful_shutdown(shutdown)
        .await
}

fn router(state: AdminState, is_loopback: bool) -> Router {
    let mut api = Router::new()
        .route("/status", get(status))
        .route("/nodes", get(cluster::nodes))
        .route("/nodes/{node}", get(cluster::node).delete(cluster::remove))
        .route("/nodes/{node}/drain", post(cluster::drain))
        .route("/raft-groups", get(cluster::raft_groups))
        .layer(DefaultBodyLimit::max(cluster::BODY_BYTES_MAX))
        .layer(middleware::from_fn(cluster::refuse_pages));
    if !is_loopback {
        api = api.layer(middleware::from_fn(closed));
    }
    Router::new()
        .route("/metrics", get(metrics_text))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .nest("/api/v1", api)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(state)
}

async fn closed(_: Request, _: Next) -> Problem {
    let detail = "/api is served on a loopback address only: this version has no tokens";
    Problem::new(StatusCode::FORBIDDEN, detail)
}

async fn not_found(request: Request) -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        format!("there is no {}", request.uri().path()),
    )
}

async fn method_not_allowed(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path(), request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, detail)
}

async fn metrics_text(State(state): State<AdminState>) -> Response {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        state.0.metrics.encode(),
    )
        .into_response()
}

async fn live(State(state): State<AdminState>) -> Response {
    match (state.0.stuck)() {
        None => "ok\n".into_response(),
        Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("{what}\n")).into_response(),
    }
}

/// Text for people and probes, JSON for who accepts it.
async fn ready(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    let report = state.0.readiness.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    if accept.contains("application/json") {
        (status, Json(report)).into_response()
    } else {
        (status, report.to_string()).into_response()
    }
}

/// `/api/v1/status`.
#[derive(serde::Serialize)]
struct Status<'a> {
    node: &'a str,
    version: &'static str,
    commit: &'static str,
    uptime_secs: u64,
    connections: u64,
    ready: bool,
    cluster: Option<cluster::ClusterStatus>,
}

async fn status(State(state): State<AdminState>) -> Response {
    let state = &state.0;
    Json(Status {
        node: &state.node,
        version: crate::VERSION,
        commit: crate::COMMIT,
        uptime_secs: state.started.elapsed().as_secs(),
        connections: state.metrics.sum(|counters| counters.connections.value()),
        ready: state.readiness.report().ready,
        cluster: state
            .shared
            .get()
            .and_then(|shared| cluster::ClusterStatus::of(shared)),
    })
    .into_response()
}
