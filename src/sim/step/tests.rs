use std::collections::BTreeMap;

use proptest::prelude::*;
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
        refined: false,
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

/// Arrival, prompt tokens beyond the segments, output tokens, path through a tree of segments.
type Arrival = (f64, u32, u32, Vec<u64>);

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let path = prop::collection::vec(0..3u64, 1..4);
    let one = (0.0..0.8f64, 0..40u32, 1..150u32, path);
    prop::collection::vec(one, 1..60)
}

/// Requests of the tree's paths, with an adapter where there are adapters.
fn requests(arrivals: &[Arrival], adapters: u64) -> Vec<(f64, Request)> {
    let mut now = 0.0;
    let each = arrivals
        .iter()
        .enumerate()
        .map(|(id, (gap, extra, output, path))| {
            now += gap;
            let mut name = 1;
            let segments: Vec<_> = path
                .iter()
                .map(|step| {
                    name = name * 4 + step;
                    (name, 1 + (name * 7 % 30) as u32)
                })
                .collect();
            let full: u32 = segments.iter().map(|(_, blocks)| blocks).sum();
            let mut request = request(id as u64, full * 16 + extra, *output, &segments);
            request.adapter = (adapters > 0).then(|| (id as u64 * 7919 % adapters) as u32);
            (now, request)
        });
    each.collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn jumps_come_out_as_single_steps_do(
        arrivals in arrivals(),
        blocks in 110..600u32,
        seqs in 1..40u32,
        (asynchronous, reserve, loras) in any::<(bool, bool, bool)>(),
        cancelled in 0..20usize,
    ) {
        let spec = EngineSpec {
            kv_blocks: Some(blocks),
            max_num_seqs: seqs,
            max_num_batched_tokens: 256,
            async_scheduling: asynchronous,
            reserve_prompt: reserve,
            loras: loras.then_some(Loras { max: 2, load: 0.3 }),
            ..EngineSpec::new("H100", "llama3-8b", 1)
        };
        let requests = requests(&arrivals, if loras { 5 } else { 0 });
        let [jumped, stepped] = [false, true].map(|each| {
            let mut engine = Engine::new(&spec).unwrap();
            engine.each_token(each);
            let mut events = Vec::new();
            let mut due = 0.0;
            for (n, (at, request)) in requests.iter().enumerate() {
                engine.advance(*at, &mut |event| events.push(event));
                if n > 0 && n == cancelled {
                    engine.cancel(n as u64 / 2, *at);
                }
                engine.submit(request.clone(), *at).unwrap();
                due = *at;
            }
            while let Some(next) = engine.next_event() {
                assert!(next >= due);
                due = next;
                engine.advance(next, &mut |event| events.push(event));
            }
            let tokens = events.iter().filter(|e| matches!(e, Event::Token { .. })).count();
            events.retain(|event| !matches!(event, Event::Token { .. }));
            let gauges = engine.gauges(due);
            prop_assert_eq!((gauges.running, gauges.waiting, gauges.kv_usage), (0, 0, 0.0));
            if each && cancelled == 0 {
                let asked: u32 = requests.iter().map(|(_, r)| r.output_tokens - 1).sum();
                prop_assert_eq!(tokens as u32, asked);
            }
            Ok((events, gauges))
        });
        let ((jumped, gauges), (stepped, others)) = (jumped?, stepped?);
        prop_assert_eq!(gauges, others);
        prop_assert_eq!(jumped.len(), stepped.len());
        for (a, b) in jumped.iter().zip(&stepped) {
            let parts = |event: &Event| match *event {
                Event::FirstToken { id, at, cached_tokens } => (0, id, at, cached_tokens),
                Event::Token { id, at } => (1, id, at, 0),
                Event::Finished { id, at } => (2, id, at, 0),
                Event::Preempted { id, at } => (3, id, at, 0),
            };
            let (a, b) = (parts(a), parts(b));
            prop_assert_eq!((a.0, a.1, a.3), (b.0, b.1, b.3));
            prop_assert!((a.2 - b.2).abs() <= 1e-9 * b.2.abs(), "{:?} {:?}", a, b);
        }
    }
}
