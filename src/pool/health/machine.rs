//! The causes that stand at an endpoint, and how they come and go.
//!
//! A cause begins with the first word of it. One that is told again and again (a *fact*: the GPU is lost, the engine says it
//! is unhealthy) stands for as long as it is told; when it is told to be over it stands for another while
//! ([`Cause::hold_ms`]), so that what flickers stays. One that was told once (an *event*: an XID) stands for a time of its
//! own. When nobody can tell any more, a fact stands for a while longer ([`Cause::unheard_ms`]) and not for ever.
//!
//! ```text
//!           told                     over, or its time has come
//!  (none) ────────▶ stands ─────────────────────────────────────▶ trial ──▶ (none)
//!                      ▲         one that only derates or drains:   │ a request was served, or
//!                      └──────────────── just ends                  │ TRIAL_MS passed unharmed
//!                        told again; or a trial failed ─────────────┘
//! ```
//!
//! In the trial one request at a time is sent there, whatever the scores say. One that fails begins a pause, twice as
//! long as the last ([`PAUSE_MS`] to [`LONGEST_PAUSE_MS`]). While an endpoint is out, only requests count that were sent
//! after that: the others tell what was known. What is told again in the trial puts it out again, and the trial was none.
//!
//! Where no GPU keeps requests away (a profile without `gpu-health-filter`) the trial of what else puts it out begins when
//! that has had its time, and what ends or fails there is that.

use super::super::breaker::{LONGEST_PAUSE_MS, Outcome, PAUSE_MS, PROBE_MS, Results};
use super::cause::{Cause, Effect};
use super::word::Word;

/// How long a trial without a failure must be where nobody sees how requests end, in milliseconds.
pub(super) const TRIAL_MS: u64 = 10_000;
/// For how long a trial of what was wedged holds up the next, in milliseconds.
const HANGS_MS: u64 = 5_000;
/// For as long as it is told.
const STANDS: u64 = u64::MAX;

/// See the module. Times are milliseconds of [`crate::pool::clock_ms`].
#[derive(Debug)]
pub(in crate::pool) struct Machine {
    standing: [Standing; Cause::ALL.len()],
    results: Results,
    /// When it was last put out, or a trial failed; 0 = never.
    tripped_at: u64,
    /// Trials that failed since it was last well, and the first trip.
    trips: u32,
    /// When the next request may try it out.
    next_trial: u64,
    /// When the first did, since it was last put out; 0 = none. First of those that GPUs do not keep away, then of all
    /// that puts it out.
    tried_at: [u64; 2],
    /// When there was last a new process; 0 = never.
    restarted_at: u64,
    /// Causes that began and were not counted yet, as bits.
    begun: u16,
}

#[derive(Clone, Copy, Debug)]
struct Standing {
    /// 0 = it does not stand.
    since: u64,
    /// When it happened last, or began.
    last: u64,
    /// Until when, whatever else is heard.
    until: u64,
}

// === impl Standing ===

impl Standing {
    const NONE: Self = Self {
        since: 0,
        last: 0,
        until: 0,
    };
}

// === impl Machine ===

impl Machine {
    pub(in crate::pool) const NEW: Self = Self {
        standing: [const { Standing::NONE }; Cause::ALL.len()],
        results: Results::NONE,
        tripped_at: 0,
        trips: 0,
        next_trial: 0,
        tried_at: [0; 2],
        restarted_at: 0,
        begun: 0,
    };

    /// It is told that `cause` stands.
    pub(super) fn stands(&mut self, cause: Cause, now: u64) {
        self.begin(cause, now, STANDS);
    }

    /// `cause` was told once; it stands until `until` at least.
    pub(super) fn happened(&mut self, cause: Cause, now: u64, until: u64) {
        self.begin(cause, now, until);
        self.standing[cause as usize].last = now;
    }

    /// It is told that `cause` does not stand. An event of the same cause is not taken back.
    pub(super) fn over(&mut self, cause: Cause, now: u64) {
        if self.standing[cause as usize].until == STANDS {
            self.cleared(cause, now);
        }
    }

    /// What `cause` was is mended.
    pub(super) fn cleared(&mut self, cause: Cause, now: u64) {
        self.shorten(cause, now + cause.hold_ms());
    }

    /// Nobody can tell whether `cause` stands.
    pub(super) fn unheard(&mut self, cause: Cause, now: u64) {
        if self.standing[cause as usize].until == STANDS {
            self.shorten(cause, now + cause.unheard_ms());
        }
    }

    /// There is a new engine process.
    pub(super) fn restarted(&mut self, now: u64) {
        let ends = Cause::ALL.into_iter().filter(|c| c.ends_with_the_process());
        ends.for_each(|cause| self.shorten(cause, now));
        self.restarted_at = now;
        self.results = Results::NONE;
    }

    /// A request that was sent at `sent_at` was served, or was not.
    pub(in crate::pool) fn result(&mut self, outcome: Outcome, sent_at: u64, now: u64) {
        if self.ejecting(true).next().is_none() {
            self.add(outcome, now);
            return;
        }
        if sent_at <= self.tripped_at {
            return;
        }
        // All that puts it out has had its time, or all but its GPUs.
        let mut kinds = [true, false].into_iter();
        let in_trial = kinds.find(|&gpus| self.trial_from(gpus) <= now);
        match (outcome, in_trial) {
            (Outcome::Ok, _) => {
                for cause in self.ejecting(true) {
                    let until = self.standing[cause as usize].until;
                    if until <= now || (until != STANDS && cause.is_disproved_by_service()) {
                        self.end(cause);
                    }
                }
                self.recovered();
            }
            (Outcome::Failed, Some(gpus)) => {
                let until = now + self.pause();
                for cause in self.ejecting(gpus) {
                    let standing = &mut self.standing[cause as usize];
                    standing.until = standing.until.max(until);
                }
                self.happened(Cause::Failures, now, until);
                self.trips += 1;
                self.put_out(now);
                return;
            }
            (Outcome::Failed, None) => {}
        }
        // Sent while it was out, for want of anything better, or because nobody minds its GPUs: no trial. But what else
        // put it out may be wrong, and whether it fails what it gets counts as anywhere.
        if !self.has(Cause::Failures) {
            self.add(outcome, now);
        }
    }

    /// Claims a trial: on `true` the caller, and nobody else, sends a request there. `gpus`: it keeps requests away for what
    /// GPUs tell, too; where nobody does, that need not be over.
    pub(in crate::pool) fn claim_trial(&mut self, gpus: bool, now: u64) -> bool {
        let may = self.next_trial(gpus) <= now;
        if may {
            // What hangs does not tell so soon.
            let hangs = self.has(Cause::Wedged);
            self.next_trial = now + if hangs { HANGS_MS } else { PROBE_MS };
            for gpus in [false, true] {
                if self.tried_at[usize::from(gpus)] == 0 && self.trial_from(gpus) <= now {
                    self.tried_at[usize::from(gpus)] = now;
                }
            }
        }
        may
    }

    /// Time passes.
    pub(super) fn settle(&mut self, now: u64) {
        let tried_at = self.tried_at;
        let unharmed = |at: u64| at != 0 && now >= at + TRIAL_MS;
        for cause in Cause::ALL {
            let Standing { since, until, .. } = self.standing[cause as usize];
            let well = match cause.effect() {
                // Whoever counts failures sees successes too.
                Effect::Eject => {
                    let tried_at = tried_at[usize::from(cause.is_of_gpus())];
                    unharmed(tried_at) && cause != Cause::Failures
                }
                Effect::Drain | Effect::Derate => true,
            };
            if since != 0 && until <= now && well {
                self.end(cause);
            }
        }
        self.recovered();
    }

    /// As decisions read it; `weight` is what the GPUs leave.
    pub(in crate::pool) fn word(&self, weight: f32) -> Word {
        let causes = Cause::ALL.into_iter().filter(|&cause| self.has(cause));
        Word::of(causes, weight)
    }

    /// When the next trial may be, as far as is known; [`u64::MAX`] = not yet, or nothing is to be tried. `gpus`: see
    /// [`Machine::claim_trial`].
    pub(in crate::pool) fn next_trial(&self, gpus: bool) -> u64 {
        self.trial_from(gpus).max(self.next_trial)
    }

    /// Since when `cause` stands.
    pub(in crate::pool) fn since(&self, cause: Cause) -> Option<u64> {
        Some(self.standing[cause as usize].since).filter(|&since| since != 0)
    }

    /// When `cause`, which stands, happened last.
    pub(super) fn last(&self, cause: Cause) -> Option<u64> {
        self.has(cause).then(|| self.standing[cause as usize].last)
    }

    /// When the engine was last found to be a new process; 0 = never.
    pub(super) fn restarted_at(&self) -> u64 {
        self.restarted_at
    }

    pub(super) fn has(&self, cause: Cause) -> bool {
        self.standing[cause as usize].since != 0
    }

    /// The causes that began since the last call.
    pub(in crate::pool) fn take_begun(&mut self) -> impl Iterator<Item = Cause> + use<> {
        let begun = std::mem::take(&mut self.begun);
        Cause::ALL
            .into_iter()
            .filter(move |&cause| begun & (1 << cause as u16) != 0)
    }

    /// Failures in a row, and how often it was put out since it was last well.
    pub(in crate::pool) fn failures(&self) -> (u32, u32) {
        (self.results.streak(), self.trips)
    }

    fn add(&mut self, outcome: Outcome, now: u64) {
        if self.results.add(outcome, now) {
            self.happened(Cause::Failures, now, now + self.pause());
            self.trips += 1;
            self.results = Results::NONE;
        }
    }

    fn pause(&self) -> u64 {
        PAUSE_MS
            .saturating_mul(1 << self.trips.min(16))
            .min(LONGEST_PAUSE_MS)
    }

    /// `cause` stands until `until` at least: it begins, or goes on.
    fn begin(&mut self, cause: Cause, now: u64, until: u64) {
        let standing = &mut self.standing[cause as usize];
        let begins = standing.since == 0;
        // In its trial it is told again: what was sent there before is no trial any more.
        let anew = begins || (standing.until <= now && until > now);
        if begins {
            *standing = Standing {
                since: now.max(1),
                last: now,
                until,
            };
            self.begun |= 1 << cause as u16;
        } else {
            standing.until = standing.until.max(until);
        }
        if anew && cause.effect() == Effect::Eject {
            self.put_out(now);
        }
    }

    fn end(&mut self, cause: Cause) {
        self.standing[cause as usize].since = 0;
    }

    fn shorten(&mut self, cause: Cause, until: u64) {
        let standing = &mut self.standing[cause as usize];
        if standing.since != 0 {
            standing.until = standing.until.min(until);
        }
    }

    fn put_out(&mut self, now: u64) {
        self.tripped_at = self.tripped_at.max(now);
        (self.next_trial, self.tried_at) = (0, [0; 2]);
    }

    /// If nothing puts it out any more, the next failure is the first.
    fn recovered(&mut self) {
        if self.tripped_at != 0 && self.ejecting(true).next().is_none() {
            (self.tripped_at, self.trips, self.tried_at) = (0, 0, [0; 2]);
            self.results = Results::NONE;
        }
    }

    /// What puts it out; without `gpus`, where nobody minds those.
    fn ejecting(&self, gpus: bool) -> impl Iterator<Item = Cause> + use<> {
        let standing = self.standing;
        Cause::ALL.into_iter().filter(move |&cause| {
            let counts = gpus || !cause.is_of_gpus();
            counts && standing[cause as usize].since != 0 && cause.effect() == Effect::Eject
        })
    }

    /// When all that puts it out has had its time; [`u64::MAX`] = nothing does.
    fn trial_from(&self, gpus: bool) -> u64 {
        let until = self.ejecting(gpus).map(|c| self.standing[c as usize].until);
        until.max().unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests;
