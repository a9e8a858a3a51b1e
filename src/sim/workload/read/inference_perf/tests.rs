use std::sync::Arc;

use super::super::super::tests::{STAGES, all, chains, shared, trace, traffic};
use super::super::super::{Description, Scale, Trace};
use super::super::read_text;

#[test]
fn a_load_test_goes_round_its_prompts_stage_by_stage() {
    let trace = trace(STAGES);
    let traffic = traffic(&trace, Scale::default());
    assert!(traffic.drains());
    let arrivals: Vec<_> = traffic.arrivals().collect();
    let of_stage = |stage| arrivals.iter().filter(move |a| a.stage == stage);
    assert_eq!((of_stage(0).count(), of_stage(1).count()), (20, 30));
    for stage in 0..2 {
        let times: Vec<_> = of_stage(stage).map(|a| a.at).collect();
        let end = [5.0, 3.0][stage as usize];
        assert!(times.is_sorted() && (times.last().unwrap() - end).abs() < 1e-9);
    }
    let chains = chains(&trace, &arrivals, 16);
    assert!(chains.iter().all(|chain| chain.len() == 200 / 16));
    // Six prompts, in the same order again and again; two of a group share its ten blocks.
    for (i, chain) in chains.iter().enumerate() {
        assert_eq!(chain, &chains[i % 6]);
    }
    let mut groups: Vec<_> = chains[..6].iter().map(|chain| chain[9]).collect();
    groups.sort_unstable();
    groups.dedup();
    assert_eq!(groups.len(), 3);
    let mut prompts: Vec<_> = chains[..6].iter().map(|chain| chain[10]).collect();
    prompts.sort_unstable();
    prompts.dedup();
    assert_eq!(prompts.len(), 6);
    let description = Description::of(&trace);
    let expected = 1.0 - (3.0 * 160.0 + 6.0 * 40.0) / (50.0 * 200.0);
    assert!((description.ideal_hit.unwrap() - expected).abs() < 1e-9);
    let poisson = read_text(&STAGES.replace("constant", "poisson"), None, None, 1).unwrap();
    assert_eq!((poisson.len(), poisson.stages().len()), (50, 2));
}

/// A load test with `load` and `data`.
fn load_test(load: &str, data: &str) -> Arc<Trace> {
    trace(&format!("load: {load}\ndata: {data}\n"))
}

#[test]
fn a_load_test_may_draw_its_lengths() {
    let trace = load_test(
        "{type: poisson, stages: [{rate: 50, duration: 20}], lora_traffic_split: [{name: a, split: 0.75}, {name: b, split: 0.25}]}",
        "{type: random, input_distribution: {mean: 400, std_dev: 50, min: 100, max: 700}, output_distribution: {type: uniform, min: 10, max: 30}}",
    );
    let got = Description::of(&trace);
    assert_eq!((got.requests, got.stages, got.adapters), (1_000, 1, 2));
    assert!((got.prompt.mean / 400.0 - 1.0).abs() < 0.02, "{got}");
    assert!((got.output.mean / 20.0 - 1.0).abs() < 0.05 && got.output.max <= 30);
    // Nobody shares anything.
    assert_eq!(got.ideal_hit, Some(0.0));
    let first = trace
        .rows
        .iter()
        .filter(|row| row.adapter == trace.rows[0].adapter);
    let share = first.count() as f64 / 1_000.0;
    assert!(
        (share - 0.75).abs() < 0.05 || (share - 0.25).abs() < 0.05,
        "{share}"
    );
}

#[test]
fn a_turn_of_a_load_test_has_all_that_was_said_before() {
    let data = "{type: shared_prefix, shared_prefix: {num_groups: 1, num_prompts_per_group: 2, system_prompt_len: 64, question_len: 32, output_len: 16, enable_multi_turn_chat: true}}";
    let load = "{type: constant, stages: [{rate: 2, duration: 3}, {rate: 2, duration: 1}]}";
    let trace = load_test(load, data);
    let lengths: Vec<_> = trace.rows.iter().map(|row| row.prompt).collect();
    // Two sessions of three turns; in the next stage they begin anew.
    assert_eq!(lengths, [96, 96, 144, 144, 192, 192, 96, 96]);
    let traffic = traffic(&trace, Scale::default());
    let first: Vec<_> = traffic.arrivals().collect();
    assert_eq!(first.len(), 4);
    let (think, turn) = traffic.next_turn(&first[0]).unwrap();
    // It comes at its time, or when the answer has ended.
    assert_eq!((think, turn.prompt, turn.at), (None, 144, trace.rows[2].at));
    let chains = chains(&trace, &[first[0], turn, first[1], first[2]], 16);
    assert_eq!(shared(&chains[0], &chains[1]), 6);
    assert_eq!(
        (
            shared(&chains[0], &chains[2]),
            shared(&chains[0], &chains[3])
        ),
        (4, 4)
    );
}

#[test]
fn clients_of_a_load_test_wait_for_their_answers() {
    let trace = load_test(
        "{type: concurrent, stages: [{num_requests: 5, concurrency_level: 2}]}",
        "{type: random}",
    );
    let concurrent = traffic(&trace, Scale::default());
    let first: Vec<_> = concurrent.arrivals().collect();
    assert_eq!((first.len(), trace.rate()), (2, None));
    let (think, next) = concurrent.next_turn(&first[0]).unwrap();
    assert_eq!((think, next.row), (Some(0.0), 2));
    let talks = load_test(
        "{type: concurrent, stages: [{num_requests: 6, concurrency_level: 1}]}",
        "{type: conversation_replay, conversation_replay: {num_conversations: 1, shared_system_prompt_len: 160, turns_per_conversation: {type: fixed, mean: 2}, input_tokens_per_turn: 32, output_tokens_per_turn: 16, tool_call_latency_sec: 3}}",
    );
    let lengths: Vec<_> = talks.rows.iter().map(|row| row.prompt).collect();
    assert_eq!(lengths, [192, 240, 192, 240, 192, 240]);
    let arrivals = all(
        &talks,
        Scale {
            open_loop: true,
            ..Scale::default()
        },
    );
    let chains = chains(&talks, &arrivals, 16);
    assert_eq!(
        (
            shared(&chains[0], &chains[1]),
            shared(&chains[0], &chains[2])
        ),
        (12, 10)
    );
    let closed = traffic(&talks, Scale::default());
    assert_eq!(closed.next_turn(&arrivals[0]).unwrap().0, Some(3.0));
}
