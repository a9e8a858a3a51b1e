//! Tells a [`Record`] what a decision is made from, as it is made.
//!
//! A pipeline calls it at each step; while it is off, each call is one comparison. The numbers of all candidates are
//! copied as they come, and only for the few endpoints that the record shows are they looked at again.

use super::{Context, NEUTRAL};
use crate::pool::Cause;
use crate::telemetry::decisions::{Name, Record, Seen, SeenGpu};

/// Endpoints that are shown of a profile.
const SHOWN: usize = 8;
/// Endpoints that are named of those that a filter takes away.
const NAMED: usize = 4;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    record: Record,
    /// The candidates before the next filter.
    before: Vec<u32>,
    /// By position: it is still there.
    left: Vec<bool>,
    /// A scorer's scores after another's.
    scores: Vec<f32>,
    /// Places among the candidates, of those that are shown.
    shown: Vec<usize>,
}

// === impl Trace ===

impl Trace {
    /// From now on, until [`Trace::end`], all steps are told.
    pub fn begin(&mut self, cx: &Context<'_>, id: &str, candidates: &[u32]) {
        self.on = true;
        let (pool, model) = (cx.snapshot.len(), cx.request.model);
        self.record.begin(id, model, pool, candidates.len());
    }

    /// The request is a retry of the one with the id `of`, which failed at [`Context::failed`].
    pub fn retry(&mut self, cx: &Context<'_>, of: &str) {
        if self.on {
            let failed = cx.failed.iter().map(|&position| name(cx, position));
            self.record.retry(of, failed);
        }
    }

    /// What was told. `None`: nothing, because it is off.
    pub fn end(&mut self) -> Option<&mut Record> {
        std::mem::take(&mut self.on).then_some(&mut self.record)
    }

    /// A profile begins.
    pub(super) fn run(&mut self, name: &str, candidates: &[u32]) {
        if self.on {
            self.record.run(name, candidates.len());
            self.before.clear();
            self.before.extend(candidates);
            self.scores.clear();
        }
    }

    /// `filter` left `candidates`.
    pub(super) fn filtered(&mut self, cx: &Context<'_>, filter: &str, candidates: &[u32]) {
        self.filtered_for(cx, filter, candidates, |_| None);
    }

    /// `filter` left `candidates`; `cause` says why others are gone, if it is for more than one reason.
    pub(super) fn filtered_for(
        &mut self,
        cx: &Context<'_>,
        filter: &str,
        candidates: &[u32],
        cause: impl Fn(u32) -> Option<&'static str>,
    ) {
        if !self.on {
            return;
        }
        let Self { before, left, .. } = self;
        let removed = before.len().saturating_sub(candidates.len());
        if removed > 0 {
            left.clear();
            left.resize(cx.snapshot.len(), false);
            for &candidate in candidates {
                left[candidate as usize] = true;
            }
        }
        let gone = before.iter().filter(|&&b| removed > 0 && !left[b as usize]);
        let names = gone.take(NAMED);
        let names = names.map(|&position| (name(cx, position), cause(position)));
        self.record.filtered(filter, removed, names);
        before.clear();
        before.extend(candidates);
    }

    /// `scorer` said `scores` of the candidates.
    pub(super) fn scored(&mut self, scorer: &str, weight: f32, scores: &[f32]) {
        if self.on && self.record.scorer(scorer, weight) {
            self.scores.extend_from_slice(scores);
        }
    }

    /// `scorer` put others in the place of fallbacks. Told of before [`Trace::picked`].
    pub(super) fn spread(&mut self, scorer: &str) {
        if self.on {
            self.record.spread(scorer);
        }
    }

    /// `picker` chose, of `candidates` with their `totals`; a `probe` took the first place.
    pub(super) fn picked(
        &mut self,
        cx: &Context<'_>,
        picker: &str,
        (candidates, totals): (&[u32], &[f32]),
        chosen: &[u32],
        probe: bool,
    ) {
        if !self.on {
            return;
        }
        self.record.picked(picker, probe);
        let Self { shown, scores, .. } = self;
        let scorers = scores.len().checked_div(candidates.len()).unwrap_or(0);
        let rank = |candidate: u32| {
            let place = chosen.iter().position(|&c| c == candidate);
            place.map_or(0, |place| place as u32 + 1)
        };
        if probe && let Some(&probed) = chosen.first() {
            let seen = seen(cx, probed, 1, f32::NAN);
            self.record
                .saw(name(cx, probed), seen, std::iter::empty::<f32>());
        }
        best(candidates, totals, chosen, shown);
        for &at in shown.iter() {
            let candidate = candidates[at];
            let said = (0..scorers).map(|scorer| {
                let score = scores[scorer * candidates.len() + at];
                // NaN stays: it tells that the scorer did not know.
                score.clamp(0.0, 1.0)
            });
            let seen = seen(cx, candidate, rank(candidate), totals[at]);
            self.record.saw(name(cx, candidate), seen, said);
        }
    }
}

/// Places among `candidates` of the chosen ones, as they were chosen, and then of the others with the highest totals.
fn best(candidates: &[u32], totals: &[f32], chosen: &[u32], shown: &mut Vec<usize>) {
    shown.clear();
    let place = |chosen: &u32| candidates.iter().position(|c| c == chosen);
    // One place is left for the runner-up.
    shown.extend(chosen.iter().filter_map(place).take(SHOWN - 1));
    let first = shown.len();
    let total = |at: usize| {
        if totals[at].is_nan() {
            NEUTRAL
        } else {
            totals[at]
        }
    };
    // The lowest total that is shown, once there is no place left: what is not above it needs no second look.
    let mut lowest = f32::NEG_INFINITY;
    for (at, (candidate, &here)) in candidates.iter().zip(totals).enumerate() {
        let here = if here.is_nan() { NEUTRAL } else { here };
        let full = shown.len() == SHOWN;
        if (full && here <= lowest) || chosen.contains(candidate) {
            continue;
        }
        if full {
            shown.pop();
        }
        let others = &shown[first..];
        let after = match others.last() {
            Some(&last) if total(last) < here => {
                others.partition_point(|&other| total(other) >= here)
            }
            _ => others.len(),
        };
        shown.insert(first + after, at);
        if shown.len() == SHOWN {
            lowest = shown.last().map_or(lowest, |&last| total(last));
        }
    }
}

fn name<'a>(cx: &Context<'a>, position: u32) -> Name<'a> {
    let member = cx.snapshot.member(position);
    let id = &member.endpoint.id;
    Name {
        namespace: &id.namespace,
        name: &id.name,
        address: &member.address,
    }
}

fn seen(cx: &Context<'_>, position: u32, rank: u32, total: f32) -> Seen {
    let at = position as usize;
    let known = |column: &[f32]| column.get(at).copied().unwrap_or(f32::NAN);
    let word = cx.snapshot.word(position);
    Seen {
        rank,
        total,
        waiting: known(&cx.load.waiting),
        running: known(&cx.load.running),
        kv_usage: known(&cx.load.kv_usage),
        in_flight: cx.load.in_flight.get(at).copied().unwrap_or(0),
        scrape_age_ms: cx
            .snapshot
            .scraped_at(position)
            .map(|t| cx.now_ms.saturating_sub(t)),
        health: (word.name(), word.cause().map(Cause::name)),
        speed: known(&cx.load.speed),
        gpu: gpu(cx, position),
    }
}

fn gpu(cx: &Context<'_>, position: u32) -> Option<SeenGpu> {
    let (s, i) = cx.snapshot.cell(position);
    let cells = &s.gpu_cells;
    let memory = cells.memory(i, cx.now_ms, u64::MAX)?;
    Some(SeenGpu {
        age_ms: cells.memory_age(i, cx.now_ms)?,
        held: memory.held,
        free: memory.free,
        foreign: memory.foreign,
        domain: cells.domain(i),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_are_the_chosen_and_the_best_of_the_others() {
        let mut shown = Vec::new();
        best(&[7, 8, 9], &[0.1, 0.3, 0.2], &[7, 9], &mut shown);
        assert_eq!(shown, [0, 2, 1]);
        let candidates: Vec<u32> = (0..100).collect();
        let totals: Vec<f32> = (0..100).map(|n| (n * 37 % 100) as f32).collect();
        best(&candidates, &totals, &[5], &mut shown);
        let mut by_total: Vec<usize> = (0..100).filter(|&at| at != 5).collect();
        by_total.sort_by(|&a, &b| totals[b].total_cmp(&totals[a]));
        assert_eq!((shown[0], &shown[1..]), (5, &by_total[..SHOWN - 1]));
        best(&candidates, &totals, &candidates, &mut shown);
        assert_eq!(shown.len(), SHOWN - 1);
        best(&[], &[], &[], &mut shown);
        assert!(shown.is_empty());
    }
}
