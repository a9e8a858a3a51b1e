//! One request from start to end: read it, choose endpoints, reply; then watch the response.
//!
//! [`exchange`] is the life of one stream. The decision itself ([`decide`]) is plain code without `await`, run at
//! a [`desk`] that bounds how long anybody waits for it. Where the response comes by on another stream than the
//! request (decision-only profile with an observer), [`flights`] brings the two together.

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;

use crate::dialect::Dialect;
use crate::extproc::Processor;
use crate::pool::Pool;
use crate::scheduling::{Reason, Scheduler};
use crate::telemetry::metrics::Metrics;

mod control;
mod decide;
mod denial;
mod desk;
mod edits;
mod exchange;
mod flights;
mod served;
mod subset;

pub use desk::Desk;
pub use exchange::PickExchange;

/// What a picker is set up with.
#[derive(Clone, Debug)]
pub struct PickerOptions {
    /// Scrapes older than this are not believed.
    pub metrics_staleness: Duration,
    /// Obey the subset that the gateway gives.
    pub subset_filter: bool,
    /// Put every candidate's score into the metadata.
    pub emit_scores: bool,
    /// Whose requests are read. Others are routed on load if [`Dialect::Passthrough`] is among them, else refused.
    pub parsers: Vec<Dialect>,
    /// The largest decoded body, in bytes.
    pub max_body: usize,
}

/// The policy behind the ext_proc server: one for a pool.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    scheduler: Scheduler,
    options: PickerOptions,
    metrics: Arc<Metrics>,
    /// Requests picked for, by [`Reason`].
    picks: [Counter; Reason::ALL.len()],
    desk: Desk,
    flights: flights::Flights,
}

// === impl Picker ===

impl Picker {
    /// Picks endpoints of `pool` with `scheduler`; decisions are made at `desk`.
    pub fn new(
        pool: Arc<Pool>,
        scheduler: Scheduler,
        options: PickerOptions,
        metrics: Arc<Metrics>,
        desk: Desk,
    ) -> Self {
        Self {
            pool,
            scheduler,
            options,
            picks: Reason::ALL.map(|reason| metrics.picks(reason.name())),
            metrics,
            desk,
            flights: flights::Flights::default(),
        }
    }
}

impl Processor for Picker {
    type Exchange = PickExchange;

    fn open(self: &Arc<Self>) -> PickExchange {
        PickExchange::new(Arc::clone(self))
    }
}
