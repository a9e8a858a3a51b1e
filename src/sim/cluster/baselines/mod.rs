//! Policies beside ours, to be compared with. They exist in the simulation only.
//!
//! Each is told what an endpoint picker can know ([`View`]): pages as they were scraped, and of its own requests where they
//! went, when their first token came and when they ended. Prefix caches are guessed at from what was sent, by the same
//! index that the picker has. What is published of a policy is in its file; what is not, is said there.

mod balance;
mod cost;
mod gates;
mod scored;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::router::{Asked, Chain, Page, Refused, Router};
use crate::prefix::PrefixIndex;

/// All baselines, by name.
pub const NAMES: [&str; 12] = [
    "random",
    "round-robin",
    "least-request",
    "power-of-two",
    "llm-d-load",
    "llm-d-default",
    "llm-d-optimized",
    "llm-d-precise",
    "gie-filter-tree",
    "sglang-cache-aware",
    "dynamo",
    "lmetric",
];

/// A baseline at work.
pub struct Baseline {
    rule: Box<dyn Rule>,
    view: View,
    index: PrefixIndex,
    flights: HashMap<u64, Flight>,
    by_number: Vec<u32>,
    rng: SmallRng,
}

/// What can be known of the endpoints, by endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// As they were last scraped.
    pub(super) pages: Vec<Page>,
    /// Requests that were sent and have not ended.
    pub(super) in_flight: Vec<u32>,
    /// Prompt tokens of those of them that have no first token yet, without what was cached.
    pub(super) prefill_tokens: Vec<u64>,
    /// Blocks of [`Chain::BLOCK`] tokens of the prompts of all of them.
    pub(super) blocks: Vec<u64>,
    /// Blocks of this request's prompt that are cached there, if the rule looks at it.
    pub(super) matched: Vec<u32>,
}

/// How an endpoint is chosen.
pub(super) trait Rule {
    /// Whether it looks at prefix caches.
    fn looks(&self) -> bool {
        false
    }

    /// The endpoint for `asked`.
    fn choose(&mut self, asked: &Asked, view: &View, rng: &mut SmallRng) -> u32;
}

/// A request that has not ended.
struct Flight {
    endpoint: usize,
    prefill_tokens: u64,
    blocks: u64,
}

// === impl Baseline ===

impl Baseline {
    /// The baseline called `name`, for so many endpoints; `None`: there is none.
    pub fn new(name: &str, endpoints: u32, prefix_bytes: usize, seed: u64) -> Option<Self> {
        let rule: Box<dyn Rule> = match name {
            "random" => Box::new(balance::Random),
            "round-robin" => Box::new(balance::RoundRobin::default()),
            "least-request" => Box::new(balance::LeastRequest),
            "power-of-two" => Box::new(balance::PowerOfTwo),
            "llm-d-load" => Box::new(scored::Scored::new(1.0, 1.0, 0.0, 0.0)),
            "llm-d-default" => Box::new(scored::Scored::new(2.0, 2.0, 3.0, 0.0)),
            "llm-d-optimized" => Box::new(scored::Scored::new(2.0, 2.0, 3.0, 2.0)),
            "llm-d-precise" => Box::new(scored::Scored::new(1.0, 1.0, 2.0, 0.0)),
            "gie-filter-tree" => Box::new(gates::FilterTree),
            "sglang-cache-aware" => Box::new(gates::CacheAware),
            "dynamo" => Box::new(cost::Dynamo),
            "lmetric" => Box::new(cost::LMetric),
            _ => return None,
        };
        let n = endpoints as usize;
        Some(Self {
            rule,
            view: View {
                pages: vec![Page::default(); n],
                in_flight: vec![0; n],
                prefill_tokens: vec![0; n],
                blocks: vec![0; n],
                matched: vec![0; n],
            },
            index: PrefixIndex::new(prefix_bytes),
            flights: HashMap::new(),
            by_number: vec![0; n],
            rng: SmallRng::seed_from_u64(seed),
        })
    }
}

impl Router for Baseline {
    fn pick(&mut self, asked: &Asked, _now: f64) -> Result<u32, Refused> {
        let Chain(chain) = &asked.chain;
        if self.rule.looks() {
            self.index.match_into(chain, &mut self.by_number);
            self.view.matched.copy_from_slice(&self.by_number);
        }
        let endpoint = self.rule.choose(asked, &self.view, &mut self.rng);
        let at = endpoint as usize;
        let cached = u64::from(self.view.matched[at] * Chain::BLOCK);
        let flight = Flight {
            endpoint: at,
            prefill_tokens: u64::from(asked.prompt_tokens).saturating_sub(cached),
            blocks: u64::from(asked.prompt_tokens.div_ceil(Chain::BLOCK)),
        };
        self.view.in_flight[at] += 1;
        self.view.prefill_tokens[at] += flight.prefill_tokens;
        self.view.blocks[at] += flight.blocks;
        self.flights.insert(asked.id, flight);
        if self.rule.looks() {
            let page = &self.view.pages[at];
            let tokens = u64::from(page.kv_blocks) * u64::from(page.block_size);
            let capacity = u32::try_from(tokens / u64::from(Chain::BLOCK)).unwrap_or(u32::MAX);
            self.index.insert(endpoint, chain, capacity);
        }
        Ok(endpoint)
    }

    fn first_token(&mut self, id: u64, _now: f64) {
        if let Some(flight) = self.flights.get_mut(&id) {
            let done = std::mem::take(&mut flight.prefill_tokens);
            self.view.prefill_tokens[flight.endpoint] -= done;
        }
    }

    fn ended(&mut self, id: u64, _cached_tokens: u32, _now: f64) {
        if let Some(flight) = self.flights.remove(&id) {
            self.view.in_flight[flight.endpoint] -= 1;
            self.view.prefill_tokens[flight.endpoint] -= flight.prefill_tokens;
            self.view.blocks[flight.endpoint] -= flight.blocks;
        }
    }

    fn failed(&mut self, id: u64, _fault: bool, now: f64) {
        self.ended(id, 0, now);
    }

    fn scraped(&mut self, endpoint: u32, page: Page, _now: f64) {
        self.view.pages[endpoint as usize] = page;
    }
}

/// One of the endpoints for which `value` is least, at random.
pub(super) fn least<T: PartialOrd + Copy>(
    endpoints: impl Iterator<Item = u32>,
    value: impl Fn(usize) -> T,
    rng: &mut SmallRng,
) -> u32 {
    let mut best: Option<(T, u32)> = None;
    let mut ties = 0;
    for endpoint in endpoints {
        let value = value(endpoint as usize);
        match best {
            Some((least, _)) if value > least => {}
            Some((least, _)) if value == least => {
                // Each of so many ties has the same chance to stay.
                ties += 1;
                if rng.random_range(0..ties) == 0 {
                    best = Some((value, endpoint));
                }
            }
            _ => {
                best = Some((value, endpoint));
                ties = 1;
            }
        }
    }
    best.map_or(0, |(_, endpoint)| endpoint)
}

// === impl View ===

impl View {
    /// All endpoints.
    pub(super) fn all(&self) -> std::ops::Range<u32> {
        0..self.pages.len() as u32
    }
}
