//! Sleep mode, as vLLM has it with `--enable-sleep-mode` (and `VLLM_SERVER_DEV_MODE=1`).
//!
//! A server that falls asleep gives up the requests that it has: their answers end with the finish reason `abort`. New ones
//! are taken, wait in the queue, and are served when it wakes up. vLLM's other modes (`wait`, `keep`) and waking up in parts
//! (`tags`) are refused. Falling asleep and waking up take no time.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;

use super::engine::SleepLevel;
use super::reply;
use super::server::Server;

#[derive(Debug, Deserialize)]
pub(super) struct Sleep {
    level: Option<u32>,
    mode: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct WakeUp {
    tags: Option<String>,
}

/// Falls asleep.
pub(super) async fn sleep(State(server): State<Arc<Server>>, Query(how): Query<Sleep>) -> Response {
    let level = match how.level.unwrap_or(1) {
        0 => SleepLevel::Paused,
        1 => SleepLevel::Offloaded,
        2 => SleepLevel::Discarded,
        _ => return refused("level: there are 0, 1 and 2"),
    };
    if how.mode.is_some_and(|mode| mode != "abort") {
        return refused("mode: only abort is simulated");
    }
    server.engine().sleep(level);
    seen(&server)
}

/// Wakes up.
pub(super) async fn wake_up(
    State(server): State<Arc<Server>>,
    Query(how): Query<WakeUp>,
) -> Response {
    if how.tags.is_some() {
        return refused("tags: the simulator wakes up as a whole");
    }
    server.engine().wake_up();
    seen(&server)
}

/// Whether it sleeps, at whatever level.
pub(super) async fn is_sleeping(State(server): State<Arc<Server>>) -> Response {
    Json(json!({"is_sleeping": server.engine().asleep().is_some()})).into_response()
}

/// The memory is another.
fn seen(server: &Server) -> Response {
    if let Some(seat) = server.seat() {
        seat.touch();
    }
    StatusCode::OK.into_response()
}

fn refused(message: &str) -> Response {
    reply::error(StatusCode::BAD_REQUEST, "BadRequestError", message)
}
