//! The flags of `replay`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::units::duration;
use crate::sim::cluster::{Fault, FaultKind, Sense};
use crate::sim::report::Slo;
use crate::sim::workload::{Adapters, Format, Part, Rate, ReadOptions, Scale};

/// Arguments of `replay`.
#[derive(Clone, Debug, clap::Args)]
pub struct ReplayArgs {
    /// Files of traffic: Mooncake, Azure, plain lengths, inference-perf, measured runs, captures of `serve --record`. Each is
    /// replayed by itself.
    #[arg(required = true, value_name = "TRACE")]
    pub(super) traces: Vec<PathBuf>,
    /// Say what the traces are, and replay nothing.
    #[arg(long)]
    pub(super) describe: bool,

    // --- traffic ---
    /// What the files are; else it is told from their beginnings.
    #[arg(long, value_enum)]
    pub(super) format: Option<Format>,
    /// Of a measured run: the file with the blocks of its prompts.
    #[arg(long, value_name = "FILE")]
    pub(super) blocks: Option<PathBuf>,
    /// Only what comes after this share of the trace's time (0.5 or 50%): what is fitted on one part of it can be reported on
    /// another.
    #[arg(long, value_parser = part, default_value = "0%", value_name = "SHARE")]
    pub(super) from: f64,
    /// Only what comes before this share of its time.
    #[arg(long, value_parser = part, default_value = "100%", value_name = "SHARE")]
    pub(super) until: f64,
    /// Requests a second (12.5), keeping the shape, or so many times as often (2x). Given more than once, each is a load of its
    /// own.
    #[arg(long, value_parser = rate, conflicts_with = "load")]
    pub(super) rate: Vec<Rate>,
    /// Loads as shares of what the endpoints can serve (0.8 or 80%). Given more than once, each is a load of its own.
    #[arg(long, value_parser = share)]
    pub(super) load: Vec<f64>,
    /// So many requests: the trace is cut, or repeated with fresh prefixes.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) requests: Option<u64>,
    /// For so long, in virtual time: the trace is cut, or repeated with fresh prefixes.
    #[arg(long, value_parser = duration)]
    pub(super) duration: Option<Duration>,
    /// Turns of a session come when they came, not when the answer before has ended.
    #[arg(long)]
    pub(super) open_loop: bool,
    /// So many LoRA adapters for a trace that names none, popular by Zipf's law: each session, or else each request, is for
    /// one.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) adapters: Option<u16>,
    /// Share of requests that are for the most popular of them (default: what was measured of production traffic, GenTD26).
    #[arg(long, value_parser = part, default_value = "31%", value_name = "SHARE", requires = "adapters")]
    pub(super) top_adapter: f64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Runs of each case, each with a seed of its own.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) seeds: u32,

    // --- who picks ---
    /// An EndpointPickerConfig to pick by. Given more than once, they are compared.
    #[arg(long, value_name = "FILE")]
    pub(super) profile: Vec<PathBuf>,
    /// Take away from the profiles' picker what it knows beside gauges, to see what that is worth.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SENSE")]
    pub(super) without: Vec<Sense>,
    /// A policy by name to pick by, beside the profiles.
    #[arg(long, value_name = "NAME")]
    pub(super) policy: Vec<String>,

    // --- what is picked from ---
    /// Endpoints.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) endpoints: u32,
    /// Their GPU; several, comma separated: endpoints take turns.
    #[arg(long, default_value = "H100", value_delimiter = ',')]
    pub(super) gpu: Vec<String>,
    /// Their model.
    #[arg(long, default_value = "llama3-8b")]
    pub(super) model: String,
    /// GPUs of an endpoint.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(super) tp: u32,

    /// Requests that one runs at once, as vLLM's flag.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(super) max_num_seqs: u32,
    /// Tokens of one step, as vLLM's flag.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(super) max_num_batched_tokens: u32,
    /// KV cache blocks of 16 tokens; by default as many as fit into the GPUs beside the model.
    #[arg(long)]
    pub(super) kv_blocks: Option<u32>,
    /// Adapters that one holds, as vLLM's flag; where the traffic has adapters.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) max_loras: u32,
    /// How long it takes to load another: no step ends meanwhile (default: the median of cold loads in GenTD26).
    #[arg(long, value_parser = duration, default_value = "4.4s")]
    pub(super) lora_load: Duration,
    /// What goes wrong, where and when: die@SECONDS:ENDPOINT (its gauges read zero), freeze@… (it dies, they stay as they were),
    /// vanish@… (it dies, its page cannot be read), hang@… (gauges stay), swallow@… (it hangs, gauges read zero), slow=2x@…
    /// (computing and memory), restart@…; and what the GPU tells of as well: brake@… (half the clock), heat@… (a quarter,
    /// memory 1.2 times as slow), tenant@… (another process on it), lost@… and xid=119@… (nothing but the sign of it). May be
    /// given more than once.
    #[arg(long, value_parser = fault)]
    pub(super) fault: Vec<Fault>,

    // --- what lies between ---
    /// Between two scrapes of an endpoint.
    #[arg(long, value_parser = duration, default_value = "50ms")]
    pub(super) scrape_interval: Duration,
    /// How old what is scraped is when it arrives.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub(super) staleness: Duration,
    /// Between two readings of the endpoints' GPUs.
    #[arg(long, value_parser = duration, default_value = "500ms")]
    pub(super) gpu_interval: Duration,
    /// From such a reading, or an event of a GPU, to when the picker has it.
    #[arg(long, value_parser = duration, default_value = "50ms")]
    pub(super) gpu_delay: Duration,
    /// How long the picker takes for a request.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub(super) pick_delay: Duration,
    /// Between the picker and an endpoint, one way.
    #[arg(long, value_parser = duration, default_value = "1ms")]
    pub(super) network: Duration,
    /// What that takes longer at random: exponential, with this mean, each way.
    #[arg(long, value_parser = duration, default_value = "0s")]
    pub(super) network_jitter: Duration,
    /// How long a token of the prompt is read and tokenized before the engine gets it (default: what fits llm-d's benchmark).
    #[arg(long, value_parser = duration, default_value = "12us", value_name = "PER_TOKEN")]
    pub(super) front_end: Duration,

    /// Clients that have no first token after so long give up.
    #[arg(long, value_parser = duration, default_value = "60s")]
    pub(super) patience: Duration,

    // --- what is told ---
    /// A first token that comes later is too late.
    #[arg(long, value_parser = duration, default_value = "2s")]
    pub(super) slo_ttft: Duration,
    /// Tokens that come slower than this, on the mean of an answer, are too slow.
    #[arg(long, value_parser = duration, default_value = "50ms")]
    pub(super) slo_tpot: Duration,
    /// Write report.html, with plots, and report.json into this directory.
    #[arg(long, value_name = "DIR")]
    pub(super) report: Option<PathBuf>,
    /// Write what became of each request into this directory: a CSV file for each run.
    #[arg(long, value_name = "DIR")]
    pub(super) outcomes: Option<PathBuf>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(super) json: bool,
}

// === impl ReplayArgs ===

impl ReplayArgs {
    pub(super) fn read_options(&self) -> ReadOptions {
        ReadOptions {
            format: self.format,
            seed: self.seed,
            blocks: self.blocks.clone(),
            part: Part {
                from: self.from,
                until: self.until,
            },
            adapters: self.adapters.map(|count| Adapters {
                count,
                top: self.top_adapter,
            }),
        }
    }

    /// What is good enough.
    pub(super) fn slo(&self) -> Slo {
        Slo {
            ttft: self.slo_ttft.as_secs_f64(),
            tpot: self.slo_tpot.as_secs_f64(),
        }
    }

    /// The traffic at `rate`.
    pub fn scale(&self, rate: Option<Rate>) -> Scale {
        Scale {
            rate,
            requests: self.requests,
            duration: self.duration.map(|duration| duration.as_secs_f64()),
            open_loop: self.open_loop,
        }
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    let number = |text: &str| {
        let number = text.trim().parse::<f64>().ok();
        number.filter(|number| number.is_finite() && *number > 0.0)
    };
    let rate = match text.strip_suffix(['x', '×']) {
        Some(times) => number(times).map(Rate::Times),
        None => number(text).map(Rate::PerSecond),
    };
    rate.ok_or_else(|| "write requests a second, as in 12.5, or a factor, as in 2x".to_owned())
}

fn fault(text: &str) -> Result<Fault, String> {
    let wrong =
        || "write for instance die@30:0, hang@30:2, slow=2x@10:1 or restart@60:0".to_owned();
    let (what, place) = text.split_once('@').ok_or_else(wrong)?;
    let (at, endpoint) = place.split_once(':').ok_or_else(wrong)?;
    let kind = match what.split_once('=') {
        None => match what {
            "die" => FaultKind::Die,
            "vanish" => FaultKind::DieSilently,
            "freeze" => FaultKind::DieFrozen,
            "hang" => FaultKind::Hang,
            "swallow" => FaultKind::HangEmpty,
            "brake" => FaultKind::Brake,
            "heat" => FaultKind::Heat,
            "tenant" => FaultKind::Tenant,
            "lost" => FaultKind::Lost,
            "restart" => FaultKind::Restart,
            _ => return Err(wrong()),
        },
        Some(("slow", times)) => {
            let times: f64 = times.trim_end_matches('x').parse().map_err(|_| wrong())?;
            FaultKind::Slow(times.max(1.0), times.max(1.0))
        }
        Some(("xid", number)) => FaultKind::Xid(number.parse().map_err(|_| wrong())?),
        Some(_) => return Err(wrong()),
    };
    let at: f64 = at.parse().map_err(|_| wrong())?;
    if !(0.0..1e9).contains(&at) {
        return Err(wrong());
    }
    Ok(Fault {
        at,
        endpoint: endpoint.parse().map_err(|_| wrong())?,
        kind,
    })
}

fn share(text: &str) -> Result<f64, String> {
    share_within(text, 0.01..=10.0)
}

fn part(text: &str) -> Result<f64, String> {
    share_within(text, 0.0..=1.0)
}

fn share_within(text: &str, range: RangeInclusive<f64>) -> Result<f64, String> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse().map(|percent: f64| percent / 100.0),
        None => text.parse(),
    };
    let known = share.ok().filter(|share| range.contains(share));
    known.ok_or_else(|| {
        let (low, high) = (range.start(), range.end());
        format!("write a share of {low} to {high}, as in 0.8 or 80%")
    })
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: ReplayArgs,
    }

    /// What these arguments of `replay` are read as.
    pub(in crate::cli::replay) fn parsed(arguments: &[&str]) -> ReplayArgs {
        let arguments = ["replay"].iter().chain(arguments);
        Command::try_parse_from(arguments).unwrap().args
    }

    #[test]
    fn faults() {
        let of = |text: &str| fault(text).ok().map(|f| (f.at, f.endpoint, f.kind));
        assert_eq!(of("die@30:0"), Some((30.0, 0, FaultKind::Die)));
        assert_eq!(of("xid=119@3:1"), Some((3.0, 1, FaultKind::Xid(119))));
        let names = "die freeze vanish hang swallow brake heat tenant lost restart";
        let kinds: Vec<_> = names.split(' ').map(|n| of(&format!("{n}@1:0"))).collect();
        assert!(kinds.iter().all(Option::is_some), "{kinds:?}");
        assert_eq!(
            of("slow=2x@1.5:7"),
            Some((1.5, 7, FaultKind::Slow(2.0, 2.0)))
        );
        for wrong in [
            "",
            "die",
            "die@30",
            "die@-1:0",
            "burn@1:0",
            "xid@1:0",
            "xid=x@1:0",
            "slow@1:0",
            "slow=x@1:0",
            "die@1:x",
        ] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn rates_and_loads() {
        assert_eq!(rate("12.5"), Ok(Rate::PerSecond(12.5)));
        assert_eq!(rate("2x"), Ok(Rate::Times(2.0)));
        assert!(
            ["", "x", "-1", "0x", "nan", "inf"]
                .iter()
                .all(|text| rate(text).is_err())
        );
        assert_eq!((share("0.8"), share("95 %")), (Ok(0.8), Ok(0.95)));
        assert!(["", "80", "0", "%"].iter().all(|text| share(text).is_err()));
    }
}
