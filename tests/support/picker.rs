//! `pointsman serve` in a process of its own.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use super::{Program, free_address, pointsman, until};

/// A picker that serves.
pub(crate) struct Picker {
    pub(crate) grpc: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) process: Program,
    /// Its configuration and its log.
    pub(crate) folder: TempDir,
}

impl Picker {
    /// Starts one with `config` and more `flags`, and waits until it serves. Clear text unless the flags say otherwise.
    pub(crate) async fn start(config: &str, flags: &[&str]) -> Self {
        Self::retry(|| free_address().unwrap(), config, flags, None).await
    }

    /// As [`Picker::start`], with the ext_proc port at `grpc`.
    pub(crate) async fn start_at(grpc: SocketAddr, config: &str, flags: &[&str]) -> Self {
        Self::retry(|| grpc, config, flags, None).await
    }

    /// As [`Picker::start`], in a cluster that `kubeconfig` says how to reach.
    pub(crate) async fn start_in(kubeconfig: &Path, config: &str, flags: &[&str]) -> Self {
        Self::retry(|| free_address().unwrap(), config, flags, Some(kubeconfig)).await
    }

    async fn retry(
        grpc: impl Fn() -> SocketAddr,
        config: &str,
        flags: &[&str],
        kubeconfig: Option<&Path>,
    ) -> Self {
        // A port that was free may be another test's by now.
        for _ in 0..5 {
            match Self::try_start_at(grpc(), config, flags, kubeconfig).await {
                Ok(picker) => return picker,
                Err(error) if format!("{error:?}").contains("Address already in use") => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("no ports are free");
    }

    async fn try_start_at(
        grpc: SocketAddr,
        config: &str,
        flags: &[&str],
        kubeconfig: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("picker.yaml");
        std::fs::write(&file, config).unwrap();
        let (health, metrics) = (free_address().unwrap(), free_address().unwrap());
        let mut command = pointsman();
        command
            .args(["serve", "--bind-address=127.0.0.1"])
            .arg(format!("--config-file={}", file.display()))
            .arg(format!("--grpc-port={}", grpc.port()))
            .arg(format!("--grpc-health-port={}", health.port()))
            .arg(format!("--metrics-port={}", metrics.port()))
            .args(flags);
        if let Some(kubeconfig) = kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        if !flags
            .iter()
            .any(|flag| flag.starts_with("--secure-serving"))
        {
            command.arg("--secure-serving=false");
        }
        let process = Program::start("picker", folder.path(), &mut command).unwrap();
        let mut picker = Self {
            grpc,
            health,
            metrics,
            process,
            folder,
        };
        picker.serves().await?;
        Ok(picker)
    }

    /// Waits until it says that it serves: a port of its may be open because it is another's. Fails with its log if it ended
    /// instead.
    async fn serves(&mut self) -> anyhow::Result<()> {
        let process = tokio::sync::Mutex::new(&mut self.process);
        until("the picker", async || {
            let mut process = process.lock().await;
            let serves = || process.printed().contains("Serving.");
            match serves() {
                true => Some(Ok(())),
                false => process.check().err().map(Err),
            }
        })
        .await
    }

    /// A page of its metrics port.
    pub(crate) async fn page(&self, path: &str) -> String {
        super::get(self.metrics, path).await
    }
}

/// A configuration with the endpoints of `file`, `scorers` with their weights, and the picker that follows.
pub(crate) fn config(endpoints: &Path, scorers: &[(&str, u32)]) -> String {
    let endpoints = serde_json::json!(endpoints.to_string_lossy());
    let plugins: String = scorers
        .iter()
        .map(|(name, _)| format!("- type: {name}\n"))
        .collect();
    let weights: String = scorers
        .iter()
        .map(|(name, weight)| format!("  - {{pluginRef: {name}, weight: {weight}}}\n"))
        .collect();
    format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: file-discovery
  parameters: {{path: {endpoints}, watchFile: true}}
{plugins}dataLayer:
  discovery: {{pluginRef: file-discovery}}
schedulingProfiles:
- name: default
  plugins:
{weights}"
    )
}
