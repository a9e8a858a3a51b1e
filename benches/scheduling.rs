//! What a decision costs once the request is read: `cargo bench --bench scheduling`.
//!
//! The pipeline as a configuration builds it, for pools of four sizes. `gathered`: with reading the pool's cells before;
//! `recorded`: with a decision record too, as the picker does it.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

mod scheduling_setup;
use scheduling_setup::{Counting, Prompt, Setup, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [u32; 4] = [10, 64, 100, 1_000];

fn scheduling(c: &mut Criterion) {
    for prompt in [Prompt::Cold, Prompt::Warm] {
        let mut group = c.benchmark_group(format!("schedule, {prompt:?}").to_lowercase());
        for endpoints in SIZES {
            let mut setup = Setup::new(endpoints, prompt);
            // Every endpoint has been used: from then on the order of use is as long as the pool.
            for _ in 0..2 * endpoints {
                black_box(setup.decide());
            }
            let count = allocations(|| drop(black_box(setup.decide())));
            eprintln!("{prompt:?}, {endpoints} endpoints: {count} allocations a decision");
            group.bench_function(BenchmarkId::new("alone", endpoints), |b| {
                b.iter(|| setup.decide());
            });
            group.bench_function(BenchmarkId::new("gathered", endpoints), |b| {
                b.iter(|| {
                    setup.gather();
                    setup.decide()
                });
            });
            setup.traced = true;
            group.bench_function(BenchmarkId::new("gathered, recorded", endpoints), |b| {
                b.iter(|| {
                    setup.gather();
                    setup.decide()
                });
            });
        }
        group.finish();
    }
    let mut group = c.benchmark_group("gather");
    for endpoints in SIZES {
        let mut setup = Setup::new(endpoints, Prompt::Cold);
        group.bench_function(BenchmarkId::from_parameter(endpoints), |b| {
            b.iter(|| setup.gather());
        });
    }
    group.finish();
}

criterion_group!(benches, scheduling);
criterion_main!(benches);
