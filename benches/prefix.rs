//! What the prefix cache costs: `cargo bench --bench prefix`. Figures are in `benches/prefix.md`.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pointsman::prefix::reference::{Churn, Shape, Step};
use pointsman::prefix::{Blocks, ChainHasher, PrefixIndex, Scope};

mod prefix_traffic;
use prefix_traffic::{Amount, LONG_PROMPTS, MANY_CHATS, Traffic, continued};

fn hashing(c: &mut Criterion) {
    let body = "The quick brown fox jumps over the lazy dog. ".repeat(400_000 / 45);
    let scope = Scope {
        tenant: "tenant",
        model: "model",
        ..Scope::default()
    };
    let mut group = c.benchmark_group("hash 400 KB");
    group.throughput(Throughput::Bytes(body.len() as u64));
    for (name, tokens, ranges) in [
        ("one text, blocks of 64 tokens", 64, 1),
        ("one text, blocks of 16 tokens", 16, 1),
        ("400 messages, blocks of 64 tokens", 64, 400),
    ] {
        let step = body.len() / ranges;
        let ranges: Vec<_> = (0..ranges).map(|at| at * step..(at + 1) * step).collect();
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut hasher = ChainHasher::new(&scope, Blocks::of_tokens(tokens));
                hasher.prompt(black_box(&[body.as_bytes()]), &ranges, &[]);
                hasher.finish()
            });
        });
    }
    group.finish();
}

fn filled(amount: &Amount) -> (Traffic, PrefixIndex) {
    let traffic = Traffic::new(amount);
    let index = PrefixIndex::new(usize::MAX);
    for (chain, holders) in traffic.chains.iter().zip(&traffic.holders) {
        for endpoint in holders {
            index.insert(*endpoint, chain, u32::MAX);
        }
    }
    eprintln!("{:?}", index.size());
    (traffic, index)
}

fn matching(c: &mut Criterion) {
    let mut group = c.benchmark_group("match");
    let (traffic, index) = filled(&MANY_CHATS);
    let mut out = [0; MANY_CHATS.endpoints as usize];
    for (name, blocks) in [("256", 256), ("512", 512), ("64 of the shared", 64)] {
        let mut order = traffic.order();
        group.bench_function(
            format!("{name} blocks, 64 endpoints, 2 M endpoint-blocks"),
            |b| {
                b.iter(|| {
                    let chat = order.next().unwrap_or_default();
                    index.match_into(black_box(&traffic.chains[chat][..blocks]), &mut out);
                });
            },
        );
    }
    let chains = traffic.chains.iter().enumerate();
    let half: Vec<_> = chains
        .map(|(at, chain)| continued(chain[..128].to_vec(), 1 << 40 | at as u64, 128))
        .collect();
    let mut order = traffic.order();
    group.bench_function("128 shared blocks, then 128 unknown", |b| {
        b.iter(|| index.match_into(black_box(&half[order.next().unwrap_or_default()]), &mut out));
    });
    let unknown = continued(Vec::new(), 1 << 50, 256);
    group.bench_function("256 unknown blocks", |b| {
        b.iter(|| index.match_into(black_box(&unknown), &mut out));
    });
    let (traffic, index) = filled(&LONG_PROMPTS);
    let mut out = [0; LONG_PROMPTS.endpoints as usize];
    let mut order = traffic.order();
    group.bench_function("6,250 blocks, 1,000 endpoints", |b| {
        b.iter(|| {
            let chat = order.next().unwrap_or_default();
            index.match_into(black_box(&traffic.chains[chat]), &mut out);
        });
    });
    group.finish();
}

fn inserting(c: &mut Criterion) {
    let mut group = c.benchmark_group("insert");
    let (traffic, index) = filled(&MANY_CHATS);
    let mut order = traffic.order();
    group.bench_function("512 blocks that are there", |b| {
        b.iter(|| {
            let chat = order.next().unwrap_or_default();
            index.insert(traffic.holders[chat][0], &traffic.chains[chat], u32::MAX);
        });
    });
    // Every endpoint is full: 512 new blocks push 512 old ones out.
    let mut fresh = 0;
    group.bench_function("512 new blocks, 512 evicted", |b| {
        b.iter_batched(
            || {
                fresh += 1;
                let endpoint = (fresh % 64) as u32;
                (endpoint, continued(Vec::new(), 1 << 41 | fresh, 512))
            },
            |(endpoint, chain)| index.insert(endpoint, &chain, 28_000),
            BatchSize::SmallInput,
        );
    });
    let index = PrefixIndex::new(64 << 20);
    let shape = Shape {
        endpoints: 64,
        stretch: 40,
        remembered: 5_000,
        alphabet: 1 << 60,
        losses: 1,
    };
    let mut churn = Churn::new(1, shape);
    let mut out = [0; 64];
    let mut run = |step: Step| match step {
        Step::Match(chain) => index.match_into(&chain, &mut out),
        Step::Insert(endpoint, chain) => index.insert(endpoint, &chain, 31_250),
        Step::Truncate(endpoint, blocks) => index.truncate(endpoint, blocks),
        Step::Forget(endpoint) => index.forget(endpoint),
        Step::Evict(blocks) => drop(index.evict(blocks)),
    };
    for _ in 0..100_000 {
        run(churn.step());
    }
    group.bench_function("churn: one step of the tests' traffic", |b| {
        b.iter_batched(|| churn.step(), &mut run, BatchSize::SmallInput);
    });
    group.finish();
    eprintln!("{:?}", index.size());
}

criterion_group!(benches, hashing, matching, inserting);
criterion_main!(benches);
