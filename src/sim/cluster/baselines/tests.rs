//! Each policy against its published formula.

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::super::router::{Asked, Chain, Page};
use super::scored::Scored;
use super::{Baseline, NAMES, Router as _, Rule, View, balance, cost, gates};

fn asked(prompt_tokens: u32) -> Asked {
    Asked {
        id: 0,
        prompt_tokens,
        max_tokens: None,
        chain: Chain((0..u64::from(prompt_tokens / Chain::BLOCK)).collect()),
        adapter: None,
    }
}

fn page(waiting: u32, kv_usage: f32) -> Page {
    Page {
        waiting,
        kv_usage,
        ..Page::default()
    }
}

/// Endpoints by (waiting, KV use, in flight, prefill tokens, blocks, matched).
fn view(endpoints: &[(u32, f32, u32, u64, u64, u32)]) -> View {
    let mut view = View::default();
    for &(waiting, kv, in_flight, prefill, blocks, matched) in endpoints {
        view.pages.push(page(waiting, kv));
        view.in_flight.push(in_flight);
        view.prefill_tokens.push(prefill);
        view.blocks.push(blocks);
        view.matched.push(matched);
    }
    view
}

/// How often each endpoint is chosen, out of 600.
fn chosen(rule: &mut dyn Rule, view: &View, prompt: u32) -> Vec<u32> {
    let mut rng = SmallRng::seed_from_u64(7);
    let mut counts = vec![0; view.pages.len()];
    for _ in 0..600 {
        counts[rule.choose(&asked(prompt), view, &mut rng) as usize] += 1;
    }
    counts
}

#[test]
fn all_names_are_known_and_all_work() {
    for name in NAMES {
        let mut baseline = Baseline::new(name, 3, 1 << 20, 1).unwrap();
        for id in 0..30 {
            let request = Asked { id, ..asked(640) };
            assert!(baseline.pick(&request, 0.0).unwrap() < 3, "{name}");
        }
        for id in 0..30 {
            baseline.first_token(id, 1.0);
            baseline.ended(id, 0, 1.0);
        }
        let view = &baseline.view;
        assert_eq!(view.in_flight, [0; 3], "{name}");
        assert_eq!(
            (&*view.prefill_tokens, &*view.blocks),
            (&[0; 3][..], &[0; 3][..])
        );
    }
    assert!(Baseline::new("best", 3, 1 << 20, 1).is_none());
}

#[test]
fn balancers() {
    let view = view(&[
        (0, 0.0, 5, 0, 0, 0),
        (0, 0.0, 1, 0, 0, 0),
        (0, 0.0, 3, 0, 0, 0),
    ]);
    assert_eq!(
        chosen(&mut balance::RoundRobin::default(), &view, 64),
        [200; 3]
    );
    assert_eq!(chosen(&mut balance::LeastRequest, &view, 64), [0, 600, 0]);
    let random = chosen(&mut balance::Random, &view, 64);
    assert!(random.iter().all(|&n| n > 150), "{random:?}");
    // The worst never wins, the best wins two pairs of three.
    let two = chosen(&mut balance::PowerOfTwo, &view, 64);
    assert!(two[0] == 0 && (340..460).contains(&two[1]), "{two:?}");
}

#[test]
fn weighed_scorers() {
    let view = view(&[
        (10, 0.5, 0, 0, 0, 0),
        (5, 0.25, 0, 0, 0, 5),
        (0, 0.0, 0, 0, 0, 10),
    ]);
    let mut scored = Scored::new(2.0, 2.0, 3.0, 2.0);
    // 2 · queue + 2 · (1 − kv) + 3 · prefix + 2 · 0.5, as somebody has it.
    assert_eq!(scored.sums(&asked(640), &view), [2.0, 5.0, 8.0]);
    let cold = super::tests::view(&[(1, 0.0, 0, 0, 0, 0), (1, 0.0, 0, 0, 0, 0)]);
    let mut scored = Scored::new(2.0, 2.0, 3.0, 2.0);
    assert_eq!(scored.sums(&asked(640), &cold), [6.0, 4.0]);
    // Each new prompt goes where none went for longest.
    let counts = chosen(&mut scored, &cold, 640);
    assert_eq!(counts, [300, 300]);
}

#[test]
fn thresholds() {
    let tree = view(&[
        (60, 0.0, 0, 0, 0, 0),
        (10, 0.9, 0, 0, 0, 0),
        (11, 0.1, 0, 0, 0, 0),
        (49, 0.0, 0, 0, 0, 0),
    ]);
    // The first queues too much, the last beyond 10 + 39 / 3; of the others the one with less KV cache in use.
    assert_eq!(chosen(&mut gates::FilterTree, &tree, 64), [0, 0, 600, 0]);
    let loads = |a: u32, b: u32| view(&[(0, 0.0, a, 0, 0, 10), (0, 0.0, b, 0, 0, 0)]);
    for (a, b, prompt, expected) in [
        (64, 0, 640, [600, 0]),
        // One more is uneven.
        (65, 0, 640, [0, 600]),
        // Not by half as much again.
        (150, 100, 640, [600, 0]),
        // Too little of the prompt: 10 of 34 blocks.
        (9, 0, 64 * 34, [0, 600]),
        (9, 0, 64 * 33, [600, 0]),
    ] {
        let got = chosen(&mut gates::CacheAware, &loads(a, b), prompt);
        assert_eq!(got, expected, "{a} {b} {prompt}");
    }
}

#[test]
fn costs() {
    // Dynamo: (640 + 640) / 64 − 10 + 3 = 13; 640 / 64 + 2 = 12; 640 / 64 − 4 + 7 = 13.
    let endpoints = [
        (0, 0.0, 1, 640, 3, 10),
        (0, 0.0, 1, 0, 2, 0),
        (0, 0.0, 3, 0, 7, 4),
    ];
    assert_eq!(
        chosen(&mut cost::Dynamo, &view(&endpoints), 640),
        [0, 600, 0]
    );
    // LMetric: (640 + 0) · 2 = 1280; 640 · 2 = 1280; 384 · 4 = 1536.
    let counts = chosen(&mut cost::LMetric, &view(&endpoints), 640);
    assert!(
        counts[2] == 0 && counts[0] > 250 && counts[1] > 250,
        "{counts:?}"
    );
}
