//! `pointsman sim` in a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use tempfile::TempDir;

use super::{Program, pointsman, until};

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
}
