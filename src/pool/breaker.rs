//! When failures keep requests away from an endpoint.
//!
//! A server that fails fast has an empty queue, which is the best score there is: without this it attracts all traffic.
//! The breaker is passive, it learns from what was served. It opens after [`STREAK`] failures in a row, or when at
//! least half of [`ENOUGH`] or more results within [`WINDOW_MS`] are failures. It stays open for [`PAUSE_MS`],
//! doubled with each probe that fails, up to [`LONGEST_PAUSE_MS`]. Then one request at a time is sent there, whatever
//! the scores say, and the first success closes it. Open, it is one of the causes of [`super::health`].
//!
//! What counts as a failure is the caller's to say: connect failures and 500, 502, 503, 504, and answers that break off with
//! an error; never 429, never a client that went away. Each failure also weighs as much as a request in flight
//! for a while ([`FADES_MS`]): a server that fails fast does not look idle, before it is out and where it cannot be kept out.

use std::sync::atomic::Ordering::Relaxed;

use super::slab::Slot;

/// Failures in a row that open it.
pub const STREAK: u32 = 5;
/// Results in a window from which on their share counts.
pub const ENOUGH: u32 = 10;
/// Length of a window of results, in milliseconds.
pub const WINDOW_MS: u64 = 10_000;
/// First pause, in milliseconds.
pub const PAUSE_MS: u64 = 2_000;
/// Longest pause, in milliseconds.
pub const LONGEST_PAUSE_MS: u64 = 60_000;
/// For how long a probe that tells nothing holds up the next, in milliseconds.
pub const PROBE_MS: u64 = 1_000;
/// In so many milliseconds the weight of failures halves: they count as long as a usual request would have.
pub const FADES_MS: u64 = 5_000;
/// The greatest weight of failures, in requests.
const HEAVIEST: f32 = 1_000.0;
/// What is below has faded.
const FADED: f32 = 0.25;

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server did its part.
    Ok,
    /// The server failed.
    Failed,
}

/// Tells endpoints' health what came of requests.
#[derive(Debug)]
pub struct Breaker;

/// The results of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Results {
    began: u64,
    ok: u32,
    failed: u32,
    streak: u32,
}

// === impl Breaker ===

impl Breaker {
    /// Tells the health of `slot` what came of a request that was sent at `sent_at`. Times are milliseconds of
    /// [`super::clock_ms`].
    pub fn observe(slot: &Slot, outcome: Outcome, sent_at: u64, now_ms: u64) {
        if outcome == Outcome::Failed {
            let cell = &slot.segment().blame[slot.index()];
            // Of two at once one may be lost, and no more depends on it.
            let weight = weight_of_failures(cell.load(Relaxed), now_ms) + 1.0;
            cell.store(blame(weight.min(HEAVIEST), now_ms), Relaxed);
        }
        slot.with_health(now_ms, |machine| machine.result(outcome, sent_at, now_ms));
    }
}

/// Failures that weighed `weight` requests at `at`, in one number that is never 0.
fn blame(weight: f32, at: u64) -> u64 {
    u64::from(weight.to_bits()) << 32 | (at & 0xffff_ffff)
}

/// What `blame` weighs now, in requests; 0 of an endpoint that never failed.
pub(super) fn weight_of_failures(blame: u64, now_ms: u64) -> f32 {
    if blame == 0 {
        return 0.0;
    }
    let age = (now_ms as u32).wrapping_sub(blame as u32);
    let weight = f32::from_bits((blame >> 32) as u32) * (-(age as f32) / FADES_MS as f32).exp2();
    if weight < FADED { 0.0 } else { weight }
}

// === impl Results ===

impl Results {
    pub(super) const NONE: Self = Self {
        began: 0,
        ok: 0,
        failed: 0,
        streak: 0,
    };

    /// Adds one. `true`: there were too many failures.
    pub(super) fn add(&mut self, outcome: Outcome, now: u64) -> bool {
        if now.saturating_sub(self.began) > WINDOW_MS {
            (self.began, self.ok, self.failed) = (now, 0, 0);
        }
        match outcome {
            Outcome::Ok => {
                self.streak = 0;
                self.ok += 1;
                false
            }
            Outcome::Failed => {
                self.streak += 1;
                self.failed += 1;
                let half = self.failed + self.ok >= ENOUGH && self.failed >= self.ok;
                self.streak >= STREAK || half
            }
        }
    }

    /// Failures in a row.
    pub(super) fn streak(&self) -> u32 {
        self.streak
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::pool_of;
    use super::super::{LoadView, Pool};
    use super::*;
    use std::sync::Arc;

    fn after(pool: &Pool) -> Vec<u32> {
        let snapshot = pool.snapshot();
        let mut candidates: Vec<u32> = (0..snapshot.len() as u32).collect();
        snapshot.retain_healthy(false, &mut candidates);
        candidates
    }

    fn slot(pool: &Pool) -> Arc<Slot> {
        Arc::clone(&pool.snapshot().member(0).slot)
    }

    /// A pool of two, the first of which failed at 100.
    fn tripped() -> Pool {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let slot = slot(&pool);
        for _ in 1..STREAK {
            Breaker::observe(&slot, Outcome::Failed, 50, 100);
        }
        assert_eq!(after(&pool), [0, 1]);
        Breaker::observe(&slot, Outcome::Failed, 50, 100);
        assert_eq!(after(&pool), [1]);
        pool
    }

    #[test]
    fn a_streak_opens_and_a_probe_closes() {
        let pool = tripped();
        let (snapshot, slot) = (pool.snapshot(), slot(&pool));
        let wants = |at, now| snapshot.wants_probe(at, false, now);
        let takes = |at, now| snapshot.take_probe(at, false, now);
        let half_open = 100 + PAUSE_MS;
        assert!(!takes(0, half_open - 1) && !takes(1, half_open));
        // One at a time; one that tells nothing frees the place.
        for now in [half_open, half_open + PROBE_MS] {
            assert!(wants(0, now) && takes(0, now));
            assert!(!wants(0, now) && !takes(0, now));
        }
        let failed = half_open + PROBE_MS;
        Breaker::observe(&slot, Outcome::Failed, failed, failed);
        let half_open = failed + 2 * PAUSE_MS;
        assert!(!wants(0, half_open - 1));
        assert!(takes(0, half_open));
        Breaker::observe(&slot, Outcome::Ok, half_open, half_open + 5);
        assert_eq!(after(&pool), [0, 1]);
        assert!(!wants(0, half_open + PROBE_MS));
    }

    #[test]
    fn what_was_sent_before_it_opened_says_nothing_new() {
        let pool = tripped();
        let (snapshot, slot) = (pool.snapshot(), slot(&pool));
        let half_open = 100 + PAUSE_MS;
        for now in [200, half_open] {
            Breaker::observe(&slot, Outcome::Ok, 60, now);
            assert_eq!(after(&pool), [1], "{now}");
            Breaker::observe(&slot, Outcome::Failed, 60, now);
        }
        assert!(snapshot.wants_probe(0, false, half_open));
        // Sent in the pause, because there was nothing else: it works again.
        Breaker::observe(&slot, Outcome::Failed, 150, 200);
        Breaker::observe(&slot, Outcome::Ok, 150, 200);
        assert_eq!(after(&pool), [0, 1]);
    }

    #[test]
    fn failures_at_once_are_one_trip() {
        let pool = tripped();
        let slot = slot(&pool);
        assert_eq!(slot.failures().1, 1);
        let now = 100 + PAUSE_MS;
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Breaker::observe(&slot, Outcome::Failed, now, now));
            }
        });
        assert_eq!(slot.failures().1, 2);
        assert_eq!(pool.ejections(super::super::Cause::Failures), 1);
        let wants = |now| pool.snapshot().wants_probe(0, false, now);
        assert!(!wants(now + 2 * PAUSE_MS - 1) && wants(now + 2 * PAUSE_MS));
    }

    #[test]
    fn one_thread_of_many_gets_the_probe() {
        let pool = tripped();
        let snapshot = pool.snapshot();
        let now = 100 + PAUSE_MS;
        let taken: usize = std::thread::scope(|scope| {
            let take = || usize::from(snapshot.take_probe(0, false, now));
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(taken, 1);
    }

    #[test]
    fn half_of_enough_results_opens() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let slot = slot(&pool);
        for n in 0..ENOUGH {
            assert_eq!(after(&pool), [0, 1], "{n}");
            let outcome = if n % 2 == 0 {
                Outcome::Ok
            } else {
                Outcome::Failed
            };
            Breaker::observe(&slot, outcome, 100, 100);
        }
        assert_eq!(after(&pool), [1]);
    }

    #[test]
    fn old_failures_do_not_count() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let slot = slot(&pool);
        for n in 0..u64::from(ENOUGH) {
            let now = 1 + n * (WINDOW_MS + 1);
            Breaker::observe(&slot, Outcome::Failed, now, now);
            Breaker::observe(&slot, Outcome::Ok, now, now);
        }
        assert_eq!(after(&pool), [0, 1]);
    }

    #[test]
    fn all_open_is_as_good_as_none() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let slot = slot(&pool);
        for _ in 0..STREAK {
            Breaker::observe(&slot, Outcome::Failed, 1, 1);
        }
        assert!(slot.word().is_out(false));
        assert_eq!(after(&pool), [0]);
    }

    #[test]
    fn a_failure_weighs_as_a_request_does_and_fades() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let slot = slot(&pool);
        let weight = |now| {
            let mut load = LoadView::default();
            load.gather(&pool.snapshot(), now, 1);
            (load.in_flight[0], load.in_flight[1])
        };
        assert_eq!(weight(1), (0, 0));
        for _ in 0..4 {
            Breaker::observe(&slot, Outcome::Failed, 1, 1);
        }
        assert_eq!(weight(1), (4, 0));
        assert_eq!(weight(1 + FADES_MS), (2, 0));
        Breaker::observe(&slot, Outcome::Failed, 1, 1 + FADES_MS);
        assert_eq!(weight(1 + FADES_MS), (3, 0));
        assert_eq!(weight(1 + 10 * FADES_MS), (0, 0));
        for _ in 0..5_000 {
            Breaker::observe(&slot, Outcome::Failed, 1, 1);
        }
        assert_eq!(weight(1).0, HEAVIEST as u32);
    }
}
