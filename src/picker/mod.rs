//! One request from start to end: read it, choose endpoints, reply; then watch the response.
//!
//! [`exchange`] is the life of one stream. The decision itself ([`decide`]) is plain code without `await`, run at
//! a [`desk`] that bounds how long anybody waits for it. Where the response comes by on another stream than the
//! request (decision-only profile with an observer), [`flights`] brings the two together.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;

use crate::dialect::Dialect;
use crate::extproc::Processor;
use crate::pool::Pool;
use crate::scheduling::{Reason, Scheduler};
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Metrics;

mod control;
mod decide;
mod denial;
mod desk;
mod edits;
mod exchange;
mod flights;
mod report;
mod served;
mod subset;

pub use desk::Desk;
pub use exchange::PickExchange;
pub use report::Reporters;

/// What a picker is set up with.
#[derive(Clone, Debug)]
pub struct PickerOptions {
    /// Obey the subset that the gateway gives.
    pub subset_filter: bool,
    /// Put every candidate's score into the metadata.
    pub emit_scores: bool,
    /// The largest decoded body, in bytes.
    pub max_body: usize,
}

/// What may change while requests are under way: each ends under the policy that it began under.
#[derive(Debug)]
pub struct Policy {
    /// Chooses.
    pub scheduler: Scheduler,
    /// Whose requests are read. Others are routed on load if [`Dialect::Passthrough`] is among them, else refused.
    pub parsers: Vec<Dialect>,
    /// Scrapes older than this are not believed.
    pub metrics_staleness: Duration,
    /// What the gateway is told of responses.
    pub reporters: Reporters,
}

/// The policy behind the ext_proc server: one for a pool.
#[derive(Debug)]
pub struct Picker {
    pool: Arc<Pool>,
    policy: ArcSwap<Policy>,
    options: PickerOptions,
    metrics: Arc<Metrics>,
    /// Requests picked for, by [`Reason`].
    picks: [Counter; Reason::ALL.len()],
    desk: Desk,
    decisions: Option<Arc<Decisions>>,
    flights: flights::Flights,
}

// === impl Picker ===

impl Picker {
    /// Picks endpoints of `pool` by `policy`; decisions are made at `desk` and, if there is one, kept in `decisions`.
    pub fn new(
        pool: Arc<Pool>,
        policy: Policy,
        options: PickerOptions,
        metrics: Arc<Metrics>,
        desk: Desk,
        decisions: Option<Arc<Decisions>>,
    ) -> Self {
        Self {
            pool,
            policy: ArcSwap::from_pointee(policy),
            options,
            picks: Reason::ALL.map(|reason| metrics.picks(reason.name())),
            metrics,
            desk,
            decisions,
            flights: flights::Flights::default(),
        }
    }

    /// Requests that come from now on are decided by `policy`.
    pub fn replace(&self, policy: Policy) {
        self.policy.store(Arc::new(policy));
    }
}

impl Processor for Picker {
    type Exchange = PickExchange;

    fn open(self: &Arc<Self>) -> PickExchange {
        PickExchange::new(Arc::clone(self))
    }
}
