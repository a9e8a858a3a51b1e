//! `pointsman sim`: simulated model servers, all in one process.

mod args;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use args::SimArgs;

use crate::sim::{self, Boards, Server};

/// Serves until it is told to stop. Prints `ready` once all servers listen.
pub async fn run(args: SimArgs) -> anyhow::Result<()> {
    args.check()?;
    let spec = args.spec()?;
    let layout = args.layout()?;
    let boards = layout.clone().map(Boards::new).transpose()?;
    let events = args.kv_events();
    let stop = CancellationToken::new();
    let mut endpoints = String::from("endpoints:\n");
    let mut servers = JoinSet::new();
    let pod_name = pod_name().filter(|_| args.servers == 1);
    for index in 0..args.servers {
        let port = match args.port {
            0 => 0,
            first => first + index,
        };
        let listener = TcpListener::bind((args.address, port))
            .await
            .with_context(|| format!("binding port {port} for server {index} (--port)"))?;
        let address = listener.local_addr()?;
        let seat = boards.as_ref().map(|boards| boards.seat(index.into()));
        let mut config = args.server(index, &spec);
        config.name = pod_name.clone().unwrap_or(config.name);
        let mut server = Server::new(config, address, seat)?;
        if index == 0 {
            server.set_slow(f64::from(args.slow_first));
        }
        println!("{} http://{address}", name(index));
        if let Some(events) = &events {
            let at = server.publish(events, index).await;
            let at = at.with_context(|| format!("KV events of server {index}"))?;
            println!("{} kv-events {}", name(index), at.join(" "));
        }
        servers.spawn(Arc::new(server).serve(listener, stop.clone().cancelled_owned()));
        endpoint(&mut endpoints, index, address, args.engine_label());
    }
    let map = layout.map(|layout| layout.map(|server| name(server as u16), &command()));
    for (flag, path, text) in [
        ("--gpu-map", &args.gpu_map, map.as_ref()),
        ("--endpoints-file", &args.endpoints_file, Some(&endpoints)),
    ] {
        if let (Some(path), Some(text)) = (path, text) {
            write_whole(path, text).with_context(|| format!("{flag}: {}", path.display()))?;
        }
    }
    println!("ready");
    let told = async {
        let (Some(boards), Some(path)) = (&boards, &args.gpu_state) else {
            return std::future::pending().await;
        };
        let told = sim::follow(boards, path).await;
        told.with_context(|| format!("--gpu-state: {}", path.display()))
    };
    tokio::select! {
        stopped = super::serve::asked_to_stop() => stopped?,
        told = told => told?,
        Some(ended) = servers.join_next() => ended??,
    }
    stop.cancel();
    Ok(())
}

/// What this process is called: by that the node agent tells it from others.
fn command() -> String {
    let name = std::fs::read_to_string("/proc/self/comm");
    let name = name.as_deref().map(str::trim_end);
    name.unwrap_or("pointsman").replace(['"', '\\'], "_")
}

/// Of a server; its pod's too.
fn name(index: u16) -> String {
    format!("sim-{index}")
}

/// What the only server of a pod is called that is told its own name.
fn pod_name() -> Option<String> {
    std::env::var("POD_NAME")
        .ok()
        .filter(|name| !name.is_empty())
}

fn endpoint(out: &mut String, index: u16, address: SocketAddr, engine: Option<&str>) {
    let label = |engine: &str| format!(", labels: {{llm-d.ai/engine-type: {engine}}}");
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "- {{name: {}, namespace: default, address: \"{}\", port: \"{}\"{}}}",
        name(index),
        address.ip(),
        address.port(),
        engine.map(label).unwrap_or_default()
    );
}

/// A reader sees the old file or the new one, never a part.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(next, path)
}
