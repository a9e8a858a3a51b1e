//! One simulated model server on one port.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::admin::{self, Fault};
use super::engine::{Engine, EngineConfig};
use super::page::Page;
use super::{anthropic, openai, reply};

/// The largest body taken.
const LARGEST_BODY: usize = 64 << 20;

/// What a server serves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Its name, told in the header `x-inference-pod`.
    pub name: String,
    /// The base model.
    pub model: String,
    /// Adapters that are loaded from the start.
    pub adapters: Vec<String>,
    /// How many adapters fit; 0 = none can be loaded.
    pub max_loras: usize,
    /// Tokens of an answer whose request sets no limit.
    pub tokens: u64,
    /// The engine behind it.
    pub engine: EngineConfig,
}

/// A server's state.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    engine: Engine,
    page: Page,
    adapters: Mutex<BTreeSet<String>>,
    fault: Mutex<Option<Fault>>,
    identity: [(&'static str, HeaderValue); 2],
}

#[derive(Debug, Deserialize)]
struct Adapter {
    lora_name: String,
}

// === impl Server ===

impl Server {
    /// A server that will listen at `address`.
    pub fn new(config: ServerConfig, address: SocketAddr) -> Self {
        let pod = HeaderValue::from_str(&config.name);
        Self {
            engine: Engine::new(config.engine.clone()),
            page: Page::new(&config.model, config.max_loras),
            adapters: Mutex::new(config.adapters.iter().cloned().collect()),
            fault: Mutex::new(None),
            identity: [
                ("x-inference-port", HeaderValue::from(address.port())),
                (
                    "x-inference-pod",
                    pod.unwrap_or(HeaderValue::from_static("sim")),
                ),
            ],
            config,
        }
    }

    /// Serves until `stop` completes; requests that are under way are cut then.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let server = axum::serve(listener, router(self));
        tokio::select! {
            served = server => served,
            () = stop => Ok(()),
        }
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn model(&self) -> &str {
        &self.config.model
    }

    pub(super) fn default_tokens(&self) -> u64 {
        self.config.tokens
    }

    pub(super) fn adapters(&self) -> Vec<String> {
        self.adapters.lock().iter().cloned().collect()
    }

    /// The adapter that `model` is, `None` if it is the base model, or vLLM's words if it is neither.
    pub(super) fn find(&self, model: &str) -> Result<Option<String>, String> {
        if model == self.config.model {
            Ok(None)
        } else if self.adapters.lock().contains(model) {
            Ok(Some(model.to_owned()))
        } else {
            Err(format!("The model `{model}` does not exist."))
        }
    }

    pub(super) fn fault(&self) -> Option<Fault> {
        self.fault.lock().clone()
    }

    pub(super) fn set_fault(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }
}

fn router(server: Arc<Server>) -> Router {
    let inference = Router::new()
        .route("/v1/chat/completions", post(openai::chat_completions))
        .route("/v1/completions", post(openai::completions))
        .route("/v1/messages", post(anthropic::messages))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            admin::faulty,
        ));
    inference
        .route("/v1/models", get(openai::models))
        .route("/v1/load_lora_adapter", post(load_adapter))
        .route("/v1/unload_lora_adapter", post(unload_adapter))
        .route("/health", get(|| async { StatusCode::OK }))
        .route("/metrics", get(metrics))
        .route("/admin/echo", any(admin::echo))
        .route("/admin/echo/{*rest}", any(admin::echo))
        .route("/admin/fault", post(admin::fault))
        .fallback(|| async { reply::error(StatusCode::NOT_FOUND, "NotFoundError", "Not Found") })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            identify,
        ))
        .with_state(server)
}

/// Every answer says who gave it, and for which request.
async fn identify(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let id = request.headers().get("x-request-id").cloned();
    let mut response = next.run(request).await;
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in &server.identity {
        headers.insert(*name, value.clone());
    }
    if let Some(id) = id {
        headers.insert("x-request-id", id);
    }
    response
}

async fn metrics(State(server): State<Arc<Server>>) -> Response {
    let kind = "text/plain; version=1.0.0; charset=utf-8";
    (
        [(header::CONTENT_TYPE, kind)],
        server.page.print(&server.engine),
    )
        .into_response()
}

async fn load_adapter(State(server): State<Arc<Server>>, Json(adapter): Json<Adapter>) -> Response {
    let name = adapter.lora_name;
    let mut adapters = server.adapters.lock();
    if adapters.len() >= server.config.max_loras && !adapters.contains(&name) {
        let message = format!(
            "No room for LoRA adapter '{name}': {} are loaded.",
            adapters.len()
        );
        return reply::error(StatusCode::BAD_REQUEST, "InvalidUserInput", &message);
    }
    adapters.insert(name.clone());
    format!("Success: LoRA adapter '{name}' added successfully.").into_response()
}

async fn unload_adapter(
    State(server): State<Arc<Server>>,
    Json(adapter): Json<Adapter>,
) -> Response {
    let name = adapter.lora_name;
    if server.adapters.lock().remove(&name) {
        format!("Success: LoRA adapter '{name}' removed successfully.").into_response()
    } else {
        let message = format!("The lora adapter '{name}' cannot be found.");
        reply::error(StatusCode::NOT_FOUND, "NotFoundError", &message)
    }
}
