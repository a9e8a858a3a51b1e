//! Which runs there are, and what is told of them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::ReplayArgs;
use crate::cli::plan::Plan;
use crate::config::{self, LoadOptions};
use crate::sim::report::{Case, Outcomes, Report, Run, Served, Tally};
use crate::sim::workload::{self, Part, Rate, Scale, Trace, Traffic};

/// Who picks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picks {
    /// An EndpointPickerConfig that loads.
    Profile {
        /// What it is called in the report.
        name: String,
        /// Its text.
        text: String,
    },
    /// A policy of the simulator's own.
    Named(String),
}

/// What serves, in virtual time.
pub trait Cluster {
    /// Requests a second that it can serve of such traffic: what `--load 1` is.
    fn saturation(&self, trace: &Arc<Trace>) -> anyhow::Result<f64>;

    /// Lets it serve `traffic`, and tells each request as it ends, and all else at the end. The same seed, the same run.
    fn serve(
        &self,
        picks: &Picks,
        traffic: &Traffic,
        seed: u64,
        ended: &mut dyn FnMut(Served),
    ) -> anyhow::Result<Done>;
}

/// What there is to tell of a run beside its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Times that an engine loaded an adapter; `None`: there are none.
    pub lora_loads: Option<u64>,
}

// === impl Picks ===

impl Picks {
    fn name(&self) -> &str {
        match self {
            Self::Profile { name, .. } | Self::Named(name) => name,
        }
    }
}

/// Runs every trace at every load with every seed under each who picks, prints what came of it, and writes the report if one
/// is asked for. All who pick get the very same traffic.
pub fn compare(args: &ReplayArgs, cluster: &dyn Cluster) -> anyhow::Result<Report> {
    let picks = picks(args)?;
    let slo = args.slo();
    let mut runs = Vec::new();
    for path in &args.traces {
        // What the cluster can serve is found out once: a seed must not have a load of its own.
        let mut saturation = None;
        for seed in (args.seed..).take(args.seeds as usize) {
            let mut options = args.read_options();
            options.seed = seed;
            let trace = Arc::new(workload::read(path, &options)?);
            for scale in scales(args, &trace, cluster, &mut saturation)? {
                let traffic = Traffic::new(Arc::clone(&trace), scale)?;
                for picks in &picks {
                    let mut tally = Tally::new(slo, args.endpoints as usize);
                    let case = Case {
                        trace: name(path),
                        policy: picks.name().to_owned(),
                        rate: traffic.rate().unwrap_or_default(),
                        seed,
                    };
                    let mut outcomes = outcomes(args, &case)?;
                    let mut progress = Progress::new(picks.name(), traffic.count());
                    let mut ended = |it: Served| {
                        progress.one_more();
                        tally.add(&it);
                        if let Some(outcomes) = &mut outcomes {
                            outcomes.add(&it);
                        }
                    };
                    let done = cluster.serve(picks, &traffic, seed, &mut ended)?;
                    progress.end();
                    tally.lora_loads(done.lora_loads);
                    if let Some(outcomes) = outcomes {
                        outcomes.close().context("--outcomes")?;
                    }
                    runs.push(Run { case, tally });
                }
            }
        }
    }
    let report = Report::new(slo, setting(args), runs);
    match args.json {
        true => println!("{}", report.to_json()),
        false => print!("{report}"),
    }
    if let Some(folder) = &args.report {
        let context = || format!("--report: {}", folder.display());
        report.write(folder).with_context(context)?;
    }
    Ok(report)
}

/// Where each request of this run is written down, if it is.
fn outcomes(args: &ReplayArgs, case: &Case) -> anyhow::Result<Option<Outcomes>> {
    let create = |folder: &std::path::PathBuf| {
        Outcomes::create(folder, case).with_context(|| format!("--outcomes: {}", folder.display()))
    };
    args.outcomes.as_ref().map(create).transpose()
}

/// How far a run is, on a terminal's last line. Nothing, where nobody looks.
struct Progress<'a> {
    name: &'a str,
    all: u64,
    done: u64,
    shown: bool,
}

/// Requests from one line to the next.
const STEP: u64 = 10_000;

// === impl Progress ===

impl<'a> Progress<'a> {
    fn new(name: &'a str, all: u64) -> Self {
        use std::io::IsTerminal as _;
        Self {
            name,
            all,
            done: 0,
            shown: all > STEP && std::io::stderr().is_terminal(),
        }
    }

    fn one_more(&mut self) {
        self.done += 1;
        if self.shown && self.done.is_multiple_of(STEP) {
            let tenths = (self.done * 30 / self.all.max(1)).min(30) as usize;
            let (done, left) = ("#".repeat(tenths), ".".repeat(30 - tenths));
            eprint!(
                "\r{} [{done}{left}] {} of {}",
                self.name, self.done, self.all
            );
        }
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}

/// One a load.
fn scales(
    args: &ReplayArgs,
    trace: &Arc<Trace>,
    cluster: &dyn Cluster,
    saturation: &mut Option<f64>,
) -> anyhow::Result<Vec<Scale>> {
    if !args.load.is_empty() {
        let most = match *saturation {
            Some(most) => most,
            None => *saturation.insert(cluster.saturation(trace)?),
        };
        let at = |share: &f64| args.scale(Some(Rate::PerSecond(share * most)));
        return Ok(args.load.iter().map(at).collect());
    }
    if args.rate.is_empty() {
        return Ok(vec![args.scale(None)]);
    }
    let at = |rate: &Rate| args.scale(Some(*rate));
    Ok(args.rate.iter().map(at).collect())
}

/// All who pick: without any, the default configuration.
pub(super) fn picks(args: &ReplayArgs) -> anyhow::Result<Vec<Picks>> {
    let mut all = Vec::new();
    for path in &args.profile {
        let text = config::file::read(path)
            .map_err(|error| anyhow::anyhow!("--profile: {}: {error}", path.display()))?;
        let options = LoadOptions {
            allow_experimental: true,
        };
        Plan::of(&text, options).inspect_err(|_| eprintln!("In {}:", path.display()))?;
        let mut name = name(path);
        if all.iter().any(|picks: &Picks| picks.name() == name) {
            name = path.display().to_string();
        }
        all.push(Picks::Profile { name, text });
    }
    all.extend(args.policy.iter().cloned().map(Picks::Named));
    if all.is_empty() {
        all.push(Picks::Profile {
            name: "default".to_owned(),
            text: config::DEFAULT.to_owned(),
        });
    }
    for (i, picks) in all.iter().enumerate() {
        if all[..i].iter().any(|other| other.name() == picks.name()) {
            anyhow::bail!(
                "`{}` is compared with itself; give each --profile and --policy once",
                picks.name()
            );
        }
    }
    Ok(all)
}

/// The file's name without its folder and ending.
fn name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    stem.to_string_lossy().into_owned()
}

/// What is true of all runs.
fn setting(args: &ReplayArgs) -> Vec<(String, String)> {
    let gpus = match args.tp {
        1 => args.gpu.join(", "),
        tp => format!("{tp} × {}", args.gpu.join(", ")),
    };
    let mut network = format!("{:?}", args.network);
    if !args.network_jitter.is_zero() {
        network += &format!(" and {:?} at random", args.network_jitter);
    }
    let mut setting = vec![
        ("endpoints", args.endpoints.to_string()),
        ("GPUs of each", gpus),
        ("model", args.model.clone()),
        ("scraped every", format!("{:?}", args.scrape_interval)),
        ("staleness", format!("{:?}", args.staleness)),
        ("network", network),
        ("front end", format!("{:?} a token", args.front_end)),
    ];
    let part = args.read_options().part;
    if part != Part::WHOLE {
        let [from, until] = [part.from, part.until].map(|share| share * 100.0);
        setting.push(("part of the trace", format!("{from} % to {until} %")));
    }
    if !args.without.is_empty() {
        setting.push(("without", format!("{:?}", args.without).to_lowercase()));
    }
    if let Some(adapters) = args.adapters {
        let (top, slots) = (args.top_adapter * 100.0, args.max_loras);
        let adapters = format!("{adapters}, {top} % for the first; {slots} fit");
        setting.push(("adapters", adapters));
    }
    let setting = setting.into_iter();
    setting
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::parsed;
    use super::*;
    use crate::sim::report::Outcome;

    /// Serves everything at once, `random` slowly.
    struct Fake;

    impl Cluster for Fake {
        fn saturation(&self, _: &Arc<Trace>) -> anyhow::Result<f64> {
            Ok(10.0)
        }

        fn serve(
            &self,
            picks: &Picks,
            traffic: &Traffic,
            seed: u64,
            ended: &mut dyn FnMut(Served),
        ) -> anyhow::Result<Done> {
            let slow = *picks == Picks::Named("random".to_owned());
            for arrival in traffic.arrivals() {
                ended(Served {
                    arrival: arrival.at,
                    endpoint: Some((arrival.number % 2) as u32),
                    prompt: arrival.prompt,
                    cached: 0,
                    output: arrival.output,
                    outcome: Outcome::Served {
                        ttft: if slow { 3.0 } else { 0.1 } + seed as f64 * 1e-3,
                        e2e: 4.0,
                    },
                });
            }
            Ok(Done::default())
        }
    }

    #[test]
    fn every_case_is_run_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let trace = folder.path().join("short.csv");
        std::fs::write(&trace, "t,in,out\n0,10,101\n1,10,101\n2,10,101\n").unwrap();
        let (trace, out) = (trace.to_str().unwrap(), folder.path().join("out"));
        let report = format!("--report={}", out.display());
        let more = [
            trace,
            "--load=0.5",
            "--load=90%",
            "--policy=random",
            &report,
        ];
        let args = parsed(&[&more[..], &["--policy=fast", "--seeds=2"]].concat());
        let json = compare(&args, &Fake).unwrap().to_json();
        let results = json["results"].as_array().unwrap();
        let told: Vec<_> = results
            .iter()
            .map(|result| {
                let good = &result["estimates"]["good_share"]["median"];
                let seeds = result["seeds"].as_array().unwrap().len();
                assert_eq!((&result["trace"], seeds), (&"short".into(), 2));
                let rate = result["rate"].as_f64().unwrap().round();
                (
                    result["policy"].as_str().unwrap(),
                    rate,
                    good.as_f64().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("random", 5.0, 0.0),
            ("fast", 5.0, 1.0),
            ("random", 9.0, 0.0),
            ("fast", 9.0, 1.0),
        ];
        assert_eq!(told, expected);
        assert!(out.join("report.html").exists() && out.join("report.json").exists());
    }

    #[test]
    fn who_picks_is_checked_before_anything_runs() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let profile = format!("--profile={}", file.display());
        let missing = picks(&parsed(&["t", &profile])).unwrap_err().to_string();
        assert!(
            missing.starts_with("--profile: ") && missing.contains("a.yaml"),
            "{missing}"
        );
        std::fs::write(&file, config::DEFAULT).unwrap();
        let all = picks(&parsed(&["t", &profile, "--policy=random"])).unwrap();
        assert_eq!(
            all.iter().map(Picks::name).collect::<Vec<_>>(),
            ["a", "random"]
        );
        let twice = picks(&parsed(&["t", "--policy=a", "--policy=a"])).unwrap_err();
        assert!(twice.to_string().contains("compared with itself"));
        std::fs::write(&file, "apiVersion: nonsense\n").unwrap();
        let wrong = picks(&parsed(&["t", &profile])).unwrap_err();
        assert!(wrong.is::<crate::config::ConfigErrors>());
        let default = picks(&parsed(&["t"])).unwrap();
        assert_eq!(default[0].name(), "default");
    }
}
