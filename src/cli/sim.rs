//! `pointsman sim`: simulated model servers, all in one process.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::units::duration;
use crate::sim::{EngineConfig, Server, ServerConfig};

/// Arguments of `sim`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArgs {
    /// How many servers.
    #[arg(long, default_value_t = 3)]
    servers: u16,
    /// The first server's port, the others follow; 0 = any that are free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Where they listen.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// The base model.
    #[arg(long, default_value = "meta-llama/Llama-3.1-8B-Instruct")]
    model: String,
    /// LoRA adapters that are loaded from the start, comma separated.
    #[arg(long, value_delimiter = ',')]
    lora: Vec<String>,
    /// How many adapters fit into one server.
    #[arg(long, default_value_t = 4)]
    max_loras: usize,
    /// Time to first token of an empty prompt.
    #[arg(long, value_parser = duration, default_value = "50ms")]
    ttft: Duration,
    /// Prompt tokens read a second.
    #[arg(long, default_value_t = 20_000.0)]
    prefill_rate: f64,
    /// Time between two tokens.
    #[arg(long, value_parser = duration, default_value = "10ms")]
    itl: Duration,
    /// The first server is this many times slower.
    #[arg(long, default_value_t = 1)]
    slow_first: u32,
    /// Requests that one server runs at once; more of them wait.
    #[arg(long, default_value_t = 32)]
    max_num_seqs: usize,
    /// KV cache blocks of one server.
    #[arg(long, default_value_t = 2048)]
    kv_blocks: u64,
    /// Tokens in a block.
    #[arg(long, default_value_t = 16)]
    block_size: u64,
    /// Tokens of an answer whose request sets no limit.
    #[arg(long, default_value_t = 64)]
    tokens: u64,
    /// Write the servers here, as file-discovery reads them.
    #[arg(long)]
    endpoints_file: Option<PathBuf>,
}

/// Serves until it is told to stop. Prints `ready` once all servers listen.
pub async fn run(args: SimArgs) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut endpoints = String::from("endpoints:\n");
    let mut servers = tokio::task::JoinSet::new();
    for index in 0..args.servers {
        let port = match args.port {
            0 => 0,
            first => first
                .checked_add(index)
                .context("--port: the last server's port is past 65535")?,
        };
        let listener = TcpListener::bind((args.address, port))
            .await
            .with_context(|| format!("binding port {port} for server {index} (--port)"))?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server::new(args.server(index), address));
        servers.spawn(server.serve(listener, stop.clone().cancelled_owned()));
        println!("sim-{index} http://{address}");
        endpoint(&mut endpoints, index, address);
    }
    if let Some(path) = &args.endpoints_file {
        write_whole(path, &endpoints)
            .with_context(|| format!("--endpoints-file: {}", path.display()))?;
    }
    println!("ready");
    tokio::select! {
        stopped = super::serve::asked_to_stop() => stopped?,
        Some(ended) = servers.join_next() => ended??,
    }
    stop.cancel();
    Ok(())
}

fn endpoint(out: &mut String, index: u16, address: SocketAddr) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "- {{name: sim-{index}, namespace: default, address: \"{}\", port: \"{}\"}}",
        address.ip(),
        address.port()
    );
}

/// A reader sees the old file or the new one, never a part.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(next, path)
}

// === impl SimArgs ===

impl SimArgs {
    fn server(&self, index: u16) -> ServerConfig {
        let factor = if index == 0 {
            self.slow_first.max(1)
        } else {
            1
        };
        ServerConfig {
            name: format!("sim-{index}"),
            model: self.model.clone(),
            adapters: self.lora.clone(),
            max_loras: if self.lora.is_empty() {
                0
            } else {
                self.max_loras
            },
            tokens: self.tokens,
            engine: EngineConfig {
                ttft: self.ttft * factor,
                prefill_rate: self.prefill_rate / f64::from(factor),
                itl: self.itl * factor,
                max_num_seqs: self.max_num_seqs,
                kv_blocks: self.kv_blocks,
                block_size: self.block_size,
            },
        }
    }
}
