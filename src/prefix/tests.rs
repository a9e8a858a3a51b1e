use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::reference::{Churn, Model, Shape, Step};
use super::*;

/// A chain of the given blocks.
fn chain(blocks: &str) -> Vec<u64> {
    let hash = |last: &mut u64, block: u8| {
        *last = xxh3_64_with_seed(&[block], *last);
        Some(*last)
    };
    blocks.bytes().scan(0, hash).collect()
}

fn matches(index: &PrefixIndex, blocks: &str) -> Vec<u32> {
    let mut out = [9; 4];
    index.match_into(&chain(blocks), &mut out);
    out.to_vec()
}

fn index() -> PrefixIndex {
    PrefixIndex::new(1 << 20)
}

#[test]
fn a_match_is_the_prefix_that_an_endpoint_holds() {
    let index = index();
    index.insert(0, &chain("system one and more"), 100);
    index.insert(1, &chain("system two"), 100);
    index.insert(2, &chain("sys"), 100);
    index.insert(1, &chain("other"), 100);
    index.check();
    for (request, expected) in [
        ("", [0, 0, 0, 0]),
        ("system one and more", [19, 7, 3, 0]),
        ("system one", [10, 7, 3, 0]),
        ("system two things", [7, 10, 3, 0]),
        ("sy", [2, 2, 2, 0]),
        ("x", [0, 0, 0, 0]),
        ("other", [0, 5, 0, 0]),
    ] {
        assert_eq!(matches(&index, request), expected, "{request}");
    }
    let mut few = [7];
    index.match_into(&chain("system two"), &mut few);
    assert_eq!(few, [7]);
    index.match_into(&chain("system two"), &mut []);
}

#[test]
fn a_chat_that_goes_on_is_one_run() {
    let index = index();
    for turns in 1..20 {
        index.insert(0, &chain(&"turn ".repeat(turns)), 1000);
    }
    index.check();
    assert_eq!(index.size().runs, 1);
    assert_eq!(matches(&index, &"turn ".repeat(30))[0], 95);
}

#[test]
fn the_leaf_goes_first_and_the_root_last() {
    let index = index();
    index.insert(0, &chain("abcdef"), 10);
    index.insert(0, &chain("abcxyz"), 10);
    for (capacity, old, new) in [
        (9, 6, 6),
        (8, 5, 6),
        (6, 3, 6),
        (5, 3, 5),
        (2, 2, 2),
        (0, 0, 0),
    ] {
        index.truncate(0, capacity);
        index.check();
        assert_eq!(index.blocks_of(0), capacity);
        assert_eq!(matches(&index, "abcdef")[0], old, "{capacity}");
        assert_eq!(matches(&index, "abcxyz")[0], new, "{capacity}");
    }
    assert_eq!(index.size().runs, 0);
}

#[test]
fn what_was_used_again_stays() {
    let index = index();
    index.insert(0, &chain("first"), 10);
    index.insert(0, &chain("other"), 10);
    index.insert(0, &chain("fir"), 10);
    index.insert(0, &chain("new"), 10);
    index.check();
    // The three blocks over are the rest of "first", unused since, and the end of "other".
    assert_eq!(matches(&index, "first")[0], 3);
    assert_eq!(matches(&index, "other")[0], 4);
    assert_eq!(matches(&index, "new")[0], 3);
}

#[test]
fn a_chain_longer_than_the_capacity_leaves_its_start() {
    let index = index();
    index.insert(0, &chain("old"), 5);
    index.insert(0, &chain("a long chain"), 5);
    assert_eq!(
        (
            matches(&index, "old")[0],
            matches(&index, "a long chain")[0]
        ),
        (0, 5)
    );
    index.insert(0, &chain("a long chain"), 0);
    assert_eq!(index.blocks_of(0), 0);
    index.insert(MAX_ENDPOINTS, &chain("x"), 5);
    index.insert(u32::MAX, &chain("x"), 5);
    assert_eq!(index.size().blocks, 0);
    index.check();
}

#[test]
fn a_forgotten_endpoint_holds_nothing_and_the_others_all() {
    let index = index();
    for endpoint in 0..3 {
        index.insert(endpoint, &chain("shared"), 100);
        index.insert(endpoint, &chain(&format!("shared by {endpoint}")), 100);
    }
    index.forget(1);
    index.forget(77);
    index.check();
    assert_eq!(matches(&index, "shared by 1"), [10, 0, 10, 0]);
    index.insert(1, &chain("sha"), 100);
    assert_eq!(matches(&index, "shared by 2"), [10, 3, 11, 0]);
}

/// Runs `steps` steps of traffic through the index and the literal model; every answer must be the same.
fn compare(seed: u64, shape: Shape, capacity: u32, budget: usize, steps: usize) {
    let index = PrefixIndex::new(budget);
    let empty = index.size().bytes;
    let mut model = Model::default();
    let mut churn = Churn::new(seed, shape);
    let endpoints = shape.endpoints as usize;
    let mut out = vec![0; endpoints];
    for at in 0..steps {
        let step = churn.step();
        match &step {
            Step::Match(_) => {}
            Step::Insert(endpoint, chain) => {
                index.insert(*endpoint, chain, capacity);
                model.insert(*endpoint, chain, capacity);
                // What the byte budget takes is known to the index alone: that it took the right ones is seen below.
                model.evict(index.size().evicted - model.evicted);
            }
            Step::Truncate(endpoint, blocks) => {
                index.truncate(*endpoint, *blocks);
                model.truncate(*endpoint, *blocks);
            }
            Step::Forget(endpoint) => {
                index.forget(*endpoint);
                model.truncate(*endpoint, 0);
            }
            Step::Evict(blocks) => {
                assert_eq!(index.evict(*blocks), model.evict(*blocks));
            }
        }
        let size = index.size();
        assert_eq!(size.evicted, model.evicted, "seed {seed}, step {at}");
        assert!(size.bytes <= budget.max(empty) || size.blocks == 0);
        let asked = match &step {
            Step::Match(chain) | Step::Insert(_, chain) => chain,
            _ => churn.chains().last().map_or(&[][..], |chain| chain),
        };
        index.match_into(asked, &mut out);
        let expected = model.matches(asked, endpoints);
        assert_eq!(out, expected, "seed {seed}, step {at}: {step:?}");
        let at_end = at + 1 == steps;
        if at % 50 == 0 || at_end {
            index.check();
            for asked in churn.chains() {
                index.match_into(asked, &mut out);
                assert_eq!(
                    out,
                    model.matches(asked, endpoints),
                    "seed {seed}, step {at}"
                );
            }
            for endpoint in 0..shape.endpoints {
                assert_eq!(index.blocks_of(endpoint), model.blocks_of(endpoint));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_answer_is_the_literal_ones(
        seed: u64,
        endpoints in 1_u32..9,
        stretch in 1_usize..24,
        remembered in 1_usize..40,
        alphabet in prop_oneof![Just(2_u64), Just(3), Just(1 << 60)],
        losses in prop_oneof![Just(0_u32), Just(20), Just(200)],
        capacity in prop_oneof![Just(u32::MAX), 1_u32..200],
        budget in prop_oneof![Just(usize::MAX), 12_000_usize..40_000],
    ) {
        let shape = Shape { endpoints, stretch, remembered, alphabet, losses };
        compare(seed, shape, capacity, budget, 300);
    }
}

#[test]
fn many_endpoints_answer_as_the_literal_ones() {
    let shape = Shape {
        endpoints: 300,
        stretch: 12,
        remembered: 20,
        alphabet: 3,
        losses: 30,
    };
    compare(7, shape, 60, usize::MAX, 1500);
}

#[test]
fn memory_stays_within_the_budget_and_comes_back() {
    let shape = Shape {
        endpoints: 8,
        stretch: 40,
        remembered: 500,
        alphabet: 1 << 60,
        losses: 0,
    };
    for (seed, budget) in [(1, 100_000), (2, 300_000)] {
        let index = PrefixIndex::new(budget);
        let mut churn = Churn::new(seed, shape);
        let mut most = 0;
        for _ in 0..5_000 {
            if let Step::Insert(endpoint, chain) = churn.step() {
                index.insert(endpoint, &chain, DEFAULT_CAPACITY);
                let bytes = index.size().bytes;
                assert!(bytes <= budget, "seed {seed}: {bytes}");
                most = most.max(bytes);
            }
        }
        assert!(most > budget * 9 / 10, "{most} of {budget} used");
        assert!(index.evict(u64::MAX) > 0);
        assert_eq!((index.size().blocks, index.size().runs), (0, 0));
        assert!(index.size().bytes < budget / 2);
        index.check();
    }
}

/// Readers beside writers: what is never evicted is always found whole, and no answer is longer than its chain.
#[test]
fn readers_beside_writers_see_what_stands() {
    let index = PrefixIndex::new(usize::MAX);
    let standing = chain("a prompt that everybody has");
    for endpoint in 0..4 {
        index.insert(endpoint, &standing, u32::MAX);
    }
    let shape = Shape {
        endpoints: 4,
        stretch: 20,
        remembered: 50,
        alphabet: 3,
        losses: 100,
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..2 {
            let (index, stop, standing) = (&index, &stop, &standing);
            scope.spawn(move || {
                let mut churn = Churn::new(seed, shape);
                let mut out = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    index.match_into(standing, &mut out);
                    assert_eq!(out[..4], [standing.len() as u32; 4]);
                    let asked = churn.chain();
                    index.match_into(&asked, &mut out);
                    assert!(out.iter().all(|it| *it as usize <= asked.len()));
                }
            });
        }
        let mut churn = Churn::new(11, shape);
        let mut longer = standing.clone();
        for at in 0..4_000_u64 {
            // Endpoints 4 and up come and go, in the same runs.
            match churn.step() {
                Step::Insert(endpoint, chain) => index.insert(4 + endpoint, &chain, 300),
                Step::Truncate(endpoint, blocks) => index.truncate(4 + endpoint, blocks),
                Step::Forget(endpoint) => index.forget(4 + endpoint),
                Step::Match(_) | Step::Evict(_) => {
                    longer.truncate(standing.len());
                    longer.push(xxh3_64_with_seed(&at.to_le_bytes(), 5));
                    index.insert(4 + churn.endpoint(), &longer, 300);
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    index.check();
}
