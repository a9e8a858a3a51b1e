//! The contract of [`PrefixIndex`](super::PrefixIndex) once more, as literal and as slow as can be, and the traffic that tests and
//! benches run through both. Not a public API.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The literal index: each endpoint's blocks, each with its last use.
#[derive(Debug, Default)]
pub struct Model {
    /// Endpoint → (place on the chain, hash) → use.
    held: BTreeMap<u32, BTreeMap<(usize, u64), u64>>,
    uses: u64,
    /// Blocks evicted so far.
    pub evicted: u64,
}

/// One thing to do with an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `match_into`.
    Match(Vec<u64>),
    /// `insert`.
    Insert(u32, Vec<u64>),
    /// `truncate`.
    Truncate(u32, u32),
    /// `forget`.
    Forget(u32),
    /// `evict`.
    Evict(u64),
}

/// What traffic looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Endpoint numbers are below.
    pub endpoints: u32,
    /// Longest stretch of blocks that is added at once.
    pub stretch: usize,
    /// Chains that are remembered, to be used again, continued or left half-way.
    pub remembered: usize,
    /// Of how many different blocks chains are made: few meet again by themselves.
    pub alphabet: u64,
    /// Share of steps that are neither a match nor an insert, in per mille.
    pub losses: u32,
}

/// Endless traffic, the same for the same seed.
#[derive(Debug)]
pub struct Churn {
    rng: SmallRng,
    shape: Shape,
    chains: Vec<Vec<u64>>,
}

// === impl Model ===

impl Model {
    /// For each of `endpoints` endpoints: how many blocks of `chain`, from its first, it holds.
    pub fn matches(&self, chain: &[u64], endpoints: usize) -> Vec<u32> {
        let nothing = BTreeMap::new();
        let held = |endpoint: u32| {
            let held = self.held.get(&endpoint).unwrap_or(&nothing);
            let blocks = chain.iter().copied().enumerate();
            blocks.take_while(|block| held.contains_key(block)).count() as u32
        };
        (0..endpoints as u32).map(held).collect()
    }

    /// The endpoint uses every block of `chain` (the first `capacity` of them), then loses what is over `capacity`.
    pub fn insert(&mut self, endpoint: u32, chain: &[u64], capacity: u32) {
        self.uses += 1;
        let held = self.held.entry(endpoint).or_default();
        for block in chain.iter().copied().enumerate().take(capacity as usize) {
            held.insert(block, self.uses);
        }
        self.truncate(endpoint, capacity);
    }

    /// The endpoint loses its oldest blocks until it has at most `blocks`.
    pub fn truncate(&mut self, endpoint: u32, blocks: u32) {
        while self.blocks_of(endpoint) > blocks {
            self.evict_where(|it| it == endpoint);
        }
    }

    /// The oldest blocks of all go. Returns how many went.
    pub fn evict(&mut self, blocks: u64) -> u64 {
        (0..blocks)
            .take_while(|_| self.evict_where(|_| true))
            .count() as u64
    }

    /// Blocks that an endpoint holds.
    pub fn blocks_of(&self, endpoint: u32) -> u32 {
        self.held.get(&endpoint).map_or(0, |held| held.len() as u32)
    }

    /// Longest unused, of these the deepest.
    fn evict_where(&mut self, whose: impl Fn(u32) -> bool) -> bool {
        let of = self.held.iter().filter(|(endpoint, _)| whose(**endpoint));
        let blocks = of.flat_map(|(endpoint, held)| {
            held.iter()
                .map(|(block, used)| (*used, Reverse(block.0), *endpoint, *block))
        });
        let Some((_, _, endpoint, block)) = blocks.min() else {
            return false;
        };
        if let Some(held) = self.held.get_mut(&endpoint) {
            held.remove(&block);
        }
        self.evicted += 1;
        true
    }
}

// === impl Churn ===

impl Churn {
    /// Traffic of a shape.
    pub fn new(seed: u64, shape: Shape) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            shape,
            chains: Vec::new(),
        }
    }

    /// The chains that are remembered.
    pub fn chains(&self) -> &[Vec<u64>] {
        &self.chains
    }

    /// An endpoint.
    pub fn endpoint(&mut self) -> u32 {
        self.rng.random_range(0..self.shape.endpoints)
    }

    /// The next thing to do.
    pub fn step(&mut self) -> Step {
        let endpoint = self.endpoint();
        if self.rng.random_range(0..1000) < self.shape.losses {
            let blocks = self.rng.random_range(0..4 * self.shape.stretch as u32);
            return match self.rng.random_range(0..4) {
                0 => Step::Forget(endpoint),
                1 => Step::Truncate(endpoint, blocks),
                _ => Step::Evict(u64::from(blocks)),
            };
        }
        let chain = self.chain();
        if self.rng.random_bool(0.5) {
            Step::Insert(endpoint, chain)
        } else {
            Step::Match(chain)
        }
    }

    /// A chain: a new one, or a remembered one as it is, continued, cut short, or left half-way.
    pub fn chain(&mut self) -> Vec<u64> {
        let kind = self.rng.random_range(0..100);
        let known = if kind < 20 || self.chains.is_empty() {
            Vec::new()
        } else {
            self.chains[self.rng.random_range(0..self.chains.len())].clone()
        };
        let middle = self.rng.random_range(0..=known.len());
        let chain = match kind {
            0..20 => self.continued(known),
            20..35 => known,
            35..70 => self.continued(known),
            70..80 => known[..middle].to_vec(),
            _ => self.continued(known[..middle].to_vec()),
        };
        if self.chains.len() < self.shape.remembered {
            self.chains.push(chain.clone());
        } else {
            let place = self.rng.random_range(0..self.chains.len());
            self.chains[place].clone_from(&chain);
        }
        chain
    }

    fn continued(&mut self, mut chain: Vec<u64>) -> Vec<u64> {
        for _ in 0..self.rng.random_range(1..=self.shape.stretch) {
            let block = self.rng.random_range(0..self.shape.alphabet).to_le_bytes();
            let last = chain.last().copied().unwrap_or_default();
            chain.push(xxh3_64_with_seed(&block, last));
        }
        chain
    }
}
