//! `no-hit-lru-scorer`: spreads prompts that nobody has cached over the endpoints, the one that got one longest ago first.
//!
//! If a candidate has some of the prompt: 0.5 for all. Else the candidates are ranked, first those that never got a prompt
//! that they did not have, then by how long ago they did, and the score is `1 − rank / (n − 1)`; one alone gets 1. It
//! remembers the last `lruSize` (1024) such endpoints. An endpoint counts as used when it is sent a prompt of which it has
//! nothing, also if another had some: that fills its cache as well. A request without a prompt, or with one that is shorter
//! than a block, fills none: 0.5 for all, and it does not count. `prefixMatchInfoProducerName` names the producer of
//! what is cached; there is one. Source: the llm-d picker. Use it beside `prefix-cache-scorer`: without it, new prompts go
//! where the queue is shortest, and the caches fill unevenly.

use std::cell::RefCell;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::super::producers::Producers;
use super::super::{Context, Follow, Follows, NEUTRAL, Scorer};
use crate::config::{PluginUse, Problem};

/// More endpoints than a pool has.
const MOST: usize = 1 << 16;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct NoHitLru {
    size: usize,
    /// The endpoints that got such a prompt, longest ago first.
    used: ArcSwap<Vec<Used>>,
}

/// An endpoint, by number and life.
type Used = (u32, u64);

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    lru_size: usize,
    prefix_match_info_producer_name: String,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            lru_size: 1024,
            prefix_match_info_producer_name: String::new(),
        }
    }
}

thread_local! {
    /// By endpoint number: its place among the candidates, from 1.
    static PLACES: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

// === impl NoHitLru ===

impl NoHitLru {
    pub(in crate::scheduling) fn of(
        plugin: &PluginUse,
        producers: &Producers,
    ) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        producers.prefix_named(plugin, &params.prefix_match_info_producer_name)?;
        if !(1..=MOST).contains(&params.lru_size) {
            let message = format!("is not from 1 to {MOST}");
            return Err(plugin.parameters.field_problem("lruSize", &message));
        }
        Ok(Self {
            size: params.lru_size,
            used: ArcSwap::default(),
        })
    }

    /// Ranks in one pass over the candidates and one over the used ones: no sorting.
    fn rank(&self, cx: &Context<'_>, candidates: &[u32], places: &mut Vec<u32>, out: &mut [f32]) {
        let (numbers, lives) = (cx.snapshot.numbers(), cx.snapshot.lives());
        let last = (candidates.len() - 1) as f32;
        let score = |rank: usize| 1.0 - rank as f32 / last;
        for (place, &candidate) in (1u32..).zip(candidates) {
            let number = numbers[candidate as usize] as usize;
            if places.len() <= number {
                places.resize(number + 1, 0);
            }
            places[number] = place;
        }
        out[..candidates.len()].fill(f32::NAN);
        let used = self.used.load();
        let mut known = 0;
        // Those that were used last have the last ranks.
        for &(number, life) in used.iter().rev() {
            let place = places.get(number as usize).copied().unwrap_or(0) as usize;
            let Some(at) = place.checked_sub(1) else {
                continue;
            };
            if lives[candidates[at] as usize] == life {
                known += 1;
                out[at] = score(candidates.len() - known);
            }
        }
        let mut never = 0;
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            if out.is_nan() {
                *out = score(never);
                never += 1;
            }
            places[numbers[candidate as usize] as usize] = 0;
        }
    }
}

impl Scorer for NoHitLru {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        match candidates {
            // Nothing to spread: somebody has it, or no cache would be filled by it.
            candidates if cx.prefix.total_tokens == 0 || cx.prefix.any(candidates) => {
                out[..candidates.len()].fill(NEUTRAL)
            }
            [] | [_] => out[..candidates.len()].fill(1.0),
            _ => PLACES.with_borrow_mut(|places| self.rank(cx, candidates, places, out)),
        }
    }

    fn follow(&self) -> Option<&dyn Follow> {
        Some(self)
    }
}

impl Follow for NoHitLru {
    fn follows(&self) -> Follows<'_> {
        Follows::Own
    }

    fn picked(&self, cx: &Context<'_>, endpoint: u32) {
        // Without a prompt that could be held (none, or one shorter than a block) nothing was missed, and no cache is filled.
        if cx.prefix.total_tokens == 0 || cx.prefix.tokens(endpoint) > 0 {
            return;
        }
        let at = endpoint as usize;
        let now = (cx.snapshot.numbers()[at], cx.snapshot.lives()[at]);
        self.used.rcu(|used| {
            // An earlier life of the number is gone for good.
            let others = used.iter().filter(|(number, _)| *number != now.0);
            let mut next: Vec<Used> = Vec::with_capacity(used.len() + 1);
            next.extend(others);
            next.push(now);
            let extra = next.len().saturating_sub(self.size);
            next.drain(..extra);
            Arc::new(next)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{plugin, snapshot, with_context};
    use super::super::super::{PrefixView, Scorer as _};
    use super::*;
    use crate::pool::{LoadView, Snapshot};

    fn of(parameters: &str) -> Result<NoHitLru, Problem> {
        let producers = Producers::default();
        NoHitLru::of(&plugin("no-hit-lru-scorer", parameters), &producers)
    }

    fn with<T>(snapshot: &Snapshot, matched: &[u32], run: impl FnOnce(&Context<'_>) -> T) -> T {
        with_context(snapshot, &LoadView::default(), 0, &[], |cx| {
            run(&Context {
                prefix: PrefixView {
                    matched_tokens: matched,
                    total_tokens: 64,
                },
                ..*cx
            })
        })
    }

    fn scores(
        scorer: &NoHitLru,
        snapshot: &Snapshot,
        candidates: &[u32],
        matched: &[u32],
    ) -> Vec<f32> {
        let mut out = vec![f32::NAN; candidates.len()];
        with(snapshot, matched, |cx| {
            scorer.score(cx, candidates, &mut out)
        });
        out
    }

    #[test]
    fn who_got_a_new_prompt_longest_ago_is_first() {
        let (scorer, pool) = (of("{}").unwrap(), snapshot(3));
        let all = [0, 1, 2];
        assert_eq!(scores(&scorer, &pool, &all, &[]), [1.0, 0.5, 0.0]);
        with(&pool, &[], |cx| scorer.picked(cx, 0));
        assert_eq!(scores(&scorer, &pool, &all, &[]), [0.0, 1.0, 0.5]);
        with(&pool, &[], |cx| scorer.picked(cx, 1));
        with(&pool, &[], |cx| scorer.picked(cx, 2));
        assert_eq!(scores(&scorer, &pool, &all, &[]), [1.0, 0.5, 0.0]);
        with(&pool, &[], |cx| scorer.picked(cx, 0));
        assert_eq!(scores(&scorer, &pool, &all, &[]), [0.0, 1.0, 0.5]);
        // Only candidates have ranks.
        assert_eq!(scores(&scorer, &pool, &[2, 0], &[]), [1.0, 0.0]);
        assert_eq!(scores(&scorer, &pool, &[2], &[]), [1.0]);
        assert_eq!(scores(&scorer, &pool, &[], &[]), [0.0; 0]);
        // Somebody has it: there is nothing to spread. One that has it is not filled by it.
        assert_eq!(scores(&scorer, &pool, &all, &[0, 0, 1]), [0.5; 3]);
        assert_eq!(scores(&scorer, &pool, &[0, 1], &[0, 0, 1]), [0.0, 1.0]);
        with(&pool, &[0, 64, 0], |cx| scorer.picked(cx, 1));
        assert_eq!(scores(&scorer, &pool, &all, &[]), [0.0, 1.0, 0.5]);
    }

    #[test]
    fn a_request_without_a_prompt_to_hold_is_no_miss() {
        let (scorer, pool) = (of("{}").unwrap(), snapshot(3));
        with_context(&pool, &LoadView::default(), 0, &[], |cx| {
            assert_eq!(cx.prefix.total_tokens, 0);
            scorer.picked(cx, 0);
            // Nor is it sent where such a prompt would go.
            let mut out = [0.0; 3];
            scorer.score(cx, &[0, 1, 2], &mut out);
            assert_eq!(out, [NEUTRAL; 3]);
        });
        assert_eq!(scores(&scorer, &pool, &[0, 1, 2], &[]), [1.0, 0.5, 0.0]);
    }

    #[test]
    fn only_so_many_are_remembered_and_others_with_their_numbers_are_not_they() {
        let (scorer, pool) = (of("{lruSize: 1}").unwrap(), snapshot(3));
        for endpoint in [0, 2] {
            with(&pool, &[], |cx| scorer.picked(cx, endpoint));
        }
        assert_eq!(scores(&scorer, &pool, &[0, 1, 2], &[]), [1.0, 0.5, 0.0]);
        // Of another pool's endpoint with the same number nothing is known: lives differ.
        let scorer = of("{}").unwrap();
        scorer.used.store(Arc::new(vec![(0, u64::MAX)]));
        assert_eq!(scores(&scorer, &pool, &[0, 1, 2], &[]), [1.0, 0.5, 0.0]);
        assert!(of("{lruSize: 0}").is_err());
    }
}
