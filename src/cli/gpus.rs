//! `pointsman gpus`: what a picker, or a node's agent, knows of GPUs, as a table.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::http::Http;
use super::options::agents::{AgentTlsArgs, tls as agents_tls};
use super::serve::asked_to_stop;
use super::units::duration;
use crate::pool::gpu::agents::tls::AgentTls;
use crate::pool::gpu::agents::{self, AgentAt, check_address};
use crate::pool::gpu::page::{GpusPage, of_report};

mod table;

pub(super) use table::row;
use table::table;

/// Before the address of a picker whose metrics port has TLS.
const HTTPS: &str = "https://";

/// Arguments of `gpus`.
#[derive(Debug, clap::Args)]
pub struct GpusArgs {
    /// The picker's metrics port, host:port; https://host:port, if that has TLS: the flags for agents say how.
    #[arg(long, default_value = "127.0.0.1:9090", value_parser = page_address)]
    picker: String,
    /// Of a picker of several pools, whose: <namespace>/<name>.
    #[arg(long)]
    pool: Option<String>,
    /// Ask a node's agent instead, host:port: it knows no endpoints, and so no health.
    #[arg(long, value_parser = address, conflicts_with_all = ["picker", "pool"])]
    agent: Option<String>,
    /// A file with the bearer token that the picker asks for (its --metrics-endpoint-auth).
    #[arg(long, conflicts_with = "agent")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    tls: AgentTlsArgs,
    /// Until Ctrl-C, again and again.
    #[arg(long)]
    watch: bool,
    /// Between two looks.
    #[arg(long, value_parser = duration, default_value = "1s", requires = "watch")]
    interval: Duration,
}

/// Who is asked.
enum Source {
    /// A picker, by its metrics port.
    Picker {
        /// As it was given.
        address: String,
        pool: Option<String>,
        http: Box<Http>,
    },
    /// A node's agent.
    Agent(AgentAt, Option<Arc<AgentTls>>),
}

fn address(text: &str) -> Result<String, String> {
    check_address(text).map(|()| text.to_owned())
}

fn page_address(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix(HTTPS).unwrap_or(text);
    check_address(bare).map(|()| text.to_owned())
}

/// What may help where a picker did not answer as it should.
fn remedy(error: &anyhow::Error) -> &'static str {
    if let Some(error) = error.downcast_ref::<hyper_util::client::legacy::Error>()
        && !error.is_connect()
    {
        return ": what answers is no HTTP; if the port has TLS (--metrics-cert-dir), write --picker https://host:port";
    }
    // The server's own refusal comes with the answer.
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    match causes.any(|cause| cause.kind() == io::ErrorKind::InvalidData) {
        true => {
            ": no TLS with it; see --gpu-agents-ca-file, --gpu-agents-server-name and --gpu-agents-cert-path"
        }
        false => ": is that its --metrics-port?",
    }
}

/// Prints the table, once or until the process is asked to stop.
pub async fn run(args: GpusArgs) -> anyhow::Result<()> {
    let source = Source::of(&args)?;
    if !args.watch {
        print(&table(&source.ask().await?), false);
        return Ok(());
    }
    let terminal = io::stdout().is_terminal();
    let watch = async {
        loop {
            // Whoever watches wants to see it come back.
            let text = match source.ask().await {
                Ok(page) => table(&page),
                Err(error) => format!("{error:#}\n"),
            };
            print(&text, terminal);
            tokio::time::sleep(args.interval).await;
        }
    };
    tokio::select! {
        stopped = asked_to_stop() => Ok(stopped?),
        () = watch => Ok(()),
    }
}

// === impl Source ===

impl Source {
    fn of(args: &GpusArgs) -> anyhow::Result<Self> {
        if let Some(agent) = &args.agent {
            let tls = args.tls.check().map_err(anyhow::Error::msg)?;
            return Ok(Self::Agent(AgentAt::of(agent), agents_tls(tls.as_ref())?));
        }
        let mut http = Http::new();
        if args.picker.starts_with(HTTPS) {
            let tls = args.tls.options().and_then(|tls| AgentTls::of_pages(&tls));
            http = http.with_tls(tls.map_err(anyhow::Error::msg)?);
        } else if args.tls.check() != Ok(None) {
            anyhow::bail!("TLS needs --agent, or --picker https://host:port");
        }
        if let Some(file) = &args.token_file {
            http = http.with_token_of(file)?;
        }
        Ok(Self::Picker {
            address: args.picker.clone(),
            pool: args.pool.clone(),
            http: Box::new(http),
        })
    }

    async fn ask(&self) -> anyhow::Result<GpusPage> {
        match self {
            Self::Agent(at, tls) => {
                let report = agents::ask(at, tls.as_ref()).await;
                let report = report.with_context(|| format!("the agent at {}", at.address))?;
                Ok(of_report(&at.address, &report))
            }
            Self::Picker {
                address,
                pool,
                http,
            } => {
                let of_pool = pool.as_ref().map(|pool| format!("?pool={pool}"));
                let path = format!("/debug/gpus{}", of_pool.unwrap_or_default());
                let server = address.strip_prefix(HTTPS).unwrap_or(address);
                let page = http.page(server, &path).await.map_err(|error| {
                    let remedy = remedy(&error);
                    error.context(format!("the picker at {address}{remedy}"))
                })?;
                serde_json::from_str(&page)
                    .with_context(|| format!("the picker at {address}: {path}"))
            }
        }
    }
}

/// A closed standard output ends nothing.
fn print(text: &str, terminal: bool) {
    let home = if terminal { "\x1b[H\x1b[2J" } else { "" };
    let _ = io::stdout().write_all(format!("{home}{text}").as_bytes());
    let _ = io::stdout().flush();
}
