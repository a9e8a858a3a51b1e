//! `/metrics`, as a vLLM of 2026 prints it.
//!
//! The page has the families, labels and buckets of a vLLM V1 API server with one engine: about 60 KB in some 560 lines, what
//! a scraper has to carry. What moves here is printed anew; the families that nothing here moves are printed
//! once, when the server starts, and stay at zero.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::engine::{Engine, LATENCY, TOKENS};
use super::histogram::Histogram;

/// Histograms of vLLM that the simulator leaves at zero, with their bounds.
const STILL: [(&str, &str, &[f64]); 6] = [
    (
        "vllm:request_prefill_time_seconds",
        "Histogram of time spent in PREFILL phase for request.",
        LATENCY,
    ),
    (
        "vllm:request_decode_time_seconds",
        "Histogram of time spent in DECODE phase for request.",
        LATENCY,
    ),
    (
        "vllm:request_inference_time_seconds",
        "Histogram of time spent in RUNNING phase for request.",
        LATENCY,
    ),
    (
        "vllm:request_max_num_generation_tokens",
        "Histogram of maximum number of requested generation tokens.",
        TOKENS,
    ),
    (
        "vllm:request_params_n",
        "Histogram of the n request parameter.",
        &[1.0, 2.0, 5.0, 10.0, 20.0],
    ),
    (
        "vllm:request_params_max_tokens",
        "Histogram of the max_tokens request parameter.",
        TOKENS,
    ),
];
/// Routes for which FastAPI's instrumentation keeps series.
const HANDLERS: [&str; 5] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/models",
    "/health",
    "none",
];
/// Bounds of FastAPI's fine histogram, in seconds.
const FINE: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    7.5, 10.0, 30.0, 60.0,
];
const COARSE: &[f64] = &[0.1, 0.5, 1.0];

/// The page of one server.
#[derive(Debug)]
pub(super) struct Page {
    labels: String,
    max_loras: usize,
    head: String,
    still: String,
}

// === impl Page ===

impl Page {
    pub(super) fn new(model: &str, max_loras: usize) -> Self {
        let labels = format!("engine=\"0\",model_name=\"{model}\"");
        Self {
            head: python_process(),
            still: still(&labels),
            max_loras,
            labels,
        }
    }

    pub(super) fn print(&self, engine: &Engine) -> String {
        let stats = engine.stats();
        let config = engine.config();
        let mut out = String::with_capacity(self.head.len() + self.still.len() + (32 << 10));
        out.push_str(&self.head);
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let usage = (load(&stats.blocks) / config.kv_blocks as f64).min(1.0);
        for (name, kind, help, value) in [
            (
                "vllm:num_requests_running",
                "gauge",
                "Number of requests in model execution batches.",
                load(&stats.running),
            ),
            (
                "vllm:num_requests_waiting",
                "gauge",
                "Number of requests waiting to be processed.",
                load(&stats.waiting),
            ),
            (
                "vllm:kv_cache_usage_perc",
                "gauge",
                "KV-cache usage. 1 means 100 percent usage.",
                usage,
            ),
            (
                "vllm:prefix_cache_queries_total",
                "counter",
                "Prefix cache queries, in terms of number of queried tokens.",
                load(&stats.prompt_tokens),
            ),
            (
                "vllm:prefix_cache_hits_total",
                "counter",
                "Prefix cache hits, in terms of number of cached tokens.",
                0.0,
            ),
            (
                "vllm:num_preemptions_total",
                "counter",
                "Cumulative number of preemption from the engine.",
                0.0,
            ),
            (
                "vllm:prompt_tokens_total",
                "counter",
                "Number of prefill tokens processed.",
                load(&stats.prompt_tokens),
            ),
            (
                "vllm:generation_tokens_total",
                "counter",
                "Number of generation tokens processed.",
                load(&stats.generated_tokens),
            ),
        ] {
            let family = name.strip_suffix("_total").unwrap_or(name);
            // Writing to a String cannot fail.
            let _ = writeln!(
                out,
                "# HELP {family} {help}\n# TYPE {family} {kind}\n{name}{{{}}} {value:?}",
                self.labels
            );
        }
        let _ = writeln!(
            out,
            "# HELP vllm:request_success Count of successfully processed requests.\n# TYPE vllm:request_success counter"
        );
        for (reason, value) in [
            ("stop", 0.0),
            ("length", load(&stats.succeeded)),
            ("abort", 0.0),
            ("error", 0.0),
        ] {
            let _ = writeln!(
                out,
                "vllm:request_success_total{{{},finished_reason=\"{reason}\"}} {value:?}",
                self.labels
            );
        }
        for (name, help, histogram) in [
            (
                "vllm:time_to_first_token_seconds",
                "Histogram of time to first token in seconds.",
                &stats.ttft,
            ),
            (
                "vllm:inter_token_latency_seconds",
                "Histogram of inter-token latency in seconds.",
                &stats.itl,
            ),
            (
                "vllm:e2e_request_latency_seconds",
                "Histogram of e2e request latency in seconds.",
                &stats.e2e,
            ),
            (
                "vllm:request_queue_time_seconds",
                "Histogram of time spent in WAITING phase for request.",
                &stats.queue,
            ),
            (
                "vllm:request_prompt_tokens",
                "Number of prefill tokens processed.",
                &stats.prompt,
            ),
            (
                "vllm:request_generation_tokens",
                "Number of generation tokens processed.",
                &stats.generation,
            ),
        ] {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
            histogram.print(&mut out, name, &self.labels);
        }
        let _ = writeln!(
            out,
            "# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig\n# TYPE vllm:cache_config_info gauge\nvllm:cache_config_info{{block_size=\"{}\",cache_dtype=\"auto\",cpu_offload_gb=\"0\",enable_prefix_caching=\"True\",engine=\"0\",gpu_memory_utilization=\"0.9\",num_cpu_blocks=\"None\",num_gpu_blocks=\"{}\",sliding_window=\"None\",swap_space=\"4\"}} 1.0",
            config.block_size, config.kv_blocks
        );
        self.lora(&mut out, engine);
        out.push_str(&self.still);
        out
    }

    /// Lists the adapters of requests, not those in memory, as vLLM does; absent without adapters.
    fn lora(&self, out: &mut String, engine: &Engine) {
        if self.max_loras == 0 {
            return;
        }
        let adapters = engine.stats().adapters.lock();
        let list = |of: fn(&(u64, u64)) -> u64| {
            let names = adapters.iter().filter(|(_, counts)| of(counts) > 0);
            names
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>()
                .join(",")
        };
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let _ = writeln!(
            out,
            "# HELP vllm:lora_requests_info Running stats on lora requests.\n# TYPE vllm:lora_requests_info gauge\nvllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"{}\",waiting_lora_adapters=\"{}\"}} {:?}",
            self.max_loras,
            list(|counts| counts.1),
            list(|counts| counts.0),
            now.as_secs_f64()
        );
    }
}

fn python_process() -> String {
    let mut out = String::new();
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
        let _ = writeln!(
            out,
            "# HELP {name}_total {help}\n# TYPE {name}_total counter"
        );
        for generation in 0..3 {
            let _ = writeln!(out, "{name}_total{{generation=\"{generation}\"}} 0.0");
        }
    }
    for (name, kind) in [
        ("process_virtual_memory_bytes", "gauge"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_start_time_seconds", "gauge"),
        ("process_cpu_seconds_total", "counter"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
    ] {
        let _ = writeln!(
            out,
            "# HELP {name} {name}\n# TYPE {name} {kind}\n{name} 0.0"
        );
    }
    out
}

fn still(labels: &str) -> String {
    let mut out = String::new();
    for (name, help, bounds) in STILL {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} histogram");
        Histogram::new(bounds).print(&mut out, name, labels);
        let _ = writeln!(
            out,
            "# HELP {name}_created {help}\n# TYPE {name}_created gauge\n{name}_created{{{labels}}} 1.788184174081528e+09"
        );
    }
    let _ = writeln!(
        out,
        "# HELP http_request_duration_seconds Latency with only few buckets by handler.\n# TYPE http_request_duration_seconds histogram"
    );
    for handler in HANDLERS {
        for method in ["GET", "POST"] {
            let labels = format!("handler=\"{handler}\",method=\"{method}\"");
            Histogram::new(COARSE).print(&mut out, "http_request_duration_seconds", &labels);
        }
    }
    let _ = writeln!(
        out,
        "# HELP http_request_duration_highr_seconds Latency with many buckets but no API specific labels.\n# TYPE http_request_duration_highr_seconds histogram"
    );
    for handler in HANDLERS {
        let labels = format!("handler=\"{handler}\",{labels}");
        Histogram::new(FINE).print(&mut out, "http_request_duration_highr_seconds", &labels);
    }
    for name in [
        "http_requests_total",
        "http_request_size_bytes",
        "http_response_size_bytes",
    ] {
        let _ = writeln!(out, "# HELP {name} {name}\n# TYPE {name} counter");
        for handler in HANDLERS {
            for status in ["2xx", "4xx", "5xx"] {
                let _ = writeln!(
                    out,
                    "{name}{{handler=\"{handler}\",method=\"POST\",status=\"{status}\"}} 0.0"
                );
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::engines::known;
    use crate::pool::scan::PageScanner;
    use crate::pool::slab::lora_key;
    use crate::sim::EngineConfig;
    use std::time::Duration;

    #[tokio::test]
    async fn our_own_scanner_reads_it() {
        let engine = Engine::new(EngineConfig {
            ttft: Duration::ZERO,
            prefill_rate: 1e9,
            itl: Duration::ZERO,
            max_num_seqs: 4,
            kv_blocks: 10,
            block_size: 16,
        });
        let _running = engine.start(32, 1, Some("a")).await;
        let page = Page::new("meta-llama/Llama-3.1-8B-Instruct", 2).print(&engine);
        assert!(
            (50_000..75_000).contains(&page.len()),
            "{} bytes",
            page.len()
        );
        let engines = known();
        let mut scanner = PageScanner::new(&engines[0]);
        scanner.feed(page.as_bytes());
        let scrape = scanner.finish();
        assert_eq!(
            (scrape.waiting, scrape.running, scrape.kv_usage),
            (Some(0.0), Some(1.0), Some(0.2))
        );
        assert_eq!((scrape.block_size, scrape.kv_blocks), (Some(16), Some(10)));
        let lora = scrape.lora.unwrap();
        assert_eq!((lora.max, &*lora.running), (2, &[lora_key("a")][..]));
    }
}
