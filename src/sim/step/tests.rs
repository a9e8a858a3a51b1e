use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Scenario {
    gpu: String,
    model: String,
    tp: u32,
    blocks: u32,
    seqs: u32,
    budget: u32,
    slow: [f64; 2],
    requests: Vec<Row>,
    preemptions: u64,
    hits: u64,
    queries: u64,
}

/// Arrival, prompt tokens, output tokens, segments of the prompt (name, blocks), first token, last token.
#[derive(Deserialize)]
struct Row(f64, u32, u32, Vec<(u64, u32)>, f64, f64);

/// As the Python reference has it.
fn reference(gpu: &str, model: &str, tp: u32) -> EngineSpec {
    EngineSpec {
        async_scheduling: false,
        reserve_prompt: false,
        shared_reads: false,
        ..EngineSpec::new(gpu, model, tp)
    }
}

fn request(id: u64, prompt_tokens: u32, output_tokens: u32, segments: &[(u64, u32)]) -> Request {
    let block = |&(name, blocks): &(u64, u32)| (0..u64::from(blocks)).map(move |k| name << 32 | k);
    let names: Vec<u64> = segments.iter().flat_map(block).collect();
    let blocks = names.len() as u32;
    Request {
        id,
        prompt_tokens,
        output_tokens,
        keys: Keys::new(names, 1, blocks),
        adapter: None,
    }
}

/// Submits all, in the order of their arrival, and returns everything that happens.
fn run(engine: &mut Engine, requests: &[(f64, Request)]) -> Vec<Event> {
    let mut events = Vec::new();
    for (at, request) in requests {
        engine.advance(*at, &mut |event| events.push(event));
        engine.submit(request.clone(), *at).unwrap();
    }
    engine.advance(f64::INFINITY, &mut |event| events.push(event));
    events
}

/// First and last token of each request.
fn times(events: &[Event]) -> BTreeMap<u64, (f64, f64)> {
    let mut times = BTreeMap::new();
    for event in events {
        match *event {
            Event::FirstToken { id, at, .. } => {
                assert!(times.insert(id, (at, f64::NAN)).is_none());
            }
            Event::Finished { id, at } => times.get_mut(&id).unwrap().1 = at,
            _ => {}
        }
    }
    times
}

#[test]
fn the_python_reference_agrees() {
    let scenarios: Vec<Scenario> =
        serde_json::from_str(include_str!("golden/reference.json")).unwrap();
    for (s, each) in scenarios.iter().flat_map(|s| [(s, false), (s, true)]) {
        let mut engine = Engine::new(&EngineSpec {
            kv_blocks: Some(s.blocks),
            max_num_seqs: s.seqs,
            max_num_batched_tokens: s.budget,
            ..reference(&s.gpu, &s.model, s.tp)
        })
        .unwrap();
        engine.set_slow(s.slow[0], s.slow[1], 0.0);
        engine.each_token(each);
        let requests = s.requests.iter().enumerate();
        let requests: Vec<_> = requests
            .map(|(id, r)| (r.0, request(id as u64, r.1, r.2, &r.3)))
            .collect();
        let times = times(&run(&mut engine, &requests));
        for (row, (id, (first, last))) in s.requests.iter().zip(&times) {
            let near = |a: f64, b: f64| (a - b).abs() < 1e-6;
            assert!(
                near(*first, row.4) && near(*last, row.5),
                "{} {}, request {id}: {first} {last}, not {} {}",
                s.gpu,
                s.model,
                row.4,
                row.5
            );
        }
        let gauges = engine.gauges(f64::INFINITY);
        let counts = [
            gauges.preemptions,
            gauges.prefix_hits,
            gauges.prefix_queries,
        ];
        assert_eq!(counts, [s.preemptions, s.hits, s.queries]);
        assert_eq!(gauges.kv_usage, 0.0);
        assert_eq!(times.len(), s.requests.len());
    }
}
