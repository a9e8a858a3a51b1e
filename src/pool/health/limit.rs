//! Keeps requests away from endpoints that are out, but not from too many.
//!
//! What is concluded may be wrong of a whole pool at once: a driver that reports nonsense, an agent with a fault, XIDs on all
//! nodes after an upgrade. So of the endpoints that can serve a request at most a share ([`MOST_OUT`] unless it is set
//! otherwise) is kept out for what was concluded; past that the least bad are let in again, those of one cause by their numbers, so that all
//! requests agree on them. What failed requests is another matter: that it does not work is known, and to send requests
//! there adds no capacity. It is out whatever the share, unless there is nothing else.

use std::sync::atomic::Ordering::Relaxed;

use super::super::snapshot::Snapshot;
use super::super::{Pool, Stages};
use super::cause::Cause;

/// The share that may be out, unless it is set otherwise: half of a pool that is sized for its load still answers, if
/// slowly, and more than half do not fail at once for reasons of their own. (Envoy stops believing health at the same.)
pub const MOST_OUT: f32 = 0.5;

/// How many of `all` may be kept out, by `share`: not all, and one unless the share is 0.
fn most_of(all: usize, share: f32) -> usize {
    let most = (all as f32 * share) as usize;
    let least = usize::from(share > 0.0);
    most.max(least).min(all.saturating_sub(1))
}

/// Endpoints that do one stage.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    all: usize,
    /// Out for what was concluded.
    concluded: usize,
    /// Out because they fail requests.
    failing: usize,
}

// === impl Pool ===

impl Pool {
    /// Sets the share of a pool that may be kept out, 0 to 1.
    pub fn limit_ejections(&self, share: f32) {
        let cell = &self.slab().most_out;
        cell.store(share.clamp(0.0, 1.0).to_bits(), Relaxed);
    }

    /// How many decisions let endpoints in that are out, because too many were.
    pub fn overruled(&self) -> u64 {
        self.slab().overruled.load(Relaxed)
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Takes those out of `candidates` that are out. `gpus`: see [`super::Word::is_out`]. `false`: that would have been too
    /// many, and the least bad of them are still in.
    pub fn retain_healthy(&self, gpus: bool, candidates: &mut Vec<u32>) -> bool {
        if !self.any_out() {
            return true;
        }
        let is_out = |&candidate: &u32| self.word(candidate).is_out(gpus);
        let out = candidates.iter().filter(|c| is_out(c)).count();
        if out == 0 {
            return true;
        }
        let most = most_of(candidates.len(), self.share_out());
        if out <= most {
            self.remove_out(candidates, gpus, most, &[]);
            return true;
        }
        let cause = |candidate: u32| self.word(candidate).cause();
        let concluded = |candidate: &u32| cause(*candidate) != Some(Cause::Failures);
        let all = candidates.iter().copied();
        let mut let_in: Vec<u32> = all.filter(|c| is_out(c) && concluded(c)).collect();
        let_in.sort_unstable_by_key(|&candidate| (cause(candidate), candidate));
        let_in.truncate(out - most);
        if !let_in.is_empty() || out < candidates.len() {
            self.remove_out(candidates, gpus, candidates.len() - 1, &let_in);
        }
        let_in.is_empty()
    }

    /// Counts a decision for [`Pool::overruled`].
    pub fn overruled(&self) {
        self.slab().overruled.fetch_add(1, Relaxed);
    }

    /// What was counted for [`Pool::overruled`].
    #[cfg(test)]
    pub(crate) fn times_overruled(&self) -> u64 {
        self.slab().overruled.load(Relaxed)
    }

    /// Takes at most so many of those out that are out by now, and none of `but`.
    fn remove_out(&self, candidates: &mut Vec<u32>, gpus: bool, most: usize, but: &[u32]) {
        let mut removed = 0;
        candidates.retain(|candidate| {
            let stays =
                removed == most || !self.word(*candidate).is_out(gpus) || but.contains(candidate);
            removed += usize::from(!stays);
            stays
        });
    }

    /// Whether any endpoint may be out: where none is, nothing else needs to be asked.
    pub fn any_out(&self) -> bool {
        self.slab().any_out()
    }

    fn share_out(&self) -> f32 {
        f32::from_bits(self.slab().most_out.load(Relaxed))
    }

    /// How many endpoints are out for what was concluded, and how many may be: of those that do one stage of requests, where
    /// they are the fewest beside what may be. A pool without roles is all of one stage.
    pub fn kept_out(&self) -> (usize, usize) {
        if !self.any_out() {
            return (0, most_of(self.len(), self.share_out()));
        }
        // Prefill, decode, neither.
        let mut stages = [Tally::default(); 3];
        for (position, member) in (0..).zip(self.members()) {
            let word = self.word(position);
            let out = word.is_out(true);
            let failing = out && word.cause() == Some(Cause::Failures);
            let Stages { prefill, decode } = Stages::of(&member.endpoint.labels);
            for (tally, does) in stages
                .iter_mut()
                .zip([prefill, decode, !prefill && !decode])
            {
                tally.all += usize::from(does);
                tally.concluded += usize::from(does && out && !failing);
                tally.failing += usize::from(does && failing);
            }
        }
        let shares = stages
            .into_iter()
            .filter(|stage| stage.all > 0)
            .map(|stage| {
                let most = most_of(stage.all, self.share_out());
                (stage.concluded, most.saturating_sub(stage.failing))
            });
        let left = |&(out, most): &(usize, usize)| most as i64 - out as i64;
        shares.min_by_key(left).unwrap_or_default()
    }
}
