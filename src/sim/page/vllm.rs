//! vLLM's families, in their order, and where their numbers come from.

use super::{Builder, Piece, Source, cached_tokens, computed_tokens, count, prompt_tokens};
use crate::sim::engine::{EngineConfig, SleepLevel, Stats};

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

/// The families of prometheus_client itself.
pub(super) fn python(page: &mut Builder<'_>, started: &str) {
    for (name, help) in [
        ("python_gc_objects_collected", "Objects collected during gc"),
        (
            "python_gc_objects_uncollectable",
            "Uncollectable objects found during GC",
        ),
        (
            "python_gc_collections",
            "Number of times this generation was collected",
        ),
    ] {
        let name = format!("{name}_total");
        page.head(&name, "counter", help);
        for generation in ["0", "1", "2"] {
            page.line(&name, &[("generation", generation)], "0.0");
        }
    }
    page.head("python_info", "gauge", "Python platform information");
    let labels = [
        ("implementation", "CPython"),
        ("major", "3"),
        ("minor", "12"),
        ("patchlevel", "12"),
        ("version", "3.12.12"),
    ];
    page.line("python_info", &labels, "1.0");
    for (name, kind, help, value) in [
        (
            "process_virtual_memory_bytes",
            "gauge",
            "Virtual memory size in bytes.",
            "0.0",
        ),
        (
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory size in bytes.",
            "0.0",
        ),
        (
            "process_start_time_seconds",
            "gauge",
            "Start time of the process since unix epoch in seconds.",
            started,
        ),
        (
            "process_cpu_seconds_total",
            "counter",
            "Total user and system CPU time spent in seconds.",
            "0.0",
        ),
        (
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            "0.0",
        ),
        (
            "process_max_fds",
            "gauge",
            "Maximum number of open file descriptors.",
            "0.0",
        ),
    ] {
        page.head(name, kind, help);
        page.line(name, &[], value);
    }
}

/// vLLM's.
pub(super) fn vllm(page: &mut Builder<'_>, config: &EngineConfig, stats: &Stats) {
    for (name, what) in [
        ("flops", "floating point operations"),
        ("read_bytes", "bytes read from memory"),
        ("write_bytes", "bytes written to memory"),
    ] {
        page.counter(
            &format!("vllm:estimated_{name}_per_gpu"),
            &format!(
                "Estimated number of {what} per GPU (for Model Flops Utilization calculations)."
            ),
            &[(None, None)],
        );
    }
    scheduler(page);
    counters(page);
    histograms(page, stats);
    if config.max_loras > 0 {
        page.head(
            "vllm:lora_requests_info",
            "gauge",
            "Running stats on lora requests.",
        );
        page.pieces.push(Piece::Lora);
    }
    cache_config(page, config);
}

fn scheduler(page: &mut Builder<'_>) {
    page.gauge(
        "vllm:num_requests_running",
        "Number of requests in model execution batches.",
        &[(None, Some(|r| f64::from(r.gauges.running)))],
    );
    page.gauge(
        "vllm:num_requests_waiting",
        "Number of requests waiting to be processed.",
        &[(None, Some(|r| f64::from(r.gauges.waiting)))],
    );
    page.gauge(
        "vllm:num_requests_waiting_by_reason",
        "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; 'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). Sum of all reasons equals vllm:num_requests_waiting.",
        &[
            (
                Some(("reason", "capacity")),
                Some(|r| f64::from(r.gauges.waiting.saturating_sub(r.gauges.deferred))),
            ),
            (
                Some(("reason", "deferred")),
                Some(|r| f64::from(r.gauges.deferred)),
            ),
        ],
    );
    page.gauge(
        "vllm:engine_sleep_state",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake; weights_offloaded = 1 means sleep level 1; discard_all = 1 means sleep level 2.",
        &[
            (Some(("sleep_state", "awake")), Some(|r| flag(r.asleep.is_none()))),
            (
                Some(("sleep_state", "weights_offloaded")),
                Some(|r| flag(r.asleep == Some(SleepLevel::Offloaded))),
            ),
            (
                Some(("sleep_state", "discard_all")),
                Some(|r| flag(r.asleep == Some(SleepLevel::Discarded))),
            ),
        ],
    );
    page.gauge(
        "vllm:kv_cache_usage_perc",
        "KV-cache usage. 1 means 100 percent usage.",
        &[(None, Some(|r| r.gauges.kv_usage))],
    );
}

fn counters(page: &mut Builder<'_>) {
    let one: [(&str, &str, Option<Source>); 8] = [
        (
            "corrupted_requests",
            "Corrupted requests, in terms of total number of requests with NaNs in logits.",
            None,
        ),
        (
            "prefix_cache_queries",
            "Prefix cache queries, in terms of number of queried tokens.",
            Some(|r| r.gauges.prefix_queries as f64),
        ),
        (
            "prefix_cache_hits",
            "Prefix cache hits, in terms of number of cached tokens.",
            Some(|r| r.gauges.prefix_hits as f64),
        ),
        (
            "external_prefix_cache_queries",
            "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.",
            None,
        ),
        (
            "external_prefix_cache_hits",
            "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.",
            None,
        ),
        (
            "mm_cache_queries",
            "Multi-modal cache queries, in terms of number of queried items.",
            None,
        ),
        (
            "mm_cache_hits",
            "Multi-modal cache hits, in terms of number of cached items.",
            None,
        ),
        (
            "num_preemptions",
            "Cumulative number of preemption from the engine.",
            Some(|r| r.gauges.preemptions as f64),
        ),
    ];
    for (name, help, source) in one {
        page.counter(&format!("vllm:{name}"), help, &[(None, source)]);
    }
    page.counter(
        "vllm:prompt_tokens",
        "Number of prefill tokens processed.",
        &[(None, Some(prompt_tokens))],
    );
    page.counter(
        "vllm:prompt_tokens_by_source",
        "Number of prompt tokens by source.",
        &[
            (Some(("source", "local_compute")), Some(computed_tokens)),
            (Some(("source", "local_cache_hit")), Some(cached_tokens)),
            (Some(("source", "external_kv_transfer")), None),
        ],
    );
    page.counter(
        "vllm:prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        &[(None, Some(cached_tokens))],
    );
    page.counter(
        "vllm:generation_tokens",
        "Number of generation tokens processed.",
        &[(None, Some(|r| count(&r.stats.generated_tokens)))],
    );
    // All answers end at their limit, or are given up; those whose client left are not counted.
    page.counter(
        "vllm:request_success",
        "Count of successfully processed requests.",
        &[
            (Some(("finished_reason", "stop")), None),
            (
                Some(("finished_reason", "length")),
                Some(|r| count(&r.stats.finished)),
            ),
            (
                Some(("finished_reason", "abort")),
                Some(|r| count(&r.stats.aborted)),
            ),
            (Some(("finished_reason", "error")), None),
            (Some(("finished_reason", "repetition")), None),
        ],
    );
}

fn histograms(page: &mut Builder<'_>, stats: &Stats) {
    let mut add = |name: &str, help: &str, of| {
        page.histogram(&format!("vllm:{name}"), help, of, stats);
    };
    let tokens = "Number of prefill tokens processed.";
    add("request_prompt_tokens", tokens, |s| &s.prompt);
    let tokens = "Number of generation tokens processed.";
    add("request_generation_tokens", tokens, |s| &s.generation);
    add(
        "iteration_tokens_total",
        "Histogram of number of tokens per engine_step.",
        |s| &s.step,
    );
    add(
        "request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        |s| &s.max_generation,
    );
    add(
        "request_params_n",
        "Histogram of the n request parameter.",
        |s| &s.answers,
    );
    add(
        "request_params_max_tokens",
        "Histogram of the max_tokens request parameter.",
        |s| &s.max_tokens,
    );
    add(
        "time_to_first_token_seconds",
        "Histogram of time to first token in seconds.",
        |s| &s.ttft,
    );
    add(
        "inter_token_latency_seconds",
        "Histogram of inter-token latency in seconds.",
        |s| &s.itl,
    );
    add(
        "request_time_per_output_token_seconds",
        "Histogram of time_per_output_token_seconds per request.",
        |s| &s.tpot,
    );
    add(
        "e2e_request_latency_seconds",
        "Histogram of e2e request latency in seconds.",
        |s| &s.e2e,
    );
    add(
        "request_queue_time_seconds",
        "Histogram of time spent in WAITING phase for request.",
        |s| &s.queue,
    );
    add(
        "request_inference_time_seconds",
        "Histogram of time spent in RUNNING phase for request.",
        |s| &s.inference,
    );
    add(
        "request_prefill_time_seconds",
        "Histogram of time spent in PREFILL phase for request.",
        |s| &s.prefill,
    );
    add(
        "request_decode_time_seconds",
        "Histogram of time spent in DECODE phase for request.",
        |s| &s.decode,
    );
    add(
        "request_prefill_kv_computed_tokens",
        "Histogram of new KV tokens computed during prefill (excluding cached tokens).",
        |s| &s.computed,
    );
}

fn cache_config(page: &mut Builder<'_>, config: &EngineConfig) {
    let name = "vllm:cache_config_info";
    page.head(name, "gauge", "Information of the LLMEngine CacheConfig");
    let tokens = config.kv_blocks.saturating_mul(config.block_size);
    let concurrency = format!("{:?}", tokens as f64 / config.longest() as f64);
    let labels = [
        ("_block_size_resolved", "True"),
        ("block_size", &config.block_size.to_string()),
        ("cache_dtype", "auto"),
        ("calculate_kv_scales", "False"),
        ("enable_prefix_caching", "True"),
        ("engine", "0"),
        ("gpu_memory_utilization", "0.92"),
        ("is_attention_free", "False"),
        ("kv_cache_dtype_skip_layers", "[]"),
        ("kv_cache_max_concurrency", &concurrency),
        ("kv_cache_memory_bytes", "None"),
        ("kv_cache_size_tokens", &tokens.to_string()),
        ("kv_offloading_backend", "native"),
        ("kv_offloading_size", "None"),
        ("kv_sharing_fast_prefill", "False"),
        ("mamba_block_size", "None"),
        ("mamba_cache_dtype", "auto"),
        ("mamba_cache_mode", "none"),
        ("mamba_page_size_padded", "None"),
        ("mamba_ssm_cache_dtype", "auto"),
        ("num_cpu_blocks", "None"),
        ("num_gpu_blocks", &config.kv_blocks.to_string()),
        ("num_gpu_blocks_override", "None"),
        ("prefix_caching_hash_algo", "sha256"),
        ("prefix_match_unit", "None"),
        ("skip_page_size_padded", "None"),
        ("sliding_window", "None"),
        ("user_specified_block_size", "False"),
        ("user_specified_mamba_block_size", "False"),
    ];
    page.line(name, &labels, "1.0");
}
