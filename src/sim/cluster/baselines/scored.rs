//! The llm-d picker: weighed scorers over its scraped metrics, the greatest sum wins, ties at random (reference
//! `endpoint-picker.md` §3.4, §3.5).
//!
//! ```text
//! queue      (max − q) / (max − min); all equal: 1
//! kv         1 − kv_usage
//! prefix     matched / total blocks
//! no-hit-lru 0.5 for all if anyone matches; else 1 − rank / (n − 1): never used first, then by how long ago
//! ```
//!
//! It reads the page as it was scraped and does not count what it sent since: the picker's own default has no in-flight
//! load (its `active-request-scorer` has, and is not in that profile).

use rand::rngs::SmallRng;

use super::super::router::Asked;
use super::{Rule, View, least};

pub(super) struct Scored {
    queue: f32,
    kv: f32,
    prefix: f32,
    no_hit: f32,
    /// When each endpoint last got a prompt that nobody had; 0 = never.
    used: Vec<u64>,
    clock: u64,
}

// === impl Scored ===

impl Scored {
    pub(super) fn new(queue: f32, kv: f32, prefix: f32, no_hit: f32) -> Self {
        Self {
            queue,
            kv,
            prefix,
            no_hit,
            used: Vec::new(),
            clock: 0,
        }
    }

    /// Each endpoint's sum.
    pub(super) fn sums(&mut self, asked: &Asked, view: &View) -> Vec<f32> {
        let n = view.pages.len();
        self.used.resize(n, 0);
        let queue = |at: usize| view.pages[at].waiting as f32;
        let max = (0..n).map(queue).fold(f32::MIN, f32::max);
        let min = (0..n).map(queue).fold(f32::MAX, f32::min);
        let total = asked.chain.0.len().max(1) as f32;
        let cold = view.matched.iter().all(|&blocks| blocks == 0);
        let mut ranks = vec![0.0; n];
        if self.no_hit > 0.0 && cold && n > 1 {
            let mut order: Vec<usize> = (0..n).collect();
            order.sort_by_key(|&at| self.used[at]);
            for (rank, at) in order.into_iter().enumerate() {
                ranks[at] = 1.0 - rank as f32 / (n - 1) as f32;
            }
        } else {
            ranks.fill(0.5);
        }
        (0..n)
            .map(|at| {
                let short = match max > min {
                    true => (max - queue(at)) / (max - min),
                    false => 1.0,
                };
                self.queue * short
                    + self.kv * (1.0 - view.pages[at].kv_usage)
                    + self.prefix * view.matched[at] as f32 / total
                    + self.no_hit * ranks[at]
            })
            .collect()
    }
}

impl Rule for Scored {
    fn looks(&self) -> bool {
        self.prefix > 0.0
    }

    fn choose(&mut self, asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        let sums = self.sums(asked, view);
        let endpoint = least(view.all(), |at| -sums[at], rng);
        if view.matched.iter().all(|&blocks| blocks == 0) {
            self.clock += 1;
            self.used[endpoint as usize] = self.clock;
        }
        endpoint
    }
}
