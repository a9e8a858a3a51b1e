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
                Event::FirstToken {
                    id,
                    at,
                    cached_tokens,
                    ..
                } => (0, id, at, cached_tokens),
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

#[test]
fn the_figures_of_the_research_come_out() {
    // KV blocks that vLLM found room for on an RTX 4090.
    let blocks = Engine::new(&EngineSpec::new("RTX4090", "llama3-8b", 1))
        .unwrap()
        .kv_blocks();
    assert!(blocks.abs_diff(2588) < 10, "{blocks}");
    // gpu-and-simulation.md §2.2: ms at batch 1, 32, 128, 256 of 1,000 tokens each; of prompts of 512, 2048, 8192 tokens.
    let table = [
        ("H100", [7.4, 9.8, 17.4, 27.5], [13.0, 48.0, 217.0]),
        ("A100", [11.0, 15.0, 27.5, 46.6], [38.0, 151.0, 686.0]),
        ("RTX4090", [18.1, 24.2, 43.2, 69.2], [48.0, 192.0, 867.0]),
    ];
    for (gpu, decode, prefill) in table {
        let (cost, _) = reference(gpu, "llama3-8b", 1).resolve().unwrap();
        for (sequences, ms) in [1, 32, 128, 256].into_iter().zip(decode) {
            let context = u64::from(sequences) * 1000;
            let decode = cost::Decode {
                sequences,
                context,
                ..Default::default()
            };
            let got = 1e3 * cost.step(&[], decode).seconds;
            assert!(
                (got - ms).abs() < 0.06 * ms,
                "{gpu} {sequences}: {got} {ms}"
            );
        }
        for (tokens, ms) in [512, 2048, 8192].into_iter().zip(prefill) {
            let chunk = cost::Chunk { tokens, context: 0 };
            let got = 1e3 * cost.step(&[chunk], Default::default()).seconds;
            assert!((got - ms).abs() < 0.06 * ms, "{gpu} {tokens}: {got} {ms}");
        }
    }
    let error = Engine::new(&EngineSpec::new("H200", "llama3-8b", 1)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("no GPU named \"H200\"; there are A100, "),
        "{error}"
    );
    let error = Engine::new(&EngineSpec::new("L4", "llama3-70b", 1)).unwrap_err();
    assert!(matches!(error, StepError::Spec(_)));
}

#[test]
fn shared_prefixes_are_read_from_hbm_once_a_wave() {
    let (cost, _) = EngineSpec::new("H100", "llama3-70b", 4).resolve().unwrap();
    let apart = cost::Decode {
        sequences: 66,
        context: 66 * 9000,
        ..Default::default()
    };
    let together = cost::Decode {
        shared: 66 * 8000,
        shared_once: 8000,
        ..apart
    };
    // 66 sequences × 2 KV heads fill the 132 SMs once.
    let saved = 65.0 * 8000.0 * 81_920.0 * (1.0 / 2.6e12 - 1.0 / 6.65e12);
    let seconds = cost.step(&[], apart).seconds - cost.step(&[], together).seconds;
    assert!((seconds - saved).abs() < 1e-9, "{seconds} {saved}");
}

#[test]
fn a_dead_engine_loses_all_and_a_hung_one_moves_no_more() {
    let mut engine = Engine::new(&EngineSpec::new("H100", "llama3-8b", 1)).unwrap();
    let ask = |id| request(id, 1000, 100, &[(1, 62)]);
    engine.submit(ask(0), 0.0).unwrap();
    let idle = engine.gpu();
    engine.advance(0.5, &mut |_| {});
    let busy = engine.gpu();
    let gpu = Tables::get().unwrap().gpu("H100").unwrap();
    let power = |state: GpuState| gpu.power(state.bandwidth, state.tensor);
    assert!(power(busy) > power(idle) + 100.0 && busy.utilisation == 1.0);
    assert_eq!(power(idle), 70.0);
    assert_eq!(busy.memory_used, idle.memory_used);
    let before = engine.gauges(0.5);
    assert_eq!((before.running, before.prefix_queries), (1, 1000));

    engine.hang(0.5);
    engine.submit(ask(1), 0.6).unwrap();
    engine.advance(9.0, &mut |event| panic!("{event:?}"));
    assert_eq!((engine.next_event(), engine.gauges(9.0)), (None, before));
    engine.die();
    assert_eq!(engine.submit(ask(2), 9.0), Err(StepError::Dead));
    assert_eq!(engine.gauges(9.0), Gauges::default());
    assert_eq!(engine.gpu().memory_used, 0);

    engine.restart(10.0);
    engine.set_slow(2.0, 2.0, 10.0);
    let slow = times(&run(&mut engine, &[(10.0, ask(3))]))[&3].1 - 10.0;
    engine.set_slow(1.0, 1.0, 20.0);
    engine.advance(20.0, &mut |_| {});
    assert_eq!(engine.cached_blocks(&ask(4).keys), 62);
    let fast = times(&run(&mut engine, &[(20.0, ask(4))]))[&4].1 - 20.0;
    assert!(slow > 1.6 * fast, "{slow} {fast}");
}

#[test]
fn adapters_are_loaded_once_and_wait_for_a_place() {
    let loras = Some(Loras { max: 1, load: 4.0 });
    let mut engine = Engine::new(&EngineSpec {
        loras,
        ..EngineSpec::new("H100", "llama3-8b", 1)
    })
    .unwrap();
    let ask = |id, adapter| Request {
        adapter: Some(adapter),
        ..request(id, 100, 50, &[])
    };
    let asked = [ask(0, 7), ask(1, 8), ask(2, 7)].map(|request| (0.0, request));
    let events = run(&mut engine, &asked);
    let times = times(&events);
    // The second one is passed over by the third, whose adapter is there, and waits until both have ended.
    assert!(times[&0].0 > 4.0 && times[&0].0 < 4.1 && times[&2].0 == times[&0].0);
    assert!(times[&1].0 > times[&2].1 + 4.0);
}
