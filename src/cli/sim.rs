//! `pointsman sim`: simulated model servers, all in one process.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::builder::{NonEmptyStringValueParser, RangedU64ValueParser};
use clap::value_parser;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::units::duration;
use crate::sim::step::{Engine, EngineSpec, StepError};
use crate::sim::{EngineConfig, Pace, Server, ServerConfig, Times};

/// The median of cold loads in GenTD26 (p99 8.2 s): gpu-and-simulation.md §2.2.
const LORA_LOAD: Duration = Duration::from_millis(4_400);

/// Arguments of `sim`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArgs {
    /// How many servers.
    #[arg(long, value_parser = value_parser!(u16).range(1..), default_value_t = 3)]
    servers: u16,
    /// The first server's port, the others follow; 0 = any that are free.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Where they listen.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// The base model.
    #[arg(long, value_parser = NonEmptyStringValueParser::new(), default_value = "meta-llama/Llama-3.1-8B-Instruct")]
    model: String,
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
    slow_first: u32,
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
    /// Write the servers here, as file-discovery reads them.
    #[arg(long)]
    endpoints_file: Option<PathBuf>,
}

/// Serves until it is told to stop. Prints `ready` once all servers listen.
pub async fn run(args: SimArgs) -> anyhow::Result<()> {
    ensure!(
        args.lora.len() <= args.max_cpu_loras(),
        "--lora has {} adapters, --max-cpu-loras allows {}",
        args.lora.len(),
        args.max_cpu_loras()
    );
    ensure!(
        args.port.checked_add(args.servers - 1).is_some(),
        "--port: the last server's port is past 65535"
    );
    let spec = args.spec()?;
    let stop = CancellationToken::new();
    let mut endpoints = String::from("endpoints:\n");
    let mut servers = tokio::task::JoinSet::new();
    for index in 0..args.servers {
        let port = match args.port {
            0 => 0,
            first => first + index,
        };
        let listener = TcpListener::bind((args.address, port))
            .await
            .with_context(|| format!("binding port {port} for server {index} (--port)"))?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server::new(args.server(index, &spec), address)?);
        if index == 0 {
            server.set_slow(f64::from(args.slow_first));
        }
        servers.spawn(server.serve(listener, stop.clone().cancelled_owned()));
        println!("sim-{index} http://{address}");
        endpoint(&mut endpoints, index, address);
    }
    if let Some(path) = &args.endpoints_file {
        write_whole(path, &endpoints)
            .with_context(|| format!("--endpoints-file: {}", path.display()))?;
    }
    println!("ready");
    tokio::select! {
        stopped = super::serve::asked_to_stop() => stopped?,
        Some(ended) = servers.join_next() => ended??,
    }
    stop.cancel();
    Ok(())
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

fn endpoint(out: &mut String, index: u16, address: SocketAddr) {
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "- {{name: sim-{index}, namespace: default, address: \"{}\", port: \"{}\"}}",
        address.ip(),
        address.port()
    );
}

/// A reader sees the old file or the new one, never a part.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("next");
    std::fs::write(&next, text)?;
    std::fs::rename(next, path)
}

// === impl SimArgs ===

impl SimArgs {
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
    fn spec(&self) -> Result<EngineSpec, StepError> {
        let seqs = u32::try_from(self.max_num_seqs()).unwrap_or(u32::MAX);
        let mut spec = EngineSpec::new(&self.gpu, &self.model_spec, self.tp);
        spec.max_num_seqs = seqs;
        let budget = spec.max_num_batched_tokens.max(seqs);
        spec.max_num_batched_tokens = self.max_num_batched_tokens.unwrap_or(budget);
        spec.block_size = self.block_size;
        spec.kv_blocks = self.kv_blocks;
        spec.kv_blocks = Some(Engine::new(&spec)?.kv_blocks());
        Ok(spec)
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

    fn server(&self, index: u16, spec: &EngineSpec) -> ServerConfig {
        ServerConfig {
            name: format!("sim-{index}"),
            model: self.model.clone(),
            adapters: self.lora.clone(),
            max_cpu_loras: if self.max_loras() == 0 {
                0
            } else {
                self.max_cpu_loras()
            },
            engine: EngineConfig {
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimArgs,
    }

    fn parse(flags: &[&str]) -> Result<SimArgs, String> {
        let cli = Cli::try_parse_from([&["sim"], flags].concat());
        cli.map(|cli| cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn what_no_server_could_have_is_refused() {
        for (flag, words) in [
            ("--servers=0", "0 is not in 1..=65535"),
            ("--prefill-rate=0", "it must be more than 0"),
            ("--prefill-rate=-1", "it must be more than 0"),
            ("--prefill-rate=inf", "it must be more than 0"),
            ("--prefill-rate=NaN", "it must be more than 0"),
            ("--prefill-rate=fast", "not a number of tokens a second"),
            ("--block-size=0", "0 is not in 1..="),
            ("--kv-blocks=0", "0 is not in 1..="),
            ("--max-num-seqs=0", "0 is not in 1..="),
            ("--max-model-len=0", "0 is not in 1.."),
            ("--max-loras=0", "0 is not in 1..="),
            ("--max-cpu-loras=0", "0 is not in 1..="),
            ("--slow-first=0", "0 is not in 1..="),
            ("--tokens=0", "0 is not in 1..="),
            ("--tp=0", "0 is not in 1..="),
            ("--speed=0", "not a number from"),
            ("--ttft=-1s", "is not a duration"),
            ("--itl=5", "is not a duration"),
            ("--lora=a,,b", "a value is required"),
            ("--model=", "a value is required"),
        ] {
            let error = parse(&[flag]).expect_err(flag);
            let (name, _) = flag.split_once('=').unwrap();
            assert!(
                error.contains(words) && error.contains(name),
                "{flag}: {error}"
            );
        }
    }

    #[tokio::test]
    async fn what_does_not_go_together_is_refused() {
        for (flags, words) in [
            (
                &["--lora=a,b", "--max-cpu-loras=1"][..],
                "--max-cpu-loras allows 1",
            ),
            (&["--port=65535", "--servers=2"], "past 65535"),
        ] {
            let error = run(parse(flags).unwrap()).await.unwrap_err().to_string();
            assert!(error.contains(words), "{flags:?}: {error}");
        }
    }

    #[test]
    fn how_many_adapters() {
        for (flags, in_batch, loaded) in [
            (&[][..], 0, 0),
            (&["--max-cpu-loras=3"], 0, 0),
            (&["--lora=a"], 4, 4),
            (&["--lora=a,b,c", "--max-loras=2"], 2, 3),
            (&["--max-loras=2"], 2, 2),
            (&["--max-loras=1", "--max-cpu-loras=8"], 1, 8),
        ] {
            let args = parse(flags).unwrap();
            let server = args.server(0, &args.spec().unwrap());
            let found = (server.engine.max_loras, server.max_cpu_loras);
            assert_eq!(found, (in_batch, loaded), "{flags:?}");
        }
    }

    #[test]
    fn one_given_time_makes_all_fixed() {
        let pace = |flags: &[&str]| {
            let args = parse(flags).unwrap();
            args.server(0, &args.spec().unwrap()).engine.pace
        };
        for flags in [
            &["--ttft=50ms"][..],
            &["--itl=10ms"],
            &["--prefill-rate=2e4"],
        ] {
            let Pace::Fixed(times) = pace(flags) else {
                panic!("{flags:?}")
            };
            let given = (times.ttft.as_millis(), times.itl.as_millis());
            assert_eq!((given, times.prefill_rate), ((50, 10), 2e4));
        }
        let Pace::Steps(spec) = pace(&["--max-num-seqs=4000"]) else {
            panic!("no time was given")
        };
        assert_eq!((&*spec.gpu, spec.max_num_batched_tokens), ("H100", 4000));
        // What fits, if nothing else is said.
        assert!(spec.kv_blocks > Some(20_000));
    }

    #[test]
    fn hardware_that_is_not_known_is_refused_with_what_is() {
        for (flags, words) in [
            (&["--gpu=H1000"][..], "H100"),
            (&["--model-spec=gpt"], "llama3-8b"),
            (
                &["--gpu=L4", "--model-spec=llama3-70b"],
                "no memory is left",
            ),
            (
                &["--max-num-batched-tokens=8", "--max-num-seqs=9"],
                "at least max_num_seqs",
            ),
        ] {
            let error = parse(flags).unwrap().spec().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
