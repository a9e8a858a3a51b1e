//! A picker, the model servers of its pool, and the file by which it knows them.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::clients::Config;
use super::data::{Case, Suite};
use super::page::Page;
use super::pods::Net;
use crate::support::{http, picker::Picker};

/// How long anything may take that is bound to happen. Only a case that fails waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(15);
/// For an external picker whose metrics we do not see: how long it gets to notice a change.
const NOTICE: Duration = Duration::from_secs(2);

/// Everything that cases of one configuration need.
pub(crate) struct Rig {
    pub(crate) net: Net,
    pub(crate) channel: Channel,
    metrics: Option<SocketAddr>,
    endpoints: PathBuf,
    /// The case that is on, and its pods' addresses.
    on: Option<(String, Vec<SocketAddr>)>,
    own: Option<(Picker, TempDir)>,
}

// === impl Rig ===

impl Rig {
    /// With a server of ours.
    pub(crate) async fn start(suite: &Suite, config: &Config) -> Self {
        let net = Net::start().await;
        let folder = tempfile::tempdir().unwrap();
        let endpoints = folder.path().join("endpoints.yaml");
        std::fs::write(&endpoints, "endpoints: []\n").unwrap();
        let document = config.text(&suite.configs, &endpoints.to_string_lossy());
        // A slow machine is no fault of the picker's.
        let patient = ["--parse-timeout=60s", "--pick-timeout=60s"];
        let given = |flag: &&str| {
            let name = flag.split('=').next().unwrap_or_default();
            config.flags.iter().any(|given| given.starts_with(name))
        };
        let patient = patient.into_iter().filter(|flag| !given(flag));
        let flags: Vec<&str> = config
            .flags
            .iter()
            .map(String::as_str)
            .chain(patient)
            .collect();
        let picker = Picker::start(&document, &flags).await;
        Self {
            net,
            channel: channel(&picker.grpc.to_string()),
            metrics: Some(picker.metrics),
            endpoints,
            on: None,
            own: Some((picker, folder)),
        }
    }

    /// With a picker that runs elsewhere and watches `endpoints`.
    pub(crate) async fn external(
        address: &str,
        metrics: Option<SocketAddr>,
        endpoints: &Path,
    ) -> Self {
        Self {
            net: Net::start_fixed().await,
            channel: channel(address),
            metrics,
            endpoints: endpoints.to_owned(),
            on: None,
            own: None,
        }
    }

    /// Where our own picker takes streams.
    pub(crate) fn picker(&self) -> Option<SocketAddr> {
        Some(self.own.as_ref()?.0.grpc)
    }

    /// The picker's own metrics; none if we cannot see them, an error if they do not come.
    pub(crate) async fn page(&self) -> Result<Option<Page>, String> {
        let Some(server) = self.metrics else {
            return Ok(None);
        };
        let uri = format!("http://{server}/metrics");
        let fetched = async {
            let response = http().get(uri.parse().unwrap()).await;
            let body = response.map_err(|e| e.to_string())?.into_body();
            let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
            String::from_utf8(bytes.to_vec()).map_err(|e| e.to_string())
        };
        match tokio::time::timeout(PATIENCE, fetched).await {
            Ok(Ok(text)) => Ok(Some(Page(text))),
            Ok(Err(error)) => Err(format!("{uri}: {error}")),
            Err(_) => Err(format!("{uri} does not answer")),
        }
    }

    /// Whether the picker's own metrics can be seen.
    pub(crate) fn has_page(&self) -> bool {
        self.metrics.is_some()
    }

    /// Waits until the picker's page is as `ask` wants it, and returns it; else what `ask` last said.
    pub(crate) async fn until(
        &self,
        ask: impl Fn(&Page) -> Result<(), String>,
    ) -> Result<Page, String> {
        let begun = Instant::now();
        loop {
            let Some(page) = self.page().await? else {
                return Ok(Page::default());
            };
            match ask(&page) {
                Ok(()) => return Ok(page),
                Err(last) if begun.elapsed() > PATIENCE => return Err(last),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Puts the pods of `case` on and waits until the picker knows them, and that nothing is under way at them. The
    /// picker's page is then as it is before the case.
    pub(crate) async fn set(&mut self, case: &Case) -> Result<(Vec<SocketAddr>, Page), String> {
        let addresses = self.net.show(case);
        if self.on.as_ref() != Some(&(case.id.clone(), addresses.clone())) {
            // A new name is a new endpoint: nothing that earlier cases did to it is left.
            replace(&self.endpoints, &endpoints_file(case, &addresses));
            self.on = Some((case.id.clone(), addresses.clone()));
            if !self.has_page() {
                tokio::time::sleep(NOTICE).await;
            }
        }
        let speaking = case.pods.iter().enumerate().filter(|(_, pod)| !pod.mute);
        let mut queues: Vec<(String, f64)> = speaking
            .map(|(number, pod)| (pod_name(case, number), f64::from(pod.queue)))
            .collect();
        queues.sort_by(|a, b| a.0.cmp(&b.0));
        let pods = case.pods.len() as f64;
        let objectives = case.objectives.len() as f64;
        let settled = self.until(|page| {
            let (known, ready) = (page.by_endpoint("per_endpoint_queue_size"), page.total("ready_endpoints"));
            // Another picker's page does not tell.
            if self.own.is_some() && page.total("objectives") != objectives {
                return Err(format!("the picker never saw {objectives} objectives"));
            }
            match known == queues && ready == pods {
                true => Ok(()),
                false => Err(format!("the picker never saw the pods: {ready} endpoints, queues {known:?} instead of {queues:?}")),
            }
        })
        .await?;
        Ok((addresses, settled))
    }
}

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    endpoint
        .unwrap_or_else(|error| panic!("{address} is no host:port: {error}"))
        .initial_stream_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .connect_lazy()
}

/// What the picker calls a pod.
pub(crate) fn pod_name(case: &Case, number: usize) -> String {
    format!("case-{}-pod-{number}", case.id)
}

/// The pods of `case`, as file-discovery reads them.
pub(crate) fn endpoints_file(case: &Case, addresses: &[SocketAddr]) -> String {
    let mut text = match addresses.is_empty() {
        true => "endpoints: []\n".to_owned(),
        false => "endpoints:\n".to_owned(),
    };
    for (number, address) in addresses.iter().enumerate() {
        let (name, ip, port) = (pod_name(case, number), address.ip(), address.port());
        let role = case.pods[number].role.as_ref();
        let labels = role.map(|role| format!(", labels: {{llm-d.ai/role: {role}}}"));
        writeln!(
            text,
            "- {{name: {name}, address: \"{ip}\", port: \"{port}\"{}}}",
            labels.unwrap_or_default()
        )
        .unwrap();
    }
    if !case.objectives.is_empty() {
        text += "objectives:\n";
    }
    for (name, priority) in &case.objectives {
        writeln!(text, "- {{name: {name}, priority: {priority}}}").unwrap();
    }
    text
}

/// As editors and Kubernetes do: readers see the old file or the new one.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}
