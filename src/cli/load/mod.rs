//! `pointsman load`: an ext_proc client that behaves as Envoy does, at a set rate.
//!
//! With `--rate` requests are sent when they are due, whether or not earlier ones have been answered, and a latency runs
//! from when the request was due: a picker that stalls cannot hide it. Without, `--concurrency` requests are
//! always under way, which finds the highest rate. The client's own part of a latency is reported beside it.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tonic::transport::{Channel, Endpoint};

mod args;
mod drive;
mod exchange;
mod failure;
mod process;
mod report;
mod script;
mod tally;
mod tls;

pub use args::{BodyMode, LoadArgs};

use drive::Target;
use process::Usage;
use report::Report;
use script::{DIGITS, Script};
use tally::Window;

/// Sends, measures, prints.
pub async fn run(args: LoadArgs) -> anyhow::Result<()> {
    if let Some(pid) = args.pid {
        // Before the load, not after it.
        Usage::of(pid)?;
    }
    anyhow::ensure!(
        args.prompts == 1 || args.prompt_bytes >= DIGITS,
        "--prompts: prompts of {} bytes cannot differ; they need {DIGITS}",
        args.prompt_bytes
    );
    let script = Script::new(
        &args.model,
        args.prompt_bytes,
        args.body_mode,
        args.response_chunks,
        args.chunk_interval,
    );
    let target = Target {
        channels: connect(&args).await?,
        script: Arc::new(script.with_prompts(args.prompts.into())),
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
    for _ in 0..args.connections {
        let endpoint = Endpoint::from_shared(format!("http://{}", args.address))?
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
