//! `queue-scorer`: the shorter the queue, the better.
//!
//! Formula: `(max − q) / (max − min)` over the candidates; all equal, 1. `q` is the scraped number of waiting requests
//! plus those that were sent since the scrape. Source: the llm-d / GIE picker. Use it wherever engines queue.

use super::super::{Context, Scorer};
use super::least_is_best;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Queue;

impl Scorer for Queue {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        least_is_best(&cx.load.waiting, candidates, out);
    }
}
