use std::sync::Arc;

use super::read::read_text;
use super::*;

const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 1100, "output_length": 50, "hash_ids": [0, 1, 2]}
{"timestamp": 3000, "input_length": 1600, "output_length": 5, "hash_ids": [0, 1, 7, 9]}
{"timestamp": 3000, "input_length": 400, "output_length": 9, "hash_ids": [4]}
"#;
const BLOCKS16: &str = r#"{"arrival_ms": 46.9, "input_length": 70, "output_length": 5, "block16_ids": [0, 1, 2, 3, 4]}
{"arrival_ms": 146.9, "input_length": 100, "output_length": 6, "block16_ids": [0, 1, 2, 3, 5, 6, 7]}
"#;
const MEASURED: &str = r#"{"request_id": "bench-0", "input_toks": 70, "output_toks": 5, "arrival_time": 1787267980.0, "queued_ts": 10.0, "scheduled_ts": 10.1, "first_token_ts": 10.25, "last_token_ts": 11.5}
{"request_id": "bench-1", "input_toks": 100, "output_toks": 6, "arrival_time": 1787267980.5, "queued_ts": 10.5, "first_token_ts": null, "last_token_ts": 12.0}
"#;
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 23:59:59.5000000,374,44\n2023-11-17 00:00:01,396,109\n2023-11-17 00:00:01.2500000+00:00,10,1\n";
const SESSIONS: &str = "t,in,out,session,think,adapter\n0,10,1,a,,\n1,20,2,a,2.5,x\n1.5,5,5,,,y\n2,30,3,a,0,x\n4,7,7,b,9,\n";
pub(super) const STAGES: &str = "\
load:
  type: constant
  stages:
  - {rate: 4, duration: 5}
  - {rate: 10, duration: 3}
api: {type: completion}
data:
  type: shared_prefix
  shared_prefix: {num_groups: 3, num_prompts_per_group: 2, system_prompt_len: 160, question_len: 40, output_len: 8}
";

pub(super) fn trace(text: &str) -> Arc<Trace> {
    Arc::new(read_text(text, None, None, 1).unwrap())
}

pub(super) fn traffic(trace: &Arc<Trace>, scale: Scale) -> Traffic {
    Traffic::new(Arc::clone(trace), scale).unwrap()
}

pub(super) fn all(trace: &Arc<Trace>, scale: Scale) -> Vec<Arrival> {
    traffic(trace, scale).arrivals().collect()
}

pub(super) fn chains(trace: &Trace, arrivals: &[Arrival], tokens: u32) -> Vec<Vec<u64>> {
    let chain = |arrival| {
        let mut chain = Vec::new();
        trace.chain(arrival, tokens, usize::MAX, &mut chain);
        chain
    };
    arrivals.iter().map(chain).collect()
}

pub(super) fn shared(a: &[u64], b: &[u64]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[test]
fn a_rounded_time_is_spread_over_its_step_in_order_by_the_seed() {
    let trace = trace(MOONCAKE);
    let arrivals = all(&trace, Scale::default());
    let lengths: Vec<_> = arrivals.iter().map(|a| (a.prompt, a.output)).collect();
    assert_eq!(lengths, [(1100, 50), (1600, 5), (400, 9)]);
    let first = |seed| {
        let trace = read_text(MOONCAKE, None, None, seed).unwrap();
        let rows = trace.rows.iter().map(|row| row.at).collect::<Vec<_>>();
        assert!(rows[0] == 0.0 && rows.is_sorted());
        // Each is within three seconds of its own second, the first too, from which the others count.
        assert!(rows[1] > 0.0 && rows[2] < 6.0, "{rows:?}");
        rows
    };
    assert_eq!(first(1), first(1));
    assert_ne!(first(1), first(2));
}

#[test]
fn prompts_share_what_the_file_says_in_blocks_of_any_size() {
    let mooncake = trace(MOONCAKE);
    let arrivals = all(&mooncake, Scale::default());
    // Two blocks of 512 tokens are shared.
    for (tokens, blocks, same) in [
        (16, 68, 64),
        (64, 17, 16),
        (512, 2, 2),
        (1000, 1, 1),
        (100, 11, 10),
    ] {
        let chains = chains(&mooncake, &arrivals, tokens);
        assert_eq!(chains[0].len(), blocks, "{tokens}");
        assert_eq!(shared(&chains[0], &chains[1]), same, "{tokens}");
        assert_eq!(shared(&chains[0], &chains[2]), 0);
        // All hashes of a chain differ.
        let distinct: std::collections::HashSet<_> = chains[1].iter().collect();
        assert_eq!(distinct.len(), chains[1].len());
    }
    let blocks16 = trace(BLOCKS16);
    let arrivals = all(&blocks16, Scale::default());
    for (tokens, same) in [(16, 4), (64, 1), (32, 2), (48, 1)] {
        let chains = chains(&blocks16, &arrivals, tokens);
        assert_eq!(chains[0].len() as u32, 70 / tokens);
        assert_eq!(shared(&chains[0], &chains[1]), same, "{tokens}");
    }
    let mut chain = Vec::new();
    blocks16.chain(&arrivals[1], 16, 3, &mut chain);
    assert_eq!(chain.len(), 3);
}

#[test]
fn what_the_file_does_not_tell_of_a_prompt_is_its_own() {
    let trace = trace(AZURE);
    let arrivals = all(&trace, Scale::default());
    let chains = chains(&trace, &arrivals, 64);
    assert_eq!(
        (chains[0].len(), chains[1].len(), chains[2].len()),
        (5, 6, 0)
    );
    assert_eq!(shared(&chains[0], &chains[1]), 0);
}

#[test]
fn times_of_azure_cross_midnight() {
    let trace = trace(&format!("\u{feff}{AZURE}"));
    let times: Vec<_> = all(&trace, Scale::default()).iter().map(|a| a.at).collect();
    for (got, expected) in times.iter().zip([0.0, 1.5, 1.75]) {
        assert!((got - expected).abs() < 1e-6, "{times:?}");
    }
    assert!((trace.rate().unwrap() - 2.0 / 1.75).abs() < 1e-6);
}

#[test]
fn a_measured_run_has_its_times_and_the_blocks_of_the_other_file() {
    let plain = trace(MEASURED);
    assert_eq!(plain.block_tokens(), 0);
    let seen = plain.seen();
    assert!((seen[0].ttft - 0.25).abs() < 1e-9 && (seen[0].e2e - 1.5).abs() < 1e-9);
    assert!(seen[1].ttft.is_nan() && (seen[1].e2e - 1.5).abs() < 1e-9);
    let both = read_text(MEASURED, Some(BLOCKS16), None, 1).unwrap();
    let arrivals = all(&Arc::new(both.clone()), Scale::default());
    let chains = chains(&both, &arrivals, 16);
    assert_eq!(shared(&chains[0], &chains[1]), 4);
    let swapped: String = BLOCKS16
        .lines()
        .rev()
        .map(|line| format!("{line}\n"))
        .collect();
    let error = read_text(MEASURED, Some(&swapped), None, 1).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("b: line 1: `input_length` is 100 where"),
        "{error}"
    );
}

#[test]
fn a_turn_waits_for_the_answer_before_unless_the_loop_is_open() {
    let trace = trace(SESSIONS);
    let closed = traffic(&trace, Scale::default());
    let prompts = |arrivals: &[Arrival]| arrivals.iter().map(|a| a.prompt).collect::<Vec<_>>();
    let first: Vec<_> = closed.arrivals().collect();
    assert_eq!(prompts(&first), [10, 5, 7]);
    let (think, second) = closed.next_turn(&first[0]).unwrap();
    assert_eq!(
        (think, second.prompt, second.session),
        (Some(2.5), 20, first[0].session)
    );
    let (think, third) = closed.next_turn(&second).unwrap();
    assert_eq!((think, third.prompt), (Some(0.0), 30));
    assert_eq!(closed.next_turn(&third), None);
    assert_eq!(closed.next_turn(&first[1]), None);
    assert_eq!((first[1].adapter, second.adapter, third.adapter), (2, 1, 1));
    assert_eq!((trace.adapters(), closed.count()), (2, 5));
    let open = Scale {
        open_loop: true,
        ..Scale::default()
    };
    assert_eq!(prompts(&all(&trace, open)), [10, 20, 5, 30, 7]);
    // Cut by number, a session ends early; repeated, the sessions are others.
    let cut = Scale {
        requests: Some(2),
        ..Scale::default()
    };
    let cut = traffic(&trace, cut);
    let (_, second) = cut.next_turn(&first[0]).unwrap();
    assert_eq!(cut.next_turn(&second), None);
    let twice = Scale {
        requests: Some(10),
        ..Scale::default()
    };
    let again = all(&trace, twice);
    assert_eq!(prompts(&again), [10, 5, 7, 10, 5, 7]);
    assert_ne!(again[0].session, again[3].session);
}

#[test]
fn a_rate_keeps_the_shape() {
    let trace = trace(SESSIONS);
    let times = |rate| {
        let scale = Scale {
            rate: Some(rate),
            open_loop: true,
            ..Scale::default()
        };
        let arrivals = all(&trace, scale);
        arrivals.iter().map(|a| a.at).collect::<Vec<_>>()
    };
    assert_eq!(times(Rate::Times(2.0)), [0.0, 0.5, 0.75, 1.0, 2.0]);
    // Four gaps in four seconds are one a second.
    assert_eq!(times(Rate::PerSecond(4.0)), [0.0, 0.25, 0.375, 0.5, 1.0]);
}

#[test]
fn a_part_of_a_trace_is_a_trace() {
    let part = |text: &str, from, until| {
        let whole = read_text(text, None, None, 1).unwrap();
        whole.part(Part { from, until })
    };
    let rows = |trace: &Trace| {
        let rows = trace.rows.iter().map(|row| (row.at, row.prompt));
        rows.collect::<Vec<_>>()
    };
    // Of four seconds: what comes at the border belongs to what follows.
    let first = part(SESSIONS, 0.0, 0.5).unwrap();
    assert_eq!(rows(&first), [(0.0, 10), (1.0, 20), (1.5, 5)]);
    let second = Arc::new(part(SESSIONS, 0.5, 1.0).unwrap());
    assert_eq!(rows(&second), [(0.0, 30), (2.0, 7)]);
    assert_eq!((second.rate(), second.stages()[0].requests), (Some(0.5), 2));
    // What was the third turn begins its session.
    assert_eq!(traffic(&second, Scale::default()).arrivals().count(), 2);
    let first = traffic(&Arc::new(first), Scale::default());
    let begins = first.arrivals().next().unwrap();
    let (_, turn) = first.next_turn(&begins).unwrap();
    assert_eq!((turn.prompt, first.next_turn(&turn)), (20, None));
    for (text, from, until, said) in [
        (SESSIONS, 0.4, 0.45, "no request lies in that part"),
        (STAGES, 0.0, 0.5, "in stages"),
    ] {
        let error = part(text, from, until).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
    assert!(part(STAGES, 0.0, 1.0).is_ok());
}

#[test]
fn a_request_is_held_in_forty_bytes() {
    assert_eq!((size_of::<Row>(), size_of::<Run>()), (40, 8));
}

#[test]
fn a_trace_is_repeated_with_fresh_prefixes_or_cut() {
    let trace = trace(BLOCKS16);
    let scale = |requests, duration| Scale {
        requests,
        duration,
        ..Scale::default()
    };
    let many = scale(Some(100_001), None);
    assert_eq!(traffic(&trace, many).arrivals().count(), 100_001);
    let arrivals = all(&trace, scale(Some(5), None));
    let times: Vec<_> = arrivals.iter().map(|a| (a.at * 10.0).round()).collect();
    assert_eq!(times, [0.0, 1.0, 2.0, 3.0, 4.0]);
    let chains = chains(&trace, &arrivals, 16);
    assert_eq!(shared(&chains[2], &chains[3]), 4);
    assert_eq!(shared(&chains[0], &chains[2]), 0);
    for (requests, duration, count) in [
        (None, Some(0.35), 4),
        (None, Some(0.05), 1),
        (Some(3), Some(0.35), 3),
        (Some(9), Some(0.35), 4),
        (None, None, 2),
    ] {
        let traffic = traffic(&trace, scale(requests, duration));
        assert_eq!(traffic.arrivals().count(), count);
        assert_eq!(traffic.count(), count as u64);
    }
    for (wrong, said) in [
        (scale(Some(0), None), "one at least"),
        (scale(None, Some(-1.0)), "more than 0 seconds"),
        (
            Scale {
                rate: Some(Rate::Times(0.0)),
                ..Scale::default()
            },
            "a rate must be more than 0",
        ),
    ] {
        let error = Traffic::new(Arc::clone(&trace), wrong).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_capture_is_read_with_what_its_answers_say() {
    let text = r#"{"pointsman_arrivals":1,"block_tokens":64,"started_ms":1}
{"n":1,"t":0.5,"in":700,"blocks":[[0,8],[20,2]],"model":1}
{"n":0,"t":0.25,"in":1300,"blocks":[[0,20]],"max":4000,"model":1}
{"of":0,"out":140,"in":1244,"cached":0,"ttft":0.081,"e2e":2.503}
{"n":3,"t":0.75,"in":20,"max":7,"model":1,"adapter":3,"refused":true}
{"end":"closed","dropped":1}
"#;
    let trace = trace(text);
    let arrivals = all(&trace, Scale::default());
    let got: Vec<_> = arrivals
        .iter()
        .map(|a| (a.at, a.prompt, a.output, a.adapter))
        .collect();
    assert_eq!(
        got,
        [(0.0, 1300, 140, 0), (0.25, 700, 140, 0), (0.5, 20, 7, 1)]
    );
    let chains = chains(&trace, &arrivals, 64);
    assert_eq!(shared(&chains[0], &chains[1]), 8);
    assert_eq!((trace.seen()[0].ttft, trace.seen()[0].cached), (0.081, 0.0));
    assert!(trace.seen()[1].e2e.is_nan());
    // Turns of a session keep their distance from the answers before them, if those were seen.
    let sessions = read_text(
        &text.replace("\"model\":1", "\"model\":1,\"session\":9"),
        None,
        None,
        1,
    );
    let sessions = traffic(&Arc::new(sessions.unwrap()), Scale::default());
    let begins: Vec<_> = sessions.arrivals().collect();
    assert_eq!(begins.len(), 1);
    let (think, second) = sessions.next_turn(&begins[0]).unwrap();
    assert_eq!((think, second.prompt), (Some(0.0), 700));
    let (think, third) = sessions.next_turn(&second).unwrap();
    assert_eq!((think, third.at), (None, 0.5));
    // Killed in the middle of a line.
    let killed = &text[..text.len() - 100];
    assert!(!killed.ends_with('\n'));
    assert_eq!(read_text(killed, None, None, 1).unwrap().len(), 2);
}

#[test]
fn adapters_are_popular_by_zipfs_law_and_a_session_keeps_its_own() {
    let mut text = "t,in,out,session\n".to_owned();
    for n in 0..20_000 {
        let session = if n < 10_000 {
            String::new()
        } else {
            (n % 100).to_string()
        };
        text += &format!("{n},10,1,{session}\n");
    }
    let whole = read_text(&text, None, None, 1).unwrap();
    let adapters = Adapters {
        count: 50,
        top: 0.31,
    };
    let given = |seed| whole.clone().with_adapters(adapters, seed).unwrap();
    let trace = given(7);
    let of = |n: u16| {
        trace.rows[..10_000]
            .iter()
            .filter(|row| row.adapter == n)
            .count() as f64
    };
    assert!((of(1) / 10_000.0 - 0.31).abs() < 0.02, "{}", of(1));
    // s is 1.22: the second has 1 / 2^s of what the first has.
    assert!((of(2) / of(1) - 0.43).abs() < 0.05, "{}", of(2));
    assert!(trace.rows.iter().all(|row| (1..=50).contains(&row.adapter)));
    for row in &trace.rows[10_000..] {
        let first = &trace.rows[10_000 + (row.session as usize + 100) % 100];
        assert_eq!(
            (row.session == first.session).then_some(row.adapter),
            Some(first.adapter)
        );
    }
    let names = |trace: &Trace| trace.rows.iter().map(|row| row.adapter).collect::<Vec<_>>();
    assert_eq!(names(&trace), names(&given(7)));
    assert_ne!(names(&trace), names(&given(8)));
    for wrong in [
        Adapters { count: 4, top: 0.1 },
        Adapters { count: 4, top: 1.0 },
    ] {
        assert!(whole.clone().with_adapters(wrong, 1).is_err(), "{wrong:?}");
    }
    let named = read_text(SESSIONS, None, None, 1).unwrap();
    let error = named.with_adapters(adapters, 1).unwrap_err().to_string();
    assert!(error.contains("names adapters itself"), "{error}");
}
