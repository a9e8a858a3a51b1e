//! `queue-scorer`: the shorter the queue, the better.
//!
//! Formula: `(max − q) / (max − min)` over the candidates; all equal, 1. `q` is the effective queue length, in requests
//! ([`crate::pool::load`]); where it is unknown, the mean of the known ones plus our own in flight. Source: the
//! llm-d / GIE picker, which takes the scraped number. Use it wherever engines queue.

use super::super::{Context, Scorer};
use super::least_is_best;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Queue;

impl Scorer for Queue {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        least_is_best(&cx.load.waiting, &cx.load.in_flight, candidates, out);
    }
}
