//! What a test needs of a model server: to see what arrived, to make it fail, and to see its GPUs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::json;

use super::boards::{Order, Seat, Slow};
use super::server::Server;
use super::{page, reply};

/// Why a fault's answer is none.
const FAULT: &str = "a fault was set";

/// A page that is none: a name without a value, a value that is no number, and an end in the middle of a line.
const GARBAGE: &str = "vllm:num_requests_running{engine=\"0\"}\nvllm:num_requests_waiting{engine=\"0\"} many\n\
                       vllm:kv_cache_usage_perc{engine=";

/// How requests are answered instead of properly.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fault {
    /// Inference: with this HTTP status.
    status: Option<u16>,
    /// Inference: after so many milliseconds.
    delay_ms: u64,
    /// The metrics page.
    metrics: Option<BadPage>,
    /// The metrics page: after so many milliseconds.
    metrics_delay_ms: u64,
    /// The page that does not move any more.
    #[serde(skip)]
    frozen: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BadPage {
    /// No exposition format.
    Garbage,
    /// What it was when the fault was set.
    Frozen,
    /// HTTP 503.
    Missing,
}

/// What happens to the engine process, or to its GPUs.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Incident {
    /// Requests are lost, none are taken, gauges read zero. XID 13, 31, 79, 94.
    Die,
    /// Requests are taken, nothing happens, gauges stand still. XID 119.
    Hang,
    /// A new process with an empty cache.
    Restart,
    /// What computes and what reads memory takes so many times as long (1 = healthy).
    Slow(Slow),
    /// That share of the KV cache is gone; 0 gives it back.
    Withhold(f64),
}

/// So many milliseconds. A sleep of none may take one.
async fn wait(ms: u64) {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

/// Tells the request as it arrived.
pub(super) async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes())))
        .collect();
    Json(json!({
        "method": method.as_str(),
        "path": uri.path(),
        "headers": headers,
        "body_bytes": body.len(),
        "body_xxh3": format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&body)),
    }))
    .into_response()
}

/// Sets the fault; an empty object clears it.
pub(super) async fn fault(
    State(server): State<Arc<Server>>,
    Json(mut fault): Json<Fault>,
) -> Response {
    if fault.metrics == Some(BadPage::Frozen) {
        fault.frozen = Some(server.page());
    }
    server.set_fault(fault.is_any().then_some(fault));
    StatusCode::NO_CONTENT.into_response()
}

/// Lets something happen to the engine.
pub(super) async fn engine(
    State(server): State<Arc<Server>>,
    Json(incident): Json<Incident>,
) -> Response {
    let engine = server.engine();
    match incident {
        Incident::Die => engine.die(),
        Incident::Hang => engine.hang(),
        Incident::Restart => {
            if server.seat().is_some_and(Seat::is_lost) {
                let message = "restart: a GPU of the server is lost; clear it first (/admin/gpu)";
                return reply::error(StatusCode::CONFLICT, "BadRequestError", message);
            }
            engine.restart();
        }
        Incident::Slow(slow) => {
            if let Err(message) = slow.check("slow") {
                return reply::error(StatusCode::BAD_REQUEST, "BadRequestError", &message);
            }
            engine.set_slow([slow.compute, slow.memory]);
        }
        Incident::Withhold(share) => {
            if !(0.0..=1.0).contains(&share) {
                let message = "withhold: a share is a number from 0 to 1";
                return reply::error(StatusCode::BAD_REQUEST, "BadRequestError", message);
            }
            engine.withhold(share);
        }
    }
    if let Some(seat) = server.seat() {
        seat.touch();
    }
    StatusCode::NO_CONTENT.into_response()
}

/// What a server of fixed times answers to all that concerns GPUs.
fn no_gpu() -> Response {
    let message = "A server of fixed times has no GPU.";
    reply::error(StatusCode::NOT_FOUND, "NotFoundError", message)
}

/// What NVML would tell of the first of the server's GPUs. Bytes, shares from 0 to 1, W, MHz.
pub(super) async fn gpu(State(server): State<Arc<Server>>) -> Response {
    let Some(seat) = server.seat() else {
        return no_gpu();
    };
    let (name, count) = server.engine().config().gpus().unwrap_or_default();
    let board = seat.board();
    let gpm = server.engine().gpu();
    Json(json!({
        "name": name,
        "count": count,
        "uuids": seat.uuids(),
        "memory_used": board.memory_used,
        "memory_total": board.memory_total,
        "utilisation": f64::from(board.utilization) / 100.0,
        "bandwidth": gpm.map(|gpm| gpm.bandwidth),
        "tensor": gpm.map(|gpm| gpm.tensor),
        "power": f64::from(board.power) / 1e3,
        "sm_clock": f64::from(board.sm_clock),
    }))
    .into_response()
}

/// Lets something happen to the server's GPUs.
pub(super) async fn order(State(server): State<Arc<Server>>, Json(order): Json<Order>) -> Response {
    let Some(seat) = server.seat() else {
        return no_gpu();
    };
    match seat.order(order) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(message) => reply::error(StatusCode::BAD_REQUEST, "BadRequestError", &message),
    }
}

/// The metrics page, or what the fault makes of it.
pub(super) async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let kind = "text/plain; version=1.0.0; charset=utf-8";
    let fault = server.fault().unwrap_or_default();
    wait(fault.metrics_delay_ms).await;
    let page = match (fault.metrics, fault.frozen) {
        (Some(BadPage::Missing), _) => {
            return reply::error(
                StatusCode::SERVICE_UNAVAILABLE,
                "InternalServerError",
                FAULT,
            );
        }
        (Some(BadPage::Garbage), _) => GARBAGE.to_owned(),
        (_, Some(frozen)) => frozen,
        _ => server.page(),
    };
    ([(header::CONTENT_TYPE, kind)], page).into_response()
}

/// What `trtllm-serve` has at `/metrics`.
pub(super) async fn iterations(State(server): State<Arc<Server>>) -> Response {
    Json(page::iterations(server.engine())).into_response()
}

/// As vLLM: 503 when the engine process is gone. A hung one is not noticed.
pub(super) async fn health(State(server): State<Arc<Server>>) -> StatusCode {
    if server.engine().is_dead() {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    }
}

/// In front of inference: the fault, if there is one.
pub(super) async fn faulty(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(fault) = server.fault() else {
        return next.run(request).await;
    };
    let is_anthropic = request.uri().path().starts_with("/v1/messages");
    wait(fault.delay_ms).await;
    match fault.status.map(StatusCode::from_u16) {
        Some(Ok(status)) => {
            // An answer before the body's end would cost the connection, and the client might see that first.
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            if is_anthropic {
                reply::anthropic_error(status, FAULT)
            } else {
                reply::error(status, "InternalServerError", FAULT)
            }
        }
        _ => next.run(request).await,
    }
}

// === impl Fault ===

impl Fault {
    fn is_any(&self) -> bool {
        let inference = self.status.is_some() || self.delay_ms > 0;
        inference || self.metrics.is_some() || self.metrics_delay_ms > 0
    }
}
