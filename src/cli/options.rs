//! The flags of `serve`: those of the llm-d picker, with its defaults, and a few of our own.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use tracing::level_filters::LevelFilter;

use super::units::{bytes, duration};
use crate::extproc::tls::{MinVersion, TlsOptions};
use crate::telemetry::logs::LogFormat;

/// The reference clamps shorter intervals.
const MIN_REFRESH: Duration = Duration::from_millis(50);
/// How much larger than a body a gRPC message may be: a body over the limit must arrive to be answered with 413, and
/// proxies with large buffers send it in one piece.
const MESSAGE_OVERHEAD: usize = 16 << 20;

/// A flag that may stand alone or with `=true` / `=false`, as Go's do.
macro_rules! go_bool {
    ($default:literal) => {
        clap::builder::OsStr::from($default)
    };
}

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
#[command(next_line_help = false)]
pub struct ServeOptions {
    // --- configuration ---
    /// An EndpointPickerConfig file.
    #[arg(long, default_value = "", hide_default_value = true)]
    config_file: String,
    /// An EndpointPickerConfig, inline.
    #[arg(long, default_value = "", hide_default_value = true)]
    config_text: String,
    /// Take plugins of alpha stability.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    allow_experimental_plugins: bool,

    // --- ports ---
    /// The ext_proc port.
    #[arg(long, default_value_t = 9002)]
    grpc_port: u16,
    /// The gRPC health port.
    #[arg(long, default_value_t = 9003)]
    grpc_health_port: u16,
    /// The port of /metrics.
    #[arg(long, default_value_t = 9090)]
    metrics_port: u16,
    /// The address of all ports; :: takes IPv4 too.
    #[arg(long, default_value_t = IpAddr::V6(Ipv6Addr::UNSPECIFIED))]
    bind_address: IpAddr,
    /// Answer health checks on the ext_proc port too.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    health_checking: bool,

    // --- TLS ---
    /// TLS on the ext_proc port.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("true"), default_missing_value = "true", action = ArgAction::Set)]
    secure_serving: bool,
    /// A directory with tls.crt and tls.key; without it the certificate is self-signed.
    #[arg(long, default_value = "", hide_default_value = true)]
    cert_path: String,
    /// Read the certificates again when they change.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    enable_cert_reload: bool,
    /// The oldest TLS version: 1.2 or 1.3 (VersionTLS12 and VersionTLS13 too).
    #[arg(long, default_value = "", hide_default_value = true)]
    tls_min_version: String,
    /// Cipher suites, comma separated; none = all that are safe.
    #[arg(long, default_value = "", hide_default_value = true)]
    tls_cipher_suites: String,
    /// A PEM file of CAs: clients must present a certificate of one of them.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// DNS names or URIs, comma separated, of which a client certificate must carry one.
    #[arg(long, value_delimiter = ',')]
    client_allowed_sans: Vec<String>,

    // --- budgets ---
    /// The largest request body; larger ones are answered 413.
    #[arg(long, value_parser = bytes, default_value = "32Mi")]
    max_body_bytes: usize,
    /// All request bodies that are held at a time; past it, 503.
    #[arg(long, value_parser = bytes, default_value = "1Gi")]
    max_buffered_bytes: usize,
    /// How long reading a body may take.
    #[arg(long, value_parser = duration, default_value = "1s")]
    parse_timeout: Duration,
    /// How long choosing an endpoint may take.
    #[arg(long, value_parser = duration, default_value = "1s")]
    pick_timeout: Duration,
    /// The largest gRPC message taken; empty = a body of --max-body-bytes fits.
    #[arg(long, default_value = "", hide_default_value = true)]
    grpc_max_recv_msg_size: String,
    /// The largest gRPC message sent; empty = no limit.
    #[arg(long, default_value = "", hide_default_value = true)]
    grpc_max_send_msg_size: String,
    /// After SIGTERM, how long requests in flight may go on.
    #[arg(long, value_parser = duration, default_value = "30s")]
    drain_timeout: Duration,

    // --- pool ---
    /// The InferencePool.
    #[arg(long, default_value = "", hide_default_value = true)]
    pool_name: String,
    /// Its namespace.
    #[arg(long, default_value = "", hide_default_value = true)]
    pool_namespace: String,
    /// Its API group.
    #[arg(long, default_value = "inference.networking.k8s.io")]
    pool_group: String,
    /// Pods by label instead of an InferencePool.
    #[arg(long, default_value = "", hide_default_value = true)]
    endpoint_selector: String,
    /// Ports of those pods, comma separated.
    #[arg(long, value_delimiter = ',')]
    endpoint_target_ports: Vec<u16>,
    /// Do not obey the gateway's subset.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    disable_endpoint_subset_filter: bool,
    /// Put all scores into the dynamic metadata.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    emit_endpoint_scores: bool,
    /// Between two scrapes of an endpoint; 50ms at least.
    #[arg(long, value_parser = duration, default_value = "50ms")]
    refresh_metrics_interval: Duration,
    /// Scrapes older than this are not believed.
    #[arg(long, value_parser = duration, default_value = "2s")]
    metrics_staleness_threshold: Duration,
    /// Taken for compatibility: pool gauges are computed when they are read.
    #[arg(long, value_parser = duration, default_value = "5s")]
    refresh_prometheus_metrics_interval: Duration,

    // --- taken, with nothing behind them in this version ---
    /// Kubernetes authorisation of /metrics; without Kubernetes there is none.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("true"), default_missing_value = "true", action = ArgAction::Set)]
    metrics_endpoint_auth: bool,
    /// Certificates of /metrics.
    #[arg(long, default_value = "", hide_default_value = true)]
    metrics_cert_dir: String,
    /// CAs of clients of /metrics.
    #[arg(long, default_value = "", hide_default_value = true)]
    metrics_client_ca_file: String,
    /// Go's profiler; taken for compatibility.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("true"), default_missing_value = "true", action = ArgAction::Set)]
    enable_pprof: bool,
    /// Taken for compatibility.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    enable_grpc_stream_metrics: bool,
    /// Taken for compatibility.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("true"), default_missing_value = "true", action = ArgAction::Set)]
    tracing: bool,
    /// Leader election; needs Kubernetes.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("false"), default_missing_value = "true", action = ArgAction::Set)]
    ha_enable_leader_election: bool,

    // --- logs ---
    /// Verbosity: 0 errors, 1 warnings, 2 information, 4 debug, 5 all.
    #[arg(long = "v", default_value_t = 2)]
    verbosity: u8,
    /// json or console.
    #[arg(long, default_value = "console")]
    zap_encoder: String,
    /// debug, info, warn, error, or a verbosity; overrules -v.
    #[arg(long, default_value = "", hide_default_value = true)]
    zap_log_level: String,
    /// Taken for compatibility.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value = go_bool!("true"), default_missing_value = "true", action = ArgAction::Set)]
    zap_devel: bool,
    /// Taken for compatibility.
    #[arg(long, default_value = "", hide_default_value = true)]
    zap_stacktrace_level: String,
    /// Taken for compatibility.
    #[arg(long, default_value = "", hide_default_value = true)]
    zap_time_encoding: String,

    #[command(flatten)]
    klog: Klog,
    #[command(flatten)]
    gone: Gone,
}

/// Flags of Go's klog, which mean nothing here.
#[derive(Debug, clap::Args)]
struct Klog {
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    logtostderr: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    alsologtostderr: Option<String>,
    #[arg(long = "add_dir_header", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    add_dir_header: Option<String>,
    #[arg(long = "one_output", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    one_output: Option<String>,
    #[arg(long = "skip_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_headers: Option<String>,
    #[arg(long = "skip_log_headers", hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    skip_log_headers: Option<String>,
    #[arg(long = "log_backtrace_at", hide = true)]
    log_backtrace_at: Option<String>,
    #[arg(long = "log_dir", hide = true)]
    log_dir: Option<String>,
    #[arg(long = "log_file", hide = true)]
    log_file: Option<String>,
    #[arg(long = "log_file_max_size", hide = true)]
    log_file_max_size: Option<String>,
    #[arg(long, hide = true)]
    stderrthreshold: Option<String>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
}

/// Flags that the reference refuses: what they set is set in the configuration now.
#[derive(Debug, clap::Args)]
struct Gone {
    #[arg(long, hide = true)]
    total_queued_requests_metric: Option<String>,
    #[arg(long, hide = true)]
    total_running_requests_metric: Option<String>,
    #[arg(long, hide = true)]
    kv_cache_usage_percentage_metric: Option<String>,
    #[arg(long, hide = true)]
    lora_info_metric: Option<String>,
    #[arg(long, hide = true)]
    cache_info_metric: Option<String>,
}

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
    /// Between two scrapes.
    pub refresh_metrics: Duration,
    /// How old a scrape may be.
    pub metrics_staleness: Duration,
    /// For logs and metrics.
    pub pool_name: String,
    /// Endpoints were asked for by a flag that needs Kubernetes.
    pub kubernetes: Option<&'static str>,
    /// How much is logged.
    pub log_level: LevelFilter,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Flags that were given and do nothing.
    pub without_effect: Vec<&'static str>,
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
        let kubernetes = match (self.pool_name.is_empty(), self.endpoint_selector.is_empty()) {
            (false, false) => {
                return Err(
                    "--pool-name and --endpoint-selector exclude each other; give one".to_owned(),
                );
            }
            (false, true) => Some("--pool-name"),
            (true, false) => Some("--endpoint-selector"),
            (true, true) => None,
        };
        if !self.endpoint_selector.is_empty()
            && !(1..=8).contains(&self.endpoint_target_ports.len())
        {
            return Err(
                "--endpoint-target-ports: --endpoint-selector needs 1 to 8 ports".to_owned(),
            );
        }
        if !self.metrics_client_ca_file.is_empty() && self.metrics_cert_dir.is_empty() {
            return Err("--metrics-client-ca-file needs --metrics-cert-dir".to_owned());
        }
        let (log_level, log_format) = self.logs()?;
        let tls = if self.secure_serving {
            Some(self.tls()?)
        } else {
            self.no_tls()?
        };
        Ok(Settings {
            tls,
            max_receive: optional_size("--grpc-max-recv-msg-size", &self.grpc_max_recv_msg_size)?
                .unwrap_or(self.max_body_bytes.saturating_add(MESSAGE_OVERHEAD)),
            max_send: optional_size("--grpc-max-send-msg-size", &self.grpc_max_send_msg_size)?
                .unwrap_or(usize::MAX),
            without_effect: self.without_effect(),
            config,
            kubernetes,
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
            refresh_metrics: self.refresh_metrics_interval.max(MIN_REFRESH),
            metrics_staleness: self.metrics_staleness_threshold,
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
        let of_verbosity = |v: u8| match v {
            0 => LevelFilter::ERROR,
            1 => LevelFilter::WARN,
            2 | 3 => LevelFilter::INFO,
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
        let min_version = match self.tls_min_version.as_str() {
            "" | "1.2" | "VersionTLS12" => MinVersion::Tls12,
            "1.3" | "VersionTLS13" => MinVersion::Tls13,
            other => {
                return Err(format!(
                    "--tls-min-version: `{other}` cannot be had; write 1.2 or 1.3"
                ));
            }
        };
        if !self.client_allowed_sans.is_empty() && self.client_ca_file.is_none() {
            return Err("--client-allowed-sans needs --client-ca-file".to_owned());
        }
        if self.enable_cert_reload && self.cert_path.is_empty() {
            return Err("--enable-cert-reload needs --cert-path".to_owned());
        }
        let names = self.tls_cipher_suites.split(',').map(str::trim);
        Ok(TlsOptions {
            cert_dir: (!self.cert_path.is_empty()).then(|| self.cert_path.clone().into()),
            min_version,
            cipher_suites: names.filter(|n| !n.is_empty()).map(str::to_owned).collect(),
            client_ca: self.client_ca_file.clone(),
            client_sans: self.client_allowed_sans.clone(),
        })
    }

    /// Clear text was asked for: nothing may suggest that it is protected.
    fn no_tls(&self) -> Result<Option<TlsOptions>, String> {
        if self.client_ca_file.is_some() {
            return Err("--client-ca-file needs --secure-serving=true".to_owned());
        }
        Ok(None)
    }

    fn without_effect(&self) -> Vec<&'static str> {
        [
            ("--metrics-cert-dir", !self.metrics_cert_dir.is_empty()),
            (
                "--enable-grpc-stream-metrics",
                self.enable_grpc_stream_metrics,
            ),
            (
                "--ha-enable-leader-election",
                self.ha_enable_leader_election,
            ),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }
}

fn optional_size(flag: &str, text: &str) -> Result<Option<usize>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    bytes(text)
        .map(Some)
        .map_err(|error| format!("{flag}: {error}"))
}

// === impl Gone ===

impl Gone {
    fn check(&self) -> Result<(), String> {
        for (flag, value) in [
            (
                "total-queued-requests-metric",
                &self.total_queued_requests_metric,
            ),
            (
                "total-running-requests-metric",
                &self.total_running_requests_metric,
            ),
            (
                "kv-cache-usage-percentage-metric",
                &self.kv_cache_usage_percentage_metric,
            ),
            ("lora-info-metric", &self.lora_info_metric),
            ("cache-info-metric", &self.cache_info_metric),
        ] {
            if value.is_some() {
                return Err(format!(
                    "--{flag} is gone; name the metric in the engineConfigs of a core-metrics-extractor"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Wrapper {
        #[command(flatten)]
        options: ServeOptions,
    }

    fn settings(arguments: &[&str]) -> Result<Settings, String> {
        let all = ["serve"].iter().chain(arguments);
        let parsed = Wrapper::try_parse_from(all).map_err(|error| error.to_string())?;
        parsed.options.check()
    }

    #[test]
    fn defaults_are_the_references() {
        let got = settings(&[]).unwrap();
        assert_eq!(
            (got.grpc_port, got.health_port, got.metrics_port),
            (9002, 9003, 9090)
        );
        assert!(got.tls.is_some() && got.subset_filter && !got.emit_scores);
        assert_eq!(got.refresh_metrics, Duration::from_millis(50));
        assert_eq!(got.drain_timeout, Duration::from_secs(30));
        assert_eq!(got.max_body, 32 << 20);
    }

    #[test]
    fn booleans_stand_alone_or_with_a_value() {
        assert!(settings(&["--secure-serving=false"]).unwrap().tls.is_none());
        assert!(settings(&["--emit-endpoint-scores"]).unwrap().emit_scores);
        assert!(
            settings(&["--health-checking=true"])
                .unwrap()
                .health_checking
        );
    }

    #[test]
    fn every_flag_of_the_reference_is_taken() {
        settings(&[
            "--pool-namespace=x",
            "--pool-group=g",
            "--pool-name=p",
            "--zap-encoder=json",
            "--zap-devel=false",
            "--zap-log-level=debug",
            "--zap-stacktrace-level=error",
            "--zap-time-encoding=iso8601",
            "--v=4",
            "--tracing=false",
            "--metrics-endpoint-auth=false",
            "--enable-pprof=false",
            "--ha-enable-leader-election",
            "--enable-grpc-stream-metrics",
            "--refresh-prometheus-metrics-interval=5s",
            "--metrics-cert-dir=/c",
            "--metrics-client-ca-file=/ca",
            "--tls-min-version=VersionTLS13",
            "--tls-cipher-suites=",
            "--cert-path=/c",
            "--enable-cert-reload",
            "--grpc-max-recv-msg-size=8Mi",
            "--grpc-max-send-msg-size=8Mi",
            "--vmodule=a=1",
            "--logtostderr",
            "--disable-endpoint-subset-filter",
            "--allow-experimental-plugins",
            "--config-file=/f",
        ])
        .unwrap();
        settings(&[
            "--endpoint-selector=app=x",
            "--endpoint-target-ports=8000,8001",
        ])
        .unwrap();
    }

    #[test]
    fn errors_name_the_flag_and_the_remedy() {
        for (arguments, expected) in [
            (
                &["--config-file=a", "--config-text=b"][..],
                "exclude each other",
            ),
            (
                &["--pool-name=a", "--endpoint-selector=b"],
                "exclude each other",
            ),
            (&["--endpoint-selector=b"], "--endpoint-target-ports"),
            (&["--lora-info-metric=x"], "--lora-info-metric is gone"),
            (&["--tls-min-version=1.1"], "write 1.2 or 1.3"),
            (&["--client-allowed-sans=a"], "needs --client-ca-file"),
            (&["--drain-timeout=5"], "is not a duration"),
            (&["--grpc-prot=1"], "--grpc-port"),
            (&["--metrics-client-ca-file=x"], "needs --metrics-cert-dir"),
        ] {
            let got = settings(arguments).unwrap_err();
            assert!(got.contains(expected), "{got}");
        }
    }
}
