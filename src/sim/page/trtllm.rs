//! TensorRT-LLM's families, as `trtllm-serve` has them, and where their numbers come from; and its `/metrics`, which is no
//! page of metrics but JSON.

use serde_json::{Value, json};

use super::{
    Builder, Observed, Reading, Source, cached_tokens, count, has_finished, has_read,
    prompt_tokens, used_blocks,
};
use crate::sim::engine::{Engine, Stats};
use crate::sim::page::labels::Label;

/// Gauges of which each process has its own.
const PROCESS: Label<'static> = ("pid", "1");

pub(super) fn labels(model: &str) -> Vec<Label<'_>> {
    vec![("engine_type", "trtllm"), ("model_name", model)]
}

/// The engine's numbers of the last iteration.
pub(in crate::sim) fn iterations(engine: &Engine) -> Value {
    let (gauges, config) = (engine.gauges(), engine.config());
    let used = (gauges.kv_usage * config.kv_blocks as f64).round();
    let gpu = engine.gpu();
    json!([{
        "iter": gauges.iterations,
        "iterLatencyMS": gpu.map_or(0.0, |gpu| gpu.step) * 1e3,
        "numActiveRequests": gauges.running,
        "numQueuedRequests": gauges.waiting,
        "maxNumActiveRequests": config.max_num_seqs,
        "gpuMemUsage": gpu.map_or(0, |gpu| gpu.memory_used),
        "kvCacheStats": {
            "maxNumBlocks": config.kv_blocks,
            "usedNumBlocks": used,
            "freeNumBlocks": config.kv_blocks as f64 - used,
            "tokensPerBlock": config.block_size,
            "reusedBlocks": gauges.prefix_hits / config.block_size,
            "missedBlocks": (gauges.prefix_queries - gauges.prefix_hits) / config.block_size,
        },
        "inflightBatchingStats": {
            "numScheduledRequests": gauges.running,
            "numContextRequests": gauges.reading,
            "numGenRequests": gauges.running - gauges.reading,
            "numPausedRequests": 0,
        },
    }])
}

pub(super) fn trtllm(page: &mut Builder<'_>, stats: &Stats) {
    requests(page, stats);
    iteration(page);
}

fn requests(page: &mut Builder<'_>, stats: &Stats) {
    page.when(has_finished, |page| {
        page.counter(
            "trtllm_request_success",
            "Count of successfully processed requests.",
            &[
                (
                    Some(("finished_reason", "length")),
                    Some(|r| count(&r.stats.finished)),
                ),
                (
                    Some(("finished_reason", "cancelled")),
                    Some(|r| count(&r.stats.aborted)),
                ),
            ],
        );
        let histograms: [(&str, &str, Observed); 8] = [
            (
                "e2e_request_latency_seconds",
                "Histogram of end to end request latency in seconds.",
                |s| &s.e2e,
            ),
            (
                "time_to_first_token_seconds",
                "Histogram of time to first token in seconds.",
                |s| &s.ttft,
            ),
            (
                "time_per_output_token_seconds",
                "Histogram of time per output token in seconds.",
                |s| &s.tpot,
            ),
            (
                "request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request.",
                |s| &s.queue,
            ),
            (
                "request_prefill_time_seconds",
                "Histogram of prefill (context) phase duration in seconds (first_token_time - first_scheduled_time).",
                |s| &s.prefill,
            ),
            (
                "request_decode_time_seconds",
                "Histogram of decode (generation) phase duration in seconds (last_token_time - first_token_time).",
                |s| &s.decode,
            ),
            (
                "request_inference_time_seconds",
                "Histogram of total inference duration in seconds (last_token_time - first_scheduled_time).",
                |s| &s.inference,
            ),
            (
                "prompt_cached_tokens_per_request",
                "Histogram of cached prompt tokens per request.",
                |s| &s.cached,
            ),
        ];
        for (name, help, of) in histograms {
            page.histogram(&format!("trtllm_{name}"), help, of, stats);
        }
        let counters: [(&str, &str, Source); 3] = [
            (
                "prompt_tokens",
                "Cumulative number of prompt (input) tokens processed.",
                prompt_tokens,
            ),
            (
                "generation_tokens",
                "Cumulative number of generation (output) tokens produced.",
                |r| count(&r.stats.generated_tokens),
            ),
            (
                "num_requests_completed",
                "Total number of completed requests across iterations",
                |r| count(&r.stats.finished),
            ),
        ];
        for (name, help, source) in counters {
            page.counter(&format!("trtllm_{name}"), help, &[(None, Some(source))]);
        }
    });
    page.counter(
        "trtllm_prompt_cached_tokens",
        "Process-lifetime total prompt tokens served from KV cache. Resets only when the serving process restarts, not when the KV cache is flushed or evicted.",
        &[(None, Some(cached_tokens))],
    );
}

fn reused(reading: &Reading<'_>) -> f64 {
    reading.gauges.prefix_hits as f64 / reading.config.block_size as f64
}

fn missed(reading: &Reading<'_>) -> f64 {
    let tokens = reading.gauges.prefix_queries - reading.gauges.prefix_hits;
    (tokens as f64 / reading.config.block_size as f64).floor()
}

fn iteration(page: &mut Builder<'_>) {
    page.when(has_read, |page| {
        let counters: [(&str, &str, Source); 2] = [
            (
                "kv_cache_reused_blocks",
                "Cumulative number of KV cache blocks reused (cache hits)",
                reused,
            ),
            (
                "kv_cache_missed_blocks",
                "Cumulative number of KV cache blocks missed (cache misses)",
                missed,
            ),
        ];
        for (name, help, source) in counters {
            page.counter(&format!("trtllm_{name}"), help, &[(None, Some(source))]);
        }
    });
    let gauges: [(&str, &str, Option<Source>); 21] = [
        (
            "kv_cache_hit_rate",
            "KV cache hit rate",
            Some(|r| {
                let all = reused(r) + missed(r);
                if all > 0.0 { reused(r) / all } else { 0.0 }
            }),
        ),
        (
            "kv_cache_utilization",
            "KV cache utilization",
            Some(|r| r.gauges.kv_usage),
        ),
        (
            "num_requests_running",
            "Number of active requests",
            Some(|r| f64::from(r.gauges.running)),
        ),
        (
            "num_requests_waiting",
            "Number of queued requests",
            Some(|r| f64::from(r.gauges.waiting)),
        ),
        (
            "max_num_active_requests",
            "Maximum number of active requests",
            Some(|r| r.config.max_num_seqs as f64),
        ),
        (
            "iteration_latency_seconds",
            "Iteration latency in seconds",
            Some(|r| r.gpu.map_or(0.0, |gpu| gpu.step)),
        ),
        (
            "gpu_memory_usage_bytes",
            "GPU memory usage in bytes",
            Some(|r| r.gpu.map_or(0.0, |gpu| gpu.memory_used as f64)),
        ),
        ("cpu_memory_usage_bytes", "CPU memory usage in bytes", None),
        (
            "pinned_memory_usage_bytes",
            "Pinned memory usage in bytes",
            None,
        ),
        (
            "max_batch_size_static",
            "Static maximum batch size",
            Some(|r| r.config.max_num_seqs as f64),
        ),
        (
            "max_batch_size_runtime",
            "Runtime maximum batch size",
            Some(|r| r.config.max_num_seqs as f64),
        ),
        (
            "max_num_tokens_runtime",
            "Runtime maximum number of tokens",
            Some(|r| r.config.longest() as f64),
        ),
        (
            "kv_cache_max_blocks",
            "Maximum number of KV cache blocks",
            Some(|r| r.config.kv_blocks as f64),
        ),
        (
            "kv_cache_free_blocks",
            "Number of free KV cache blocks",
            Some(|r| r.config.kv_blocks as f64 - used_blocks(r)),
        ),
        (
            "kv_cache_used_blocks",
            "Number of used KV cache blocks",
            Some(used_blocks),
        ),
        (
            "kv_cache_tokens_per_block",
            "Number of tokens per KV cache block",
            Some(|r| r.config.block_size as f64),
        ),
        (
            "num_context_requests",
            "Number of context (prefill) requests",
            Some(|r| f64::from(r.gauges.reading)),
        ),
        (
            "num_generation_requests",
            "Number of generation (decode) requests",
            Some(|r| f64::from(r.gauges.running - r.gauges.reading)),
        ),
        ("num_paused_requests", "Number of paused requests", None),
        (
            "num_scheduled_requests",
            "Number of scheduled requests",
            Some(|r| f64::from(r.gauges.running)),
        ),
        (
            "prefill_batch_occupancy",
            "Fraction of max active slots occupied by context requests.",
            Some(|r| f64::from(r.gauges.reading) / r.config.max_num_seqs as f64),
        ),
    ];
    for (name, help, source) in gauges {
        let series = [(Some(PROCESS), source)];
        page.gauge(&format!("trtllm_{name}"), help, &series);
    }
}
