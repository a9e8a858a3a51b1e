//! Around every request: the answer says who gave it, and the HTTP metrics count it.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::Response;
use http_body::Body as _;
use http_body_util::BodyExt as _;

use super::server::Server;

/// Routes that are not counted, by how they begin: those that vLLM leaves out, and our own.
const NOT_COUNTED: [&str; 3] = ["/metrics", "/health", "/admin/"];

/// Counts its request when it is dropped, with the last byte of the answer.
struct Counted {
    server: Arc<Server>,
    handler: Option<MatchedPath>,
    method: Method,
    begun: Instant,
    received: u64,
    status: u16,
    sent: u64,
}

/// Every answer says who gave it, and for which request.
pub(super) async fn around(
    State(server): State<Arc<Server>>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers();
    let id = headers.get("x-request-id").cloned();
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut counted = Counted {
        server: Arc::clone(&server),
        handler: request.extensions().get().cloned(),
        method: request.method().clone(),
        begun: Instant::now(),
        received: length.unwrap_or(0),
        status: 500,
        sent: 0,
    };
    let mut response = next.run(request).await;
    for (name, value) in server.identity() {
        response.headers_mut().insert(*name, value.clone());
    }
    if let Some(id) = id {
        response.headers_mut().insert("x-request-id", id);
    }
    counted.status = response.status().as_u16();
    match response.body().size_hint().exact() {
        Some(sent) => {
            counted.sent = sent;
            response
        }
        None => response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // It goes when the body does.
                let _ = &counted;
                frame
            }))
        }),
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let handler = self.handler.as_ref().map_or("none", MatchedPath::as_str);
        // Clients may make up methods without end.
        let is_known =
            self.method.is_safe() || self.method.is_idempotent() || self.method == Method::POST;
        if !is_known || NOT_COUNTED.iter().any(|route| handler.starts_with(route)) {
            return;
        }
        self.server.http().observe(
            handler,
            self.method.as_str(),
            self.status,
            self.received,
            self.sent,
            self.begun.elapsed(),
        );
    }
}
