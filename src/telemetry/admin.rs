//! The HTTP port for people and scrapers: `GET /metrics`, `GET /healthz`, and why requests went where they went:
//! `GET /debug/decisions?limit=20`, `GET /debug/decisions/<request id>`. What plugins hold: `GET /debug/plugins/state`. What is
//! known of GPUs: `GET /debug/gpus`, of one of several pools `?pool=<namespace>/<name>`.

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
use super::metrics::{CONTENT_TYPE, Exposition};
use super::state::PoolStates;

/// Decisions that are shown if no limit is given, and at most.
const LATEST: usize = 20;
const MOST: usize = 1000;
/// The section of GPUs, which has a page of its own.
pub const GPUS: &str = "gpus";
const OFF: &str = "no decisions are kept: see --decision-records\n";

/// Serves until `stop` completes.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Exposition>,
    decisions: Option<Arc<Decisions>>,
    states: PoolStates,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = router(metrics, decisions, states);
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
}

/// Any method but GET (and HEAD) is answered 405.
fn router(
    metrics: Arc<Exposition>,
    decisions: Option<Arc<Decisions>>,
    states: PoolStates,
) -> Router {
    let states = Arc::new(states);
    let all = Arc::clone(&states);
    let gpus = move |Query(of): Query<OfPool>| async move {
        match all.section(of.pool.as_deref(), GPUS) {
            Ok(section) => Json(section).into_response(),
            Err(error) => (StatusCode::NOT_FOUND, error).into_response(),
        }
    };
    let state = move || async move { Json(states.page(&[GPUS])) };
    Router::new()
        .route("/metrics", get(move || page(Arc::clone(&metrics))))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/debug/decisions", get(latest))
        .route("/debug/decisions/{id}", get(decision))
        .route("/debug/plugins/state", get(state))
        .route("/debug/gpus", get(gpus))
        .with_state(decisions)
}

/// What is kept of decisions; `None` if nothing is.
type Kept = State<Option<Arc<Decisions>>>;

/// How much of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Latest {
    limit: Option<usize>,
}

/// Whose.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfPool {
    pool: Option<String>,
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

async fn page(metrics: Arc<Exposition>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::state::States;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn states_are_there_to_be_read() {
        let states = Arc::new(States::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let metrics = Exposition::of_one(Arc::new(Metrics::new()));
        let serving = serve(
            listener,
            Arc::new(metrics),
            None,
            PoolStates::One(Arc::clone(&states)),
            std::future::pending(),
        );
        tokio::spawn(serving);
        states.add("a", || serde_json::json!({"held": 1}));
        for (method, expected) in [("GET", "200"), ("POST", "405"), ("DELETE", "405")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!(
                "{method} /debug/plugins/state HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {expected} ")),
                "{answer}"
            );
            assert_eq!(
                answer.ends_with(r#"{"a":{"held":1}}"#),
                method == "GET",
                "{answer}"
            );
        }
    }
}
