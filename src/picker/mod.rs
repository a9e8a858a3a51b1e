//! One request from start to end: read it, choose endpoints, reply; then watch the response.
//!
//! [`exchange`] is the life of one stream. The decision itself ([`decide`]) is plain code without `await`, run at
//! a [`desk`] that bounds how long anybody waits for it. Where the response comes by on another stream than the
//! request (decision-only profile with an observer), [`flights`] brings the two together.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;

use crate::admission::Admission;
use crate::dialect::Dialect;
use crate::extproc::{Headers, Metadata, Processor};
use crate::pool::Pool;
use crate::pool::objectives::DEFAULT_PRIORITY;
use crate::prefix::PrefixCache;
use crate::scheduling::{Reason, Scheduler};
use crate::telemetry::decisions::Decisions;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::record::Recorder;

mod bodies;
mod choose;
mod control;
mod decide;
mod denial;
mod desk;
mod edits;
mod exchange;
mod flights;
#[cfg(test)]
mod page_tests;
mod prefix_gauges;
mod prompt;
mod record;
mod report;
mod retries;
mod served;
mod steering;
mod subset;

use steering::Steering;

pub use choose::{Asked, Chosen, Ground, NotChosen, Workspace};
pub use desk::Desk;
pub use exchange::PickExchange;
pub use prefix_gauges::{OldPrefixGauges, PrefixGauges};
pub use prompt::Prompt;
pub use report::Reporters;
pub use retries::Retry;

/// What a picker is set up with.
#[derive(Clone, Debug)]
pub struct PickerOptions {
    /// Of the pool, `<namespace>/<name>`, where there are several: records of decisions and lines of the log name it.
    pub pool_id: Option<Arc<str>>,
    /// Obey the subset that the gateway gives.
    pub subset_filter: bool,
    /// Put every candidate's score into the metadata.
    pub emit_scores: bool,
    /// The largest decoded body, in bytes.
    pub max_body: usize,
    /// The header that names the tenant, in lower case: tenants share no prefix. `None`: there is one tenant.
    pub tenant_header: Option<String>,
    /// Objective, flow, tenant and model to ask for instead count only if the gateway says them in metadata.
    pub strict_headers: bool,
}

/// What may change while requests are under way: each ends under the policy that it began under.
#[derive(Debug)]
pub struct Policy {
    /// Says who may go.
    pub admission: Admission,
    /// Chooses.
    pub scheduler: Scheduler,
    /// Whose requests are read. Others are routed on load if [`Dialect::Passthrough`] is among them, else refused.
    pub parsers: Vec<Dialect>,
    /// Scrapes older than this are not believed.
    pub metrics_staleness: Duration,
    /// How long a scrape may take to be followed by the next one.
    pub metrics_turnover: Duration,
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
    decisions: Option<Decisions>,
    prefix: Arc<PrefixCache>,
    flights: flights::Flights,
    bodies: bodies::Bodies,
    retries: Arc<retries::Retries>,
    recorder: Option<Arc<Recorder>>,
}

// === impl Picker ===

impl Picker {
    /// Picks endpoints of `pool` by `policy`, with `prefix` for what they have cached; decisions are made at `desk` and, if
    /// there is one, kept in `decisions`.
    pub fn new(
        pool: Arc<Pool>,
        mut policy: Policy,
        options: PickerOptions,
        metrics: Arc<Metrics>,
        desk: Desk,
        decisions: Option<Decisions>,
        prefix: Arc<PrefixCache>,
    ) -> Self {
        policy.scheduler.time(&metrics);
        Self {
            pool,
            policy: ArcSwap::from_pointee(policy),
            decisions: decisions.map(|kept| kept.of_pool(options.pool_id.clone())),
            options,
            picks: Reason::ALL.map(|reason| metrics.picks(reason.name())),
            metrics,
            desk,
            prefix,
            flights: flights::Flights::default(),
            bodies: bodies::Bodies::default(),
            retries: Arc::default(),
            recorder: None,
        }
    }

    /// The same, and what it decides on goes into a capture, if there is a `recorder`.
    pub fn recorded(self, recorder: Option<Arc<Recorder>>) -> Self {
        Self { recorder, ..self }
    }

    /// What is believed of a request.
    fn steering<'a>(&self, headers: &'a Headers, metadata: &'a Metadata) -> Steering<'a> {
        match self.options.strict_headers {
            false => Steering::Headers(headers),
            true => Steering::Verified(metadata),
        }
    }

    /// That of the objective that a request names.
    fn priority(&self, steering: Steering<'_>) -> i32 {
        let objective = steering.first_of(&control::OBJECTIVE);
        let known = |name| self.pool.objectives.priority(name);
        objective.map_or(DEFAULT_PRIORITY, known)
    }

    /// What the plugins that decide hold now, for people, and how many requests wait for their observer or it for them.
    pub fn state(&self) -> serde_json::Value {
        let policy = self.policy.load();
        let (handler, of_type) = &policy.scheduler.name;
        serde_json::json!({
            "handler": handler,
            "handler_type": of_type,
            "plugins": policy.scheduler.state(),
            "observed_flights": self.flights.count(),
        })
    }

    /// Requests that come from now on are decided by `policy`.
    pub fn replace(&self, mut policy: Policy) {
        policy.scheduler.time(&self.metrics);
        self.policy.store(Arc::new(policy));
    }
}

impl Processor for Picker {
    type Exchange = PickExchange;

    fn open(self: &Arc<Self>) -> PickExchange {
        PickExchange::new(Arc::clone(self))
    }
}
