//! The endpoints: who they are, how loaded they are, whether they work.
//!
//! A request takes one [`Snapshot`] and sees one truth: the list of endpoints in it never changes.
//! The numbers that change all the time (scraped load, requests in flight, health) live in a
//! [`slab::Slab`] of atomics that outlives any snapshot; a snapshot only says which cells are whose.
//!
//! [`discovery`] says who is in the pool, [`scrape`] how loaded they are, [`models`] what they serve, [`ledger`] what we
//! sent them, [`load`] what both come to, [`gpu`] what they run on, [`health`] who is to get requests at all ([`breaker`]: who
//! fails them). [`objectives`] says how much each request matters, [`rewrites`] which model it is sent on for.

use std::cell::Cell;
use std::sync::OnceLock;
use std::time::Instant;

pub mod attributes;
pub mod breaker;
pub mod discovery;
pub mod endpoint;
pub mod engines;
pub mod failure;
mod fetch;
pub mod gauges;
pub mod gpu;
pub mod health;
pub mod ledger;
pub mod load;
pub mod models;
pub mod objectives;
mod per_member;
pub mod polls;
pub mod residents;
pub mod rewrites;
pub mod scan;
pub mod scrape;
pub mod slab;
pub mod snapshot;
pub mod stages;
pub mod state;
pub mod tls;

pub use breaker::{Breaker, Outcome};
pub use endpoint::{Endpoint, EndpointId, Hardware};
pub use health::{Cause, Health};
pub use ledger::{Reservation, Tokens};
pub use load::LoadView;
pub use objectives::Objectives;
pub use rewrites::Rewrites;
pub use snapshot::{Change, Member, Pool, Snapshot};
pub use stages::Stages;

thread_local! {
    /// What a simulation on this thread has it be; 0 = the real time.
    static SIMULATED: Cell<u64> = const { Cell::new(0) };
}

/// Milliseconds since the process started, never 0: the clock of all cells and deadlines in the pool.
pub fn clock_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    match SIMULATED.get() {
        0 => START.get_or_init(Instant::now).elapsed().as_millis() as u64 + 1,
        simulated => simulated,
    }
}

/// From now on it is `ms` on this thread, and stays so until the next call: simulations set their own time. 0 = the real
/// time again.
pub fn simulate_clock(ms: u64) {
    SIMULATED.set(ms);
}
