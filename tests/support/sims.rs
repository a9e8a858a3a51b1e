//! `pointsman sim` in a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use http::StatusCode;
use tempfile::TempDir;

use super::{Program, http, pointsman, until};

/// Simulated model servers.
pub(crate) struct Sims {
    /// Of `sim-0`, `sim-1`, …
    pub(crate) addresses: Vec<SocketAddr>,
    /// The servers, as file-discovery reads them.
    pub(crate) endpoints_file: PathBuf,
    pub(crate) process: Program,
    _folder: TempDir,
}

impl Sims {
    /// Starts `servers` of them on free ports, with more `flags`.
    pub(crate) async fn start(servers: usize, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let endpoints_file = folder.path().join("endpoints.yaml");
        let mut command = pointsman();
        command
            .args(["sim", "--port=0", &format!("--servers={servers}")])
            .arg(format!("--endpoints-file={}", endpoints_file.display()))
            .args(flags);
        let process = Program::start("sim", folder.path(), &mut command).unwrap();
        let shared = tokio::sync::Mutex::new(process);
        until("the simulated servers", async || {
            shared.lock().await.check().unwrap();
            endpoints_file.exists().then_some(())
        })
        .await;
        let contents = pointsman::pool::discovery::file::load(&endpoints_file).unwrap();
        Self {
            addresses: contents.endpoints.iter().map(|e| e.socket_addr()).collect(),
            endpoints_file,
            process: shared.into_inner(),
            _folder: folder,
        }
    }

    /// Lets something happen to the engine of the server of that number.
    pub(crate) async fn engine(&self, server: usize, incident: &'static str) {
        self.post(server, "engine", incident).await;
    }

    /// Lets something happen to its GPU.
    pub(crate) async fn gpu(&self, server: usize, order: &'static str) {
        self.post(server, "gpu", order).await;
    }

    async fn post(&self, server: usize, what: &str, body: &'static str) {
        let address = self.addresses[server];
        let request = http::Request::post(format!("http://{address}/admin/{what}"))
            .header("content-type", "application/json")
            .body(Bytes::from_static(body.as_bytes()).into())
            .unwrap();
        let status = http().request(request).await.unwrap().status();
        assert_eq!(status, StatusCode::NO_CONTENT, "{what} {body}");
    }
}
