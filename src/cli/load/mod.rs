//! `pointsman load`: an ext_proc client that behaves as Envoy does, at a set rate.
//!
//! With `--rate` requests are sent when they are due, whether or not earlier ones have been answered, and a latency runs
//! from when the request was due: a picker that stalls cannot hide it. Without, `--concurrency` requests are
//! always under way, which finds the highest rate.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

use super::units::duration;

mod drive;
mod exchange;
mod failure;
mod process;
mod report;
mod script;
mod tally;
mod tls;

use drive::Target;
use process::Usage;
use report::Report;
use script::Script;
use tally::Window;

/// Arguments of `load`.
#[derive(Clone, Debug, clap::Args)]
pub struct LoadArgs {
    /// The picker: host:port.
    #[arg(long, default_value = "127.0.0.1:9002")]
    address: String,
    /// Connect with TLS; the certificate is not verified.
    #[arg(long)]
    tls: bool,
    /// Requests a second; 0 = as many as --concurrency gives.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Requests under way at a time, if there is no rate.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// For how long to measure.
    #[arg(long, value_parser = duration, default_value = "10s")]
    duration: Duration,
    /// For how long to send before that.
    #[arg(long, value_parser = duration, default_value = "2s")]
    warmup: Duration,
    /// HTTP/2 connections.
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// Bytes of prompt in a request.
    #[arg(long, default_value_t = 200)]
    prompt_bytes: usize,
    /// How bodies are sent.
    #[arg(long, value_enum, default_value_t = BodyMode::FullDuplex)]
    body_mode: BodyMode,
    /// Chunks of a streamed response; 0 = the stream ends with the request, as in the decision-only profile.
    #[arg(long, default_value_t = 0)]
    response_chunks: u32,
    /// Time between two of them, to the millisecond; 0 = as fast as the picker takes them.
    #[arg(long, value_parser = duration, default_value = "10ms")]
    chunk_interval: Duration,
    /// The model asked for.
    #[arg(long, default_value = "meta-llama/Llama-3.1-8B-Instruct")]
    model: String,
    /// The picker's process: its CPU time and memory are reported too.
    #[arg(long)]
    pid: Option<u32>,
    /// Print one JSON object instead of a table.
    ///
    /// What is not known is null. Its keys:
    ///   duration_seconds    of the measured time
    ///   offered_rate        --rate; null without
    ///   rate                completed requests a second
    ///   completed           requests that ended well within the measured time, whenever they were due
    ///   due                 requests that were due within it: those of latency_ms, and errors, and not_sent
    ///   errors              of those due, an object: what went wrong, how often
    ///   not_sent            of those due: too many others were under way
    ///   latency_ms          of those due, whenever they ended: from due to the destination; p50, p90, p99, p99.9, max
    ///   client_lag_ms       of those due, the part that is the client's own: from due to the first message handed to
    ///                       the transport; the same quantiles
    ///   cpu_seconds         of the process --pid, within the measured time
    ///   cpu_ms_per_request  cpu_seconds over completed
    ///   rss_bytes           of the process --pid, at the end of the measured time
    #[arg(long, verbatim_doc_comment)]
    json: bool,
}

/// How request bodies are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum BodyMode {
    /// FULL_DUPLEX_STREAMED
    FullDuplex,
    /// BUFFERED
    Buffered,
    /// STREAMED
    Streamed,
}

/// Sends, measures, prints.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    if let Some(pid) = args.pid {
        // Before the load, not after it.
        Usage::of(pid)?;
    }
    let target = Target {
        channels: connect(&args).await?,
        script: Arc::new(Script::new(
            &args.model,
            args.prompt_bytes,
            args.body_mode,
            args.response_chunks,
            args.chunk_interval,
        )),
    };
    let from = Instant::now() + args.warmup;
    let window = Window {
        from,
        to: from + args.duration,
    };
    let watch = args
        .pid
        .map(|pid| tokio::task::spawn_blocking(move || process::watch(pid, window)));
    let offered = (args.rate > 0.0).then_some(args.rate);
    let tally = match offered {
        Some(rate) => drive::open_loop(target, rate, window).await?,
        None => drive::closed_loop(target, args.concurrency, window).await?,
    };
    let (spent, lost) = match watch {
        Some(watch) => match watch.await? {
            Ok(spent) => (Some(spent), None),
            Err(error) => (None, Some(error)),
        },
        None => (None, None),
    };
    let report = Report::new(tally, args.duration, offered, spent);
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", report.to_json())?;
    } else {
        write!(out, "{report}")?;
    }
    // The picker died: what was measured until then is worth its report.
    lost.map_or(Ok(()), Err)
}

async fn connect(args: &LoadArgs) -> anyhow::Result<Vec<Channel>> {
    let mut channels = Vec::new();
    for _ in 0..args.connections.max(1) {
        let endpoint = Endpoint::from_shared(format!("http://{}", args.address))
            .with_context(|| format!("--address: `{}` is not host:port", args.address))?
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .tcp_nodelay(true);
        let channel = if args.tls {
            endpoint.connect_with_connector(tls::connector()?).await
        } else {
            endpoint.connect().await
        };
        channels.push(channel.with_context(|| format!("connecting to {}", args.address))?);
    }
    Ok(channels)
}
