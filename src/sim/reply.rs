//! What both APIs have in common: bodies that come token by token, and errors.

use std::convert::Infallible;

use axum::Json;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::engine::Generation;

/// The word that every token is.
pub(super) const WORD: &str = " word";

/// A body of server-sent events: `first`, then what `token` makes of each token, then `last`.
pub(super) fn stream<T, L>(first: String, generation: Generation, token: T, last: L) -> Response
where
    T: Fn(&Generation) -> String + Send + 'static,
    L: Fn(&Generation) -> String + Send + 'static,
{
    struct State<T, L> {
        first: Option<String>,
        generation: Option<Generation>,
        token: T,
        last: L,
    }
    let state = State {
        first: Some(first),
        generation: Some(generation),
        token,
        last,
    };
    let events = futures_util::stream::unfold(state, |mut state| async move {
        let generation = state.generation.as_mut()?;
        // The preamble comes with the first token: until then the client must see that nothing has come.
        let more = generation.token().await;
        let mut text = state.first.take().unwrap_or_default();
        if more {
            text.push_str(&(state.token)(generation));
        }
        if generation.is_done() {
            text.push_str(&(state.last)(generation));
            state.generation = None;
        }
        Some((Ok::<_, Infallible>(Bytes::from(text)), state))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Body::from_stream(events)).into_response()
}

/// One JSON answer, when all tokens have come.
pub(super) async fn whole(
    mut generation: Generation,
    body: impl Fn(&Generation) -> Value,
) -> Response {
    while generation.token().await {}
    Json(body(&generation)).into_response()
}

/// An error as vLLM words it.
pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({
        "error": {"message": message, "type": kind, "param": null, "code": status.as_u16()},
    });
    (status, Json(body)).into_response()
}

/// Prompt tokens of a text: a token is about four bytes.
pub(super) fn tokens(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(4)
}

pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_secs())
}
