//! Which metric of which engine means what.
//!
//! Names and labels are the engines' own. Where an engine renamed one, both are read. Triton without TensorRT-LLM has no
//! gauge of running requests (`nv_inference_exec_count` only ever rises), so that stays unknown. [`of_config`] adds the
//! engines of a configuration to those that are [`known`] without one.

mod configured;
mod spec;

pub use configured::of_config;
pub use spec::{BadSpec, MetricSpec};

/// What a series tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Requests waiting; series are added up.
    Waiting,
    /// Requests running; series are added up.
    Running,
    /// KV cache use, 0 to 1; the largest counts.
    KvUsage,
    /// Its value is the number of tokens in a block.
    BlockSize,
    /// Its value is the number of blocks.
    Blocks,
    /// Its labels tell block size and number of blocks.
    CacheInfo,
    /// Its value is the attribute with this [`super::slab::attribute_key`]; the first series counts.
    Attribute(u64),
    /// A counter that rises while the engine works; series are added up.
    Progress,
    /// Whether the engine works, 1 or 0; of several series the least counts.
    Healthy,
    /// When the process started, in seconds since 1970.
    Started,
    /// Its labels list LoRA adapters; the series with the greatest value is the current one.
    Lora,
}

/// All that is read of one engine's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSpec {
    /// What the engine label says.
    pub name: String,
    /// Where its page is, if not at `/metrics`.
    pub path: Option<String>,
    /// What to read.
    pub metrics: Vec<(MetricSpec, Signal)>,
    /// The label of the block size in [`Signal::CacheInfo`].
    pub block_size_label: String,
    /// The label of the number of blocks in [`Signal::CacheInfo`].
    pub blocks_label: String,
}

/// The engines that are known without configuration.
pub fn known() -> Vec<EngineSpec> {
    use Signal::{
        BlockSize, Blocks, CacheInfo, Healthy, KvUsage, Lora, Progress, Running, Started, Waiting,
    };
    let engine = |name: &str,
                  path: Option<&str>,
                  labels: (&str, &str),
                  metrics: &[(&str, Signal)]| EngineSpec {
        name: name.to_owned(),
        path: path.map(str::to_owned),
        metrics: metrics
            .iter()
            .filter_map(|(spec, signal)| Some((MetricSpec::parse(spec).ok()?, *signal)))
            .collect(),
        block_size_label: labels.0.to_owned(),
        blocks_label: labels.1.to_owned(),
    };
    vec![
        engine(
            "vllm",
            None,
            ("block_size", "num_gpu_blocks"),
            &[
                ("vllm:num_requests_waiting", Waiting),
                ("vllm:num_requests_running", Running),
                ("vllm:kv_cache_usage_perc", KvUsage),
                ("vllm:gpu_cache_usage_perc", KvUsage),
                ("vllm:cache_config_info", CacheInfo),
                ("vllm:lora_requests_info", Lora),
                ("vllm:generation_tokens_total", Progress),
                ("vllm:prompt_tokens_total", Progress),
                // With --enable-fault-tolerance.
                ("vllm:engine_healthy", Healthy),
                ("process_start_time_seconds", Started),
            ],
        ),
        engine(
            "sglang",
            None,
            ("page_size", "num_pages"),
            &[
                ("sglang:num_queue_reqs", Waiting),
                ("sglang:num_running_reqs", Running),
                ("sglang:token_usage", KvUsage),
                ("sglang:cache_config_info", CacheInfo),
                ("sglang:page_size", BlockSize),
                ("sglang:num_pages", Blocks),
                ("sglang:generation_tokens_total", Progress),
                ("sglang:prompt_tokens_total", Progress),
                ("process_start_time_seconds", Started),
            ],
        ),
        engine(
            "trtllm-serve",
            Some("/prometheus/metrics"),
            ("", ""),
            &[
                ("trtllm_num_requests_waiting", Waiting),
                ("trtllm_num_requests_running", Running),
                ("trtllm_kv_cache_utilization", KvUsage),
                ("trtllm_kv_cache_tokens_per_block", BlockSize),
                ("trtllm_kv_cache_max_blocks", Blocks),
            ],
        ),
        engine(
            "triton-tensorrt-llm",
            None,
            ("", ""),
            &[
                ("nv_trt_llm_request_metrics{request_type=waiting}", Waiting),
                (
                    "nv_trt_llm_request_metrics{request_type=scheduled}",
                    Running,
                ),
                (
                    "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=fraction}",
                    KvUsage,
                ),
                (
                    "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=tokens_per}",
                    BlockSize,
                ),
                (
                    "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=max}",
                    Blocks,
                ),
            ],
        ),
        engine(
            "triton",
            None,
            ("", ""),
            &[("nv_inference_pending_request_count", Waiting)],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_known_metric_is_lost() {
        let counts: Vec<_> = known()
            .iter()
            .map(|e| (e.name.clone(), e.metrics.len()))
            .collect();
        let counts: Vec<_> = counts.iter().map(|(n, c)| (n.as_str(), *c)).collect();
        assert_eq!(
            counts,
            [
                ("vllm", 10),
                ("sglang", 9),
                ("trtllm-serve", 5),
                ("triton-tensorrt-llm", 5),
                ("triton", 1)
            ]
        );
    }
}
