//! Finds engines that have requests and do nothing (*wedged*).
//!
//! Such an engine answers its health checks, and its gauges stand still at whatever they were; what it was sent never comes
//! back. The sign is that nothing moves while something is outstanding: no piece of a response came by, and on its metrics
//! page neither the counters of tokens nor KV cache use nor the number of running requests changed. (The queue does not
//! count: it grows where nothing moves.)
//!
//! How long nothing may move is learned from the endpoint itself:
//!
//! ```text
//! limit = 4 · longest usual gap, from 1.5 s to 4 s      where pages have counters of tokens, and come
//!         3 · longest usual gap, 4 s at least           else, once 20 gaps are known
//! ```
//!
//! The longest usual gap halves in 30 s unless it comes again. Where the GPU is seen to be busy with nothing (always a
//! kernel running, at idle power or without memory traffic) the limit is half of that; where it evidently works, as on a
//! long prompt, or cannot be told apart from its neighbours, [`WORKS_MS`] more are waited. What was taken for wedged and
//! moves again by itself was patient work: for ten minutes its limit is 1.5 times what it took.
//!
//! Where neither pages nor responses are seen nothing is ever concluded.

use super::marks::Reading;

/// Bounds of the limit where pages count tokens, in milliseconds.
const SHORTEST_MS: u64 = 1_500;
const LONGEST_MS: u64 = 4_000;
/// What the GPU may take from the shortest.
const SURE_MS: u64 = 1_000;
/// How much longer a GPU may work without a sign, in milliseconds.
const WORKS_MS: u64 = 30_000;
/// In so many milliseconds a gap that does not come again counts half.
const FORGETS_MS: f32 = 30_000.0;
/// Pages since the last move, before nothing moving means anything, and how old the last of them may be, in milliseconds.
const PAGES: u32 = 3;
const LATE_MS: u64 = 1_000;
/// Gaps that must be known where pages do not count tokens.
const GAPS: u32 = 20;
/// For how long a false alarm is remembered, and the longest limit that comes of one, in milliseconds.
const ALARM_MS: u64 = 600_000;
const MOST_PATIENCE_MS: u64 = 60_000;

/// What the GPUs of an endpoint do, as far as it can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Activity {
    /// Nothing is known, or others work there too.
    #[default]
    Unknown,
    /// They compute, or read memory.
    Works,
    /// They are busy by their own account, and neither draw power nor read memory.
    Spins,
}

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing is outstanding.
    Idle,
    /// Something is, and it is too early to tell.
    Quiet,
    /// Something moved.
    Moves,
    /// Nothing moves.
    Stalled,
}

/// What is remembered of one endpoint. Times are milliseconds of [`crate::pool::clock_ms`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    pieces: u32,
    pages: u32,
    moved_at: u64,
    outstanding: bool,
    stalled: bool,
    usual_ms: f32,
    gaps: u32,
    /// The limit that a false alarm taught, and until when it counts.
    patience: (u64, u64),
}

// === impl Watch ===

impl Watch {
    pub(super) const NEW: Self = Self {
        pieces: 0,
        pages: 0,
        moved_at: 0,
        outstanding: false,
        stalled: false,
        usual_ms: 0.0,
        gaps: 0,
        patience: (0, 0),
    };

    /// Looks at what was left since the last look. `outstanding`: it has requests; `observed`: responses come by here, of
    /// this endpoint or another.
    pub(super) fn look(
        &mut self,
        marks: &Reading,
        outstanding: bool,
        observed: bool,
        gpus: Activity,
        now: u64,
    ) -> Look {
        let was_outstanding = std::mem::replace(&mut self.outstanding, outstanding);
        let page_moved = marks.page_changed_at > self.moved_at;
        let moved = marks.pieces != self.pieces || page_moved;
        self.pieces = marks.pieces;
        if moved || !was_outstanding {
            let gap = now.saturating_sub(self.moved_at);
            if moved && was_outstanding {
                self.learn(gap, now);
            }
            self.moved_at = now;
            self.pages = marks.pages;
        }
        if !outstanding {
            self.stalled = false;
            return Look::Idle;
        }
        let quiet = now.saturating_sub(self.moved_at);
        let limit = self.limit(marks, observed, gpus, now);
        if limit.is_some_and(|limit| quiet >= limit) {
            self.stalled = true;
        }
        match (self.stalled, moved) {
            (true, _) => Look::Stalled,
            (false, true) => Look::Moves,
            (false, false) => Look::Quiet,
        }
    }

    fn learn(&mut self, gap: u64, now: u64) {
        if std::mem::take(&mut self.stalled) {
            let limit = (gap + gap / 2).min(MOST_PATIENCE_MS);
            self.patience = (limit, now + ALARM_MS);
            return;
        }
        let faded = self.usual_ms * (-(gap as f32) / FORGETS_MS).exp2();
        self.usual_ms = faded.max(gap as f32);
        self.gaps = self.gaps.saturating_add(1);
    }

    /// `None`: nothing can be concluded.
    fn limit(&self, marks: &Reading, observed: bool, gpus: Activity, now: u64) -> Option<u64> {
        let pages_come = now.saturating_sub(marks.paged_at) <= LATE_MS;
        let enough = marks.pages.wrapping_sub(self.pages) >= PAGES;
        let pages_tell = marks.counts && pages_come && enough;
        let usual = self.usual_ms as u64;
        let mut limit = match (pages_tell, observed) {
            (true, _) if self.gaps == 0 => LONGEST_MS,
            (true, _) => (4 * usual).clamp(SHORTEST_MS, LONGEST_MS),
            (false, true) if self.gaps >= GAPS => (3 * usual).max(LONGEST_MS),
            (false, _) => return None,
        };
        match gpus {
            Activity::Unknown => {}
            Activity::Works => limit += WORKS_MS,
            Activity::Spins => limit = (limit / 2).max(SURE_MS),
        }
        let (patience, until) = self.patience;
        Some(if now < until {
            limit.max(patience)
        } else {
            limit
        })
    }
}
