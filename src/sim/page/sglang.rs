//! SGLang's families, in the order of their definition, and where their numbers come from. A page of its KV cache is a
//! block here.

use super::{
    Builder, Observed, Reading, Series, Source, cached_tokens, computed_tokens, count,
    has_finished, has_read, used_blocks,
};
use crate::sim::engine::Stats;
use crate::sim::page::labels::Label;

const STREAMS: [Label<'static>; 2] = [("is_streaming", "false"), ("is_streaming", "true")];

/// Of all that the scheduler counts.
pub(super) fn labels(model: &str) -> Vec<Label<'_>> {
    vec![
        ("engine_type", "unified"),
        ("model_name", model),
        ("moe_ep_rank", "0"),
        ("pp_rank", "0"),
        ("tp_rank", "0"),
    ]
}

fn block_tokens(reading: &Reading<'_>, blocks: f64) -> f64 {
    blocks * reading.config.block_size as f64
}

fn total_tokens(reading: &Reading<'_>) -> f64 {
    block_tokens(reading, reading.config.kv_blocks as f64)
}

fn used_tokens(reading: &Reading<'_>) -> f64 {
    block_tokens(reading, used_blocks(reading))
}

fn cached(reading: &Reading<'_>) -> f64 {
    (reading.gauges.kv_cached * reading.config.kv_blocks as f64).round()
}

fn hit_rate(reading: &Reading<'_>) -> f64 {
    let (hits, queries) = (
        reading.gauges.prefix_hits as f64,
        reading.gauges.prefix_queries as f64,
    );
    if queries > 0.0 { hits / queries } else { 0.0 }
}

pub(super) fn sglang<'a>(page: &mut Builder<'a>, model: &'a str, stats: &Stats) {
    scheduler(page);
    page.when(has_read, |page| {
        let tokens = "Total number of tokens processed (updated on each log interval). mode: prefill_compute, prefill_cache, decode.";
        counter(
            page,
            "realtime_tokens",
            tokens,
            &[
                (Some(("mode", "prefill_compute")), Some(computed_tokens)),
                (Some(("mode", "prefill_cache")), Some(cached_tokens)),
                (
                    Some(("mode", "decode")),
                    Some(|r| count(&r.stats.generated_tokens)),
                ),
            ],
        );
    });
    counter(
        page,
        "prefill_effective_tokens",
        "Effective prefill tokens with retracted-request re-counts excluded, updated on each log interval. mode: device_hit, host_hit, storage_hit, input. Windowed prefix cache hit rate = rate(sum of *_hit) / rate(sum of all modes); per-tier rate uses a single *_hit mode in the numerator.",
        &[
            (Some(("mode", "input")), Some(computed_tokens)),
            (Some(("mode", "device_hit")), Some(cached_tokens)),
            (Some(("mode", "host_hit")), None),
            (Some(("mode", "storage_hit")), None),
        ],
    );
    page.when(has_finished, |page| {
        page.histogram(
            "sglang:queue_time_seconds",
            "Histogram of queueing time in seconds.",
            |s| &s.queue,
            stats,
        );
    });
    // What the tokenizer's process counts has no ranks.
    page.base = vec![("engine_type", "unified"), ("model_name", model)];
    tokenizer(page, stats);
}

fn counter(page: &mut Builder<'_>, name: &str, help: &str, series: &[Series]) {
    page.counter(&format!("sglang:{name}"), help, series);
}

fn scheduler(page: &mut Builder<'_>) {
    let gauges: [(&str, &str, Option<Source>); 40] = [
        (
            "num_running_reqs",
            "The number of running requests.",
            Some(|r| f64::from(r.gauges.running)),
        ),
        (
            "num_queue_reqs",
            "The number of requests in the waiting queue.",
            Some(|r| f64::from(r.gauges.waiting)),
        ),
        (
            "num_grammar_queue_reqs",
            "The number of requests in the grammar waiting queue.",
            None,
        ),
        (
            "gen_throughput",
            "The generation throughput (token/s).",
            Some(|r| r.throughput),
        ),
        (
            "cache_hit_rate",
            "The prefix cache hit rate.",
            Some(hit_rate),
        ),
        (
            "decode_sum_seq_lens",
            "The sum of all sequence lengths in decode.",
            Some(used_tokens),
        ),
        (
            "token_usage",
            "The token usage.",
            Some(|r| r.gauges.kv_usage),
        ),
        (
            "full_token_usage",
            "The token usage for full attention layers.",
            Some(|r| r.gauges.kv_usage),
        ),
        ("swa_token_usage", "The token usage for SWA layers.", None),
        ("mamba_usage", "The token usage for Mamba layers.", None),
        (
            "num_used_tokens",
            "The number of used tokens.",
            Some(used_tokens),
        ),
        (
            "kv_available_tokens",
            "Number of free token slots in the KV cache pool.",
            Some(|r| {
                let taken = used_blocks(r) + cached(r);
                total_tokens(r) - block_tokens(r, taken)
            }),
        ),
        (
            "kv_evictable_tokens",
            "Number of evictable (radix-cached) token slots in the KV cache pool.",
            Some(|r| block_tokens(r, cached(r))),
        ),
        (
            "kv_used_tokens",
            "Number of actively used token slots in the KV cache pool.",
            Some(used_tokens),
        ),
        (
            "swa_available_tokens",
            "Number of free token slots in the SWA pool (hybrid-SWA only).",
            None,
        ),
        (
            "swa_evictable_tokens",
            "Number of evictable (radix-cached) token slots in the SWA pool.",
            None,
        ),
        (
            "swa_used_tokens",
            "Number of actively used token slots in the SWA pool.",
            None,
        ),
        (
            "mamba_available_tokens",
            "Number of free state slots in the mamba SSM pool (hybrid-SSM only).",
            None,
        ),
        (
            "mamba_evictable_tokens",
            "Number of evictable (radix-cached) state slots in the mamba SSM pool.",
            None,
        ),
        (
            "mamba_used_tokens",
            "Number of actively used state slots in the mamba SSM pool.",
            None,
        ),
        (
            "spec_accept_length",
            "Mean acceptance length of speculative decoding (accepted drafts + bonus token per forward).",
            None,
        ),
        (
            "spec_accept_rate",
            "Speculative acceptance rate (`accepted drafts / proposed drafts` in batch).",
            None,
        ),
        (
            "spec_cap_length",
            "Mean DSpark confidence-scheduled verify window per verify step, incl the bonus slot (0 when no cap is scheduled).",
            None,
        ),
        (
            "spec_block_accept_length",
            "Mean uncapped full-block accept length per verify step (accept + cap-trimmed drafts; exact only in DSpark cap-accept mode).",
            None,
        ),
        (
            "spec_num_steps",
            "Currently active speculative_num_steps.",
            None,
        ),
        (
            "spec_num_draft_tokens",
            "Currently active speculative_num_draft_tokens (decouples from steps under topk>1).",
            None,
        ),
        (
            "num_prefill_bootstrap_queue_reqs",
            "The number of requests in the prefill bootstrap queue.",
            None,
        ),
        (
            "num_prefill_inflight_queue_reqs",
            "The number of requests in the prefill inflight queue.",
            None,
        ),
        (
            "num_decode_prealloc_queue_reqs",
            "The number of requests in the decode prealloc queue.",
            None,
        ),
        (
            "num_decode_transfer_queue_reqs",
            "The number of requests in the decode transfer queue.",
            None,
        ),
        (
            "pending_prealloc_token_usage",
            "The token usage for pending preallocated tokens (not preallocated yet).",
            None,
        ),
        ("utilization", "The utilization.", None),
        (
            "fwd_occupancy",
            "Forward pass GPU occupancy percentage.",
            Some(|_| f64::NAN),
        ),
        ("new_token_ratio", "The new token ratio.", Some(|_| 0.7)),
        (
            "is_cuda_graph",
            "Whether the batch is using CUDA graph.",
            Some(|r| f64::from(u8::from(r.gauges.running > 0 && r.gauges.reading == 0))),
        ),
        (
            "num_unique_running_routing_keys",
            "Number of unique routing keys in running batch.",
            None,
        ),
        (
            "max_total_num_tokens",
            "Maximum total number of tokens in the KV cache pool.",
            Some(total_tokens),
        ),
        (
            "page_size",
            "KV cache page size in tokens.",
            Some(|r| r.config.block_size as f64),
        ),
        (
            "num_pages",
            "Number of KV cache pages.",
            Some(|r| r.config.kv_blocks as f64),
        ),
        (
            "context_len",
            "Maximum context length.",
            Some(|r| r.config.longest() as f64),
        ),
    ];
    for (name, help, source) in gauges {
        page.gauge(&format!("sglang:{name}"), help, &[(None, source)]);
    }
    for (name, help) in [
        ("num_retracted_reqs", "The number of retracted requests."),
        (
            "num_paused_reqs",
            "The number of paused requests by async weight sync.",
        ),
    ] {
        let series = [(Some(("pid", "1")), None)];
        page.gauge(&format!("sglang:{name}"), help, &series);
    }
    page.when(
        |r| r.gauges.preemptions > 0,
        |page| {
            counter(
                page,
                "num_retracted_requests",
                "Total number of retracted requests.",
                &[(None, Some(|r| r.gauges.preemptions as f64))],
            );
        },
    );
}

fn tokenizer(page: &mut Builder<'_>, stats: &Stats) {
    let both = |of: [Source; 2]| {
        [
            (Some(STREAMS[0]), Some(of[0])),
            (Some(STREAMS[1]), Some(of[1])),
        ]
    };
    page.when(has_finished, |page| {
        counter(
            page,
            "prompt_tokens",
            "Number of prefill tokens processed.",
            &both([
                |r| count(&r.stats.by_streaming[0].prompt_tokens),
                |r| count(&r.stats.by_streaming[1].prompt_tokens),
            ]),
        );
        counter(
            page,
            "generation_tokens",
            "Number of generation tokens processed.",
            &both([
                |r| count(&r.stats.by_streaming[0].generated_tokens),
                |r| count(&r.stats.by_streaming[1].generated_tokens),
            ]),
        );
        counter(
            page,
            "num_requests",
            "Number of requests processed.",
            &both([
                |r| count(&r.stats.by_streaming[0].finished),
                |r| count(&r.stats.by_streaming[1].finished),
            ]),
        );
        for (name, help, of) in [
            (
                "prompt_tokens_histogram",
                "Histogram of prompt token length.",
                (|s| &s.prompt) as Observed,
            ),
            (
                "uncached_prompt_tokens_histogram",
                "Histogram of uncached (compute) prompt token length.",
                |s| &s.computed,
            ),
            (
                "generation_tokens_histogram",
                "Histogram of generation token length.",
                |s| &s.generation,
            ),
        ] {
            page.histogram(&format!("sglang:{name}"), help, of, stats);
        }
        page.histograms(
            "sglang:e2e_request_latency_seconds",
            "Histogram of End-to-end request latency in seconds",
            &[
                (Some(STREAMS[0]), |s| &s.by_streaming[0].e2e),
                (Some(STREAMS[1]), |s| &s.by_streaming[1].e2e),
            ],
            stats,
        );
    });
    page.when(
        |r| cached_tokens(r) > 0.0,
        |page| {
            counter(
                page,
                "cached_tokens",
                "Number of cached prompt tokens by source (device/host/storage).",
                &[(Some(("cache_source", "device")), Some(cached_tokens))],
            );
        },
    );
    page.when(
        |r| count(&r.stats.aborted) > 0.0,
        |page| {
            counter(
                page,
                "num_aborted_requests",
                "Number of requests aborted.",
                &[(None, Some(|r| count(&r.stats.aborted)))],
            );
        },
    );
    page.when(has_read, |page| {
        page.histograms(
            "sglang:time_to_first_token_seconds",
            "Histogram of time to first token in seconds.",
            &[
                (Some(STREAMS[0]), |s| &s.by_streaming[0].ttft),
                (Some(STREAMS[1]), |s| &s.by_streaming[1].ttft),
            ],
            stats,
        );
    });
    page.when(
        |r| !r.stats.itl.is_empty(),
        |page| {
            page.histogram(
                "sglang:inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds.",
                |s| &s.itl,
                stats,
            );
        },
    );
}
