use super::super::super::testing::{held, plugin, scores_for, snapshot, with_context};
use super::*;
use crate::pool::LoadView;
use crate::pool::gpu::GpuMemory as Held;
use crate::pool::slab::Scrape;

const GB: u64 = 1_000_000_000;

/// Memory (GB held and free), blocks of 100 tokens, KV cache use.
type Endpoint = (Option<(u64, u64)>, Option<u32>, f32);

fn scores(parameters: &str, endpoints: &[Endpoint], heard_at: u64) -> Vec<f32> {
    let scorer = GpuMemory::of(&plugin("gpu-memory-scorer", parameters)).unwrap();
    let pool = snapshot(endpoints.len());
    let memories = endpoints.iter().map(|(memory, ..)| {
        memory.map(|(held, free)| Held {
            held: held * GB,
            free: free * GB,
            least_free: free * GB,
            foreign: 0,
        })
    });
    held(&pool, &memories.collect::<Vec<_>>(), heard_at);
    for (member, (_, blocks, _)) in pool.members().iter().zip(endpoints) {
        let page = Scrape {
            kv_blocks: *blocks,
            block_size: Some(100),
            ..Default::default()
        };
        member.slot.record(&page, 0, 1);
    }
    let load = LoadView {
        kv_usage: endpoints.iter().map(|(.., usage)| *usage).collect(),
        ..Default::default()
    };
    let scores = with_context(&pool, &load, 0, &[], |cx| {
        let cx = Context {
            now_ms: 20_000,
            ..*cx
        };
        let mut out = vec![9.0; endpoints.len()];
        let all: Vec<u32> = (0..endpoints.len() as u32).collect();
        scorer.score(&cx, &all, &mut out);
        out
    });
    scores
        .iter()
        .map(|score| (score * 1e4).round() / 1e4)
        .collect()
}

#[test]
fn the_formula() {
    let nan = f32::NAN;
    let given = "{kvBytesPerToken: 100000}";
    for (what, parameters, endpoints, expected) in [
        (
            "nothing is known",
            "{}",
            vec![(None, Some(1000), 0.9), (None, None, nan)],
            vec![0.5, 0.5],
        ),
        (
            "a slice of 20 GB and a board of 80, each half full: the slice has less than is enough",
            "{}",
            vec![
                (Some((18, 1)), Some(200), 0.5),
                (Some((72, 8)), Some(5600), 0.5),
            ],
            vec![0.0714, 1.0],
        ),
        (
            "boards alike: as they are full; one that nothing is known of is the mean",
            "{}",
            vec![
                (Some((72, 8)), Some(1000), 0.9),
                (Some((72, 8)), Some(1000), 0.0),
                (None, Some(1000), 0.0),
            ],
            vec![0.4, 1.0, 0.7],
        ),
        (
            "more than enough is no better",
            "{}",
            vec![
                (Some((72, 8)), Some(1000), 0.2),
                (Some((72, 8)), Some(1000), 0.7),
            ],
            vec![1.0, 1.0],
        ),
        (
            "unless all of it is what is enough",
            "{enough: 1}",
            vec![
                (Some((72, 8)), Some(1000), 0.2),
                (Some((72, 8)), Some(1000), 0.7),
            ],
            vec![0.8, 0.3],
        ),
        (
            "a cache is within what its GPUs hold, also where a token's bytes are given wrongly",
            given,
            vec![
                (Some((1, 8)), Some(1000), 0.0),
                (Some((72, 8)), Some(1000), 0.0),
            ],
            vec![0.4, 1.0],
        ),
        (
            "given bytes need no GPU",
            given,
            vec![(None, Some(1000), 0.9), (None, Some(1000), 0.5)],
            vec![0.4, 1.0],
        ),
        (
            "engines that do not pre-allocate: what is free, beside what the roomiest has in all",
            "{}",
            vec![
                (Some((1, 60)), None, nan),
                (Some((74, 6)), None, nan),
                (Some((9, 0)), None, nan),
            ],
            vec![1.0, 0.3, 0.0],
        ),
        (
            "both, in bytes",
            given,
            vec![
                (Some((72, 1)), Some(1000), 0.5),
                (Some((60, 20)), None, nan),
            ],
            vec![0.25, 1.0],
        ),
        (
            "a cache whose size or use is not told",
            "{}",
            vec![
                (Some((72, 8)), None, 0.5),
                (Some((72, 8)), Some(1000), nan),
                (Some((72, 8)), Some(1000), 0.9),
            ],
            vec![0.4; 3],
        ),
        (
            "one that holds nothing as yet teaches nothing",
            "{enough: 1}",
            vec![
                (Some((0, 80)), Some(1000), 0.5),
                (Some((72, 8)), Some(1000), 0.2),
                (Some((72, 8)), Some(1000), 0.7),
            ],
            vec![0.0, 0.8, 0.3],
        ),
        (
            "all are full",
            "{}",
            vec![(Some((72, 0)), Some(10), 1.0); 2],
            vec![0.0, 0.0],
        ),
    ] {
        assert_eq!(scores(parameters, &endpoints, 15_000), expected, "{what}");
    }
}

#[test]
fn what_is_too_old_is_not_known() {
    let endpoints = [
        (Some((1, 60)), None, f32::NAN),
        (Some((60, 15)), None, f32::NAN),
    ];
    assert_eq!(scores("{}", &endpoints, 10_000), [1.0, 0.8]);
    assert_eq!(scores("{}", &endpoints, 9_999), [0.5, 0.5]);
    assert_eq!(scores("{maxAge: 1m}", &endpoints, 9_999), [1.0, 0.8]);
}

#[test]
fn parameters_are_checked() {
    for (parameters, expected) in [
        (
            "{kvBytesPerToken: 0}",
            "kvBytesPerToken: is not a number of bytes",
        ),
        ("{enough: 0}", "enough: is not a number from 0.01 to 1"),
        ("{maxAge: soon}", "parameters.maxAge"),
        ("{maxage: 1s}", "did you mean `maxAge`?"),
    ] {
        let got = GpuMemory::of(&plugin("gpu-memory-scorer", parameters));
        let got = got.unwrap_err().message;
        assert!(got.contains(expected), "{got}\nnot\n{expected}");
    }
    let scorer = GpuMemory::of(&plugin("gpu-memory-scorer", "{}")).unwrap();
    assert!(scores_for(&scorer, &snapshot(0), &LoadView::default(), 0, &[]).is_empty());
}
