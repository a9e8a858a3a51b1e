//! The picker that serves, as a router of the simulation.
//!
//! What `picker` does around a choice (reading bodies, headers, streams) is not here; the choice is the very same, and so
//! is what is told of a request's life: load is reserved at once, the prompt's tokens leave it with the first token, the
//! breaker and the trust learn from how it ends.

use std::collections::HashMap;
use std::sync::Arc;

use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::router::{Asked, Chain, Page, Refused, Router};
use crate::picker::{self, Ground, NotChosen, Policy, Prompt, Workspace};
use crate::pool::slab::{LoraState, Scrape, Slot, lora_key};
use crate::pool::{
    Breaker, Endpoint, EndpointId, Outcome, Pool, Reservation, Snapshot, simulate_clock,
};
use crate::prefix::{Blocks, Prediction, PrefixCache};
use crate::scheduling::{RequestHeaders, RequestView};
use crate::telemetry::metrics::Metrics;

/// Bytes of prompt that stand for a token, as the picker estimates.
const TOKEN_BYTES: usize = 4;

/// See the module.
pub struct Ours {
    policy: Policy,
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
    reservation: Reservation,
    slot: Arc<Slot>,
    prediction: Option<Prediction>,
    prompt_tokens: u32,
    answered: bool,
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
                namespace: "sim".into(),
                name: format!("sim-{n}"),
            },
            address: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
            port: 8000,
            hardware: Default::default(),
            labels: Default::default(),
        });
        let snapshot = Pool::default().replace(all.collect());
        let rng = SmallRng::seed_from_u64(seed);
        Self {
            policy,
            snapshot,
            prefix: PrefixCache::new(prefix_bytes),
            metrics: Metrics::new(),
            space: Workspace::new(rng),
            flights: HashMap::new(),
            begun: vec![0; endpoints as usize],
        }
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
                body_bytes: bytes,
                multimodal: false,
                headers: &NoHeaders,
            },
            id: "",
            prompt: prompt.flatten(),
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
        let flight = Flight {
            reservation: Reservation::of(&slot, chosen.tokens),
            slot,
            prediction: chosen.prediction,
            prompt_tokens: asked.prompt_tokens,
            answered: false,
        };
        self.flights.insert(asked.id, flight);
        Ok(endpoint)
    }

    fn first_token(&mut self, id: u64, now: f64) {
        simulate_clock(millis(now));
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.reservation.prefilled();
            flight.answered = true;
            let sent_at = flight.reservation.sent_at();
            Breaker::observe(&flight.slot, Outcome::Ok, sent_at, millis(now));
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
        flight.reservation.ended();
    }

    fn failed(&mut self, id: u64, fault: bool, now: f64) {
        simulate_clock(millis(now));
        let Some(flight) = self.flights.remove(&id) else {
            return;
        };
        // A response that breaks off after its head was no failure to the breaker of the picker that serves, either.
        if fault && !flight.answered {
            let sent_at = flight.reservation.sent_at();
            Breaker::observe(&flight.slot, Outcome::Failed, sent_at, millis(now));
        }
        if fault {
            flight.reservation.ended();
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
