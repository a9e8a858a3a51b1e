//! The HTTP port for people and scrapers: `GET /metrics`, `GET /healthz`, and why requests went where they went:
//! `GET /debug/decisions?limit=20`, `GET /debug/decisions/<request id>`. What plugins hold: `GET /debug/plugins/state`. What is
//! known of GPUs: `GET /debug/gpus`, of one of several pools `?pool=<namespace>/<name>`. All but `/healthz` may be for those alone
//! whom a [`Gate`] lets in.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::Deserialize;

use super::access::{self, Gate};
use super::decisions::Decisions;
use super::metrics::{CONTENT_TYPE, Exposition};
use super::state::PoolStates;

/// Decisions that are shown if no limit is given, and at most.
const LATEST: usize = 20;
const MOST: usize = 1000;
/// The section of GPUs, which has a page of its own.
pub const GPUS: &str = "gpus";
const OFF: &str = "no decisions are kept: see --decision-records\n";

/// What is shown, and to whom.
#[derive(Debug)]
pub struct Pages {
    /// At `/metrics`.
    pub metrics: Arc<Exposition>,
    /// At `/debug/decisions`, if any are kept.
    pub decisions: Option<Decisions>,
    /// At `/debug/plugins/state` and `/debug/gpus`.
    pub states: PoolStates,
    /// Who lets readers in; `None`: everybody may read.
    pub gate: Option<Gate>,
}

/// `pages` by their paths. Any method but GET (and HEAD) is answered 405.
pub fn router(pages: Pages) -> Router {
    let metrics = pages.metrics;
    let states = Arc::new(pages.states);
    let all = Arc::clone(&states);
    let gpus = move |Query(of): Query<OfPool>| async move {
        match all.section(of.pool.as_deref(), GPUS) {
            Ok(section) => Json(section).into_response(),
            Err(error) => (StatusCode::NOT_FOUND, error).into_response(),
        }
    };
    let state = move || async move { Json(states.page(&[GPUS])) };
    let shown = Router::new()
        .route("/metrics", get(move || page(Arc::clone(&metrics))))
        .route("/debug/decisions", get(latest))
        .route("/debug/decisions/{id}", get(decision))
        .route("/debug/plugins/state", get(state))
        .route("/debug/gpus", get(gpus))
        .with_state(pages.decisions);
    let shown = match pages.gate {
        None => shown,
        Some(gate) => {
            let gate = Arc::new(gate);
            shown.route_layer(middleware::from_fn_with_state(gate, access::check))
        }
    };
    shown.route("/healthz", get(|| async { "ok\n" }))
}

/// What is kept of decisions; `None` if nothing is.
type Kept = State<Option<Decisions>>;

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
    use super::super::access::{Access, Answer, Authority};
    use super::*;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::state::States;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    struct Nobody;

    impl Authority for Nobody {
        fn ask<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a> {
            Box::pin(async { Ok(Access::Unknown) })
        }
    }

    async fn serving(gate: Option<Gate>) -> SocketAddr {
        let states = Arc::new(States::default());
        states.add("a", || serde_json::json!({"held": 1}));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Pages {
            metrics: Arc::new(Exposition::of_one(Arc::new(Metrics::new()))),
            decisions: None,
            states: PoolStates::One(states),
            gate,
        };
        let serving = axum::serve(listener, router(pages));
        tokio::spawn(async move { serving.await });
        address
    }

    async fn answer(address: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn states_are_there_to_be_read() {
        let address = serving(None).await;
        for (method, expected) in [("GET", "200"), ("POST", "405"), ("DELETE", "405")] {
            let answer = answer(address, method, "/debug/plugins/state").await;
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

    #[tokio::test]
    async fn a_gate_is_before_all_pages_but_health() {
        let address = serving(Some(Gate::new(Nobody))).await;
        for path in [
            "/metrics",
            "/debug/decisions",
            "/debug/decisions/x",
            "/debug/plugins/state",
            "/debug/gpus",
        ] {
            let answer = answer(address, "GET", path).await;
            assert!(answer.starts_with("HTTP/1.1 401 "), "{path}: {answer}");
            assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        }
        let health = answer(address, "GET", "/healthz").await;
        assert!(health.starts_with("HTTP/1.1 200 "), "{health}");
    }
}
