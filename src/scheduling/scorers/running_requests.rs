//! `running-requests-size-scorer`: the fewer requests an engine runs, the better.
//!
//! Formula: `(max − r) / (max − min)` over the candidates; all equal, 1. `r` is the effective number of running requests
//! ([`crate::pool::load`]); where it is unknown, the mean of the known ones plus our own in flight. Source: the
//! llm-d / GIE picker, which takes the scraped number. Use it to even out batch sizes while no engine queues.

use super::super::{Context, Scorer};
use super::least_is_best;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct RunningRequests;

impl Scorer for RunningRequests {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        least_is_best(&cx.load.running, &cx.load.in_flight, candidates, out);
    }
}
