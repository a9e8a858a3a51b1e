//! One simulated model server on one port.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::net::TcpListener;

use super::admin::{self, Fault};
use super::boards::Seat;
use super::engine::{Engine, EngineConfig, EngineKind, Outbox};
use super::events::{KvEvents, KvEventsError, Publisher};
use super::page::{HttpStats, Page};
use super::reply::Refused;
use super::step::StepError;
use super::{anthropic, embeddings, front, openai, reply, responses, sleep};

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
    /// How many adapters can be loaded. (vLLM, with its `--max-cpu-loras`, drops the adapter that was used least
    /// lately, and loads it again for its next request.)
    pub max_cpu_loras: usize,
    /// `--enable-sleep-mode`: whether it can be told to sleep.
    pub sleep_mode: bool,
    /// The engine behind it.
    pub engine: EngineConfig,
}

/// A server's state.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    engine: Arc<Engine>,
    /// None without a GPU.
    seat: Option<Seat>,
    page: Page,
    adapters: Mutex<BTreeSet<String>>,
    fault: Mutex<Option<Fault>>,
    publisher: Option<Publisher>,
    address: SocketAddr,
    identity: [(&'static str, HeaderValue); 2],
}

#[derive(Debug, Deserialize)]
struct Adapter {
    lora_name: String,
    #[serde(default)]
    load_inplace: bool,
}

// === impl Server ===

impl Server {
    /// A server that will listen at `address`. Its engine's time passes on the current runtime. One of fixed times has no
    /// seat.
    pub fn new(
        config: ServerConfig,
        address: SocketAddr,
        seat: Option<Seat>,
    ) -> Result<Self, StepError> {
        let pod = HeaderValue::from_str(&config.name);
        let crowd = seat.as_ref().map(Seat::crowd).unwrap_or_default();
        let engine = Arc::new(Engine::new(config.engine.clone(), crowd)?);
        if let Some(seat) = &seat {
            seat.occupy(&engine);
        }
        Ok(Self {
            seat,
            page: Page::new(&config.model, &engine),
            engine,
            adapters: Mutex::new(config.adapters.iter().cloned().collect()),
            fault: Mutex::new(None),
            publisher: None,
            address,
            identity: [
                ("x-inference-port", HeaderValue::from(address.port())),
                (
                    "x-inference-pod",
                    pod.unwrap_or(HeaderValue::from_static("sim")),
                ),
            ],
            config,
        })
    }

    /// Has it publish what becomes of its prefix cache. `number` counts servers: their ports follow one another. Returns where
    /// it listens: for subscribers, then for who asks for what it missed.
    pub async fn publish(
        &mut self,
        config: &KvEvents,
        number: u16,
    ) -> Result<&[String], KvEventsError> {
        if self.seat.is_none() {
            return Err(KvEventsError::NoCache);
        }
        let outbox = Arc::new(Outbox::default());
        let (ip, port) = (self.address.ip(), self.address.port());
        let topic = format!("kv@{ip}:{port}@{}", self.config.model);
        let block_size = self.config.engine.block_size;
        let told = Arc::clone(&outbox);
        let publisher = Publisher::start(config, number, topic, block_size, outbox).await?;
        self.engine.tell(told);
        Ok(self.publisher.insert(publisher).endpoints())
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

    /// Makes it so many times slower than its hardware or its given times.
    pub fn set_slow(&self, factor: f64) {
        self.engine.set_slow([factor; 2]);
    }

    pub(super) fn engine(&self) -> &Engine {
        &self.engine
    }

    pub(super) fn seat(&self) -> Option<&Seat> {
        self.seat.as_ref()
    }

    pub(super) fn model(&self) -> &str {
        &self.config.model
    }

    pub(super) fn http(&self) -> &HttpStats {
        self.page.http()
    }

    /// Headers that say who answers.
    pub(super) fn identity(&self) -> &[(&'static str, HeaderValue)] {
        &self.identity
    }

    /// The metrics page.
    pub(super) fn page(&self) -> String {
        self.page.print(&self.engine)
    }

    pub(super) fn adapters(&self) -> Vec<String> {
        self.adapters.lock().iter().cloned().collect()
    }

    /// The adapter that `model` is; `None` if it is the base model.
    pub(super) fn find(&self, model: &str) -> Result<Option<String>, Refused> {
        if model == self.config.model {
            Ok(None)
        } else if self.adapters.lock().contains(model) {
            Ok(Some(model.to_owned()))
        } else {
            Err(Refused::NoModel(model.to_owned()))
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
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/responses", post(responses::responses))
        .route("/v1/messages", post(anthropic::messages))
        .route("/v1/messages/count_tokens", post(anthropic::count_tokens))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            admin::faulty,
        ));
    let other = if server.config.sleep_mode {
        inference
            .route("/sleep", post(sleep::sleep))
            .route("/wake_up", post(sleep::wake_up))
            .route("/is_sleeping", get(sleep::is_sleeping))
    } else {
        inference
    };
    let metrics = match server.config.engine.kind {
        EngineKind::Vllm | EngineKind::Sglang => {
            Router::new().route("/metrics", get(admin::metrics))
        }
        EngineKind::Trtllm => Router::new()
            .route("/prometheus/metrics", get(admin::metrics))
            .route("/metrics", get(admin::iterations)),
    };
    other
        .route("/v1/models", get(openai::models))
        .route("/v1/load_lora_adapter", post(load_adapter))
        .route("/v1/unload_lora_adapter", post(unload_adapter))
        .route("/health", get(admin::health))
        .merge(metrics)
        .route("/admin/echo", any(admin::echo))
        .route("/admin/echo/{*rest}", any(admin::echo))
        .route("/admin/fault", post(admin::fault))
        .route("/admin/engine", post(admin::engine))
        .route("/admin/gpu", get(admin::gpu).post(admin::order))
        .fallback(|| async { reply::error(StatusCode::NOT_FOUND, "NotFoundError", "Not Found") })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&server),
            front::around,
        ))
        .with_state(server)
}

async fn load_adapter(State(server): State<Arc<Server>>, Json(adapter): Json<Adapter>) -> Response {
    let name = adapter.lora_name;
    let bad = |message: &str| reply::error(StatusCode::BAD_REQUEST, "InvalidUserInput", message);
    let mut adapters = server.adapters.lock();
    if adapters.contains(&name) && !adapter.load_inplace {
        return bad(&format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in place, set 'load_inplace' to True."
        ));
    }
    if adapters.len() >= server.config.max_cpu_loras && !adapters.contains(&name) {
        let loaded = adapters.len();
        return bad(&format!(
            "No room for LoRA adapter '{name}': {loaded} are loaded."
        ));
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
