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
