//! `demo --gpus`: the simulated servers have GPUs, as the fake NVML library shows them to a real node agent. One falls off
//! the bus, one is hot; the picker hears of it from the agent, and of the mending too.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use parking_lot::Mutex;
use tokio::process::Command;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use super::super::gpus as shown;
use super::super::http;
use super::super::serve::asked_to_stop;
use super::table::Screen;
use super::traffic::{self, Results};
use super::{DemoArgs, ENDPOINTS, FINISH, Flags, LOOK, Program, START, Stage, free_address, until};
use crate::pool::gpu::page::GpusPage;

/// The fake NVML library, as cargo calls it.
const LIBRARY: &str = "libfake_nvml.so";
/// What comes when, where `--for` does not say how long it all takes.
const USUAL: Duration = Duration::from_secs(60);
/// A lost GPU that answers again is watched for 10 s before it is tried.
const SHORTEST: Duration = Duration::from_secs(40);

/// Which part of the show it is. Traffic is counted in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Before,
    Fault,
    /// Mended, and not known to be well yet.
    Mending,
    After,
}

const ACTS: [Act; 4] = [Act::Before, Act::Fault, Act::Mending, Act::After];

/// A server and its GPU.
#[derive(Debug)]
struct Seat {
    name: String,
    address: String,
    /// Number, health, clock, power, temperature.
    gpu: [String; 5],
    well: bool,
    /// The worst that it was since the fault, and after how many seconds.
    worst: Option<(String, f64)>,
    /// How often it was picked in each act.
    picked: [f64; ACTS.len()],
    picked_in_all: f64,
}

/// All of them, and the act.
struct Scene {
    act: Act,
    begun: Instant,
    fault_at: Option<Instant>,
    seats: Vec<Seat>,
    /// Requests that failed in each act.
    failed: [u64; ACTS.len()],
}

/// What is run, and shown; an error if requests failed that no fault explains.
pub(super) async fn run(args: &DemoArgs, envoy: &Path, folder: &Path) -> anyhow::Result<()> {
    let all = args.run_for.unwrap_or(USUAL);
    ensure!(
        all >= SHORTEST,
        "--for: with --gpus give it {} s at least",
        SHORTEST.as_secs()
    );
    ensure!(
        args.servers >= 3,
        "--servers: with --gpus there must be 3 at least: one fails, one is hot"
    );
    let library = library()?;
    let mut interrupted = std::pin::pin!(asked_to_stop());
    let built = timeout(START, build(args, envoy, folder, &library));
    let (mut stage, mut agent) = tokio::select! {
        built = built => built.context("not everything started in 30 s")??,
        asked = &mut interrupted => return Ok(asked?),
    };
    println!(
        "{} requests a second go through Envoy to {} simulated vLLMs on H100s, under the default profile. The GPUs are those of the fake NVML library; `pointsman probe` reads them, and the picker follows it.\nThe picker's GPUs: http://{}/debug/gpus, or pointsman gpus --picker {}.\n",
        args.rate, args.servers, stage.picker_metrics, stage.picker_metrics,
    );
    let results = Arc::new(Mutex::new(Results::new()?));
    let enough = CancellationToken::new();
    let target = stage.target();
    let sending = traffic::send(target, args.rate, Arc::clone(&results), enough.clone());
    let sending = tokio::spawn(sending);
    let mut scene = Scene::new(&stage);
    let mut screen = Screen::new();
    let mut ticker = interval(LOOK);
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            asked = &mut interrupted => {
                asked?;
                break;
            }
        }
        agent.check()?;
        scene.look(&mut stage).await?;
        scene.fail(results.lock().failures());
        scene.go_on(&stage, all / 4).await?;
        screen.show(|| scene.live(&results.lock()));
        if args.run_for.is_some_and(|all| scene.begun.elapsed() >= all) {
            break;
        }
    }
    enough.cancel();
    if timeout(FINISH, sending).await.is_err() {
        eprintln!("Some answers did not end in {} s.", FINISH.as_secs());
    }
    scene.look(&mut stage).await?;
    let results = results.lock().clone();
    scene.fail(results.failures());
    println!("{}", scene.summary(&results));
    agent.stop().await?;
    stage.end().await?;
    let [before, _, _, after] = scene.failed;
    ensure!(
        before + after == 0,
        "{before} requests failed before the fault, {after} when all was well again"
    );
    Ok(())
}

/// Where `cargo build -p fake-nvml` puts it, unless the environment names it.
fn library() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os(fake_state::LIBRARY_VARIABLE) {
        return Ok(path.into());
    }
    let this = std::env::current_exe().context("finding this program's own file")?;
    let beside = this.with_file_name(LIBRARY);
    if beside.is_file() {
        return Ok(beside);
    }
    let release = this.parent().is_some_and(|dir| dir.ends_with("release"));
    bail!(
        "{} is not there; build it: cargo build --locked{} -p fake-nvml (or name it in {})",
        beside.display(),
        if release { " --release" } else { "" },
        fake_state::LIBRARY_VARIABLE
    )
}

/// Everything, and the node's agent, once the picker knows the GPU of each server.
async fn build(
    args: &DemoArgs,
    envoy: &Path,
    folder: &Path,
    library: &Path,
) -> anyhow::Result<(Stage, Program)> {
    let file = |name: &str| folder.join(name);
    let flag = |flag: &str, path: PathBuf| format!("--{flag}={}", path.display());
    let (state, map, grpc) = (file("gpus.json"), file("gpus.yaml"), free_address()?);
    let flags = Flags {
        sim: vec![
            flag("gpu-state", state.clone()),
            flag("gpu-map", map.clone()),
        ],
        picker: vec![
            flag("endpoints-file", file(ENDPOINTS)),
            format!("--gpu-agents={grpc}"),
        ],
    };
    let mut stage = Stage::build(args, envoy, folder, &flags).await?;
    let this = std::env::current_exe().context("finding this program's own file")?;
    let mut command = Command::new(this);
    command
        .args(["probe", "--node-name=node-1", "--pod-resources-socket="])
        .arg(flag("nvml-library", library.to_owned()))
        .arg(flag("gpu-map", map))
        .arg(format!("--listen={grpc}"))
        .arg(format!("--metrics={}", free_address()?))
        .env(fake_state::STATE_VARIABLE, state);
    let mut agent = Program::start("probe", folder, &mut command)?;
    let (http, picker) = (stage.http.clone(), stage.picker_metrics);
    let known = async || {
        let page = http.page(picker, "/debug/gpus").await.ok()?;
        let page: GpusPage = serde_json::from_str(&page).ok()?;
        let owned = page.gpus.iter().filter(|gpu| !gpu.endpoints.is_empty());
        (owned.count() == usize::from(args.servers)).then_some(())
    };
    until(&mut agent, known).await?;
    stage.picker.check()?;
    Ok((stage, agent))
}

/// Lets something happen to the server at `address`, or to its GPU.
async fn order(stage: &Stage, address: &str, what: &str, order: &str) -> anyhow::Result<()> {
    let uri = format!("http://{address}/admin/{what}");
    let response = stage.http.post(&uri, &[], order.to_owned()).await?;
    let status = response.status();
    ensure!(status.is_success(), "{uri} {order}: status {status}");
    Ok(())
}

// === impl Scene ===

impl Scene {
    fn new(stage: &Stage) -> Self {
        let rows = stage.rows().into_iter();
        let seats = rows.map(|row| Seat {
            name: row.name,
            address: row.address,
            gpu: Default::default(),
            well: true,
            worst: None,
            picked: Default::default(),
            picked_in_all: 0.0,
        });
        Self {
            act: Act::Before,
            begun: Instant::now(),
            fault_at: None,
            seats: seats.collect(),
            failed: Default::default(),
        }
    }

    /// The one whose GPU is lost, and the one whose GPU is hot.
    fn victims(&self) -> [&Seat; 2] {
        let [.., hot, lost] = &self.seats[..] else {
            unreachable!("there are three servers at least");
        };
        [lost, hot]
    }

    /// Asks the picker how the GPUs are, and whom it picked since the last time.
    async fn look(&mut self, stage: &mut Stage) -> anyhow::Result<()> {
        for program in [&mut stage.sim, &mut stage.picker, &mut stage.envoy] {
            program.check()?;
        }
        let gpus = stage.http.page(stage.picker_metrics, "/debug/gpus").await?;
        let gpus: GpusPage = serde_json::from_str(&gpus).context("/debug/gpus")?;
        let picks = stage.http.page(stage.picker_metrics, "/metrics").await?;
        let since_fault = self.fault_at.map(|at| at.elapsed().as_secs_f64());
        let act = self.act as usize;
        for seat in &mut self.seats {
            let name = format!("endpoint_name=\"{}\"", seat.name);
            let labels = ["status=\"success\"", name.as_str()];
            let picked = http::sum(&picks, "llm_d_epp_scheduler_attempts_total", &labels);
            seat.picked[act] += picked - seat.picked_in_all;
            seat.picked_in_all = picked;
            let is_its = |name: &str| name.rsplit('/').next() == Some(&*seat.name);
            let found = gpus.gpus.iter().find_map(|gpu| {
                let mut endpoints = gpu.endpoints.iter();
                Some((gpu, endpoints.find(|endpoint| is_its(&endpoint.name))?))
            });
            let Some((gpu, endpoint)) = found else {
                continue;
            };
            let [_, number, _, _, _, _, _, clock, power, temperature] = shown::row(gpu, 0);
            let worst = endpoint.causes.first();
            let health = match worst {
                Some(worst) => format!("{} ({})", endpoint.health, worst.cause),
                None => endpoint.health.clone(),
            };
            seat.well = worst.is_none() && !gpu.lost;
            let out = endpoint.health == "ejected";
            if let (Some(_), Some(since)) = (worst, since_fault)
                && (seat.worst.is_none() || out)
            {
                let since = seat.worst.take().map_or(since, |(_, first)| first);
                seat.worst = Some((health.clone(), since));
            }
            seat.gpu = [number, health, clock, power, temperature];
        }
        Ok(())
    }

    /// To the next act, if it is time: each takes `long`, but that the last begins when all is well again.
    async fn go_on(&mut self, stage: &Stage, long: Duration) -> anyhow::Result<()> {
        let passed = self.begun.elapsed();
        let [lost, hot] = self.victims().map(|seat| seat.address.clone());
        match self.act {
            Act::Before if passed >= long => {
                self.act = Act::Fault;
                self.fault_at = Some(Instant::now());
                order(stage, &lost, "gpu", r#"{"xid":79}"#).await?;
                let heat = r#"{"thermal":{"compute":4,"memory":2}}"#;
                order(stage, &hot, "gpu", heat).await?;
            }
            Act::Fault if passed >= long * 2 => {
                self.act = Act::Mending;
                for address in [&lost, &hot] {
                    order(stage, address, "gpu", r#"{"clear":true}"#).await?;
                }
                order(stage, &lost, "engine", r#""restart""#).await?;
            }
            Act::Mending if self.seats.iter().all(|seat| seat.well) => self.act = Act::After,
            _ => {}
        }
        Ok(())
    }

    /// So many requests failed by now.
    fn fail(&mut self, failed: u64) {
        let known: u64 = self.failed.iter().sum();
        self.failed[self.act as usize] += failed - known;
    }

    fn word(&self) -> String {
        let [lost, hot] = self.victims().map(|seat| &seat.name);
        match self.act {
            Act::Before => "all is well".to_owned(),
            Act::Fault => {
                format!("the GPU of {lost} fell off the bus (XID 79), that of {hot} is hot")
            }
            Act::Mending => format!("mended: {lost} was reset and restarted, {hot} cools down"),
            Act::After => "all is well again".to_owned(),
        }
    }

    fn live(&self, results: &Results) -> String {
        let mut out = format!(
            "{:5.1} s  {}\n{} sent, {} answered, {} failed\n{:<8} {:>3}  {:<24} {:<38} {:>9} {:>5} {}\n",
            self.begun.elapsed().as_secs_f64(),
            self.word(),
            results.sent,
            results.complete,
            results.failures(),
            "server",
            "GPU",
            "health",
            "clock",
            "power",
            "temp",
            columns(["before", "fault", "mending", "after"].map(str::to_owned)),
        );
        for seat in &self.seats {
            let [number, health, clock, power, temperature] = &seat.gpu;
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "{:<8} {number:>3}  {health:<24} {clock:<38} {power:>9} {temperature:>5} {}",
                seat.name,
                self.shares(seat),
            );
        }
        out
    }

    /// Of each act's traffic.
    fn shares(&self, seat: &Seat) -> String {
        columns(ACTS.map(|act| {
            let of = |seat: &Seat| seat.picked[act as usize];
            match self.seats.iter().map(of).sum() {
                0.0 => "-".to_owned(),
                all => format!("{:.1} %", 100.0 * of(seat) / all),
            }
        }))
    }

    fn summary(&self, results: &Results) -> String {
        let mut out = format!(
            "\n{} requests sent, {} answered in full. Each server's share of the picker's decisions, and when the picker was seen to know:\n\n{:<8} {:<24} {:>11} {}\n",
            results.sent,
            results.complete,
            "server",
            "at worst",
            "seen within",
            columns(["before", "fault", "mending", "after"].map(str::to_owned)),
        );
        for seat in &self.seats {
            let (worst, since) = match &seat.worst {
                Some((worst, since)) => (&**worst, format!("{since:.1} s")),
                None => ("ok", "-".to_owned()),
            };
            let shares = self.shares(seat);
            let _ = writeln!(out, "{:<8} {worst:<24} {since:>11} {shares}", seat.name);
        }
        let failed = columns(self.failed.map(|failed| failed.to_string()));
        let _ = writeln!(out, "{:<45} {failed}", "requests that failed");
        for (what, count) in &results.failed {
            let _ = writeln!(out, "failed: {count} {what}");
        }
        if self.failed[Act::Fault as usize] > 0 {
            out.push_str(
                "\nAn answer that had begun on the GPU that was lost cannot be had elsewhere.\n",
            );
        }
        if self.act != Act::After {
            let _ = writeln!(out, "\nIt ended early: {}.", self.word());
        }
        out
    }
}

fn columns(words: [String; ACTS.len()]) -> String {
    words.map(|word| format!("{word:>8}")).concat()
}
