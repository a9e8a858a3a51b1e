//! The flags of `pointsman sim`, and what a server is by them.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use clap::value_parser;

use crate::cli::units::duration;
use crate::sim::step::{Engine, EngineSpec, StepError};
use crate::sim::{
    Division, EngineConfig, EngineKind, KvEvents, Layout, MigProfile, Pace, ServerConfig, Times,
};

/// The median of cold loads in GenTD26 (p99 8.2 s): gpu-and-simulation.md §2.2.
const LORA_LOAD: Duration = Duration::from_millis(4_400);

/// Arguments of `sim`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArgs {
    /// How many servers.
    #[arg(long, value_parser = value_parser!(u16).range(1..), default_value_t = 3)]
    pub(super) servers: u16,
    /// The first server's port, the others follow; 0 = any that are free.
    #[arg(long, default_value_t = 8000)]
    pub(super) port: u16,
    /// Where they listen.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub(super) address: IpAddr,
    /// The base model.
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), default_value = "meta-llama/Llama-3.1-8B-Instruct")]
    model: String,
    /// Whose metrics the servers have.
    #[arg(long, value_enum, default_value_t)]
    engine: EngineKind,
    /// LoRA adapters that are loaded from the start, comma separated. LoRA is enabled if there are any, or by
    /// --max-loras.
    #[arg(long, value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    lora: Vec<String>,
    /// Adapters among the requests that one server runs at once; requests for more of them wait [default: 4].
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    max_loras: Option<usize>,
    /// Adapters that one server can load [default: --max-loras, or as many as --lora has].
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    max_cpu_loras: Option<usize>,
    /// How long a step takes longer when an adapter must be loaded for it [default: 4.4s].
    #[arg(long, value_parser = duration)]
    lora_load: Option<Duration>,
    /// The GPU that is simulated: H100, A100, RTXPRO6000, RTX4090 or L4.
    #[arg(long, default_value = "H100")]
    gpu: String,
    /// The model whose size is simulated, whatever --model calls it: llama3-8b, llama3-70b or qwen3-32b.
    #[arg(long, default_value = "llama3-8b")]
    model_spec: String,
    /// GPUs that share the model: tensor parallelism.
    #[arg(long, value_parser = value_parser!(u32).range(1..=1024), default_value_t = 1)]
    tp: u32,
    /// So many servers take turns on the same GPUs (time slicing). Without --kv-blocks or --gpu-memory-utilization each has
    /// its share of the memory.
    #[arg(long, default_value_t = NonZeroUsize::MIN, conflicts_with = "mig")]
    share_gpu: NonZeroUsize,
    /// Each server has a MIG instance of this profile, as many on a board as there is room for: 1g.10gb, 1g.20gb, 2g.20gb,
    /// 3g.40gb, 4g.40gb or 7g.80gb.
    #[arg(long)]
    mig: Option<String>,
    /// The share of a GPU's memory that a server takes [default: 0.9, or a --share-gpu'th of it].
    #[arg(long)]
    gpu_memory_utilization: Option<f64>,
    /// Keep what NVML would tell of all GPUs in this file, as the fake NVML library reads it.
    #[arg(long)]
    pub(super) gpu_state: Option<PathBuf>,
    /// Write which server has which GPU here, as `pointsman probe` reads it.
    #[arg(long)]
    pub(super) gpu_map: Option<PathBuf>,
    /// Tokens of one step [default: 2048, or --max-num-seqs if that is more].
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    max_num_batched_tokens: Option<u32>,
    /// Simulated seconds that pass in a second.
    #[arg(long, value_parser = speed, default_value_t = 1.0)]
    speed: f64,
    /// Time to first token of an empty prompt. With this, --prefill-rate or --itl, times are fixed: no hardware is
    /// simulated, and there is no prefix cache [default, if times are fixed: 50ms].
    #[arg(long, value_parser = duration)]
    ttft: Option<Duration>,
    /// Prompt tokens read a second [default, if times are fixed: 20000].
    #[arg(long, value_parser = rate)]
    prefill_rate: Option<f64>,
    /// Time between two tokens [default, if times are fixed: 10ms].
    #[arg(long, value_parser = duration)]
    itl: Option<Duration>,
    /// The first server is this many times slower.
    #[arg(long, value_parser = value_parser!(u32).range(1..), default_value_t = 1)]
    pub(super) slow_first: u32,
    /// Requests that one server runs at once; more of them wait [default: 256, as vLLM; 32 if times are fixed].
    #[arg(long, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1 << 20))]
    max_num_seqs: Option<usize>,
    /// KV cache blocks of one server [default: as many as fit]. A request that can never fit is refused.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    kv_blocks: Option<u32>,
    /// Tokens in a block.
    #[arg(long, value_parser = value_parser!(u32).range(1..=1 << 20), default_value_t = 16)]
    block_size: u32,
    /// Tokens of the longest prompt with its answer [default: as many as the KV cache holds].
    #[arg(long, value_parser = value_parser!(u64).range(1..))]
    max_model_len: Option<u64>,
    /// Tokens of an answer whose request sets no limit.
    #[arg(long, value_parser = value_parser!(u64).range(1..=1 << 20), default_value_t = 64)]
    tokens: u64,
    /// Servers can be told to sleep: /sleep, /wake_up, /is_sleeping.
    #[arg(long)]
    enable_sleep_mode: bool,
    /// Publish KV events: tcp://*:PORT is where the first server listens, the others follow; 0 = any ports that are free.
    #[arg(long)]
    zmq_endpoint: Option<String>,
    /// Events that go together; fewer go after a second.
    #[arg(long, default_value_t = NonZeroUsize::new(16).unwrap_or(NonZeroUsize::MIN), requires = "zmq_endpoint")]
    event_batch_size: NonZeroUsize,
    /// Events are maps instead of arrays.
    #[arg(long, requires = "zmq_endpoint")]
    use_vllm_map_event_format: bool,
    /// Where servers can be asked for events that were missed: as --zmq-endpoint [default: nowhere].
    #[arg(long, requires = "zmq_endpoint")]
    kv_events_replay_endpoint: Option<String>,
    /// Batches that they keep for that.
    #[arg(long, default_value_t = 1024, requires = "kv_events_replay_endpoint")]
    kv_events_replay_queue_size: usize,
    /// Write the servers here, as file-discovery reads them.
    #[arg(long)]
    pub(super) endpoints_file: Option<PathBuf>,
}

/// A number of tokens a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| rate.is_finite() && *rate > 0.0)
        .ok_or_else(|| "not a number of tokens a second; it must be more than 0".to_owned())
}

/// A factor that clocks survive.
fn speed(text: &str) -> Result<f64, String> {
    let speed: Option<f64> = text.parse().ok();
    speed
        .filter(|speed| (1e-3..=1e3).contains(speed))
        .ok_or_else(|| "not a number from 0.001 to 1000".to_owned())
}

// === impl SimArgs ===

impl SimArgs {
    /// What no server could be.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.lora.len() <= self.max_cpu_loras(),
            "--lora has {} adapters, --max-cpu-loras allows {}",
            self.lora.len(),
            self.max_cpu_loras()
        );
        ensure!(
            self.port.checked_add(self.servers - 1).is_some(),
            "--port: the last server's port is past 65535"
        );
        let taken = self.gpu_memory_utilization.unwrap_or(0.0) * self.share_gpu.get() as f64;
        ensure!(
            taken <= 1.0,
            "--gpu-memory-utilization: the servers that --share-gpu puts on one GPU would take {taken} of its memory"
        );
        ensure!(
            !self.is_fixed() || (self.gpu_state.is_none() && self.gpu_map.is_none()),
            "--gpu-state, --gpu-map: servers of fixed times (--ttft, --prefill-rate, --itl) have no GPU"
        );
        ensure!(
            !self.is_fixed() || self.zmq_endpoint.is_none(),
            "--zmq-endpoint: servers of fixed times (--ttft, --prefill-rate, --itl) have no prefix cache"
        );
        ensure!(
            self.engine == EngineKind::Vllm || !self.enable_sleep_mode,
            "--enable-sleep-mode: only --engine vllm has it"
        );
        ensure!(
            self.engine != EngineKind::Trtllm || self.zmq_endpoint.is_none(),
            "--zmq-endpoint: vllm and sglang publish so, trtllm does not (--engine)"
        );
        if let Some(events) = self.kv_events() {
            events
                .check(self.servers - 1)
                .context("--zmq-endpoint, --kv-events-replay-endpoint")?;
        }
        Ok(())
    }

    /// 0 = no LoRA.
    fn max_loras(&self) -> usize {
        match self.max_loras {
            None if self.lora.is_empty() => 0,
            max => max.unwrap_or(4),
        }
    }

    fn max_cpu_loras(&self) -> usize {
        let fits = self.max_loras().max(self.lora.len());
        self.max_cpu_loras.unwrap_or(fits)
    }

    /// Whether a time was given, which makes all of them given.
    fn is_fixed(&self) -> bool {
        self.ttft.is_some() || self.prefill_rate.is_some() || self.itl.is_some()
    }

    /// A batch of fixed times is never slower for being large: only a small one makes requests queue.
    fn max_num_seqs(&self) -> usize {
        let default = if self.is_fixed() { 32 } else { 256 };
        self.max_num_seqs.unwrap_or(default)
    }

    /// The hardware, with the KV cache blocks that it has room for or was given.
    pub(super) fn spec(&self) -> Result<EngineSpec, StepError> {
        let seqs = u32::try_from(self.max_num_seqs()).unwrap_or(u32::MAX);
        let mut spec = EngineSpec::new(&self.gpu, &self.model_spec, self.tp);
        spec.mig = self.mig()?;
        let share = spec.gpu_memory_utilization / self.share_gpu.get() as f64;
        spec.gpu_memory_utilization = self.gpu_memory_utilization.unwrap_or(share);
        spec.max_num_seqs = seqs;
        let budget = spec.max_num_batched_tokens.max(seqs);
        spec.max_num_batched_tokens = self.max_num_batched_tokens.unwrap_or(budget);
        spec.block_size = self.block_size;
        spec.kv_blocks = self.kv_blocks;
        spec.kv_blocks = Some(Engine::new(&spec)?.kv_blocks());
        Ok(spec)
    }

    /// What the picker knows their engine by, where it must be told.
    pub(super) fn engine_label(&self) -> Option<&'static str> {
        match self.engine {
            EngineKind::Vllm => None,
            EngineKind::Sglang => Some("sglang"),
            EngineKind::Trtllm => Some("trtllm-serve"),
        }
    }

    /// How they publish what becomes of their prefix caches, if they do.
    pub(super) fn kv_events(&self) -> Option<KvEvents> {
        Some(KvEvents {
            zmq_endpoint: self.zmq_endpoint.clone()?,
            replay_endpoint: self.kv_events_replay_endpoint.clone(),
            replay_queue_size: self.kv_events_replay_queue_size,
            event_batch_size: self.event_batch_size.get(),
            map_format: self.use_vllm_map_event_format,
        })
    }

    fn mig(&self) -> Result<Option<MigProfile>, StepError> {
        self.mig.as_deref().map(MigProfile::find).transpose()
    }

    /// Who sits where; `None` without GPUs.
    pub(super) fn layout(&self) -> Result<Option<Layout>, StepError> {
        if self.is_fixed() {
            return Ok(None);
        }
        let turns = Division::Turns(self.share_gpu);
        Ok(Some(Layout {
            gpu: self.gpu.clone(),
            servers: self.servers.into(),
            tp: self.tp as usize,
            division: self.mig()?.map_or(turns, Division::Mig),
        }))
    }

    fn pace(&self, spec: &EngineSpec) -> Pace {
        if !self.is_fixed() {
            return Pace::Steps(spec.clone());
        }
        Pace::Fixed(Times {
            ttft: self.ttft.unwrap_or(Duration::from_millis(50)),
            prefill_rate: self.prefill_rate.unwrap_or(20_000.0),
            itl: self.itl.unwrap_or(Duration::from_millis(10)),
        })
    }

    pub(super) fn server(&self, index: u16, spec: &EngineSpec) -> ServerConfig {
        ServerConfig {
            name: super::name(index),
            model: self.model.clone(),
            adapters: self.lora.clone(),
            max_cpu_loras: if self.max_loras() == 0 {
                0
            } else {
                self.max_cpu_loras()
            },
            sleep_mode: self.enable_sleep_mode,
            engine: EngineConfig {
                kind: self.engine,
                pace: self.pace(spec),
                speed: self.speed,
                max_num_seqs: self.max_num_seqs(),
                kv_blocks: u64::from(spec.kv_blocks.unwrap_or(1)),
                block_size: u64::from(self.block_size),
                max_model_len: self.max_model_len.unwrap_or(u64::MAX),
                max_loras: self.max_loras(),
                lora_load: self.lora_load.unwrap_or(LORA_LOAD),
                tokens: self.tokens,
            },
        }
    }
}
