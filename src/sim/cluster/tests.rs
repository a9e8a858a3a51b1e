//! The loop, with little clusters.

use std::sync::Arc;

use super::{
    Arrival, Baseline, Chain, Cluster, Fate, Fault, FaultKind, Ours, Outcome, Page, Router, Source,
    Wires, run,
};
use crate::admission::Admission;
use crate::config::{DEFAULT, LoadOptions, load};
use crate::picker::Policy;
use crate::scheduling::registry;
use crate::sim::step::{Engine, EngineSpec, Loras};
use std::time::Duration;

mod senses;

const WIRES: Wires = Wires {
    decide: 0.0005,
    network: 0.001,
    network_jitter: 0.0,
    front_end: 0.0,
    scrape_every: 0.05,
    scrape_takes: 0.002,
    scrape_jitter: 0.1,
    gpu_every: 0.5,
    gpu_takes: 0.05,
    patience: f64::INFINITY,
    stage_gap: 1.0,
};

/// So many requests, evenly, of `groups` shared beginnings.
#[derive(Clone)]
struct Even {
    left: u32,
    sent: u32,
    every: f64,
    groups: u32,
    stages: u32,
    /// Each request is followed by one more when it has ended.
    turns: bool,
}

impl Source for Even {
    fn next(&mut self) -> Option<Arrival> {
        self.left = self.left.checked_sub(1)?;
        let n = self.sent;
        self.sent += 1;
        Some(arrival(
            f64::from(n) * self.every,
            n % self.groups,
            n,
            n * self.stages / 100,
        ))
    }

    fn ended(&mut self, id: u64, now: f64) -> Option<Arrival> {
        let follows = self.turns && id < 50;
        follows.then(|| arrival(now + 1.0, 0, 1_000 + id as u32, 0))
    }
}

fn arrival(at: f64, group: u32, n: u32, stage: u32) -> Arrival {
    // 1,024 shared tokens, 256 of its own.
    let shared = (0..2).map(|block| u64::from(group * 2 + block));
    let own = 1_000_000 + u64::from(n);
    let keys: Arc<[u64]> = shared.chain([own]).collect();
    // A key has eight blocks; the last is not full.
    let chain = (0..20).map(|block| keys[block / 8] * 8 + block as u64 % 8);
    Arrival {
        number: u64::from(n),
        at,
        not_before: 0.0,
        prompt_tokens: 1_280,
        output_tokens: 50,
        max_tokens: None,
        chain: Chain(chain.collect()),
        keys,
        key_tokens: 512,
        adapter: None,
        stage,
    }
}

fn cluster(endpoints: usize, faults: &[Fault]) -> Cluster {
    let spec = EngineSpec::new("H100", "llama3-8b", 1);
    Cluster {
        engines: (0..endpoints)
            .map(|_| Engine::new(&spec).unwrap())
            .collect(),
        block_size: spec.block_size,
        wires: WIRES,
        faults: faults.to_vec(),
        seed: 3,
    }
}

fn even(requests: u32) -> Even {
    Even {
        left: requests,
        sent: 0,
        every: 0.02,
        groups: 5,
        stages: 0,
        turns: false,
    }
}

fn ours(endpoints: u32) -> Ours {
    picker(DEFAULT, endpoints)
}

fn picker(config: &str, endpoints: u32) -> Ours {
    let config = load(config, LoadOptions::default()).unwrap();
    let policy = Policy {
        scheduler: registry::build(&config).unwrap(),
        admission: Admission::of(&config).unwrap(),
        parsers: Vec::new(),
        reporters: Default::default(),
        metrics_staleness: Duration::from_secs(2),
        metrics_turnover: Duration::from_secs(1),
    };
    Ours::new(policy, endpoints, 1 << 24, 5)
}

fn outcomes(cluster: &mut Cluster, router: &mut dyn Router, source: Even) -> Vec<Outcome> {
    let mut all = Vec::new();
    let mut source = source;
    run(cluster, router, &mut source, &mut |outcome| {
        all.push(*outcome)
    });
    all.sort_by_key(|outcome| outcome.id);
    all
}

#[test]
fn all_requests_end_and_the_seed_decides() {
    let once = || outcomes(&mut cluster(3, &[]), &mut ours(3), even(200));
    let first = once();
    assert_eq!(first.len(), 200);
    for outcome in &first {
        assert_eq!(outcome.fate, Fate::Served);
        let ttft = outcome.first.unwrap() - outcome.arrived;
        assert!((0.01..1.0).contains(&ttft), "{outcome:?}");
        assert!(outcome.ended > outcome.first.unwrap() + 0.1);
    }
    // What is shared is cached for all but the first of each group at each endpoint.
    let cached = first.iter().filter(|o| o.cached_tokens >= 1_000).count();
    assert!(cached >= 200 - 15, "{cached}");
    assert_eq!(once(), first);
}

#[test]
fn baselines_and_ours_see_the_same_cluster() {
    for name in super::BASELINES {
        let mut router = Baseline::new(name, 3, 1 << 24, 5).unwrap();
        let all = outcomes(&mut cluster(3, &[]), &mut router, even(100));
        assert!(all.iter().all(|o| o.fate == Fate::Served), "{name}");
        let used = (0..3).filter(|&e| all.iter().any(|o| o.endpoint == Some(e)));
        assert!(used.count() >= 1, "{name}");
    }
}

#[test]
fn stages_wait_until_the_one_before_has_drained() {
    let source = Even {
        stages: 2,
        ..even(100)
    };
    let all = outcomes(&mut cluster(1, &[]), &mut ours(1), source);
    let first_ended = all[..50].iter().map(|o| o.ended).fold(0.0, f64::max);
    assert_eq!(all[50].arrived, first_ended + WIRES.stage_gap);
    assert!((all[51].arrived - all[50].arrived - 0.02).abs() < 1e-9);
}

#[test]
fn a_session_goes_on_when_it_was_answered() {
    let source = Even {
        turns: true,
        ..even(50)
    };
    let all = outcomes(&mut cluster(2, &[]), &mut ours(2), source);
    assert_eq!(all.len(), 100);
}

#[test]
fn a_dead_engine_loses_what_it_had_and_the_breaker_keeps_others_away() {
    let die = Fault {
        at: 1.0,
        endpoint: 0,
        kind: FaultKind::Die,
    };
    let back = Fault {
        at: 30.0,
        kind: FaultKind::Restart,
        ..die
    };
    let all = outcomes(&mut cluster(3, &[die, back]), &mut ours(3), even(2_500));
    let lost = all.iter().filter(|o| o.fate == Fate::Lost).count();
    // Those that it had, those that opened the breaker, and a probe now and then.
    assert!((5..60).contains(&lost), "{lost}");
    let late = &all[2_300..];
    assert!(late.iter().any(|o| o.endpoint == Some(0)));
    assert!(late.iter().all(|o| o.fate == Fate::Served));
}

#[test]
fn clients_of_a_hung_engine_give_up() {
    let hang = Fault {
        at: 1.0,
        endpoint: 0,
        kind: FaultKind::Hang,
    };
    let mut hung = cluster(2, &[hang]);
    hung.wires.patience = 5.0;
    let all = outcomes(&mut hung, &mut ours(2), even(300));
    // Those of patient clients end with the simulation.
    let patient = outcomes(&mut cluster(2, &[hang]), &mut ours(2), even(300));
    assert_eq!((all.len(), patient.len()), (300, 300));
    assert!(patient.iter().any(|o| o.fate == Fate::Lost));
    let lost: Vec<_> = all.iter().filter(|o| o.fate == Fate::Lost).collect();
    assert!(!lost.is_empty());
    for outcome in lost {
        assert_eq!(outcome.endpoint, Some(0));
        // It waited, or its answer broke off and nobody noticed.
        assert!(outcome.ended - outcome.arrived >= 4.999);
    }
}

#[test]
fn the_network_is_as_slow_for_a_request_whoever_routes_it() {
    let jittery = |seed, router: &mut dyn Router| {
        let mut cluster = cluster(3, &[]);
        cluster.wires.network_jitter = 0.02;
        cluster.seed = seed;
        outcomes(&mut cluster, router, even(200))
    };
    let first = jittery(3, &mut ours(3));
    assert_eq!(jittery(3, &mut ours(3)), first);
    assert_ne!(jittery(4, &mut ours(3)), first);
    let ttft = |all: &[Outcome]| -> f64 {
        let times = all.iter().map(|o| o.first.unwrap() - o.arrived);
        times.sum::<f64>() / all.len() as f64
    };
    let calm = outcomes(&mut cluster(3, &[]), &mut ours(3), even(200));
    // There and back again.
    let more = ttft(&first) - ttft(&calm);
    assert!((0.02..0.08).contains(&more), "{more}");
    // No end overtakes its first token.
    assert!(first.iter().all(|o| o.ended >= o.first.unwrap()));
    // With idle engines and one output token, TTFT is the network's own but for the prompt's time.
    let alone = |name: &str| {
        let mut cluster = cluster(3, &[]);
        cluster.wires.network_jitter = 0.02;
        let mut router = Baseline::new(name, 3, 1 << 24, 5).unwrap();
        let source = Even {
            every: 5.0,
            groups: 1_000,
            ..even(20)
        };
        let all = outcomes(&mut cluster, &mut router, source);
        all.iter()
            .map(|o| o.first.unwrap() - o.arrived)
            .collect::<Vec<_>>()
    };
    for (a, b) in alone("random").into_iter().zip(alone("round-robin")) {
        assert!((a - b).abs() < 1e-9, "{a} {b}");
    }
}

#[test]
fn the_server_before_the_engine_takes_its_time_for_each_token() {
    let mut slow = cluster(3, &[]);
    slow.wires.front_end = 1e-4;
    let source = || Even {
        every: 5.0,
        ..even(20)
    };
    let all = outcomes(&mut slow, &mut ours(3), source());
    let plain = outcomes(&mut cluster(3, &[]), &mut ours(3), source());
    for (slow, plain) in all.iter().zip(&plain) {
        let more = slow.first.unwrap() - plain.first.unwrap();
        assert!((more - 0.128).abs() < 1e-9, "{more}");
    }
}

/// Adapters in turn, so that none is asked for twice in a row.
struct OfAdapters(Even, u32);

impl Source for OfAdapters {
    fn next(&mut self) -> Option<Arrival> {
        let arrival = self.0.next()?;
        let adapter = Some(arrival.number as u32 * 7 % self.1);
        Some(Arrival { adapter, ..arrival })
    }
}

#[test]
fn lora_affinity_loads_fewer_adapters_than_chance() {
    let loads = |router: &mut dyn Router| {
        let spec = EngineSpec {
            loras: Some(Loras { max: 2, load: 0.5 }),
            ..EngineSpec::new("H100", "llama3-8b", 1)
        };
        let mut cluster = Cluster {
            engines: (0..4).map(|_| Engine::new(&spec).unwrap()).collect(),
            ..cluster(0, &[])
        };
        let mut source = OfAdapters(
            Even {
                every: 0.2,
                ..even(400)
            },
            8,
        );
        let mut served = 0;
        run(&mut cluster, router, &mut source, &mut |outcome| {
            served += u32::from(outcome.fate == Fate::Served);
        });
        assert_eq!(served, 400);
        cluster.engines.iter().map(Engine::lora_loads).sum::<u64>()
    };
    let affine = DEFAULT
        .replace(
            "- type: work-scorer",
            "- type: work-scorer\n- type: lora-affinity-scorer",
        )
        .replace(
            "- pluginRef: work-scorer",
            "- pluginRef: work-scorer\n  - {pluginRef: lora-affinity-scorer, weight: 3}",
        );
    let mut random = Baseline::new("random", 4, 1 << 24, 5).unwrap();
    let (by_chance, by_affinity) = (loads(&mut random), loads(&mut picker(&affine, 4)));
    // Four engines have room for all eight.
    assert!(
        by_affinity <= 24 && by_chance > 150,
        "{by_affinity} {by_chance}"
    );
}
