//! Keeps requests away from an endpoint that fails them.
//!
//! A server that fails fast has an empty queue, which is the best score there is: without this it attracts all traffic.
//! The breaker is passive, it learns from what was served. It opens after [`STREAK`] failures in a row, or when at
//! least half of [`ENOUGH`] or more results within [`WINDOW_MS`] are failures. It stays open for [`PAUSE_MS`],
//! doubled with each probe that fails, up to [`LONGEST_PAUSE_MS`]. Then one request at a time is sent there, whatever
//! the scores say, and the first success closes it. While it is open, only requests that were sent after it opened
//! count: the others tell what was known. If all candidates are open, all are offered: the breaker never empties a pool.
//!
//! What counts as a failure is the caller's to say: connect failures and 500, 502, 503, 504; never 429, never a client
//! that went away.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

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

/// Why requests are kept away from an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It failed them.
    Failures,
}

/// The breaker of each endpoint; its state is in the endpoint's [`Slot`].
#[derive(Debug)]
pub struct Breaker;

// === impl Cause ===

impl Cause {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 1] = [Self::Failures];

    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failures => "failures",
        }
    }
}

// === impl Breaker ===

impl Breaker {
    /// Tells the breaker of `slot` what came of a request that was sent at `sent_at`. Times are milliseconds of
    /// [`super::clock_ms`].
    pub fn observe(slot: &Slot, outcome: Outcome, sent_at: u64, now_ms: u64) {
        let (s, i) = (&**slot.segment(), slot.index());
        let open_until = s.open_until[i].load(Acquire);
        if open_until != 0 {
            if sent_at <= s.tripped_at[i].load(Relaxed) {
                return;
            }
            match outcome {
                Outcome::Ok => Self::close(slot, open_until, now_ms),
                Outcome::Failed if open_until <= now_ms => Self::open(slot, open_until, now_ms),
                // Sent in the pause, for want of anything better: no probe.
                Outcome::Failed => {}
            }
            return;
        }
        Self::roll(slot, now_ms);
        match outcome {
            Outcome::Ok => {
                s.failure_streak[i].store(0, Relaxed);
                s.window_ok[i].fetch_add(1, Relaxed);
            }
            Outcome::Failed => {
                let streak = s.failure_streak[i].fetch_add(1, Relaxed) + 1;
                let failed = s.window_failed[i].fetch_add(1, Relaxed) + 1;
                let ok = s.window_ok[i].load(Relaxed);
                if streak >= STREAK || (failed + ok >= ENOUGH && failed >= ok) {
                    Self::open(slot, open_until, now_ms);
                }
            }
        }
    }

    /// Opens it, unless another thread changed `open_until` since this one read `seen`: one trip, however many
    /// requests failed at once.
    fn open(slot: &Slot, seen: u64, now_ms: u64) {
        let (s, i) = (slot.segment(), slot.index());
        let pause = PAUSE_MS
            .saturating_mul(1 << s.breaker_trips[i].load(Relaxed).min(16))
            .min(LONGEST_PAUSE_MS);
        // First, so that whoever sees it open also sees since when.
        s.tripped_at[i].fetch_max(now_ms, Relaxed);
        if s.open_until[i]
            .compare_exchange(seen, now_ms + pause, AcqRel, Relaxed)
            .is_ok()
        {
            s.breaker_trips[i].fetch_add(1, Relaxed);
            // A probe that fails keeps out what is out already.
            if seen == 0 {
                slot.ejected(Cause::Failures);
            }
            Self::forget(slot, now_ms);
        }
    }

    fn close(slot: &Slot, seen: u64, now_ms: u64) {
        let (s, i) = (slot.segment(), slot.index());
        if s.open_until[i]
            .compare_exchange(seen, 0, AcqRel, Relaxed)
            .is_ok()
        {
            s.breaker_trips[i].store(0, Relaxed);
            Self::forget(slot, now_ms);
        }
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

    /// Why requests are kept away from the endpoint at `position`, if they are.
    pub fn ejected(&self, position: u32) -> Option<Cause> {
        self.is_open(position).then_some(Cause::Failures)
    }

    /// Whether the pause of the endpoint at `position` is over and no probe is under way: [`Snapshot::take_probe`] may
    /// succeed.
    pub fn wants_probe(&self, position: u32, now_ms: u64) -> bool {
        let (s, i) = self.cell(position);
        let until = s.open_until[i].load(Relaxed);
        // Most are closed: that is asked first, and in one comparison.
        until != 0 && until <= now_ms && s.probe_until[i].load(Relaxed) <= now_ms
    }

    /// Claims the probe of the endpoint at `position`: on `true` the caller, and nobody else, sends a request there.
    /// The claim ends with what came of the request, or after [`PROBE_MS`].
    pub fn take_probe(&self, position: u32, now_ms: u64) -> bool {
        let (s, i) = self.cell(position);
        let until = s.probe_until[i].load(Relaxed);
        until <= now_ms
            && self.wants_probe(position, now_ms)
            && s.probe_until[i]
                .compare_exchange(until, now_ms + PROBE_MS, Relaxed, Relaxed)
                .is_ok()
    }

    /// Takes those out of `candidates` whose breaker is open, unless that would leave none.
    pub fn retain_closed(&self, candidates: &mut Vec<u32>) {
        let closed = candidates.iter().filter(|&&c| !self.is_open(c)).count();
        if closed > 0 && closed < candidates.len() {
            candidates.retain(|&c| !self.is_open(c));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Pool;
    use super::super::snapshot::tests::pool_of;
    use super::*;
    use std::sync::Arc;

    fn after(pool: &Pool) -> Vec<u32> {
        let snapshot = pool.snapshot();
        let mut candidates: Vec<u32> = (0..snapshot.len() as u32).collect();
        snapshot.retain_closed(&mut candidates);
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
        let half_open = 100 + PAUSE_MS;
        assert!(!snapshot.take_probe(0, half_open - 1) && !snapshot.take_probe(1, half_open));
        // One at a time; one that tells nothing frees the place.
        for now in [half_open, half_open + PROBE_MS] {
            assert!(snapshot.wants_probe(0, now) && snapshot.take_probe(0, now));
            assert!(!snapshot.wants_probe(0, now) && !snapshot.take_probe(0, now));
        }
        let failed = half_open + PROBE_MS;
        Breaker::observe(&slot, Outcome::Failed, failed, failed);
        let half_open = failed + 2 * PAUSE_MS;
        assert!(!snapshot.wants_probe(0, half_open - 1));
        assert!(snapshot.take_probe(0, half_open));
        Breaker::observe(&slot, Outcome::Ok, half_open, half_open + 5);
        assert_eq!(after(&pool), [0, 1]);
        assert!(!snapshot.wants_probe(0, half_open + PROBE_MS));
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
        assert!(snapshot.wants_probe(0, half_open));
        // Sent in the pause, because there was nothing else: it works again.
        Breaker::observe(&slot, Outcome::Failed, 150, 200);
        Breaker::observe(&slot, Outcome::Ok, 150, 200);
        assert_eq!(after(&pool), [0, 1]);
    }

    #[test]
    fn failures_at_once_are_one_trip() {
        let pool = tripped();
        let slot = slot(&pool);
        let (s, i) = (slot.segment(), slot.index());
        assert_eq!(s.breaker_trips[i].load(Relaxed), 1);
        // Two threads read the same value before either wrote.
        let (seen, now) = (s.open_until[i].load(Relaxed), 100 + PAUSE_MS);
        for _ in 0..2 {
            Breaker::open(&slot, seen, now);
        }
        assert_eq!(s.breaker_trips[i].load(Relaxed), 2);
        assert_eq!(s.open_until[i].load(Relaxed), now + 2 * PAUSE_MS);
        // A success that was read off before the second trip does not undo it.
        Breaker::close(&slot, seen, now);
        assert_eq!(after(&pool), [1]);
    }

    #[test]
    fn one_thread_of_many_gets_the_probe() {
        let pool = tripped();
        let snapshot = pool.snapshot();
        let now = 100 + PAUSE_MS;
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| usize::from(snapshot.take_probe(0, now))))
                .collect();
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
        assert!(pool.snapshot().is_open(0));
        assert_eq!(after(&pool), [0]);
    }
}
