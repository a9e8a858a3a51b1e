//! Which metric of which engine means what.
//!
//! Names and labels are the engines' own. Where an engine renamed one, both are read. Triton without TensorRT-LLM has no
//! gauge of running requests (`nv_inference_exec_count` only ever rises), so that stays unknown.

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
    /// Its labels list LoRA adapters; the series with the greatest value is the current one.
    Lora,
}

/// A metric name, with labels that must be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricSpec {
    /// The whole name.
    pub name: String,
    /// Labels and their values.
    pub labels: Vec<(String, String)>,
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

/// A metric spec that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a metric; write name or name{{label=value,…}}")]
pub struct BadSpec(String);

/// The engines that are known without configuration.
pub fn known() -> Vec<EngineSpec> {
    use Signal::{BlockSize, Blocks, CacheInfo, KvUsage, Lora, Running, Waiting};
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

// === impl MetricSpec ===

impl MetricSpec {
    /// Reads `name` or `name{label=value,…}`; values may be quoted.
    pub fn parse(text: &str) -> Result<Self, BadSpec> {
        let bad = || BadSpec(text.to_owned());
        let text = text.trim();
        let (name, labels) = match text.split_once('{') {
            None => (text, ""),
            Some((name, rest)) => (name, rest.strip_suffix('}').ok_or_else(bad)?),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(bad());
        }
        let labels = labels
            .split(',')
            .filter(|label| !label.trim().is_empty())
            .map(|label| {
                let (key, value) = label.split_once('=').ok_or_else(bad)?;
                let value = value.trim().trim_matches('"');
                Ok((key.trim().to_owned(), value.to_owned()))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: name.to_owned(),
            labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs() {
        let spec = MetricSpec::parse(r#"a:b{x=1, y="two"}"#).unwrap();
        assert_eq!(spec.name, "a:b");
        assert_eq!(
            spec.labels,
            [("x".into(), "1".into()), ("y".into(), "two".into())]
        );
        for bad in ["", "a{", "a{x}", "a b", "{x=1}"] {
            assert!(MetricSpec::parse(bad).is_err(), "{bad}");
        }
    }

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
                ("vllm", 6),
                ("sglang", 6),
                ("trtllm-serve", 5),
                ("triton-tensorrt-llm", 5),
                ("triton", 1)
            ]
        );
    }
}
