//! The page as a whole.

use std::time::Duration;

use super::*;
use crate::pool::engines::known;
use crate::pool::scan::PageScanner;
use crate::pool::slab::{Scrape, lora_key};
use crate::sim::engine::Prompt;
use crate::sim::step::EngineSpec;
use crate::sim::{EngineConfig, Pace, Times};

fn engine(kv_blocks: u64, max_loras: usize) -> Engine {
    Engine::new(
        EngineConfig {
            kind: EngineKind::Vllm,
            pace: Pace::Fixed(Times {
                ttft: Duration::from_secs(1),
                prefill_rate: 1e9,
                itl: Duration::ZERO,
            }),
            speed: 1.0,
            max_num_seqs: 4,
            kv_blocks,
            block_size: 16,
            max_model_len: 131_072,
            max_loras,
            lora_load: Duration::ZERO,
            tokens: 1,
        },
        std::sync::Arc::default(),
    )
    .unwrap()
}

/// A Llama 3.1 8B on an H100, as another engine.
fn steps(kind: EngineKind) -> Engine {
    let config = EngineConfig {
        kind,
        pace: Pace::Steps(EngineSpec::new("H100", "llama3-8b", 1)),
        ..engine(1000, 0).config().clone()
    };
    Engine::new(config, std::sync::Arc::default()).unwrap()
}

fn scan(page: &str) -> Scrape {
    let engines = known();
    let mut scanner = PageScanner::new(&engines[0]);
    scanner.feed(page.as_bytes());
    scanner.finish()
}

#[tokio::test(start_paused = true)]
async fn our_own_scanner_reads_it() {
    let engine = engine(10, 2);
    let page = Page::new("a \"model\"\\", &engine);
    let _running = engine.start(32.into(), Some(1), Some("a")).unwrap();
    let scrape = scan(&page.print(&engine));
    assert_eq!(
        (scrape.waiting, scrape.running, scrape.kv_usage),
        (Some(0.0), Some(1.0), Some(0.2))
    );
    assert_eq!((scrape.block_size, scrape.kv_blocks), (Some(16), Some(10)));
    let lora = scrape.lora.unwrap();
    assert_eq!((lora.max, &*lora.running), (2, &[lora_key("a")][..]));
}

#[tokio::test(start_paused = true)]
async fn adapters_are_told_from_the_first_request_on() {
    let engine = engine(10, 1);
    let page = Page::new("m", &engine);
    let idle = page.print(&engine);
    assert_eq!(scan(&idle).lora, None);
    assert!(idle.contains("# TYPE vllm:lora_requests_info gauge\n# HELP vllm:cache"));
    let running = engine.start(32.into(), Some(1), Some("a")).unwrap();
    let waiting = engine.start(1.into(), Some(1), Some("b")).unwrap();
    let text = page.print(&engine);
    for line in [
        "\nvllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 1.0\n",
        "\nvllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"m\",reason=\"capacity\"} 0.0\n",
        "\nvllm:num_requests_waiting_by_reason{engine=\"0\",model_name=\"m\",reason=\"deferred\"} 1.0\n",
        "\nvllm:lora_requests_info{max_lora=\"1\",running_lora_adapters=\"a\",waiting_lora_adapters=\"b\"} 1.",
    ] {
        assert!(text.contains(line), "{line}");
    }
    drop((running, waiting));
    let lora = scan(&page.print(&engine)).lora.unwrap();
    assert!(lora.running.is_empty() && lora.waiting.is_empty());
}

#[tokio::test(start_paused = true)]
async fn numbers_move_with_requests() {
    let engine = engine(2000, 0);
    let page = Page::new("m", &engine);
    for prompt in [30_000_u64, 10] {
        let mut generation = engine.start(prompt.into(), Some(3), None).unwrap();
        while !generation.is_done() {
            generation.more().await.unwrap();
        }
    }
    let text = page.print(&engine);
    assert!(!text.contains("lora"), "no LoRA");
    for line in [
        "vllm:prefix_cache_queries_total{engine=\"0\",model_name=\"m\"} 30010.0",
        "vllm:prompt_tokens_total{engine=\"0\",model_name=\"m\"} 30010.0",
        "vllm:prompt_tokens_by_source_total{engine=\"0\",model_name=\"m\",source=\"local_compute\"} 30010.0",
        "vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 6.0",
        "vllm:request_success_total{engine=\"0\",finished_reason=\"length\",model_name=\"m\"} 2.0",
        "vllm:request_prompt_tokens_bucket{engine=\"0\",le=\"20000.0\",model_name=\"m\"} 1.0",
        "vllm:request_prompt_tokens_bucket{engine=\"0\",le=\"+Inf\",model_name=\"m\"} 2.0",
        "vllm:request_prompt_tokens_sum{engine=\"0\",model_name=\"m\"} 30010.0",
        "vllm:time_to_first_token_seconds_count{engine=\"0\",model_name=\"m\"} 2.0",
        "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"m\"} 4.0",
        "vllm:request_time_per_output_token_seconds_count{engine=\"0\",model_name=\"m\"} 2.0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // The cache has room for 32,000 tokens: no bound is larger.
    assert!(!text.contains("le=\"50000.0\""));
}

/// The `TYPE` line of each family, and the sorted label names of each of its series but the buckets, of which it
/// has the number.
fn outline(page: &str) -> String {
    let mut out = String::new();
    let mut buckets = 0;
    for line in page.lines().chain(["# TYPE"]) {
        let is_bucket = line.contains("_bucket{");
        if is_bucket {
            buckets += 1;
        } else if buckets > 0 {
            out.push_str(&format!("  {buckets} buckets\n"));
            buckets = 0;
        }
        if line.starts_with("# HELP") || is_bucket && buckets > 1 {
            continue;
        }
        let Some(series) = line.strip_prefix("# TYPE") else {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let keys: Vec<_> = labels
                .split("\",")
                .map(|label| label.split_once("=\"").map_or("", |(key, _)| key))
                .collect();
            out.push_str(&format!("  {name} {}\n", keys.join(",")));
            continue;
        };
        out.push_str(&format!("{}\n", series.trim()));
    }
    out.trim_end().to_owned()
}

/// The other page was printed by prometheus_client 0.26.0 and prometheus-fastapi-instrumentator 8.1.0, from vLLM's
/// definitions; one adapter had run, and three requests had come.
#[tokio::test(start_paused = true)]
async fn the_outline_is_that_of_a_real_page() {
    let engine = engine(27_808, 2);
    let page = Page::new("meta-llama/Llama-3.1-8B-Instruct", &engine);
    let _running = engine.start(32.into(), Some(1), Some("a")).unwrap();
    let http = page.http();
    let time = Duration::from_millis(5);
    http.observe("/v1/chat/completions", "POST", 200, 7, 7, time);
    http.observe("none", "GET", 404, 0, 22, time);
    http.observe("/v1/models", "GET", 200, 0, 7, time);
    let text = page.print(&engine);
    let found = outline(&text);
    for (found, golden) in found.lines().zip(GOLDEN.lines()) {
        assert_eq!(found, golden);
    }
    assert_eq!(found, GOLDEN.trim_end());
    // As large as real ones.
    assert!(
        (60_000..70_000).contains(&text.len()),
        "{} bytes",
        text.len()
    );
}

const GOLDEN: &str = include_str!("vllm.golden");

/// Printed by prometheus_client 0.26.0 as it collects from several processes, from the engines' definitions, with a value
/// in every family. It does so in the order of its files, so families are sorted by name.
#[tokio::test(start_paused = true)]
async fn the_outlines_of_other_engines_are_those_of_real_pages() {
    for (kind, golden) in [
        (EngineKind::Sglang, include_str!("sglang.golden")),
        (EngineKind::Trtllm, include_str!("trtllm.golden")),
    ] {
        let engine = steps(kind);
        let page = Page::new("m", &engine);
        let idle = page.print(&engine);
        assert!(
            !idle.contains("_bucket") && !idle.contains("_created"),
            "{idle}"
        );
        for limit in [2, 2, 12_000] {
            let prompt = Prompt::new((0..100).collect(), None);
            let mut generation = engine.start(prompt, Some(limit), None).unwrap();
            if limit == 2 {
                while !generation.is_done() {
                    generation.more().await.unwrap();
                }
                continue;
            }
            // One that runs is preempted, then given up.
            generation.more().await.unwrap();
            let other = engine.start(64.into(), Some(12_000), None).unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            engine.withhold(1.0);
            tokio::time::sleep(Duration::from_secs(1)).await;
            engine.sleep(SleepLevel::Paused);
            drop(other);
        }
        let text = page.print(&engine);
        let found = outline(&text);
        let mut families: Vec<Vec<&str>> = Vec::new();
        for line in found.lines() {
            match families.last_mut() {
                Some(family) if line.starts_with(' ') => family.push(line),
                _ => families.push(vec![line]),
            }
        }
        families.sort();
        let found = families.concat();
        let golden: Vec<_> = golden.lines().collect();
        for (found, golden) in found.iter().zip(&golden) {
            assert_eq!(found, golden, "{kind:?}");
        }
        assert_eq!(found.len(), golden.len());
    }
}

#[tokio::test(start_paused = true)]
async fn our_own_scanner_reads_every_engine() {
    for (kind, spec) in [
        (EngineKind::Vllm, 0),
        (EngineKind::Sglang, 1),
        (EngineKind::Trtllm, 2),
    ] {
        let engine = steps(kind);
        let page = Page::new("m", &engine);
        let many: Vec<_> = (0..6)
            .map(|_| engine.start(1600.into(), Some(9), None).unwrap())
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(many);
        let many: Vec<_> = (0..6)
            .map(|_| engine.start(1600.into(), Some(900), None).unwrap())
            .collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        let engines = known();
        let mut scanner = PageScanner::new(&engines[spec]);
        scanner.feed(page.print(&engine).as_bytes());
        let scrape = scanner.finish();
        assert_eq!(
            (scrape.waiting, scrape.running),
            (Some(2.0), Some(4.0)),
            "{kind:?}"
        );
        assert_eq!(
            (scrape.block_size, scrape.kv_blocks),
            (Some(16), Some(1000))
        );
        let usage = scrape.kv_usage.unwrap();
        assert!((0.4..0.5).contains(&usage), "{kind:?}: {usage}");
        drop(many);
    }
}
