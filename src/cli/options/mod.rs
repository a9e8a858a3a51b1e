//! The flags of `serve`: those of the llm-d picker, with its defaults, and a few of our own.
//!
//! They are taken as Go's flag packages take them: of a flag that is given twice the last counts, lists grow with each,
//! and booleans stand alone or have any of the values that Go takes for one. What they come to is in [`settings`].

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;

use super::units::{boolean, bytes, duration};
use crate::pool::health::limit::MOST_OUT;

pub(super) mod agents;
mod compat;
pub(super) mod pages;
pub mod settings;
#[cfg(test)]
pub(super) mod tests;

pub use settings::{ConfigSource, Settings};

/// Flags of `serve`.
#[derive(Debug, clap::Args)]
#[command(next_line_help = false, args_override_self = true)]
pub struct ServeOptions {
    // --- configuration ---
    /// An EndpointPickerConfig file.
    #[arg(long, default_value = "", hide_default_value = true)]
    config_file: String,
    /// An EndpointPickerConfig, inline.
    #[arg(long, default_value = "", hide_default_value = true)]
    config_text: String,
    /// Take plugins of alpha stability.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
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
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    health_checking: bool,

    // --- TLS ---
    /// TLS on the ext_proc port.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set)]
    secure_serving: bool,
    /// A directory with tls.crt and tls.key; without it the certificate is self-signed.
    #[arg(long, default_value = "", hide_default_value = true)]
    cert_path: String,
    /// Read the certificates again when they change.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
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
    /// Memory of the prefix index.
    #[arg(long, value_parser = bytes, default_value = "64Mi")]
    prefix_index_bytes: usize,
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
    /// The endpoints, in a file that is followed as it changes, where the configuration has no dataLayer.discovery.
    #[arg(long)]
    endpoints_file: Option<PathBuf>,
    /// The InferencePool; without an endpoints file its pods are the endpoints.
    #[arg(long, default_value = "", hide_default_value = true)]
    pool_name: String,
    /// Its namespace, or that of the pods; else that of $NAMESPACE, else that of the credentials.
    #[arg(long, default_value = "", hide_default_value = true)]
    pool_namespace: String,
    /// Its API group.
    #[arg(long, default_value = "inference.networking.k8s.io")]
    pool_group: String,
    /// Several pools, in a file: their names, Services and configurations; see docs/kubernetes.md.
    #[arg(long)]
    pools_file: Option<PathBuf>,
    /// Pods by label instead of an InferencePool.
    #[arg(long, default_value = "", hide_default_value = true)]
    endpoint_selector: String,
    /// Ports of those pods, comma separated.
    #[arg(long, value_delimiter = ',')]
    endpoint_target_ports: Vec<u16>,
    /// Replicas elect a leader, and it alone is ready; without, all are. In Kubernetes only.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    ha_enable_leader_election: bool,
    /// Do not obey the gateway's subset.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    disable_endpoint_subset_filter: bool,
    /// The header by which the gateway names the tenant: the prompts of tenants are never taken to share a prefix. Set it
    /// only where the gateway overwrites what clients send.
    #[arg(long, default_value = "", hide_default_value = true)]
    tenant_header: String,
    /// Objective, fairness id, tenant and model rewrite count only if the gateway says them, in the dynamic metadata namespace
    /// `pointsman` by the headers' names; what clients say in headers does not.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    strict_client_headers: bool,
    /// Put all scores into the dynamic metadata.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    emit_endpoint_scores: bool,
    /// Decisions to keep for /debug/decisions on the metrics port, up to 65536; 0 = none.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(..=65536))]
    decision_records: u32,
    /// Write the arrivals that are decided on into this file, for `pointsman replay`: times, lengths, which prompts begin alike;
    /// no text. If the file is there already, file.1 and so on.
    #[arg(long, default_value = "", hide_default_value = true)]
    record: String,
    /// Where the file ends.
    #[arg(long, value_parser = bytes, default_value = "1Gi")]
    record_max_bytes: usize,
    /// Between two scrapes of an endpoint; 50ms at least.
    #[arg(long, value_parser = duration, default_value = "50ms")]
    refresh_metrics_interval: Duration,
    /// Scrapes older than this are not believed.
    #[arg(long, value_parser = duration, default_value = "2s")]
    metrics_staleness_threshold: Duration,
    /// The share of endpoints that may be kept out for what is concluded of their health, 0 to 1; past it the least bad get
    /// requests. Endpoints that fail requests do not count.
    #[arg(long, default_value_t = MOST_OUT)]
    max_ejected_share: f32,
    #[command(flatten)]
    gpu_agents: agents::AgentArgs,
    /// Taken for compatibility: pool gauges are computed when they are read.
    #[arg(long, value_parser = duration, default_value = "5s")]
    refresh_prometheus_metrics_interval: Duration,

    // --- metrics ---
    /// Metrics of ext_proc streams: extproc_streams_*.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    enable_grpc_stream_metrics: bool,
    /// Metrics under their deprecated names too: inference_objective_*, inference_pool_*, inference_extension_*.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true", action = ArgAction::Set)]
    legacy_metrics: bool,

    /// The API server says who may read the pages of the metrics port: by TokenReview and SubjectAccessReview. Where the
    /// endpoints are not from Kubernetes everybody may.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set)]
    metrics_endpoint_auth: bool,
    #[command(flatten)]
    metrics_tls: pages::PagesTlsArgs,

    // --- taken, with nothing behind them in this version ---
    /// Go's profiler; taken for compatibility.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set)]
    enable_pprof: bool,
    /// Taken for compatibility.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set)]
    tracing: bool,

    // --- logs ---
    /// Verbosity: up to 3 information, 4 debug, 5 all.
    #[arg(long = "v", default_value_t = 2)]
    verbosity: i32,
    /// json or console.
    #[arg(long, default_value = "console")]
    zap_encoder: String,
    /// debug, info, warn, error, or a verbosity; overrules -v.
    #[arg(long, default_value = "", hide_default_value = true)]
    zap_log_level: String,
    /// Taken for compatibility.
    #[arg(long, value_parser = boolean, num_args = 0..=1, require_equals = true, default_value = "true", default_missing_value = "true", action = ArgAction::Set)]
    zap_devel: bool,
    /// Taken for compatibility.
    #[arg(long, default_value = "", hide_default_value = true)]
    zap_stacktrace_level: String,
    /// Taken for compatibility.
    #[arg(long, default_value = "", hide_default_value = true)]
    zap_time_encoding: String,

    #[command(flatten)]
    klog: compat::Klog,
    #[command(flatten)]
    gone: compat::Gone,
}
