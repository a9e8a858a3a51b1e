//! A real Envoy with one of our bootstraps.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use pointsman::cli::demo::bootstrap::{Addresses, Profile, cluster};
use pointsman::cli::demo::envoy;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

use super::{Program, free_address, get, until};

/// Found, or installed, once for all tests.
static BINARY: OnceCell<PathBuf> = OnceCell::const_new();
/// The server that answered, as the simulator tells.
const SERVER: &str = "x-inference-pod";

/// An Envoy that takes requests.
pub(crate) struct Envoy {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    _process: Program,
    client: Client<HttpConnector, Full<Bytes>>,
    _folder: TempDir,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// What is wrong, if the body was cut.
    pub(crate) body: Result<Bytes, String>,
}

impl Envoy {
    /// Starts one before `pickers` and `endpoints`, its bootstrap changed by `edit`, and waits until it is ready.
    pub(crate) async fn start(
        profile: Profile,
        pickers: &[SocketAddr],
        endpoints: &[SocketAddr],
        edit: impl FnOnce(&mut Value),
    ) -> Self {
        let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let binary = BINARY.get_or_init(async || envoy::find(cache).await.unwrap());
        let binary = binary.await;
        let addresses = Addresses {
            listen: free_address().unwrap(),
            admin: free_address().unwrap(),
            pickers: pickers.to_vec(),
            endpoints: endpoints.to_vec(),
        };
        let mut document = profile.bootstrap(&addresses).unwrap();
        edit(&mut document["static_resources"]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("envoy.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let mut command = Command::new(binary);
        command
            .args(["--concurrency", "1", "--log-level", "warn"])
            .args(["--use-dynamic-base-id", "-c"])
            .arg(&file);
        let process = Program::start("envoy", folder.path(), &mut command).unwrap();
        let shared = tokio::sync::Mutex::new(process);
        let client = super::http();
        let ready = format!("http://{}/ready", addresses.admin);
        until("Envoy", async || {
            shared.lock().await.check().unwrap();
            let answer = client.get(ready.parse().unwrap()).await.ok()?;
            (answer.status() == StatusCode::OK).then_some(())
        })
        .await;
        Self {
            listen: addresses.listen,
            admin: addresses.admin,
            _process: shared.into_inner(),
            client,
            _folder: folder,
        }
    }

    /// Sends a request and reads the answer to its end.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Answer {
        let mut request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.listen));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body)).unwrap();
        let response = self.client.request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes());
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: body.map_err(|error| format!("{error:?}")),
        }
    }

    /// Sends a chat completion of `tokens` tokens, with more `headers`.
    pub(crate) async fn chat(&self, tokens: u32, stream: bool, headers: &[(&str, &str)]) -> Answer {
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        let body = chat_body(tokens, stream);
        self.send(Method::POST, "/v1/chat/completions", &headers, body)
            .await
    }

    /// The value of one of Envoy's own statistics.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let page = get(self.admin, &format!("/stats?filter=^{name}$")).await;
        let value = page.trim().rsplit(' ').next().unwrap();
        value.parse().unwrap_or(0)
    }
}

impl Answer {
    /// The simulated server that gave it.
    pub(crate) fn server(&self) -> Option<&str> {
        self.headers.get(SERVER)?.to_str().ok()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.body.as_ref().unwrap()).into_owned()
    }

    /// Whether it is a streamed answer that came to its end.
    pub(crate) fn is_whole_stream(&self) -> bool {
        let end = b"data: [DONE]\n\n";
        self.status == StatusCode::OK && self.body.as_ref().is_ok_and(|body| body.ends_with(end))
    }
}

/// Edits a bootstrap so that Envoy neither retries nor judges servers itself: what is seen is what the picker chose.
pub(crate) fn without_retries(resources: &mut Value) {
    let pool = cluster(resources, "pool").unwrap();
    pool.as_object_mut().unwrap().remove("outlier_detection");
    let manager = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    let route = &mut manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
    route.as_object_mut().unwrap().remove("retry_policy");
}

/// A request for a chat completion.
pub(crate) fn chat_body(tokens: u32, stream: bool) -> Bytes {
    let body = serde_json::json!({
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "messages": [{"role": "user", "content": "Which way?"}],
        "max_tokens": tokens,
        "stream": stream,
    });
    Bytes::from(body.to_string())
}
