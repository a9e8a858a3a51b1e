//! Policies that add up work.

use rand::rngs::SmallRng;

use super::super::router::{Asked, Chain};
use super::{Rule, View, least};

/// NVIDIA Dynamo's KV router (`worker_logit`, reference `rust.md` §2.1) with its defaults, in blocks of [`Chain::BLOCK`]:
/// `max(raw_prefill − overlap, 0) + decode_blocks`, the least wins, temperature 0; `raw_prefill` is what prompts are still to
/// be read there, this request's included, `decode_blocks` what the requests there hold. It does not share blocks between
/// them, as Dynamo's own tracking does.
pub(super) struct Dynamo;

/// LMetric (arXiv 2603.15202): new prefill tokens × batch size, the least wins. New tokens are those queued there and this
/// request's, without what is cached; the batch is the requests there and this one. Only the abstract was to be had: how
/// the paper breaks ties or ages its numbers is not known here.
pub(super) struct LMetric;

impl Rule for Dynamo {
    fn looks(&self) -> bool {
        true
    }

    fn choose(&mut self, asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        let cost = |at: usize| {
            let tokens = view.prefill_tokens[at] + u64::from(asked.prompt_tokens);
            let raw = tokens as f64 / f64::from(Chain::BLOCK);
            let prefill = (raw - f64::from(view.matched[at])).max(0.0);
            prefill + view.blocks[at] as f64
        };
        least(view.all(), cost, rng)
    }
}

impl Rule for LMetric {
    fn looks(&self) -> bool {
        true
    }

    fn choose(&mut self, asked: &Asked, view: &View, rng: &mut SmallRng) -> u32 {
        let product = |at: usize| {
            let cached = u64::from(view.matched[at] * Chain::BLOCK);
            let new = u64::from(asked.prompt_tokens).saturating_sub(cached);
            (view.prefill_tokens[at] + new) * u64::from(view.in_flight[at] + 1)
        };
        least(view.all(), product, rng)
    }
}
