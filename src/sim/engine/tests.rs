//! Who runs when, and what is refused.

use std::sync::atomic::Ordering;

use super::*;

fn config() -> EngineConfig {
    EngineConfig {
        kind: EngineKind::Vllm,
        pace: Pace::Fixed(Times {
            ttft: Duration::from_millis(100),
            prefill_rate: 1000.0,
            itl: Duration::from_millis(10),
        }),
        speed: 1.0,
        max_num_seqs: 1,
        kv_blocks: 100,
        block_size: 16,
        max_model_len: 131_072,
        max_loras: 0,
        lora_load: Duration::ZERO,
        tokens: 5,
    }
}

/// A Llama 3.1 8B on an H100.
fn h100() -> EngineConfig {
    EngineConfig {
        pace: Pace::Steps(EngineSpec::new("H100", "llama3-8b", 1)),
        max_num_seqs: 8,
        ..config()
    }
}

fn engine(config: EngineConfig) -> Engine {
    Engine::new(config, Arc::default()).unwrap()
}

/// Waiting, of these deferred, running, blocks.
fn gauges(engine: &Engine) -> [u64; 4] {
    let gauges = engine.gauges();
    let blocks = gauges.kv_usage * engine.config().kv_blocks as f64;
    [
        gauges.waiting.into(),
        gauges.deferred.into(),
        gauges.running.into(),
        blocks.round() as u64,
    ]
}

fn lora(engine: &Engine) -> Vec<(String, String)> {
    let mut seen = engine.adapters();
    seen.sort_by(|a, b| a.at.total_cmp(&b.at));
    seen.into_iter().map(|c| (c.running, c.waiting)).collect()
}

async fn to_end(mut generation: Generation) -> Result<Generation, Lost> {
    while !generation.is_done() {
        generation.more().await?;
    }
    Ok(generation)
}

#[tokio::test(start_paused = true)]
async fn time_and_blocks() {
    let engine = engine(config());
    let begun = Instant::now();
    let mut generation = engine.start(32.into(), Some(3), None).unwrap();
    assert_eq!(gauges(&engine), [0, 0, 1, 2]);
    assert_eq!(generation.more().await, Ok(1));
    assert_eq!(begun.elapsed().as_millis(), 132);
    assert_eq!(gauges(&engine), [0, 0, 1, 3]);
    assert_eq!(generation.more().await, Ok(1));
    assert_eq!(generation.more().await, Ok(1));
    assert_eq!(generation.more().await, Ok(0));
    assert_eq!(begun.elapsed().as_millis(), 152);
    assert_eq!(generation.tokens(), (32, 3));
    assert_eq!(generation.cached_tokens(), None);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
    assert_eq!(engine.stats().finished.load(Ordering::Relaxed), 1);
    assert!(lora(&engine).is_empty(), "no LoRA");
}

#[tokio::test(start_paused = true)]
async fn a_late_reader_gets_all_that_has_come_and_speed_scales_time() {
    for (speed, real) in [(1.0, 152), (4.0, 38)] {
        let engine = engine(EngineConfig { speed, ..config() });
        let begun = Instant::now();
        let generation = engine.start(32.into(), Some(3), None).unwrap();
        let mut generation = to_end(generation).await.unwrap();
        assert_eq!(begun.elapsed().as_millis(), real);
        assert_eq!(generation.more().await, Ok(0));
        let mut late = engine.start(32.into(), Some(3), None).unwrap();
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert_eq!(late.more().await, Ok(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_engine_queues_and_a_client_that_leaves_is_forgotten() {
    let engine = engine(config());
    let start = || engine.start(1.into(), Some(1), None).unwrap();
    let (first, second, third) = (start(), start(), start());
    assert_eq!(gauges(&engine), [2, 0, 1, 1]);
    drop(second);
    assert_eq!(gauges(&engine), [1, 0, 1, 1]);
    drop(first);
    assert_eq!(gauges(&engine), [0, 0, 1, 1]);
    drop(third);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
    let all: Vec<_> = (0..=LONGEST_QUEUE).map(|_| start()).collect();
    let refused = engine.start(1.into(), Some(1), None).unwrap_err();
    assert_eq!(refused, NotTaken::Full);
    drop(all);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_its_blocks() {
    let engine = engine(EngineConfig {
        max_num_seqs: 8,
        kv_blocks: 10,
        ..config()
    });
    let first = engine.start(96.into(), Some(1), None).unwrap();
    let large = engine.start(80.into(), Some(1), None).unwrap();
    // Those behind it wait as well, whatever they need.
    let small = engine.start(1.into(), Some(1), None).unwrap();
    assert_eq!(gauges(&engine), [2, 0, 1, 6]);
    drop(first);
    assert_eq!(gauges(&engine), [0, 0, 2, 6]);
    drop((large, small));
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_full_cache_preempts_the_request_that_began_last() {
    let engine = engine(EngineConfig {
        max_num_seqs: 8,
        kv_blocks: 4,
        ..config()
    });
    let begun = Instant::now();
    // Each fills two blocks, and needs a third for its second token.
    let first = engine.start(31.into(), Some(17), None).unwrap();
    let second = engine.start(31.into(), Some(17), None).unwrap();
    assert_eq!(gauges(&engine), [0, 0, 2, 4]);
    let time = async |generation| {
        to_end(generation).await.unwrap();
        begun.elapsed().as_millis()
    };
    let times = tokio::join!(time(first), time(second));
    assert_eq!(engine.gauges().preemptions, 1);
    // The other one was not held up: 131 ms to the first token, 10 ms for each of 16 more.
    assert_eq!(times.0, 131 + 160);
    // It then reads its 31 + 1 tokens again and goes on where it was.
    assert_eq!(times.1, 131 + 160 + 132 + 150);
    assert_eq!(gauges(&engine), [0, 0, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn many_requests_in_a_small_cache_all_end() {
    for config in [config(), h100()] {
        let engine = Arc::new(engine(EngineConfig {
            max_num_seqs: 8,
            kv_blocks: 7,
            max_loras: 2,
            ..config
        }));
        let mut all = tokio::task::JoinSet::new();
        for n in 0..50_u64 {
            let engine = Arc::clone(&engine);
            all.spawn(async move {
                let adapter = ["a", "b", "c"].get(n as usize % 4);
                let prompt = n * 7 % 90 + 1;
                let limit = 7 * 16 - prompt;
                let generation = engine.start(prompt.into(), Some(limit), adapter.copied());
                let mut generation = generation.unwrap();
                if n % 5 == 0 {
                    // Some clients leave.
                    generation.more().await.unwrap();
                    return;
                }
                to_end(generation).await.unwrap();
            });
        }
        while let Some(ended) = all.join_next().await {
            ended.unwrap();
            let gauges = engine.gauges();
            assert!(gauges.kv_usage <= 1.0 && gauges.running <= 8);
        }
        // A cancelled one ends with its step.
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(gauges(&engine), [0, 0, 0, 0]);
        assert!(engine.gauges().preemptions > 0);
        let finished = engine.stats().finished.load(Ordering::Relaxed);
        assert!((40..50).contains(&finished), "{finished}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_is_refused() {
    let engine = engine(config());
    let max = 1600;
    for (prompt, limit, expected) in [
        (1600, None, NotTaken::Prompt { max, prompt: 1600 }),
        (
            u64::MAX,
            Some(1),
            NotTaken::Prompt {
                max,
                prompt: u64::MAX,
            },
        ),
        (
            1590,
            Some(11),
            NotTaken::Answer {
                max,
                prompt: 1590,
                limit: 11,
            },
        ),
    ] {
        let refused = engine.start(prompt.into(), limit, None).unwrap_err();
        assert_eq!(refused, expected);
    }
    let tokens = [(1590, Some(10)), (1590, Some(0)), (1598, None), (1, None)];
    for ((prompt, limit), expected) in tokens.into_iter().zip([10, 1, 2, 5]) {
        let generation = engine.start(prompt.into(), limit, None).unwrap();
        let generation = to_end(generation).await.unwrap();
        assert_eq!(generation.tokens().1, expected);
    }
    let large = EngineConfig {
        kv_blocks: u64::MAX,
        ..config()
    };
    assert_eq!(large.longest(), 131_072);
}

#[tokio::test(start_paused = true)]
async fn a_batch_has_so_many_adapters() {
    let engine = engine(EngineConfig {
        max_num_seqs: 8,
        max_loras: 1,
        ..config()
    });
    let start = |adapter| engine.start(1.into(), Some(1), adapter).unwrap();
    let first = start(Some("a"));
    let other = start(Some("b"));
    assert_eq!(gauges(&engine), [1, 1, 1, 1]);
    // It is passed over by its own kind, and by the base model.
    let same = start(Some("a"));
    let base = start(None);
    assert_eq!(gauges(&engine), [1, 1, 3, 3]);
    assert_eq!(lora(&engine).last().unwrap(), &("a".into(), "b".into()));
    drop((first, base));
    assert_eq!(gauges(&engine), [1, 1, 1, 1]);
    drop(same);
    assert_eq!(gauges(&engine), [0, 0, 1, 1]);
    drop(other);
    let seen = lora(&engine);
    let seen: Vec<_> = seen.iter().map(|(r, w)| (&**r, &**w)).collect();
    assert_eq!(seen, [("a", ""), ("a", "b"), ("b", ""), ("", "")]);
}

#[tokio::test(start_paused = true)]
async fn steps_find_the_prefix_of_a_prompt_that_was_read_before() {
    let engine = engine(EngineConfig {
        max_loras: 1,
        ..h100()
    });
    let text: Vec<u32> = (0..425).collect();
    let read = async |text: &[u32], adapter: Option<&str>, salt: Option<&str>| {
        let prompt = Prompt::new(text.to_vec(), salt.map(str::to_owned));
        let generation = engine.start(prompt, Some(4), adapter).unwrap();
        let generation = to_end(generation).await.unwrap();
        generation.cached_tokens().unwrap()
    };
    assert_eq!(read(&text, None, None).await, 0);
    // 26 blocks of 16 and a rest.
    assert_eq!(read(&text, None, None).await, 416);
    assert_eq!(
        read(&text[..160], None, None).await,
        144,
        "never the last token"
    );
    assert_eq!(read(&text[1..], None, None).await, 0);
    assert_eq!(read(&text, None, Some("salt")).await, 0);
    assert_eq!(read(&text, Some("a"), None).await, 0);
    let (gauges, stats) = (engine.gauges(), engine.stats());
    assert_eq!(gauges.prefix_hits, 416 + 144);
    assert_eq!(stats.cached_tokens.load(Ordering::Relaxed), 416 + 144);
    assert!(gauges.iterations >= 6 * 4);
}

#[tokio::test(start_paused = true)]
async fn an_engine_dies_hangs_and_comes_back() {
    for config in [config(), h100()] {
        let engine = engine(EngineConfig {
            max_num_seqs: 8,
            ..config
        });
        let start = || engine.start(32.into(), Some(1000), None).unwrap();
        let mut running = start();
        running.more().await.unwrap();
        engine.hang();
        let mut hung = start();
        let before = engine.gauges();
        let waits = tokio::time::timeout(Duration::from_secs(99), hung.more()).await;
        assert!(waits.is_err() && before.running == 1);
        assert_eq!(engine.gauges(), before);
        engine.die();
        assert!(engine.is_dead());
        assert_eq!(hung.more().await, Err(Lost));
        assert_eq!(engine.gauges(), Gauges::default());
        let refused = engine.start(32.into(), Some(1), None).unwrap_err();
        assert_eq!(refused, NotTaken::Dead(Lost));
        engine.restart();
        to_end(start()).await.unwrap();
        assert_eq!(engine.stats().finished.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_engine_is_slow() {
    for config in [config(), h100()] {
        let engine = engine(config);
        let mut times = Vec::new();
        for slow in [1.0, 3.0] {
            engine.set_slow([slow; 2]);
            let begun = Instant::now();
            let generation = engine.start(32.into(), Some(100), None).unwrap();
            to_end(generation).await.unwrap();
            times.push(begun.elapsed().as_secs_f64());
        }
        assert!(times[1] > 2.0 * times[0], "virtual time: {times:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_storm_preempts_and_passes() {
    for config in [config(), h100()] {
        let engine = engine(EngineConfig {
            max_num_seqs: 8,
            ..config
        });
        let start = || engine.start(32.into(), Some(200), None).unwrap();
        let mut running: Vec<_> = (0..4).map(|_| start()).collect();
        for generation in &mut running {
            generation.more().await.unwrap();
        }
        engine.withhold(1.0);
        assert_eq!(engine.gauges().kv_usage, 1.0);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(engine.gauges().preemptions > 0);
        engine.withhold(0.0);
        for generation in running {
            to_end(generation).await.unwrap();
        }
        assert_eq!(gauges(&engine), [0, 0, 0, 0]);
    }
}
