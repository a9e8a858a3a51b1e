use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use pointsman::sim::step::{Engine, EngineSpec, Event, Keys, Request};
use serde::Deserialize;

use crate::mean;

const ENGINES: usize = 64;
/// Times that the trace is played at once, each with prefixes of its own.
const COPIES: u64 = 20;

#[derive(Deserialize)]
struct Row {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    hash_ids: Vec<u64>,
}

/// Sends a conversation to an engine of its own, without regard to load, and reports requests/s of this core.
pub(crate) fn run(data: &Path) -> Result<()> {
    let path = data.join("mooncake/conversation_trace.first6000.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let rows = text.lines().map(|line| Ok(serde_json::from_str(line)?));
    let rows = rows.collect::<Result<Vec<Row>>>()?;
    let spec = EngineSpec {
        max_num_batched_tokens: 8192,
        ..EngineSpec::new("H100", "llama3-8b", 1)
    };
    let mut engines = (0..ENGINES)
        .map(|_| Engine::new(&spec))
        .collect::<Result<Vec<_>, _>>()?;

    // The trace counts in threes of seconds: copies are spread within.
    let mut arrivals: Vec<(f64, u64, &Row)> = Vec::new();
    for copy in 0..COPIES {
        let shift = 3.0 * copy as f64 / COPIES as f64;
        arrivals.extend(rows.iter().enumerate().map(|(n, row)| {
            (
                row.timestamp / 1e3 + shift + (n % 97) as f64 * 0.03,
                copy,
                row,
            )
        }));
    }
    arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut first = vec![f64::NAN; arrivals.len()];
    let mut ended = 0;
    let began = Instant::now();
    let mut note = |event: Event| match event {
        Event::FirstToken { id, at, .. } => first[id as usize] = at,
        Event::Finished { .. } => ended += 1,
        _ => {}
    };
    for (id, (at, copy, row)) in arrivals.iter().enumerate() {
        let names = row.hash_ids.iter().map(|name| copy << 48 | name);
        // The first block but one tells conversations apart.
        let conversation = row
            .hash_ids
            .get(1)
            .or(row.hash_ids.first())
            .copied()
            .unwrap_or(0)
            + copy * 7919;
        let engine = &mut engines
            [(conversation.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % ENGINES];
        let request = Request {
            id: id as u64,
            prompt_tokens: row.input_length,
            output_tokens: row.output_length,
            keys: Keys::new(names, 32, row.input_length / 16),
            adapter: None,
        };
        engine.advance(*at, &mut note);
        engine.submit(request, *at)?;
    }
    for engine in &mut engines {
        engine.advance(f64::MAX, &mut note);
    }
    let seconds = began.elapsed().as_secs_f64();
    let ttft: Vec<f64> = arrivals
        .iter()
        .zip(&first)
        .map(|(a, first)| first - a.0)
        .collect();
    let gauges: Vec<_> = engines.iter().map(|engine| engine.gauges(0.0)).collect();
    let sum = |of: fn(&pointsman::sim::step::Gauges) -> u64| gauges.iter().map(of).sum::<u64>();
    println!(
        "{ended} requests on {ENGINES} engines in {seconds:.2} s: {:.0} requests/s, {:.1} M steps, {:.1} M steps/s",
        f64::from(ended) / seconds,
        sum(|g| g.iterations) as f64 / 1e6,
        sum(|g| g.iterations) as f64 / 1e6 / seconds
    );
    println!(
        "mean TTFT {:.3} s, prefix hits {:.1} %, {} preemptions",
        mean(&ttft),
        100.0 * sum(|g| g.prefix_hits) as f64 / sum(|g| g.prefix_queries) as f64,
        sum(|g| g.preemptions)
    );
    Ok(())
}
