use std::path::Path;

use anyhow::{Context, Result};
use pointsman::sim::step::{Engine, EngineSpec, Event, Keys, Request};
use serde::Deserialize;

use crate::{mean, quantile};

#[derive(Deserialize)]
struct Prompt {
    block16_ids: Vec<u64>,
}

#[derive(Deserialize)]
struct Measured {
    input_toks: u32,
    output_toks: u32,
    arrival_time: f64,
    queued_ts: f64,
    first_token_ts: f64,
    last_token_ts: f64,
}

#[derive(Deserialize)]
struct Meta {
    engine_kwargs: Flags,
    kv_cache: Option<KvCache>,
}

#[derive(Deserialize)]
struct Flags {
    max_num_seqs: u32,
    max_num_batched_tokens: u32,
}

#[derive(Deserialize)]
struct KvCache {
    num_gpu_blocks: u32,
}

fn lines<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

pub(crate) fn run(data: &Path) -> Result<()> {
    let data = data.join("vllm-measured");
    let prompts: Vec<Prompt> = lines(&data.join("sharegpt300_llama-3.1-8b.blocks16.jsonl"))?;
    for gpu in ["RTX4090", "RTXPRO6000"] {
        let folder = data.join(format!("{gpu}_Llama-3.1-8B"));
        let meta = std::fs::read_to_string(folder.join("meta.json"))?;
        let meta: Meta = serde_json::from_str(&meta)?;
        let rows: Vec<Measured> = lines(&folder.join("requests.jsonl"))?;
        let spec = EngineSpec {
            kv_blocks: meta.kv_cache.map(|kv| kv.num_gpu_blocks),
            max_num_seqs: meta.engine_kwargs.max_num_seqs,
            max_num_batched_tokens: meta.engine_kwargs.max_num_batched_tokens,
            ..EngineSpec::new(gpu, "llama3-8b", 1)
        };
        let plain = EngineSpec {
            async_scheduling: false,
            reserve_prompt: false,
            shared_reads: false,
            refined: false,
            ..spec.clone()
        };
        compare(
            &format!("{gpu}, from arrival"),
            &spec,
            &prompts,
            &rows,
            true,
        )?;
        compare(
            &format!("{gpu}, from the engine's queue"),
            &spec,
            &prompts,
            &rows,
            false,
        )?;
        compare(
            &format!("{gpu}, from the engine's queue, as the Python reference"),
            &plain,
            &prompts,
            &rows,
            false,
        )?;
    }
    Ok(())
}

/// `arrival`: requests come when the client sent them; else when the engine took them up, which it does between steps.
fn compare(
    name: &str,
    spec: &EngineSpec,
    prompts: &[Prompt],
    rows: &[Measured],
    arrival: bool,
) -> Result<()> {
    let mut engine = Engine::new(spec)?;
    // The two clocks differ by the smallest difference there is: one request at least did not wait.
    let offset = rows
        .iter()
        .map(|r| r.queued_ts - r.arrival_time)
        .fold(f64::INFINITY, f64::min);
    let start = rows
        .iter()
        .map(|r| r.arrival_time + offset)
        .fold(f64::INFINITY, f64::min);
    let came = |row: &Measured| if arrival { row.arrival_time + offset } else { row.queued_ts } - start;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| came(&rows[a]).total_cmp(&came(&rows[b])));
    let mut times = vec![(f64::NAN, f64::NAN); rows.len()];
    let mut note = |event: Event| match event {
        Event::FirstToken { id, at, .. } => times[id as usize].0 = at,
        Event::Finished { id, at } => times[id as usize].1 = at,
        _ => {}
    };
    for id in order {
        let row = &rows[id];
        let names = prompts[id].block16_ids.iter().copied();
        let request = Request {
            id: id as u64,
            prompt_tokens: row.input_toks,
            output_tokens: row.output_toks,
            keys: Keys::new(names, 1, row.input_toks / 16),
            adapter: None,
        };
        engine.advance(came(row), &mut note);
        engine.submit(request, came(row))?;
    }
    engine.advance(f64::INFINITY, &mut note);

    let gauges = engine.gauges(0.0);
    println!(
        "\n{name}: {} blocks, {} preemptions, {} steps, {:.1} % of prompt tokens cached",
        engine.kv_blocks(),
        gauges.preemptions,
        gauges.iterations,
        100.0 * gauges.prefix_hits as f64 / gauges.prefix_queries as f64
    );
    let columns: [(&str, Vec<(f64, f64)>); 3] = [
        (
            "TTFT",
            rows.iter()
                .zip(&times)
                .map(|(r, t)| (r.first_token_ts - start - came(r), t.0 - came(r)))
                .collect(),
        ),
        (
            "TPOT",
            rows.iter()
                .zip(&times)
                .map(|(r, t)| {
                    let gaps = f64::from(r.output_toks.max(2) - 1);
                    (
                        (r.last_token_ts - r.first_token_ts) / gaps,
                        (t.1 - t.0) / gaps,
                    )
                })
                .collect(),
        ),
        (
            "E2E",
            rows.iter()
                .zip(&times)
                .map(|(r, t)| (r.last_token_ts - start - came(r), t.1 - came(r)))
                .collect(),
        ),
    ];
    for (name, pairs) in columns {
        let off = pairs
            .iter()
            .map(|(r, m)| (m / r - 1.0).powi(2))
            .collect::<Vec<_>>();
        let rms = 100.0 * mean(&off).sqrt();
        let (real, model): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
        print!("  {name:4} ms");
        for (what, of) in [
            ("mean", None),
            ("p50", Some(0.5)),
            ("p90", Some(0.9)),
            ("p99", Some(0.99)),
        ] {
            let value = |v: &[f64]| 1e3 * of.map_or_else(|| mean(v), |q| quantile(v, q));
            let (r, m) = (value(&real), value(&model));
            print!(
                "  {what} {r:9.1} → {m:9.1} ({:+.1} %)",
                100.0 * (m / r - 1.0)
            );
        }
        println!("  rms of single requests {rms:.1} %");
    }
    Ok(())
}
