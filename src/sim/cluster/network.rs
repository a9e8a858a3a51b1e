//! How long the network takes.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::setting::Cluster;

/// A way through the network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Leg {
    There,
    /// Of the first token.
    First,
    /// Of the last one, or of bad news.
    Last,
}

/// Seconds for the request with this number of the source's: the same whoever routes it, so that routers can be compared.
pub(super) fn network(cluster: &Cluster, number: u64, leg: Leg) -> f64 {
    let wires = &cluster.wires;
    if wires.network_jitter == 0.0 {
        return wires.network;
    }
    let way = number.wrapping_mul(4).wrapping_add(leg as u64);
    let mut rng = SmallRng::seed_from_u64(cluster.seed.rotate_left(32) ^ way);
    let unit: f64 = rng.random();
    wires.network - wires.network_jitter * (1.0 - unit).ln()
}
