//! What the flags come to.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::level_filters::LevelFilter;

use super::super::units::bytes;
use super::ServeOptions;
use super::agents::AgentSettings;
use crate::extproc::tls::{MinVersion, TlsOptions};
use crate::pool::discovery::kube::Target;
use crate::telemetry::logs::LogFormat;

/// The reference clamps shorter intervals.
const MIN_REFRESH: Duration = Duration::from_millis(50);
/// How much larger than a body a gRPC message may be: a body over the limit must arrive to be answered with 413, and
/// proxies with large buffers send it in one piece.
const MESSAGE_OVERHEAD: usize = 16 << 20;

/// What the flags come to.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The EndpointPickerConfig: where it is from, and its text.
    pub config: ConfigSource,
    /// Take plugins of alpha stability.
    pub allow_experimental: bool,
    /// The address of all ports.
    pub bind: IpAddr,
    /// The ext_proc port.
    pub grpc_port: u16,
    /// The gRPC health port.
    pub health_port: u16,
    /// The port of /metrics.
    pub metrics_port: u16,
    /// Health on the ext_proc port too.
    pub health_checking: bool,
    /// TLS, unless it is off.
    pub tls: Option<TlsOptions>,
    /// TLS of the metrics port, if it has any.
    pub metrics_tls: Option<TlsOptions>,
    /// In Kubernetes, the API server says who may read the metrics.
    pub metrics_auth: bool,
    /// Follow changes of the certificates.
    pub reload_certs: bool,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// All bodies together, in bytes.
    pub max_buffered: usize,
    /// Budget of reading a body.
    pub parse_timeout: Duration,
    /// Budget of choosing an endpoint.
    pub pick_timeout: Duration,
    /// The largest gRPC message taken, in bytes.
    pub max_receive: usize,
    /// The largest gRPC message sent, in bytes.
    pub max_send: usize,
    /// How long streams may go on after SIGTERM.
    pub drain_timeout: Duration,
    /// Obey the gateway's subset.
    pub subset_filter: bool,
    /// Put all scores into the metadata.
    pub emit_scores: bool,
    /// Memory of the prefix index, in bytes.
    pub prefix_index_bytes: usize,
    /// The header that names the tenant, in lower case.
    pub tenant_header: Option<String>,
    /// Objective, fairness id, tenant and model rewrite count only if the gateway says them.
    pub strict_client_headers: bool,
    /// Decisions to keep; 0 = none.
    pub decision_records: usize,
    /// Where arrivals are written, if they are.
    pub record: Option<PathBuf>,
    /// Bytes of that.
    pub record_max_bytes: u64,
    /// Between two scrapes.
    pub refresh_metrics: Duration,
    /// How old a scrape may be.
    pub metrics_staleness: Duration,
    /// The share of endpoints that may be kept out.
    pub max_ejected_share: f32,
    /// Agents of nodes.
    pub gpu_agents: AgentSettings,
    /// Count ext_proc streams.
    pub stream_metrics: bool,
    /// Keep metrics under their deprecated names too.
    pub legacy_metrics: bool,
    /// For logs and metrics.
    pub pool_name: String,
    /// The API group of pools.
    pub pool_group: String,
    /// Several pools, in a file.
    pub pools_file: Option<PathBuf>,
    /// The endpoints in Kubernetes, where there is no endpoints file.
    pub kubernetes: Option<Target>,
    /// Their namespace, if it is said.
    pub namespace: Option<String>,
    /// Replicas elect a leader.
    pub election: bool,
    /// The endpoints file, where the configuration names none.
    pub endpoints_file: Option<PathBuf>,
    /// How much is logged.
    pub log_level: LevelFilter,
    /// How it is logged.
    pub log_format: LogFormat,
}

/// Where the EndpointPickerConfig comes from.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// Nowhere: the default.
    Default,
    /// A file.
    File(PathBuf),
    /// The command line.
    Text(String),
}

/// A header's name in lower case, if there is one.
fn header_name(flag: &str, name: &str) -> Result<Option<String>, String> {
    if name.is_empty() {
        return Ok(None);
    }
    match http::HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(Some(name.as_str().to_owned())),
        Err(_) => Err(format!("{flag}: `{name}` is not the name of a header")),
    }
}

// === impl ServeOptions ===

impl ServeOptions {
    /// Checks what clap cannot; the error names the flag and the remedy.
    pub fn check(self) -> Result<Settings, String> {
        self.gone.check()?;
        let config = match (self.config_file.is_empty(), self.config_text.is_empty()) {
            (false, false) => {
                return Err(
                    "--config-file and --config-text exclude each other; give one".to_owned(),
                );
            }
            (false, true) => ConfigSource::File(self.config_file.clone().into()),
            (true, false) => ConfigSource::Text(self.config_text.clone()),
            (true, true) => ConfigSource::Default,
        };
        if !self.pool_name.is_empty() && !self.endpoint_selector.is_empty() {
            return Err(
                "--pool-name and --endpoint-selector exclude each other; give one".to_owned(),
            );
        }
        let one_pool = [
            ("--pool-name", !self.pool_name.is_empty()),
            ("--endpoint-selector", !self.endpoint_selector.is_empty()),
            ("--endpoints-file", self.endpoints_file.is_some()),
        ];
        if let (Some(_), Some((flag, _))) =
            (&self.pools_file, one_pool.iter().find(|(_, given)| *given))
        {
            return Err(format!(
                "--pools-file and {flag} exclude each other; say it of a pool in the file"
            ));
        }
        if !self.endpoint_selector.is_empty()
            && !(1..=8).contains(&self.endpoint_target_ports.len())
        {
            return Err(
                "--endpoint-target-ports: --endpoint-selector needs 1 to 8 ports".to_owned(),
            );
        }
        let gpu_agents = self.gpu_agents.clone().check()?;
        let in_kubernetes = !self.pool_name.is_empty()
            || !self.endpoint_selector.is_empty()
            || self.pools_file.is_some();
        if gpu_agents.pods.is_some() && !in_kubernetes {
            return Err(
                "--gpu-agents-selector needs --pool-name, --endpoint-selector or --pools-file: without Kubernetes, list agents with --gpu-agents".to_owned(),
            );
        }
        if !(0.0..=1.0).contains(&self.max_ejected_share) {
            return Err("--max-ejected-share: give a number from 0 to 1".to_owned());
        }
        let (log_level, log_format) = self.logs()?;
        let kubernetes = self.kubernetes()?;
        let tls = if self.secure_serving {
            Some(self.tls()?)
        } else {
            self.no_tls()?
        };
        Ok(Settings {
            tls,
            metrics_tls: self.metrics_tls()?,
            metrics_auth: self.metrics_endpoint_auth,
            max_receive: optional_size("--grpc-max-recv-msg-size", &self.grpc_max_recv_msg_size)?
                .unwrap_or(self.max_body_bytes.saturating_add(MESSAGE_OVERHEAD)),
            max_send: optional_size("--grpc-max-send-msg-size", &self.grpc_max_send_msg_size)?
                .unwrap_or(usize::MAX),
            config,
            kubernetes,
            namespace: (!self.pool_namespace.is_empty()).then(|| self.pool_namespace.clone()),
            election: self.ha_enable_leader_election,
            pool_group: self.pool_group,
            pools_file: self.pools_file,
            endpoints_file: self.endpoints_file,
            log_level,
            log_format,
            allow_experimental: self.allow_experimental_plugins,
            bind: self.bind_address,
            grpc_port: self.grpc_port,
            health_port: self.grpc_health_port,
            metrics_port: self.metrics_port,
            health_checking: self.health_checking,
            reload_certs: self.enable_cert_reload,
            max_body: self.max_body_bytes,
            max_buffered: self.max_buffered_bytes,
            parse_timeout: self.parse_timeout,
            pick_timeout: self.pick_timeout,
            drain_timeout: self.drain_timeout,
            subset_filter: !self.disable_endpoint_subset_filter,
            emit_scores: self.emit_endpoint_scores,
            prefix_index_bytes: self.prefix_index_bytes,
            tenant_header: header_name("--tenant-header", &self.tenant_header)?,
            strict_client_headers: self.strict_client_headers,
            decision_records: self.decision_records as usize,
            record: (!self.record.is_empty()).then(|| self.record.into()),
            record_max_bytes: self.record_max_bytes as u64,
            refresh_metrics: self.refresh_metrics_interval.max(MIN_REFRESH),
            metrics_staleness: self.metrics_staleness_threshold,
            max_ejected_share: self.max_ejected_share,
            gpu_agents,
            stream_metrics: self.enable_grpc_stream_metrics,
            legacy_metrics: self.legacy_metrics,
            pool_name: if self.pool_name.is_empty() {
                "default".to_owned()
            } else {
                self.pool_name
            },
        })
    }

    fn logs(&self) -> Result<(LevelFilter, LogFormat), String> {
        let format = match self.zap_encoder.as_str() {
            "json" => LogFormat::Json,
            "console" => LogFormat::Text,
            other => {
                return Err(format!(
                    "--zap-encoder: `{other}` is not known; write json or console"
                ));
            }
        };
        // As in klog, information is logged at any verbosity.
        let of_verbosity = |v: i32| match v {
            ..=3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        };
        let level = match self.zap_log_level.as_str() {
            "" => of_verbosity(self.verbosity),
            "debug" => LevelFilter::DEBUG,
            "info" => LevelFilter::INFO,
            "warn" => LevelFilter::WARN,
            "error" | "panic" | "dpanic" | "fatal" => LevelFilter::ERROR,
            number => of_verbosity(number.parse().map_err(|_| {
                format!("--zap-log-level: `{number}` is not known; write debug, info, warn, error or a number")
            })?),
        };
        Ok((level, format))
    }

    fn tls(&self) -> Result<TlsOptions, String> {
        let client_sans = self.client_sans();
        if !client_sans.is_empty() && self.client_ca_file.is_none() {
            return Err("--client-allowed-sans needs --client-ca-file".to_owned());
        }
        if self.enable_cert_reload && self.cert_path.is_empty() {
            return Err("--enable-cert-reload needs --cert-path".to_owned());
        }
        Ok(TlsOptions {
            cert_dir: (!self.cert_path.is_empty()).then(|| self.cert_path.clone().into()),
            client_ca: self.client_ca_file.clone(),
            client_sans,
            ..self.tls_versions()?
        })
    }

    /// `None`: clear text.
    fn metrics_tls(&self) -> Result<Option<TlsOptions>, String> {
        let Some(tls) = self.metrics_tls.check()? else {
            return Ok(None);
        };
        if tls.client_ca.is_none() && !self.metrics_endpoint_auth {
            return Err(
                "--metrics-cert-dir hides the metrics from nobody without --metrics-client-ca-file or --metrics-endpoint-auth; give one"
                    .to_owned(),
            );
        }
        Ok(Some(TlsOptions {
            cert_dir: tls.cert_dir,
            client_ca: tls.client_ca,
            ..self.tls_versions()?
        }))
    }

    /// What all ports that have TLS have alike.
    fn tls_versions(&self) -> Result<TlsOptions, String> {
        let min_version = match self.tls_min_version.as_str() {
            "" | "1.2" | "VersionTLS12" => MinVersion::Tls12,
            "1.3" | "VersionTLS13" => MinVersion::Tls13,
            other => {
                return Err(format!(
                    "--tls-min-version: `{other}` cannot be had; write 1.2 or 1.3"
                ));
            }
        };
        let names = self.tls_cipher_suites.split(',').map(str::trim);
        Ok(TlsOptions {
            min_version,
            cipher_suites: names.filter(|n| !n.is_empty()).map(str::to_owned).collect(),
            ..TlsOptions::default()
        })
    }

    fn client_sans(&self) -> Vec<String> {
        let names = self.client_allowed_sans.iter().map(|name| name.trim());
        names.filter(|n| !n.is_empty()).map(str::to_owned).collect()
    }

    /// Clear text was asked for: nothing may suggest that it is protected.
    fn no_tls(&self) -> Result<Option<TlsOptions>, String> {
        if self.client_ca_file.is_some() {
            return Err("--client-ca-file needs --secure-serving=true".to_owned());
        }
        if !self.client_sans().is_empty() {
            return Err("--client-allowed-sans needs --secure-serving=true".to_owned());
        }
        Ok(None)
    }

    fn kubernetes(&self) -> Result<Option<Target>, String> {
        if !self.pool_name.is_empty() {
            return Ok(Some(Target::Pool {
                group: self.pool_group.clone(),
                name: self.pool_name.clone(),
            }));
        }
        if self.endpoint_selector.is_empty() {
            return Ok(None);
        }
        let selector = selector("--endpoint-selector", &self.endpoint_selector)?;
        let mut ports = self.endpoint_target_ports.clone();
        ports.sort_unstable();
        ports.dedup();
        if ports.len() < self.endpoint_target_ports.len() || ports.contains(&0) {
            return Err(
                "--endpoint-target-ports: write each port once, from 1 to 65535".to_owned(),
            );
        }
        Ok(Some(Target::Pods {
            selector,
            ports: self.endpoint_target_ports.clone(),
        }))
    }
}

/// `key=value,…`, as Kubernetes takes it.
pub(super) fn selector(flag: &str, text: &str) -> Result<String, String> {
    let labels = text.split(',').map(str::trim);
    if let Some(bad) = labels.clone().find(|label| !is_label(label)) {
        return Err(format!(
            "{flag}: `{bad}` is not a label; write key=value, with commas between them"
        ));
    }
    Ok(labels.collect::<Vec<_>>().join(","))
}

/// `key=value`, of the characters that Kubernetes has in labels.
fn is_label(text: &str) -> bool {
    let plain = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c))
    };
    let pair = text.split_once('=');
    pair.is_some_and(|(key, value)| !key.is_empty() && plain(key) && plain(value))
}

fn optional_size(flag: &str, text: &str) -> Result<Option<usize>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    bytes(text)
        .map(Some)
        .map_err(|error| format!("{flag}: {error}"))
}
