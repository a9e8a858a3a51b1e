//! The HTTP port for people and scrapers: `GET /metrics`, `GET /healthz`, and why requests went where they went:
//! `GET /debug/decisions?limit=20`, `GET /debug/decisions/<request id>`.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;

use super::decisions::Decisions;
use super::metrics::{CONTENT_TYPE, Metrics};

/// Decisions that are shown if no limit is given, and at most.
const LATEST: usize = 20;
const MOST: usize = 1000;
const OFF: &str = "no decisions are kept: see --decision-records\n";

/// Serves until `stop` completes.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    decisions: Option<Arc<Decisions>>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(move || page(Arc::clone(&metrics))))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/debug/decisions", get(latest))
        .route("/debug/decisions/{id}", get(decision))
        .with_state(decisions);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

/// What is kept of decisions; `None` if nothing is.
type Kept = State<Option<Arc<Decisions>>>;

/// How much of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latest {
    limit: Option<usize>,
}

async fn latest(State(kept): Kept, Query(query): Query<Latest>) -> Response {
    let Some(decisions) = kept else {
        return (StatusCode::NOT_FOUND, OFF).into_response();
    };
    let limit = query.limit.unwrap_or(LATEST).min(MOST);
    Json(serde_json::json!({ "decisions": decisions.latest(limit) })).into_response()
}

async fn decision(State(kept): Kept, Path(id): Path<String>) -> Response {
    match kept.map(|decisions| decisions.find(&id)) {
        None => (StatusCode::NOT_FOUND, OFF).into_response(),
        Some(None) => (StatusCode::NOT_FOUND, "no decision on it is kept\n").into_response(),
        Some(Some(page)) => Json(page).into_response(),
    }
}

async fn page(metrics: Arc<Metrics>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
