use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use pointsman::sim::cluster::{Baseline, Cluster, Outcome, Walk, Wires, run as simulate};
use pointsman::sim::step::{Engine, EngineSpec};
use pointsman::sim::workload::{ReadOptions, Scale, Traffic, read};

use crate::{mean, quantile};

/// Engines.
const ENGINES: u32 = 4;
/// A rate in requests/s, and what was seen at it: TTFT in s and output tokens/s.
type Seen = (f64, f64, f64);
/// llm-d's figures; of policies by our names for them.
const PUBLISHED: [(&str, [Seen; 9]); 4] = [
    (
        "random",
        [
            (3.0, 0.852, 2518.0),
            (4.0, 9.475, 2734.0),
            (5.0, 15.998, 2647.0),
            (6.0, 30.389, 2947.0),
            (8.0, 39.117, 2969.0),
            (10.0, 41.480, 3120.0),
            (12.0, 53.513, 3023.0),
            (15.0, 61.425, 3003.0),
            (20.0, 94.952, 3099.0),
        ],
    ),
    (
        "llm-d-load",
        [
            (3.0, 1.443, 2567.0),
            (4.0, 6.367, 2974.0),
            (5.0, 10.158, 3120.0),
            (6.0, 29.175, 3008.0),
            (8.0, 39.076, 3090.0),
            (10.0, 44.587, 3050.0),
            (12.0, 51.247, 3044.0),
            (15.0, 63.407, 3106.0),
            (20.0, 92.947, 3206.0),
        ],
    ),
    (
        "llm-d-default",
        [
            (3.0, 0.207, 2596.0),
            (4.0, 0.236, 3387.0),
            (5.0, 0.307, 3912.0),
            (6.0, 0.254, 4604.0),
            (8.0, 0.399, 5530.0),
            (10.0, 0.466, 6022.0),
            (12.0, 0.420, 6667.0),
            (15.0, 1.294, 6401.0),
            (20.0, 7.609, 6748.0),
        ],
    ),
    (
        "llm-d-precise",
        [
            (3.0, 0.144, 2580.0),
            (4.0, 0.182, 3367.0),
            (5.0, 0.188, 3940.0),
            (6.0, 0.195, 4666.0),
            (8.0, 0.199, 5676.0),
            (10.0, 0.202, 6457.0),
            (12.0, 0.202, 7062.0),
            (15.0, 0.210, 7807.0),
            (20.0, 0.201, 9295.0),
        ],
    ),
];

/// Orders of prompts, times and random choices that are tried.
const SEEDS: u64 = 9;

/// Seconds a prompt token before the engine has it: what the precise policy's 144 ms at 3 requests/s are more than the
/// engine's own time.
const FRONT_END: f64 = 12e-6;

/// One run, stage by stage: TTFT, output tokens/s, TPOT.
type Stages = Vec<[f64; 3]>;

pub(crate) fn run(data: &Path) -> Result<()> {
    let data = data.join("llmd-workloads/37-capacity.inference-perf.yaml");
    for (shared_reads, front_end) in [(false, 0.0), (true, 0.0), (true, FRONT_END)] {
        println!(
            "\nshared KV cache is read through L2: {shared_reads}; front end: {:.0} us a prompt token",
            front_end * 1e6
        );
        for (policy, published) in PUBLISHED {
            let spec = spec(shared_reads);
            let runs = (1..=SEEDS).map(|seed| one(&data, policy, &spec, front_end, seed));
            let runs = runs.collect::<Result<Vec<_>>>()?;
            println!("  {policy}");
            report(&published, &runs);
        }
    }
    Ok(())
}

/// Four GPUs, and vLLM as it was then.
fn spec(shared_reads: bool) -> EngineSpec {
    EngineSpec {
        kv_blocks: Some(461_376 / 16),
        max_num_batched_tokens: 8192,
        shared_reads,
        async_scheduling: false,
        reserve_prompt: false,
        ..EngineSpec::new("H100", "llama3-70b", 4)
    }
}

fn one(data: &Path, policy: &str, spec: &EngineSpec, front_end: f64, seed: u64) -> Result<Stages> {
    let options = ReadOptions {
        seed,
        ..ReadOptions::default()
    };
    let trace = Arc::new(read(data, &options)?);
    let traffic = Traffic::new(Arc::clone(&trace), Scale::default())?;
    let engines = (0..ENGINES).map(|_| Engine::new(spec));
    let mut cluster = Cluster {
        engines: engines.collect::<Result<_, _>>()?,
        block_size: spec.block_size,
        wires: Wires {
            decide: 0.0,
            network: 0.001,
            network_jitter: 0.0,
            front_end,
            scrape_every: 0.05,
            scrape_takes: 0.0,
            scrape_jitter: 0.1,
            gpu_every: 0.5,
            gpu_takes: 0.05,
            patience: f64::INFINITY,
            stage_gap: 1.0,
        },
        faults: Vec::new(),
        seed,
    };
    let mut router = Baseline::new(policy, ENGINES, 64 << 20, seed).context("a policy")?;
    let mut source = Walk::new(&traffic, spec.block_size);
    let mut outcomes: Vec<Outcome> = Vec::new();
    simulate(&mut cluster, &mut router, &mut source, &mut |outcome| {
        outcomes.push(*outcome);
    });
    outcomes.sort_by_key(|outcome| outcome.id);
    let mut rest = &outcomes[..];
    let stages = trace.stages().iter().map(|stage| {
        let of_stage;
        (of_stage, rest) = rest.split_at(stage.requests as usize);
        figures(of_stage)
    });
    // The first warms up.
    Ok(stages.skip(1).collect())
}

fn figures(stage: &[Outcome]) -> [f64; 3] {
    let firsts = || stage.iter().map(|o| (o, o.first.unwrap_or(f64::NAN)));
    let ttft: Vec<f64> = firsts().map(|(o, first)| first - o.arrived).collect();
    let gaps = |o: &Outcome| f64::from(o.output_tokens.max(2) - 1);
    let tpot: Vec<f64> = firsts()
        .map(|(o, first)| (o.ended - first) / gaps(o))
        .collect();
    let begin = stage
        .iter()
        .map(|o| o.arrived)
        .fold(f64::INFINITY, f64::min);
    let end = stage.iter().map(|o| o.ended).fold(0.0, f64::max);
    let tokens: f64 = stage.iter().map(|o| f64::from(o.output_tokens)).sum();
    [mean(&ttft), tokens / (end - begin), mean(&tpot)]
}

/// Medians over seeds beside what was published of one run.
fn report(published: &[(f64, f64, f64)], runs: &[Stages]) {
    for (stage, &(rate, p_ttft, p_tokens)) in published.iter().enumerate() {
        let of = |i: usize| runs.iter().map(|run| run[stage][i]).collect::<Vec<_>>();
        let [ttft, tokens, tpot] = [0, 1, 2].map(|i| quantile(&of(i), 0.5));
        let [low, high] = [0.0, 1.0].map(|share| quantile(&of(0), share));
        let [slow, fast] = [0.0, 1.0].map(|share| quantile(&of(1), share));
        println!(
            "    {rate:4} requests/s: TTFT {p_ttft:7.3} → {ttft:7.3} s ({:+.0} %; {low:.3} to {high:.3}), {p_tokens:5.0} → {tokens:5.0} tokens/s ({:+.0} %; {slow:.0} to {fast:.0}), TPOT {:.1} ms",
            100.0 * (ttft / p_ttft - 1.0),
            100.0 * (tokens / p_tokens - 1.0),
            1e3 * tpot,
        );
    }
}
