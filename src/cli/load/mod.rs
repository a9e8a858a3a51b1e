//! `pointsman load`: an ext_proc client that behaves as Envoy does, at a set rate.
//!
//! With `--rate` requests are sent when they are due, whether or not earlier ones have been answered, and a latency runs
//! from when the request was due: a picker that stalls cannot hide it. Without, `--concurrency` requests are
//! always under way, which finds the highest rate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use super::units::duration;

mod exchange;
mod failure;
mod process;
mod report;
mod script;
mod tls;

use process::Usage;
use report::{Report, Tally};
use script::Script;

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
    #[arg(long)]
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

/// Requests that may be under way at a time at a set rate: past it, the rate is not reached, and the report says so.
const MOST_UNDER_WAY: usize = 20_000;

/// Sends, measures, prints.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    let channels = connect(&args).await?;
    let script = Arc::new(Script::new(
        &args.model,
        args.prompt_bytes,
        args.body_mode,
        args.response_chunks,
        args.chunk_interval,
    ));
    let begun = Instant::now();
    let measured = begun + args.warmup;
    let end = measured + args.duration;
    let usage = tokio::spawn(measure(args.pid, measured, end));
    let tally = if args.rate > 0.0 {
        open_loop(&args, &channels, &script, measured, end).await
    } else {
        closed_loop(&args, &channels, &script, measured, end).await
    };
    let usage = usage.await??;
    let report = Report::new(tally, args.duration, args.rate, usage);
    if args.json {
        println!("{}", report.to_json());
    } else {
        println!("{report}");
    }
    Ok(())
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

/// CPU time and memory of the picker over the measured time.
async fn measure(
    pid: Option<u32>,
    from: Instant,
    to: Instant,
) -> anyhow::Result<Option<(Usage, Usage)>> {
    let Some(pid) = pid else {
        return Ok(None);
    };
    tokio::time::sleep_until(from).await;
    let before = Usage::of(pid)?;
    tokio::time::sleep_until(to).await;
    Ok(Some((before, Usage::of(pid)?)))
}

async fn open_loop(
    args: &LoadArgs,
    channels: &[Channel],
    script: &Arc<Script>,
    measured: Instant,
    end: Instant,
) -> Tally {
    let interval = Duration::from_secs_f64(1.0 / args.rate);
    let mut requests = JoinSet::new();
    let mut tally = Tally::default();
    let mut due = Instant::now();
    let mut number = 0;
    while due < end {
        tokio::time::sleep_until(due).await;
        while let Some(ended) = requests.try_join_next() {
            tally.add(ended, measured, end);
        }
        if requests.len() < MOST_UNDER_WAY {
            let channel = channels[number % channels.len()].clone();
            requests.spawn(exchange::run(channel, Arc::clone(script), due.into_std()));
        } else {
            tally.not_sent += 1;
        }
        number += 1;
        due += interval;
    }
    while let Some(ended) = requests.join_next().await {
        tally.add(ended, measured, end);
    }
    tally
}

async fn closed_loop(
    args: &LoadArgs,
    channels: &[Channel],
    script: &Arc<Script>,
    measured: Instant,
    end: Instant,
) -> Tally {
    let mut workers = JoinSet::new();
    for number in 0..args.concurrency.max(1) {
        let channel = channels[number % channels.len()].clone();
        let script = Arc::clone(script);
        workers.spawn(async move {
            let mut tally = Tally::default();
            while Instant::now() < end {
                let due = Instant::now();
                let ended =
                    exchange::run(channel.clone(), Arc::clone(&script), due.into_std()).await;
                tally.add(Ok(ended), measured, end);
            }
            tally
        });
    }
    let mut total = Tally::default();
    while let Some(ended) = workers.join_next().await {
        match ended {
            Ok(tally) => total.merge(tally),
            Err(error) => total.error(error.to_string()),
        }
    }
    total
}
