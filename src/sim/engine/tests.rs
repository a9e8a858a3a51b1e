//! Who runs when, and what is refused.

use std::sync::atomic::Ordering;

use super::*;

fn config() -> EngineConfig {
    EngineConfig {
        ttft: Duration::from_millis(100),
        prefill_rate: 1000.0,
        itl: Duration::from_millis(10),
        max_num_seqs: 1,
        kv_blocks: 100,
        block_size: 16,
        max_model_len: 131_072,
        max_loras: 0,
        tokens: 5,
    }
}

/// Waiting, of these deferred, running, blocks.
fn gauges(engine: &Engine) -> [u64; 4] {
    let gauges = engine.gauges();
    [
        gauges.waiting,
        gauges.deferred,
        gauges.running,
        gauges.blocks,
    ]
}

fn lora(engine: &Engine) -> Vec<(String, String)> {
    let mut seen = engine.gauges().lora;
    seen.sort_by(|a, b| a.at.total_cmp(&b.at));
    seen.into_iter().map(|c| (c.running, c.waiting)).collect()
}

async fn to_end(mut generation: Generation) -> Duration {
    while generation.token().await {}
    generation.last - generation.arrived
}

#[tokio::test(start_paused = true)]
async fn time_and_blocks() {
    let engine = Engine::new(config());
    let begun = Instant::now();
    let mut generation = engine.start(32, Some(3), None).await.unwrap();
    assert_eq!(gauges(&engine), [0, 0, 1, 2]);
    assert!(generation.token().await);
    assert_eq!(begun.elapsed().as_millis(), 132);
    assert_eq!(gauges(&engine), [0, 0, 1, 3]);
    assert!(generation.token().await && generation.token().await);
    assert!(!generation.token().await);
    assert_eq!(begun.elapsed().as_millis(), 152);
    assert_eq!(generation.tokens(), (32, 3));
    drop(generation);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
    assert_eq!(engine.stats().finished.load(Ordering::Relaxed), 1);
    assert!(lora(&engine).is_empty(), "no LoRA");
}

#[tokio::test(start_paused = true)]
async fn a_full_engine_queues_and_a_client_that_leaves_is_forgotten() {
    let engine = Engine::new(config());
    let first = engine.start(1, Some(1), None).await.unwrap();
    let mut second = Box::pin(engine.start(1, Some(1), None));
    assert!(futures_util::poll!(&mut second).is_pending());
    let mut third = Box::pin(engine.start(1, Some(1), None));
    assert!(futures_util::poll!(&mut third).is_pending());
    assert_eq!(gauges(&engine), [2, 0, 1, 1]);
    drop(second);
    assert_eq!(gauges(&engine), [1, 0, 1, 1]);
    drop(first);
    assert_eq!(gauges(&engine), [0, 0, 1, 1], "it runs before it is asked");
    drop(third);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_its_blocks() {
    let engine = Engine::new(EngineConfig {
        max_num_seqs: 8,
        kv_blocks: 10,
        ..config()
    });
    let first = engine.start(96, Some(1), None).await.unwrap();
    let mut large = Box::pin(engine.start(80, Some(1), None));
    assert!(futures_util::poll!(&mut large).is_pending());
    // Those behind it wait as well, whatever they need.
    let mut small = Box::pin(engine.start(1, Some(1), None));
    assert!(futures_util::poll!(&mut small).is_pending());
    assert_eq!(gauges(&engine), [2, 0, 1, 6]);
    drop(first);
    let (large, small) = (large.await.unwrap(), small.await.unwrap());
    assert_eq!(gauges(&engine), [0, 0, 2, 6]);
    drop((large, small));
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_preempts_the_request_that_began_last() {
    let engine = Engine::new(EngineConfig {
        max_num_seqs: 8,
        kv_blocks: 4,
        ..config()
    });
    // Each fills two blocks, and needs a third for its second token.
    let first = engine.start(31, Some(17), None).await.unwrap();
    let second = engine.start(31, Some(17), None).await.unwrap();
    assert_eq!(gauges(&engine), [0, 0, 2, 4]);
    let times = tokio::join!(to_end(first), async {
        let time = to_end(second).await;
        assert_eq!(engine.gauges().preemptions, 1);
        time
    });
    // The other one was not held up: 131 ms to the first token, 10 ms for each of 16 more.
    assert_eq!(times.0.as_millis(), 131 + 160);
    // It then reads its 31 + 1 tokens again and goes on where it was.
    assert_eq!(times.1.as_millis(), 131 + 160 + 132 + 150);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn many_requests_in_a_small_cache_all_end() {
    let engine = Arc::new(Engine::new(EngineConfig {
        max_num_seqs: 8,
        kv_blocks: 7,
        max_loras: 2,
        ..config()
    }));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..50_u64 {
        let engine = Arc::clone(&engine);
        all.spawn(async move {
            let adapter = ["a", "b", "c"].get(n as usize % 4);
            let limit = 7 * 16 - (n * 7 % 90 + 1);
            let generation = engine.start(n * 7 % 90 + 1, Some(limit), adapter.copied());
            let mut generation = generation.await.unwrap();
            if n % 5 == 0 {
                // Some clients leave.
                generation.token().await;
                return;
            }
            to_end(generation).await;
        });
    }
    while let Some(ended) = all.join_next().await {
        ended.unwrap();
        assert!(engine.gauges().blocks <= 7 && engine.gauges().running <= 8);
    }
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
    assert!(engine.gauges().preemptions > 0);
    assert_eq!(engine.stats().finished.load(Ordering::Relaxed), 40);
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_is_refused() {
    let engine = Engine::new(config());
    let max = 1600;
    for (prompt, limit, expected) in [
        (1600, None, TooLong::Prompt { max, prompt: 1600 }),
        (
            u64::MAX,
            Some(1),
            TooLong::Prompt {
                max,
                prompt: u64::MAX,
            },
        ),
        (
            1590,
            Some(11),
            TooLong::Answer {
                max,
                prompt: 1590,
                limit: 11,
            },
        ),
    ] {
        let refused = engine.start(prompt, limit, None).await.unwrap_err();
        assert_eq!(refused, expected);
    }
    let tokens = [(1590, Some(10)), (1590, Some(0)), (1598, None), (1, None)];
    for ((prompt, limit), expected) in tokens.into_iter().zip([10, 1, 2, 5]) {
        let generation = engine.start(prompt, limit, None).await.unwrap();
        assert_eq!(generation.limit, expected);
    }
    let large = EngineConfig {
        kv_blocks: u64::MAX,
        ..config()
    };
    assert_eq!(large.longest(), 131_072);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_so_many_adapters() {
    let engine = Engine::new(EngineConfig {
        max_num_seqs: 8,
        max_loras: 1,
        ..config()
    });
    let first = engine.start(1, Some(1), Some("a")).await.unwrap();
    let mut other = Box::pin(engine.start(1, Some(1), Some("b")));
    assert!(futures_util::poll!(&mut other).is_pending());
    assert_eq!(gauges(&engine), [1, 1, 1, 1]);
    // It is passed over by its own kind, and by the base model.
    let same = engine.start(1, Some(1), Some("a")).await.unwrap();
    let base = engine.start(1, Some(1), None).await.unwrap();
    assert_eq!(gauges(&engine), [1, 1, 3, 3]);
    assert_eq!(lora(&engine).last().unwrap(), &("a".into(), "b".into()));
    drop((first, base));
    assert!(futures_util::poll!(&mut other).is_pending());
    drop(same);
    let other = other.await.unwrap();
    drop(other);
    let seen = lora(&engine);
    let seen: Vec<_> = seen.iter().map(|(r, w)| (&**r, &**w)).collect();
    assert_eq!(seen, [("a", ""), ("a", "b"), ("b", ""), ("", "")]);
}
