//! What the APIs have in common: bodies that come token by token, and errors.

use axum::Json;
use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::{Value, json};

use super::engine::{Generation, Lost, NotTaken};
use crate::dialect::{self, Dialect};

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Bad(String),
    #[error("The model `{0}` does not exist.")]
    NoModel(String),
    #[error(transparent)]
    NotTaken(#[from] NotTaken),
}

/// A body of server-sent events: what `first` makes, one of `tokens` for each token (the second one for the last, if its
/// limit ends the answer), then what `last` makes. Tokens that have come meanwhile go in one piece. It breaks off if the
/// engine dies.
pub(super) fn stream<F, L>(
    first: F,
    generation: Generation,
    tokens: [String; 2],
    last: L,
) -> Response
where
    F: Fn(&Generation) -> String + Send + 'static,
    L: Fn(&Generation) -> String + Send + 'static,
{
    struct State<F, L> {
        first: Option<F>,
        generation: Option<Generation>,
        tokens: [String; 2],
        last: L,
    }
    let state = State {
        first: Some(first),
        generation: Some(generation),
        tokens,
        last,
    };
    let events = futures_util::stream::unfold(state, |mut state| async move {
        let generation = state.generation.as_mut()?;
        // The preamble comes with the first token: until then the client must see that nothing has come.
        let more = match generation.more().await {
            Ok(more) => more,
            Err(lost) => {
                state.generation = None;
                return Some((Err(lost), state));
            }
        };
        let first = state.first.take();
        let mut text = first.map(|first| first(generation)).unwrap_or_default();
        let done = generation.is_done();
        let whole = done && !generation.is_aborted();
        let [token, last_token] = &state.tokens;
        for _ in u64::from(whole)..more {
            text.push_str(token);
        }
        if whole {
            text.push_str(last_token);
        }
        if done {
            text.push_str(&(state.last)(generation));
            state.generation = None;
        }
        Some((Ok::<_, Lost>(Bytes::from(text)), state))
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
) -> Result<Response, Refused> {
    while !generation.is_done() {
        generation.more().await.map_err(NotTaken::from)?;
    }
    Ok(Json(body(&generation)).into_response())
}

/// A server-sent event with its name, which its data has too.
pub(super) fn event(kind: &str, mut data: Value) -> String {
    data["type"] = kind.into();
    format!("event: {kind}\ndata: {data}\n\n")
}

/// An error as vLLM words it.
pub(super) fn error(status: StatusCode, kind: &str, message: &str) -> Response {
    let body = json!({
        "error": {"message": message, "type": kind, "param": null, "code": status.as_u16()},
    });
    (status, Json(body)).into_response()
}

/// An error in Anthropic's envelope.
pub(super) fn anthropic_error(status: StatusCode, message: &str) -> Response {
    let body = dialect::error_body(Dialect::Anthropic, status.as_u16(), message);
    let json = [(header::CONTENT_TYPE, "application/json")];
    (status, json, body).into_response()
}

pub(super) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |elapsed| elapsed.as_secs())
}

// === impl Refused ===

impl Refused {
    /// The answer, as vLLM words it.
    pub(super) fn openai(&self) -> Response {
        let kind = match self {
            Self::NoModel(_) => "NotFoundError",
            Self::NotTaken(NotTaken::Dead(_)) => "InternalServerError",
            Self::NotTaken(NotTaken::Full) => "ServiceUnavailableError",
            Self::Bad(_) | Self::NotTaken(_) => "BadRequestError",
        };
        error(self.status(), kind, &self.to_string())
    }

    /// The answer in Anthropic's envelope.
    pub(super) fn anthropic(&self) -> Response {
        anthropic_error(self.status(), &self.to_string())
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::NoModel(_) => StatusCode::NOT_FOUND,
            Self::NotTaken(NotTaken::Dead(_)) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotTaken(NotTaken::Full) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Bad(_) | Self::NotTaken(_) => StatusCode::BAD_REQUEST,
        }
    }
}
