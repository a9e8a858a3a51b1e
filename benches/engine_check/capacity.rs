use anyhow::Result;
use pointsman::sim::step::{Engine, EngineSpec, Event, Keys, Request};

use crate::{mean, quantile};

const GROUPS: usize = 83;
const PROMPTS: usize = 3;
/// Requests/s and seconds. inference-perf waits for a stage to drain before it begins the next.
const STAGES: [(f64, f64); 10] = [
    (9.0, 30.0),
    (3.0, 210.0),
    (4.0, 180.0),
    (5.0, 120.0),
    (6.0, 120.0),
    (8.0, 90.0),
    (10.0, 70.0),
    (12.0, 60.0),
    (15.0, 50.0),
    (20.0, 50.0),
];
/// llm-d's figures by rate: TTFT and output tokens/s of random routing, then of precise.
const PUBLISHED: [(f64, [f64; 4]); 7] = [
    (3.0, [0.852, 2518.0, 0.144, 2580.0]),
    (5.0, [15.998, 2647.0, 0.188, 3941.0]),
    (8.0, [39.117, 2969.0, 0.199, 5676.0]),
    (10.0, [41.480, 3120.0, 0.202, 6457.0]),
    (12.0, [53.513, 3023.0, 0.202, 7062.0]),
    (15.0, [61.425, 3003.0, 0.210, 7807.0]),
    (20.0, [94.952, 3099.0, 0.201, 9295.0]),
];

/// Orders of prompts and random choices that are tried.
const SEEDS: u64 = 9;

struct Sent {
    at: f64,
    stage: usize,
    first: f64,
    last: f64,
}

/// A small generator of numbers for shuffles and random routing: SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % end as u64) as usize
    }
}

pub(crate) fn run() -> Result<()> {
    for shared_reads in [false, true] {
        println!("\nshared KV read through L2: {shared_reads}");
        for precise in [false, true] {
            report(precise, shared_reads)?;
        }
    }
    Ok(())
}

/// Four TP-4 engines, 8,000 shared and 1,000 own tokens of prompt, 1,000 of answer.
fn policy(precise: bool, shared_reads: bool, seed: u64) -> Result<[[f64; 3]; PUBLISHED.len()]> {
    let spec = EngineSpec {
        kv_blocks: Some(461_376 / 16),
        max_num_batched_tokens: 8192,
        shared_reads,
        // vLLM as it was then.
        async_scheduling: false,
        reserve_prompt: false,
        ..EngineSpec::new("H100", "llama3-70b", 4)
    };
    let mut engines = (0..4)
        .map(|_| Engine::new(&spec))
        .collect::<Result<Vec<_>, _>>()?;
    let mut random = Random(seed);
    let mut sent: Vec<Sent> = Vec::new();
    let mut order = Vec::new();
    let mut now = 0.0;
    for (stage, (rate, seconds)) in STAGES.into_iter().enumerate() {
        for n in 0..(rate * seconds) as usize {
            let at = now + n as f64 / rate;
            for engine in &mut engines {
                engine.advance(at, &mut |event| note(&mut sent, event));
            }
            if order.is_empty() {
                order = (0..GROUPS * PROMPTS).collect();
                (1..order.len()).for_each(|i| order.swap(i, random.below(i + 1)));
            }
            let prompt = order.pop().unwrap_or(0) as u64;
            let system = (0..500).map(|k| (prompt / PROMPTS as u64) << 32 | k);
            let question = (0..62).map(|k| (prompt + 1000) << 32 | k);
            let keys = Keys::new(system.chain(question), 1, 562);
            let chosen = if precise {
                best(&engines, &keys, at, &mut random)
            } else {
                random.below(4)
            };
            sent.push(Sent {
                at,
                stage,
                first: f64::NAN,
                last: f64::NAN,
            });
            let id = sent.len() as u64 - 1;
            let request = Request {
                id,
                prompt_tokens: 9000,
                output_tokens: 1000,
                keys,
                adapter: None,
            };
            engines[chosen].submit(request, at)?;
        }
        for engine in &mut engines {
            while let Some(next) = engine.next_event() {
                engine.advance(next, &mut |event| note(&mut sent, event));
            }
        }
        now = sent.iter().map(|s| s.last).fold(now, f64::max) + 1.0;
    }
    let figures = PUBLISHED.map(|(rate, _)| {
        let of = |s: &&Sent| STAGES[s.stage].0 == rate;
        let stage: Vec<&Sent> = sent.iter().filter(of).collect();
        let ttft = stage.iter().map(|s| s.first - s.at).collect::<Vec<_>>();
        let tpot = stage
            .iter()
            .map(|s| (s.last - s.first) / 999.0)
            .collect::<Vec<_>>();
        let begin = stage.iter().map(|s| s.at).fold(f64::INFINITY, f64::min);
        let end = stage.iter().map(|s| s.last).fold(0.0, f64::max);
        [
            mean(&ttft),
            1000.0 * stage.len() as f64 / (end - begin),
            1e3 * mean(&tpot),
        ]
    });
    Ok(figures)
}

/// Medians over seeds beside what was published of one run.
fn report(precise: bool, shared_reads: bool) -> Result<()> {
    println!("  {}", if precise { "precise" } else { "random" });
    let runs = (1..=SEEDS).map(|seed| policy(precise, shared_reads, seed));
    let runs = runs.collect::<Result<Vec<_>>>()?;
    for (n, (rate, published)) in PUBLISHED.into_iter().enumerate() {
        let figures = [0, 1, 2].map(|i| runs.iter().map(|run| run[n][i]).collect::<Vec<_>>());
        let [ttft, tokens, tpot] = [0, 1, 2].map(|i| quantile(&figures[i], 0.5));
        let [low, high] = [0.0, 1.0].map(|share| quantile(&figures[0], share));
        let [p_ttft, p_tokens] = if precise {
            [published[2], published[3]]
        } else {
            [published[0], published[1]]
        };
        println!(
            "    {rate:4} requests/s: TTFT {p_ttft:7.3} → {ttft:7.3} s ({:+.0} %; {low:.3} to {high:.3}), {p_tokens:5.0} → {tokens:5.0} tokens/s ({:+.0} %), TPOT {tpot:.1} ms",
            100.0 * (ttft / p_ttft - 1.0),
            100.0 * (tokens / p_tokens - 1.0),
        );
    }
    Ok(())
}

/// llm-d's queue, KV cache and prefix scorers with weights 1, 1 and 2, on live figures.
fn best(engines: &[Engine], keys: &Keys, now: f64, random: &mut Random) -> usize {
    let gauges: Vec<_> = engines.iter().map(|e| e.gauges(now)).collect();
    let waiting = || gauges.iter().map(|g| f64::from(g.waiting));
    let (low, high) = (
        waiting().fold(f64::INFINITY, f64::min),
        waiting().fold(0.0, f64::max),
    );
    let score = |(engine, g): (&Engine, &pointsman::sim::step::Gauges)| {
        let queue = if high == low {
            1.0
        } else {
            (high - f64::from(g.waiting)) / (high - low)
        };
        let prefix = f64::from(engine.cached_blocks(keys)) / f64::from(keys.blocks());
        queue + (1.0 - g.kv_usage) + 2.0 * prefix
    };
    let scores: Vec<f64> = engines.iter().zip(&gauges).map(score).collect();
    let top = scores.iter().copied().fold(0.0, f64::max);
    let tied: Vec<usize> = (0..engines.len()).filter(|&i| scores[i] == top).collect();
    tied[random.below(tied.len())]
}

fn note(sent: &mut [Sent], event: Event) {
    match event {
        Event::FirstToken { id, at, .. } => sent[id as usize].first = at,
        Event::Finished { id, at } => sent[id as usize].last = at,
        _ => {}
    }
}
