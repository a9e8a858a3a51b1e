//! Keeps requests away from an endpoint that fails them.
//!
//! A server that fails fast has an empty queue, which is the best score there is: without this it attracts all traffic.
//! The breaker is passive, it learns from what was served. It opens after [`STREAK`] failures in a row, or when at
//! least half of [`ENOUGH`] or more results within [`WINDOW_MS`] are failures. It stays open for [`PAUSE_MS`],
//! doubled with each probe that fails, up to [`LONGEST_PAUSE_MS`]. Then one request at a time may try, and the
//! first success closes it. If all candidates are open, all are offered: the breaker never empties a pool.
//!
//! What counts as a failure is the caller's to say: connect failures and 500, 502, 503, 504; never 429, never a client
//! that went away.

use std::sync::atomic::Ordering::Relaxed;

use super::slab::Slot;
use super::snapshot::Snapshot;

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

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server did its part.
    Ok,
    /// The server failed.
    Failed,
}

/// The breaker of each endpoint; its state is in the endpoint's [`Slot`].
#[derive(Debug)]
pub struct Breaker;

// === impl Breaker ===

impl Breaker {
    /// Tells the breaker of `slot` what came of a request.
    pub fn observe(slot: &Slot, outcome: Outcome, now_ms: u64) {
        let (s, i) = (&**slot.segment(), slot.index());
        let open_until = s.open_until[i].load(Relaxed);
        if open_until > now_ms {
            // Requests that were sent before it opened: they say nothing new.
            return;
        }
        match (outcome, open_until != 0) {
            (Outcome::Ok, true) => {
                s.breaker_trips[i].store(0, Relaxed);
                Self::forget(slot, now_ms);
                s.open_until[i].store(0, Relaxed);
            }
            (Outcome::Ok, false) => {
                s.failure_streak[i].store(0, Relaxed);
                Self::roll(slot, now_ms);
                s.window_ok[i].fetch_add(1, Relaxed);
            }
            (Outcome::Failed, true) => Self::open(slot, now_ms),
            (Outcome::Failed, false) => {
                Self::roll(slot, now_ms);
                let streak = s.failure_streak[i].fetch_add(1, Relaxed) + 1;
                let failed = s.window_failed[i].fetch_add(1, Relaxed) + 1;
                let ok = s.window_ok[i].load(Relaxed);
                if streak >= STREAK || (failed + ok >= ENOUGH && failed >= ok) {
                    Self::open(slot, now_ms);
                }
            }
        }
    }

    fn open(slot: &Slot, now_ms: u64) {
        let (s, i) = (slot.segment(), slot.index());
        let trips = s.breaker_trips[i].fetch_add(1, Relaxed);
        let pause = PAUSE_MS
            .saturating_mul(1 << trips.min(16))
            .min(LONGEST_PAUSE_MS);
        Self::forget(slot, now_ms);
        s.open_until[i].store(now_ms + pause, Relaxed);
    }

    /// A window is over: its results are forgotten. Two threads may both forget; a result or two is lost.
    fn roll(slot: &Slot, now_ms: u64) {
        let (s, i) = (slot.segment(), slot.index());
        if now_ms.saturating_sub(s.window_start[i].load(Relaxed)) > WINDOW_MS {
            s.window_start[i].store(now_ms, Relaxed);
            s.window_ok[i].store(0, Relaxed);
            s.window_failed[i].store(0, Relaxed);
        }
    }

    fn forget(slot: &Slot, now_ms: u64) {
        let (s, i) = (slot.segment(), slot.index());
        s.failure_streak[i].store(0, Relaxed);
        s.window_start[i].store(now_ms, Relaxed);
        s.window_ok[i].store(0, Relaxed);
        s.window_failed[i].store(0, Relaxed);
        s.probe_until[i].store(0, Relaxed);
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Whether failures keep requests away from the endpoint at `position`, or let only probes through.
    pub fn is_open(&self, position: u32) -> bool {
        let (s, i) = self.cell(position);
        s.open_until[i].load(Relaxed) != 0
    }

    /// Takes those out of `candidates` whose breaker is open, unless that would leave none. One whose pause is over
    /// stays in for one request at a time.
    pub fn retain_available(&self, now_ms: u64, candidates: &mut Vec<u32>) {
        let closed = candidates.iter().filter(|&&c| !self.is_open(c)).count();
        if closed == candidates.len() {
            return;
        }
        let may_probe = |position: u32| {
            let (s, i) = self.cell(position);
            let until = s.probe_until[i].load(Relaxed);
            s.open_until[i].load(Relaxed) <= now_ms
                && until <= now_ms
                && s.probe_until[i]
                    .compare_exchange(until, now_ms + PROBE_MS, Relaxed, Relaxed)
                    .is_ok()
        };
        if closed > 0 {
            candidates.retain(|&c| !self.is_open(c) || may_probe(c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::pool_of;
    use super::*;

    fn after(pool: &super::super::Pool, now: u64) -> Vec<u32> {
        let snapshot = pool.snapshot();
        let mut candidates: Vec<u32> = (0..snapshot.len() as u32).collect();
        snapshot.retain_available(now, &mut candidates);
        candidates
    }

    #[test]
    fn a_streak_opens_a_success_closes() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        for _ in 1..STREAK {
            Breaker::observe(slot, Outcome::Failed, 100);
        }
        assert_eq!(after(&pool, 100), [0, 1]);
        Breaker::observe(slot, Outcome::Failed, 100);
        assert_eq!(after(&pool, 100), [1]);
        // A late success of an earlier request changes nothing.
        Breaker::observe(slot, Outcome::Ok, 200);
        assert_eq!(after(&pool, 200), [1]);
        // One probe at a time.
        let half_open = 100 + PAUSE_MS;
        assert_eq!(after(&pool, half_open), [0, 1]);
        assert_eq!(after(&pool, half_open), [1]);
        assert_eq!(after(&pool, half_open + PROBE_MS), [0, 1]);
        Breaker::observe(slot, Outcome::Failed, half_open);
        assert_eq!(after(&pool, half_open + PAUSE_MS), [1]);
        assert_eq!(after(&pool, half_open + 2 * PAUSE_MS), [0, 1]);
        Breaker::observe(slot, Outcome::Ok, half_open + 2 * PAUSE_MS);
        for _ in 0..3 {
            assert_eq!(after(&pool, half_open + 2 * PAUSE_MS), [0, 1]);
        }
    }

    #[test]
    fn half_of_enough_results_opens() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        for n in 0..ENOUGH {
            assert_eq!(after(&pool, 100), [0, 1], "{n}");
            let outcome = if n % 2 == 0 {
                Outcome::Ok
            } else {
                Outcome::Failed
            };
            Breaker::observe(slot, outcome, 100);
        }
        assert_eq!(after(&pool, 100), [1]);
    }

    #[test]
    fn old_failures_do_not_count() {
        let pool = pool_of(&["10.0.0.1:80", "10.0.0.2:80"]);
        let snapshot = pool.snapshot();
        let slot = &snapshot.member(0).slot;
        for n in 0..u64::from(ENOUGH) {
            let now = 1 + n * (WINDOW_MS + 1);
            Breaker::observe(slot, Outcome::Failed, now);
            Breaker::observe(slot, Outcome::Ok, now);
        }
        assert_eq!(after(&pool, 1), [0, 1]);
    }

    #[test]
    fn all_open_is_as_good_as_none() {
        let pool = pool_of(&["10.0.0.1:80"]);
        let snapshot = pool.snapshot();
        for _ in 0..STREAK {
            Breaker::observe(&snapshot.member(0).slot, Outcome::Failed, 1);
        }
        assert!(snapshot.is_open(0));
        assert_eq!(after(&pool, 2), [0]);
    }
}
