//! What load balancers do that know nothing of models.

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::super::router::Asked;
use super::{Rule, View, least};

/// Any endpoint.
pub(super) struct Random;

/// One after the other.
#[derive(Default)]
pub(super) struct RoundRobin(u32);

/// The endpoint with the fewest requests in flight; ties at random.
pub(super) struct LeastRequest;

/// The better of two that are drawn: Envoy's `LEAST_REQUEST` with its default of two choices.
pub(super) struct PowerOfTwo;

impl Rule for Random {
    fn choose(&mut self, _asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        rng.random_range(view.all())
    }
}

impl Rule for RoundRobin {
    fn choose(&mut self, _asked: &Asked, view: &View, _rng: &mut SmallRng) -> u32 {
        let endpoint = self.0 % view.all().end;
        self.0 = endpoint + 1;
        endpoint
    }
}

impl Rule for LeastRequest {
    fn choose(&mut self, _asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        least(view.all(), |at| view.in_flight[at], rng)
    }
}

impl Rule for PowerOfTwo {
    fn choose(&mut self, _asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        let n = view.all().end;
        let first = rng.random_range(0..n);
        // Another one, if there is one.
        let second = (first + rng.random_range(0..n.max(2) - 1) + 1) % n;
        least([first, second].into_iter(), |at| view.in_flight[at], rng)
    }
}
