//! The picker that serves, as a router of the simulation.
//!
//! What `picker` does around a choice (reading bodies, headers, streams) is not here; the choice is the very same, and so
//! is what is told of a request's life: load is reserved at once, the prompt's tokens leave it with the first token, each
//! token leaves its mark, the breaker and the trust learn from how it ends. Health looks at the endpoints as often as when
//! serving, and agents tell of their GPUs. Each [`Sense`] can be taken away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use gpu_probes::telemetry::Report;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::router::{Asked, Chain, Page, Refused, Router};
use super::sights::{self, GpuReading, NAMESPACE, node, pod};
use crate::picker::{self, Ground, NotChosen, Policy, Prompt, Workspace};
use crate::pool::gpu::{Gpus, SILENT_MS, SourceId, SourceKind};
use crate::pool::health::Health;
use crate::pool::slab::{LoraState, Scrape, Slot, lora_key};
use crate::pool::{
    Breaker, Endpoint, EndpointId, Outcome, Pool, Reservation, Snapshot, simulate_clock,
};
use crate::prefix::{Blocks, Prediction, PrefixCache};
use crate::scheduling::{RequestHeaders, RequestView};
use crate::telemetry::metrics::Metrics;

/// Bytes of prompt that stand for a token, as the picker estimates.
const TOKEN_BYTES: usize = 4;

/// What the picker knows beside the gauges of its endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sense {
    /// Its own requests in flight, and their tokens.
    Ledger,
    /// Failed requests, and requests that nothing comes of.
    Errors,
    /// How fast tokens come.
    Speed,
    /// What node agents tell of GPUs.
    Gpu,
}

/// See the module.
pub struct Ours {
    policy: Policy,
    lacks: Vec<Sense>,
    health: Health,
    gpus: Gpus,
    /// Of each node.
    agents: Vec<SourceId>,
    /// Events that agents told of.
    events: u64,
    snapshot: Arc<Snapshot>,
    prefix: PrefixCache,
    metrics: Metrics,
    space: Workspace,
    flights: HashMap<u64, Flight>,
    /// What `sent` was when the scrape of an endpoint began.
    begun: Vec<u64>,
}

/// A request that has not ended.
struct Flight {
    /// None without [`Sense::Ledger`].
    reservation: Option<Reservation>,
    slot: Arc<Slot>,
    sent_at: u64,
    prediction: Option<Prediction>,
    prompt_tokens: u32,
    /// When the last token came, in seconds; `None`: none has.
    token_at: Option<f64>,
}

/// The simulation's requests have none.
struct NoHeaders;

impl RequestHeaders for NoHeaders {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

// === impl Ours ===

impl Ours {
    /// A picker for so many endpoints, which decides by `policy`.
    pub fn new(policy: Policy, endpoints: u32, prefix_bytes: usize, seed: u64) -> Self {
        simulate_clock(millis(0.0));
        let all = (0..endpoints).map(|n| Endpoint {
            id: EndpointId {
                namespace: NAMESPACE.to_owned(),
                name: pod(n),
            },
            address: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
            port: 8000,
            hardware: Default::default(),
            labels: Default::default(),
        });
        let pool = Arc::new(Pool::default());
        let snapshot = pool.replace(all.collect());
        let gpus = Gpus::new(pool);
        let agents = 0..endpoints.div_ceil(sights::OF_NODE);
        let agents = agents.map(|node| SourceId {
            kind: SourceKind::Agent,
            address: format!("node-{node}:9400").into(),
        });
        let agents: Vec<_> = agents.collect();
        for agent in &agents {
            gpus.add(agent, SILENT_MS);
        }
        let rng = SmallRng::seed_from_u64(seed);
        Self {
            policy,
            lacks: Vec::new(),
            health: Health::default(),
            gpus,
            agents,
            events: 0,
            snapshot,
            prefix: PrefixCache::new(prefix_bytes),
            metrics: Metrics::new(),
            space: Workspace::new(rng),
            flights: HashMap::new(),
            begun: vec![0; endpoints as usize],
        }
    }

    /// The same, which lacks these senses.
    pub fn without(mut self, lacks: &[Sense]) -> Self {
        self.lacks = lacks.to_vec();
        self
    }

    fn has(&self, sense: Sense) -> bool {
        !self.lacks.contains(&sense)
    }

    /// Its endpoints, by their numbers.
    #[cfg(test)]
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// How an endpoint is to it.
    #[cfg(test)]
    pub(super) fn state(&self, endpoint: u32) -> crate::pool::health::State {
        self.slot(endpoint).state()
    }

    fn slot(&self, endpoint: u32) -> &Arc<Slot> {
        &self.snapshot.member(endpoint).slot
    }
}

impl Router for Ours {
    fn pick(&mut self, asked: &Asked, now: f64) -> Result<u32, Refused> {
        let now_ms = millis(now);
        simulate_clock(now_ms);
        let Chain(chain) = &asked.chain;
        let looks = self.policy.scheduler.producers.prefix.is_some();
        let length = asked.prompt_tokens as f32 / Chain::BLOCK as f32;
        let blocks = Blocks::of_tokens(Chain::BLOCK as usize);
        let prompt = looks.then(|| Prompt::of_chain(chain.to_vec(), blocks, length));
        let adapter = asked.adapter.map(adapter_name);
        let model = adapter.as_deref().unwrap_or("model");
        let bytes = asked.prompt_tokens as usize * TOKEN_BYTES;
        let request = picker::Asked {
            request: RequestView {
                model,
                adapter: model,
                prompt_bytes: bytes,
                has_body: true,
                multimodal: false,
                headers: &NoHeaders,
            },
            id: "",
            prompt: prompt.flatten(),
            retry: None,
            priority: 0,
            max_tokens: asked.max_tokens.map(u64::from),
            only_if_cached: false,
            scores: false,
        };
        self.space.candidates.clear();
        self.space.candidates.extend(0..self.snapshot.len() as u32);
        let ground = Ground {
            policy: &self.policy,
            snapshot: &self.snapshot,
            prefix: &self.prefix,
            metrics: &self.metrics,
            decisions: None,
            now_ms,
        };
        let chosen =
            ground
                .choose(&request, &mut self.space)
                .map_err(|not_chosen| match not_chosen {
                    NotChosen::Shed(_) => "shed",
                    NotChosen::Schedule(_) => "no endpoint",
                    NotChosen::NotCached => "not cached",
                })?;
        let endpoint = chosen.decision.endpoints[0];
        let slot = Arc::clone(self.slot(endpoint));
        slot.adapter_sent(lora_key(model));
        let counts = self.has(Sense::Ledger);
        let flight = Flight {
            reservation: counts.then(|| Reservation::of(&slot, chosen.tokens)),
            slot,
            sent_at: now_ms,
            prediction: chosen.prediction,
            prompt_tokens: asked.prompt_tokens,
            token_at: None,
        };
        self.flights.insert(asked.id, flight);
        Ok(endpoint)
    }

    fn first_token(&mut self, id: u64, now: f64) {
        simulate_clock(millis(now));
        let (learns, errors) = (self.has(Sense::Speed), self.has(Sense::Errors));
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        flight.token_at = Some(now);
        flight.slot.marks().piece();
        match &mut flight.reservation {
            Some(reservation) if learns => reservation.prefilled(),
            Some(reservation) => reservation.read(),
            None => 0,
        };
        if errors {
            Breaker::observe(&flight.slot, Outcome::Ok, flight.sent_at, millis(now));
        }
    }

    fn ended(&mut self, id: u64, cached_tokens: u32, now: f64) {
        simulate_clock(millis(now));
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        if let Some(prediction) = flight.prediction {
            let prompt = u64::from(flight.prompt_tokens);
            self.prefix
                .answered(prediction, prompt, u64::from(cached_tokens));
        }
        flight.slot.marks().piece();
        flight.over();
    }

    fn failed(&mut self, id: u64, fault: bool, now: f64) {
        simulate_clock(millis(now));
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        // A response that breaks off after its head was no failure to the breaker of the picker that serves, either.
        if fault && flight.token_at.is_none() && self.has(Sense::Errors) {
            Breaker::observe(&flight.slot, Outcome::Failed, flight.sent_at, millis(now));
        }
        if fault {
            flight.over();
        }
    }

    fn scrape_begins(&mut self, endpoint: u32, _now: f64) {
        self.begun[endpoint as usize] = self.slot(endpoint).scrape_begins();
    }

    fn scraped(&mut self, endpoint: u32, page: Page, now: f64) {
        let scrape = Scrape {
            waiting: Some(page.waiting as f32),
            running: Some(page.running as f32),
            kv_usage: Some(page.kv_usage),
            kv_blocks: Some(page.kv_blocks),
            block_size: Some(page.block_size),
            progress: Some(page.progress),
            lora: page.loras.map(|loras| {
                let keys =
                    |ids: &[u32]| ids.iter().map(|&id| lora_key(&adapter_name(id))).collect();
                LoraState {
                    max: loras.max,
                    running: keys(&loras.running),
                    waiting: keys(&loras.waiting),
                    ..Default::default()
                }
            }),
            ..Default::default()
        };
        let begun = self.begun[endpoint as usize];
        self.slot(endpoint).record(&scrape, begun, millis(now));
    }

    fn watches(&self) -> bool {
        [Sense::Errors, Sense::Speed, Sense::Gpu]
            .into_iter()
            .any(|sense| self.has(sense))
    }

    fn tokens(&mut self, ids: &[u64], now: f64) {
        let learns = self.has(Sense::Speed);
        for id in ids {
            let Some(flight) = self.flights.get_mut(id) else {
                continue;
            };
            let marks = flight.slot.marks();
            marks.piece();
            // One that overtook the first is not timed.
            if let Some(last) = &mut flight.token_at {
                let gap = now - std::mem::replace(last, now);
                if learns {
                    marks.generated(1, Duration::from_secs_f64(gap.max(0.0)));
                }
            }
        }
    }

    fn tick(&mut self, now: f64) {
        simulate_clock(millis(now));
        if !self.has(Sense::Errors) {
            // Of what moves nobody thinks that it stands still.
            for member in self.snapshot.members() {
                member.slot.marks().piece();
            }
        }
        self.gpus.tick(millis(now));
        self.health.tick(&self.snapshot, millis(now));
    }

    fn sees_gpus(&self) -> bool {
        self.has(Sense::Gpu)
    }

    fn gpu(&mut self, endpoint: u32, reading: &GpuReading, now: f64) {
        self.told(endpoint, sights::told(endpoint, reading), now);
    }

    fn xid(&mut self, endpoint: u32, xid: u64, now: f64) {
        if self.sees_gpus() {
            self.events += 1;
            self.told(endpoint, sights::happened(endpoint, self.events, xid), now);
        }
    }
}

impl Ours {
    /// The agent of an endpoint's node said something.
    fn told(&self, endpoint: u32, report: Report, now: f64) {
        simulate_clock(millis(now));
        let agent = &self.agents[node(endpoint) as usize];
        self.gpus.report(agent, report, Vec::new(), millis(now));
    }
}

// === impl Flight ===

impl Flight {
    /// Its end was seen.
    fn over(self) {
        if let Some(reservation) = self.reservation {
            reservation.ended();
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        simulate_clock(0);
    }
}

/// What requests and pages call an adapter.
fn adapter_name(id: u32) -> String {
    format!("adapter-{id}")
}

/// The pool's clock at `now`. It begins at 1 s: 0 is "never" to the pool.
fn millis(now: f64) -> u64 {
    1000 + (now.max(0.0) * 1000.0) as u64
}
