//! What a test needs of a model server: to see what arrived, and to make it fail.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::json;

use super::reply;
use super::server::Server;

/// Why a fault's answer is none.
const FAULT: &str = "a fault was set";

/// How inference requests are answered instead of properly.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// With this HTTP status.
    #[serde(default)]
    status: Option<u16>,
    /// After so many milliseconds.
    #[serde(default)]
    delay_ms: u64,
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
pub(super) async fn fault(State(server): State<Arc<Server>>, Json(fault): Json<Fault>) -> Response {
    let real = fault.status.is_some() || fault.delay_ms > 0;
    server.set_fault(real.then_some(fault));
    StatusCode::NO_CONTENT.into_response()
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
    tokio::time::sleep(Duration::from_millis(fault.delay_ms)).await;
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
