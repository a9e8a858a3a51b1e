//! The cluster that traffic is replayed through: engines of the step model, and who picks in front of them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;

use super::ReplayArgs;
use super::run::{Cluster, Done, Picks};
use crate::cli::plan::Plan;
use crate::config::LoadOptions;
use crate::prefix::DEFAULT_BUDGET;
use crate::sim::cluster::{
    self, Arrival, BASELINES, Baseline, Fate, Fault, Ours, Router, Walk, Wires,
};
use crate::sim::report::{Outcome, Served, Tally};
use crate::sim::step::{Engine, EngineSpec, Event, Keys, Loras, Request};
use crate::sim::workload::{Rate, Scale, Trace, Traffic};

/// Requests of a trace, for each engine, by which it is measured how many it can serve.
const SAMPLE: u64 = 500;
/// Engines on which that is measured, at most.
const FEW: u32 = 8;
/// Requests for each of them at every load that is tried: a queue that grows must have the time to be seen.
const TRIED: u64 = 1_500;
/// Share of the greatest goodput that is as good: near it goodput hardly changes with load, and the share that is good falls.
const PEAK: f64 = 0.98;
/// How old a scrape may be: what serve has by default.
const STALENESS: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Virtual<'a> {
    args: &'a ReplayArgs,
    /// Endpoints take turns with them. All have the same block size.
    specs: Vec<EngineSpec>,
}

// === impl Virtual ===

impl<'a> Virtual<'a> {
    /// What `args` describe; fails where they name something that there is not.
    pub(super) fn of(args: &'a ReplayArgs) -> anyhow::Result<Self> {
        let specs = args.gpu.iter().map(|gpu| {
            let mut spec = EngineSpec::new(gpu, &args.model, args.tp);
            spec.max_num_batched_tokens = args.max_num_batched_tokens;
            spec.max_num_seqs = args.max_num_seqs;
            spec.kv_blocks = args.kv_blocks;
            Engine::new(&spec).context("--gpu, --model, --tp")?;
            Ok(spec)
        });
        let specs = specs.collect::<anyhow::Result<Vec<_>>>()?;
        for name in &args.policy {
            anyhow::ensure!(
                BASELINES.contains(&name.as_str()),
                "--policy: there is no `{name}`{}; there are {}",
                crate::config::did_you_mean(name, BASELINES),
                BASELINES.join(", ")
            );
        }
        Ok(Self { args, specs })
    }

    /// That of the endpoint with this number; `loras`: there are adapters.
    fn engine(&self, loras: bool, endpoint: u32) -> anyhow::Result<Engine> {
        let mut spec = self.specs[endpoint as usize % self.specs.len()].clone();
        spec.loras = loras.then_some(Loras {
            max: self.args.max_loras,
            load: self.args.lora_load.as_secs_f64(),
        });
        Ok(Engine::new(&spec)?)
    }

    fn wires(&self) -> Wires {
        let seconds = |time: Duration| time.as_secs_f64();
        Wires {
            decide: seconds(self.args.pick_delay),
            network: seconds(self.args.network),
            network_jitter: seconds(self.args.network_jitter),
            front_end: seconds(self.args.front_end),
            scrape_every: seconds(self.args.scrape_interval),
            scrape_takes: seconds(self.args.staleness),
            scrape_jitter: 0.1,
            gpu_every: seconds(self.args.gpu_interval),
            gpu_takes: seconds(self.args.gpu_delay),
            patience: seconds(self.args.patience),
            stage_gap: 1.0,
        }
    }

    fn block_size(&self) -> u32 {
        self.specs[0].block_size
    }

    /// Requests a second that the engine of `endpoint` serves when it is offered a stretch of the trace at once: in the middle of the run,
    /// where the batch is neither filling nor draining.
    fn throughput(&self, trace: &Arc<Trace>, endpoint: u32) -> anyhow::Result<f64> {
        let scale = Scale {
            requests: Some(SAMPLE),
            open_loop: true,
            ..Scale::default()
        };
        let traffic = Traffic::new(Arc::clone(trace), scale)?;
        let mut engine = self.engine(trace.adapters() > 0, endpoint)?;
        let block = self.block_size();
        let walk = Walk::new(&traffic, block);
        for arrival in traffic.arrivals() {
            let Arrival {
                number,
                prompt_tokens,
                output_tokens,
                keys,
                key_tokens,
                adapter,
                ..
            } = walk.arrival(&arrival);
            let names = keys.iter().copied();
            let request = Request {
                id: number,
                prompt_tokens,
                output_tokens,
                keys: Keys::new(names, key_tokens / block, prompt_tokens / block),
                adapter,
            };
            // One that no engine can take says nothing of how many others it can.
            let _ = engine.submit(request, 0.0);
        }
        let mut ends = Vec::new();
        while let Some(next) = engine.next_event() {
            engine.advance(next, &mut |event| {
                if let Event::Finished { at, .. } = event {
                    ends.push(at);
                }
            });
        }
        let (from, to) = (ends.len() / 5, ends.len() * 4 / 5);
        anyhow::ensure!(
            to > from + 1 && ends[to] > ends[from],
            "--load: the trace is too short to tell what load is; give --rate"
        );
        Ok((to - from) as f64 / (ends[to] - ends[from]))
    }

    /// One run.
    fn run(
        &self,
        endpoints: u32,
        picks: &Picks,
        traffic: &Traffic,
        seed: u64,
        faults: Vec<Fault>,
        ended: &mut dyn FnMut(Served),
    ) -> anyhow::Result<Done> {
        let loras = traffic.trace().adapters() > 0;
        let engines = (0..endpoints).map(|endpoint| self.engine(loras, endpoint));
        let mut cluster = cluster::Cluster {
            engines: engines.collect::<anyhow::Result<_>>()?,
            block_size: self.block_size(),
            wires: self.wires(),
            faults,
            seed,
        };
        let mut router = self.router(endpoints, picks, seed)?;
        let mut walk = Walk::new(traffic, self.block_size());
        cluster::run(&mut cluster, &mut *router, &mut walk, &mut |outcome| {
            ended(served(outcome));
        });
        let loads = cluster.engines.iter().map(Engine::lora_loads);
        Ok(Done {
            lora_loads: loras.then(|| loads.sum()),
        })
    }

    fn router(&self, endpoints: u32, picks: &Picks, seed: u64) -> anyhow::Result<Box<dyn Router>> {
        // As much for each endpoint as serve has by default for a hundred.
        let bytes = DEFAULT_BUDGET / 100 * (endpoints as usize).max(100);
        match picks {
            Picks::Named(name) => {
                let baseline = Baseline::new(name, endpoints, bytes, seed);
                Ok(Box::new(baseline.context("--policy")?))
            }
            Picks::Profile { text, .. } => {
                let options = LoadOptions {
                    allow_experimental: true,
                };
                let plan = Plan::of(text, options)?;
                let parts = plan.parts(self.args.scrape_interval, STALENESS);
                let ours = Ours::new(parts.policy, endpoints, bytes, seed);
                Ok(Box::new(ours.without(&self.args.without)))
            }
        }
    }
}

impl Cluster for Virtual<'_> {
    /// The least rate at which nearly the most requests a second are good (within the SLO) when each goes where the fewest are
    /// in flight: past it, what more is offered makes as much late. It is looked for on few engines, in steps of 5 % of what
    /// they could serve if nobody minded waiting, and taken to grow with their number.
    fn saturation(&self, trace: &Arc<Trace>) -> anyhow::Result<f64> {
        let few = self.args.endpoints.min(FEW);
        let kinds = few.min(self.specs.len() as u32);
        let of_each = (0..kinds).map(|endpoint| self.throughput(trace, endpoint));
        let of_each = of_each.collect::<anyhow::Result<Vec<_>>>()?;
        let mean = of_each.iter().sum::<f64>() / f64::from(kinds);
        let most = mean * f64::from(few);
        let mut tried = Vec::new();
        for share in (4..=24).map(|step| f64::from(step) * 0.05) {
            let scale = Scale {
                rate: Some(Rate::PerSecond(most * share)),
                requests: Some(TRIED * u64::from(few)),
                open_loop: self.args.open_loop,
                ..Scale::default()
            };
            let traffic = Traffic::new(Arc::clone(trace), scale)?;
            let mut tally = Tally::new(self.args.slo(), few as usize);
            let picks = Picks::Named("least-request".to_owned());
            let ended = &mut |it: Served| tally.add(&it);
            self.run(few, &picks, &traffic, self.args.seed, Vec::new(), ended)?;
            tried.push((most * share, tally.numbers().goodput));
        }
        let peak = tried.iter().map(|&(_, good)| good).fold(0.0, f64::max);
        let first = tried.iter().find(|&&(_, good)| good >= PEAK * peak);
        let rate = first.map_or(most, |&(rate, _)| rate);
        Ok(rate / f64::from(few) * f64::from(self.args.endpoints))
    }

    fn serve(
        &self,
        picks: &Picks,
        traffic: &Traffic,
        seed: u64,
        ended: &mut dyn FnMut(Served),
    ) -> anyhow::Result<Done> {
        let (endpoints, faults) = (self.args.endpoints, self.args.fault.clone());
        self.run(endpoints, picks, traffic, seed, faults, ended)
    }
}

fn served(of: &cluster::Outcome) -> Served {
    let outcome = match (of.fate, of.first) {
        (Fate::Served, Some(first)) => Outcome::Served {
            ttft: first - of.arrived,
            e2e: of.ended - of.arrived,
        },
        (Fate::Refused(reason), _) => Outcome::Rejected {
            reason,
            at: of.ended,
        },
        _ => Outcome::Lost { at: of.ended },
    };
    Served {
        arrival: of.arrived,
        endpoint: of.endpoint,
        prompt: of.prompt_tokens,
        cached: of.cached_tokens,
        output: of.output_tokens,
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::tests::parsed;
    use super::*;

    #[test]
    fn endpoints_take_turns_with_the_gpus() {
        let args = |gpu: &str| parsed(&["trace", "--gpu", gpu]);
        let mixed = args("H100,L4");
        let mixed = Virtual::of(&mixed).unwrap();
        let memory = |endpoint| {
            let engine = mixed.engine(false, endpoint).unwrap();
            engine.hardware().hbm_bytes >> 30
        };
        assert_eq!([0, 1, 2, 3].map(memory), [79, 22, 79, 22]);
        let error = Virtual::of(&args("H100,L5")).unwrap_err();
        assert!(format!("{error:#}").contains("L5"), "{error:#}");
    }
}
