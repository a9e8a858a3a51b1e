//! `pointsman demo`: simulated model servers, the picker and a real Envoy on this machine, with a stream of requests.
//!
//! Everything runs as its user would run it: `pointsman sim`, `pointsman serve` and `envoy` are processes of their own, and
//! the demo prints their command lines. The first server is slower than the others, so that an even spread and a
//! spread by load do not look alike.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::http::{self, Http};
use super::units::duration;
use crate::pool::discovery;

pub mod apiserver;
pub mod bootstrap;
pub mod envoy;
mod gpus;
mod kubernetes;
mod table;
mod traffic;

use super::children::{Program, free_address};
use bootstrap::{Addresses, Profile};
use table::{Row, Screen};
use traffic::{Results, Target};

const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
/// The servers, in a file of the demo's folder.
const ENDPOINTS: &str = "endpoints.yaml";
/// How much slower the first server is.
const SLOW: u32 = 3;
/// Between two looks at the servers.
const LOOK: Duration = Duration::from_millis(500);
/// How long all of it may take to start.
const START: Duration = Duration::from_secs(30);
/// How long answers may take when the stream of requests has ended.
const FINISH: Duration = Duration::from_secs(20);

/// Arguments of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// How Pointsman is plugged into Envoy.
    #[arg(long, value_enum, default_value_t = Profile::DecisionOnly)]
    profile: Profile,
    /// End after this time; without it, on Ctrl-C.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    run_for: Option<Duration>,
    /// Simulated model servers.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    servers: u16,
    /// Requests a second.
    #[arg(long, default_value_t = 24.0, value_parser = rate)]
    rate: f64,
    /// Envoy's port; 0 = any that is free.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// The pool is an InferencePool, its servers are pods: the same against a Kubernetes API server, which is a real one where
    /// KUBEBUILDER_ASSETS names the folder of kube-apiserver and etcd, and a double of it elsewhere.
    #[arg(long, conflicts_with = "servers")]
    kubernetes: bool,
    /// The folder of the pool, its pods, objectives and rewrites as YAML files; it is followed as it changes [default: the
    /// demo's own, in which pods come and go].
    #[arg(long, value_name = "DIR", requires = "kubernetes")]
    manifests: Option<PathBuf>,
    /// The servers have GPUs, of the fake NVML library, and a node agent tells the picker of them; one falls off the bus,
    /// one is hot, and both are mended.
    #[arg(long, conflicts_with = "kubernetes")]
    gpus: bool,
}

/// What the servers and the picker are started with.
struct Flags {
    sim: Vec<String>,
    picker: Vec<String>,
}

/// All that runs.
struct Stage {
    http: Http,
    addresses: Addresses,
    picker_metrics: SocketAddr,
    sim: Program,
    picker: Program,
    envoy: Program,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.1..=10_000.0).contains(&rate) => Ok(rate),
        _ => Err(format!("`{text}` is not a number from 0.1 to 10000")),
    }
}

/// Those of Envoy and the picker before `endpoints`.
fn addresses(args: &DemoArgs, endpoints: Vec<SocketAddr>) -> anyhow::Result<Addresses> {
    Ok(Addresses {
        listen: match args.port {
            0 => free_address()?,
            port => SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        },
        admin: free_address()?,
        pickers: vec![free_address()?],
        endpoints,
    })
}

/// Starts `command`, a `serve` without its ports, and waits until it answers.
async fn start_picker(
    http: &Http,
    folder: &Path,
    mut command: Command,
    addresses: &Addresses,
    metrics: SocketAddr,
) -> anyhow::Result<Program> {
    command
        .args(["--bind-address=127.0.0.1", "--health-checking"])
        .arg(format!("--grpc-port={}", addresses.pickers[0].port()))
        .arg(format!("--grpc-health-port={}", free_address()?.port()))
        .arg(format!("--metrics-port={}", metrics.port()));
    let mut picker = Program::start("picker", folder, &mut command)?;
    until(&mut picker, async || {
        http.page(metrics, "/healthz").await.ok()
    })
    .await?;
    Ok(picker)
}

/// Starts Envoy with the bootstrap `document`, and waits until it is ready.
async fn start_envoy(
    http: &Http,
    binary: &Path,
    folder: &Path,
    document: &Value,
    admin: SocketAddr,
) -> anyhow::Result<Program> {
    let bootstrap = folder.join("envoy.json");
    std::fs::write(&bootstrap, serde_json::to_string_pretty(document)?)?;
    let mut command = Command::new(binary);
    command
        .args(["--concurrency", "1", "--log-level", "warn"])
        // Two Envoys of one base id cannot run on one machine.
        .args(["--use-dynamic-base-id", "-c"])
        .arg(&bootstrap);
    let mut envoy = Program::start("envoy", folder, &mut command)?;
    until(&mut envoy, async || http.page(admin, "/ready").await.ok()).await?;
    Ok(envoy)
}

/// Runs until Ctrl-C, or for `--for`; ends with a summary. An error if requests failed or went astray.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let envoy = envoy::find(&envoy::cache()).await?;
    let folder = std::env::temp_dir().join(format!("pointsman-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let shown = match (args.kubernetes, args.gpus) {
        (true, _) => kubernetes::run(&args, &envoy, &folder).await,
        (_, true) => gpus::run(&args, &envoy, &folder).await,
        (false, false) => show(&args, &envoy, &folder).await,
    };
    match &shown {
        Ok(()) => std::fs::remove_dir_all(&folder)
            .with_context(|| format!("removing {}", folder.display()))?,
        Err(_) => eprintln!("Logs and configuration are in {}.", folder.display()),
    }
    shown
}

async fn show(args: &DemoArgs, envoy: &Path, folder: &Path) -> anyhow::Result<()> {
    let config = folder.join("picker.yaml");
    std::fs::write(&config, picker_config(&folder.join(ENDPOINTS)))?;
    let slow = format!("--slow-first={SLOW}");
    let sim = [&*slow, "--max-num-seqs=8", "--ttft=40ms", "--itl=10ms"];
    let flags = Flags {
        sim: sim.map(str::to_owned).to_vec(),
        picker: vec![format!("--config-file={}", config.display())],
    };
    let mut interrupted = std::pin::pin!(super::serve::asked_to_stop());
    let mut stage = tokio::select! {
        stage = tokio::time::timeout(START, Stage::build(args, envoy, folder, &flags)) => {
            stage.context("not everything started in 30 s")??
        }
        asked = &mut interrupted => return Ok(asked?),
    };
    stage.explain(args);
    let results = Arc::new(Mutex::new(Results::new()?));
    let enough = CancellationToken::new();
    let sending = tokio::spawn(traffic::send(
        stage.target(),
        args.rate,
        Arc::clone(&results),
        enough.clone(),
    ));
    let begun = Instant::now();
    let mut rows = stage.rows();
    let mut screen = Screen::new();
    let mut ticker = tokio::time::interval(LOOK);
    let end = async {
        match args.run_for {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    let mut end = std::pin::pin!(end);
    loop {
        tokio::select! {
            _ = ticker.tick() => {
                stage.look(&mut rows).await?;
                screen.draw(&rows, &results.lock(), begun.elapsed().as_secs_f64());
            }
            () = &mut end => break,
            asked = &mut interrupted => {
                asked?;
                break;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    enough.cancel();
    if tokio::time::timeout(FINISH, sending).await.is_err() {
        eprintln!("Some answers did not end in {} s.", FINISH.as_secs());
    }
    stage.look(&mut rows).await?;
    let results = results.lock().clone();
    println!("{}", table::summary(&rows, &results, seconds));
    stage.end().await?;
    if results.complete < results.sent {
        let lost = results.sent - results.complete;
        bail!("{lost} of {} requests failed", results.sent);
    }
    Ok(())
}

// === impl Stage ===

impl Stage {
    /// Starts everything, in the order in which it is needed.
    async fn build(
        args: &DemoArgs,
        envoy: &Path,
        folder: &Path,
        flags: &Flags,
    ) -> anyhow::Result<Self> {
        let http = Http::new();
        let this = std::env::current_exe().context("finding this program's own file")?;

        let endpoints_file = folder.join(ENDPOINTS);
        let mut command = Command::new(&this);
        command
            .args(["sim", "--port=0", &format!("--servers={}", args.servers)])
            .arg(format!("--model={MODEL}"))
            .args(&flags.sim)
            .arg(format!("--endpoints-file={}", endpoints_file.display()));
        let mut sim = Program::start("sim", folder, &mut command)?;
        until(&mut sim, async || endpoints_file.exists().then_some(())).await?;
        let endpoints: Vec<_> = discovery::file::load(&endpoints_file)?
            .endpoints
            .iter()
            .map(|endpoint| endpoint.socket_addr())
            .collect();

        let addresses = addresses(args, endpoints)?;
        let picker_metrics = free_address()?;
        let mut command = Command::new(&this);
        command.arg("serve").args(&flags.picker);
        let picker = start_picker(&http, folder, command, &addresses, picker_metrics).await?;
        let document = args.profile.bootstrap(&addresses)?;
        let envoy = start_envoy(&http, envoy, folder, &document, addresses.admin).await?;
        Ok(Self {
            http,
            addresses,
            picker_metrics,
            sim,
            picker,
            envoy,
        })
    }

    fn entrance(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.addresses.listen.port()))
    }

    fn target(&self) -> Target {
        Target {
            http: self.http.clone(),
            uri: format!("http://{}/v1/chat/completions", self.entrance()),
            model: MODEL.to_owned(),
            headers: Vec::new(),
            sheddable: false,
        }
    }

    fn explain(&self, args: &DemoArgs) {
        println!(
            "{} requests a second go through Envoy ({}) to {} simulated model servers; sim-0 is {SLOW} times slower than the others.\nThe picker's metrics: http://{}/metrics. Envoy's admin pages: http://{}. A request to try:\n",
            args.rate,
            match args.profile {
                Profile::DecisionOnly => "decision-only profile with an observer",
                Profile::FullDuplex => "full-duplex profile",
            },
            self.addresses.endpoints.len(),
            self.picker_metrics,
            self.addresses.admin,
        );
        println!(
            "  curl -i http://{}/v1/chat/completions -H 'content-type: application/json' \\\n    -d '{{\"model\": \"{MODEL}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}], \"max_tokens\": 8}}'\n",
            self.entrance(),
        );
    }

    fn rows(&self) -> Vec<Row> {
        (0u32..)
            .zip(&self.addresses.endpoints)
            .map(|(index, address)| Row {
                name: format!("sim-{index}"),
                address: address.to_string(),
                speed: if index == 0 {
                    format!("1/{SLOW}")
                } else {
                    "1".to_owned()
                },
                ..Row::default()
            })
            .collect()
    }

    /// Reads the servers' own gauges, and how often the picker chose each.
    async fn look(&mut self, rows: &mut [Row]) -> anyhow::Result<()> {
        for program in [&mut self.sim, &mut self.picker, &mut self.envoy] {
            program.check()?;
        }
        let picks = self.http.page(self.picker_metrics, "/metrics").await?;
        for (row, &address) in rows.iter_mut().zip(&self.addresses.endpoints) {
            let page = self.http.page(address, "/metrics").await?;
            row.waiting = http::sum(&page, "vllm:num_requests_waiting", &[]);
            row.running = http::sum(&page, "vllm:num_requests_running", &[]);
            row.kv_usage = http::sum(&page, "vllm:kv_cache_usage_perc", &[]);
            row.load_sum += row.waiting + row.running;
            row.looks += 1;
            let name = format!("endpoint_name=\"{}\"", row.name);
            let labels = ["status=\"success\"", name.as_str()];
            row.picked = http::sum(&picks, "llm_d_epp_scheduler_attempts_total", &labels) as u64;
        }
        Ok(())
    }

    /// Ends everything, the one that sends first.
    async fn end(self) -> anyhow::Result<()> {
        self.envoy.stop().await?;
        self.picker.stop().await?;
        self.sim.stop().await
    }
}

/// Asks until there is an answer, or `program` has ended.
async fn until<T>(program: &mut Program, ask: impl AsyncFn() -> Option<T>) -> anyhow::Result<T> {
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        program.check()?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn picker_config(endpoints: &Path) -> String {
    // A path in JSON's quotes is one in YAML's.
    let endpoints = serde_json::json!(endpoints.to_string_lossy());
    format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: file-discovery
  parameters: {{path: {endpoints}, watchFile: true}}
- type: queue-scorer
- type: running-requests-size-scorer
- type: kv-cache-utilization-scorer
dataLayer:
  discovery: {{pluginRef: file-discovery}}
schedulingProfiles:
- name: default
  plugins:
  - {{pluginRef: queue-scorer, weight: 2}}
  - {{pluginRef: running-requests-size-scorer, weight: 2}}
  - {{pluginRef: kv-cache-utilization-scorer, weight: 2}}
"
    )
}
