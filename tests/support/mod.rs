//! What the rooms of this binary share: processes, and ways to talk to them.

pub(crate) mod agent;
pub(crate) mod ask;
pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod demo;
pub(crate) mod envoy;
pub(crate) mod exporter;
pub(crate) mod ground;
pub(crate) mod live;
pub(crate) mod machine;
pub(crate) mod picker;
pub(crate) mod sims;
pub(crate) mod tls;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

pub(crate) use pointsman::cli::children::{Program, free_address};

/// How long anything may take that is bound to happen. Not a performance figure: only a test that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn pointsman() -> tokio::process::Command {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_pointsman"))
}

/// Asks until there is an answer; `what` is what was waited for in vain.
pub(crate) async fn until<T>(what: &str, ask: impl AsyncFn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// An HTTP client with pooled connections.
pub(crate) fn http() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The body of a GET, which must succeed.
pub(crate) async fn get(server: SocketAddr, path: &str) -> String {
    let uri = format!("http://{server}{path}");
    // A server that is only just there, or has its hands full, may refuse a connection.
    let begun = Instant::now();
    let response = loop {
        match http().get(uri.parse().unwrap()).await {
            Ok(response) => break response,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{uri}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(
        response.status().is_success(),
        "{uri}: {}",
        response.status()
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}
