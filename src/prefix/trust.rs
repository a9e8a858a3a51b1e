//! How far each endpoint's predicted prefix match can be believed, from what the server says afterwards.
//!
//! A prediction is made in our blocks of estimated tokens, the answer (`usage.prompt_tokens_details.cached_tokens`) in the
//! engine's own. To compare them without knowing the tokenizer, the prediction is taken as a share of the
//! prompt and applied to the prompt's true length:
//!
//! ```text
//! predicted [tokens] = matched blocks × block bytes / prompt bytes × prompt_tokens
//! kept      [0..1]   = min(1, (cached_tokens + SLACK_TOKENS) / predicted)     1: the promise held
//! trust     [0..1]  += RATE × (kept − trust)                                  1 at the start
//! error     [0..1]  += RATE × (|cached_tokens − predicted| / prompt_tokens − error)
//! ```
//!
//! The slack is one block of ours: engines cache full blocks only and always compute the last one again. A prediction of no more than
//! the slack promises nothing, so it moves the error and not the trust. More cached than predicted is no broken promise
//! either (another replica of the picker, or the server's own system prompt): it moves the error alone. A server that does
//! not report cached tokens is believed: no feedback, no change. The formula is ours; the reference has no such thing.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::chunks::Chunks;

/// Share by which one answer moves trust and error: eight broken promises take trust from 1 to 0.34, eight kept ones from 0 to 0.66.
pub const RATE: f32 = 0.125;

/// Tokens by which an answer may fall short: one block.
pub const SLACK_TOKENS: f32 = super::chain::DEFAULT_BLOCK_TOKENS as f32;

/// Trust by endpoint number. Reads and writes take no lock.
pub struct Trust {
    cells: Chunks<Cell>,
}

/// What was predicted for a request, and what the server then reported.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Share of the prompt that was predicted to be cached, 0 to 1: matched blocks × block bytes / prompt bytes.
    pub predicted_share: f32,
    /// `usage.prompt_tokens`.
    pub prompt_tokens: u64,
    /// `usage.prompt_tokens_details.cached_tokens`.
    pub cached_tokens: u64,
}

/// Sums over an endpoint's life, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Answers that were compared.
    pub answers: u64,
    /// Prompt tokens that were predicted to be cached.
    pub predicted_tokens: u64,
    /// Prompt tokens that were cached.
    pub cached_tokens: u64,
}

/// All zeros is an endpoint of which nothing is known: what is kept is the lack of trust.
#[derive(Default)]
struct Cell {
    distrust: AtomicU32,
    error: AtomicU32,
    answers: AtomicU64,
    predicted: AtomicU64,
    cached: AtomicU64,
}

// === impl Trust ===

impl Trust {
    /// Everybody is trusted.
    pub fn new() -> Self {
        Self {
            cells: Chunks::new(),
        }
    }

    /// An answer came back. One without prompt tokens says nothing; a number of [`super::MAX_ENDPOINTS`] or more is passed over.
    pub fn observe(&self, endpoint: u32, outcome: Outcome) {
        let prompt = outcome.prompt_tokens as f32;
        if endpoint >= super::MAX_ENDPOINTS || prompt <= 0.0 || !outcome.predicted_share.is_finite()
        {
            return;
        }
        let cell = self.cells.grown(endpoint);
        let predicted = outcome.predicted_share.clamp(0.0, 1.0) * prompt;
        let cached = (outcome.cached_tokens as f32).min(prompt);
        if predicted > SLACK_TOKENS {
            let kept = ((cached + SLACK_TOKENS) / predicted).min(1.0);
            approach(&cell.distrust, 1.0 - kept);
        }
        approach(&cell.error, (cached - predicted).abs() / prompt);
        cell.answers.fetch_add(1, Ordering::Relaxed);
        cell.predicted
            .fetch_add(predicted as u64, Ordering::Relaxed);
        cell.cached.fetch_add(cached as u64, Ordering::Relaxed);
    }

    /// How far the endpoint's predictions hold, 0 (never) to 1 (always, or nothing known).
    pub fn of(&self, endpoint: u32) -> f32 {
        let cell = self.cells.get(endpoint);
        1.0 - cell.map_or(0.0, |cell| load(&cell.distrust))
    }

    /// By how much predictions miss, either way, as a share of the prompt: a moving mean, 0 to 1.
    pub fn error(&self, endpoint: u32) -> f32 {
        self.cells
            .get(endpoint)
            .map_or(0.0, |cell| load(&cell.error))
    }

    /// What was predicted and what came.
    pub fn totals(&self, endpoint: u32) -> Totals {
        let totals = self.cells.get(endpoint).map(|cell| Totals {
            answers: cell.answers.load(Ordering::Relaxed),
            predicted_tokens: cell.predicted.load(Ordering::Relaxed),
            cached_tokens: cell.cached.load(Ordering::Relaxed),
        });
        totals.unwrap_or_default()
    }

    /// Another endpoint has the number now, or the server restarted.
    pub fn forget(&self, endpoint: u32) {
        let Some(cell) = self.cells.get(endpoint) else {
            return;
        };
        cell.distrust.store(0, Ordering::Relaxed);
        cell.error.store(0, Ordering::Relaxed);
        for total in [&cell.answers, &cell.predicted, &cell.cached] {
            total.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::new()
    }
}

fn load(cell: &AtomicU32) -> f32 {
    f32::from_bits(cell.load(Ordering::Relaxed))
}

/// Moves the mean in `cell` towards `value`.
fn approach(cell: &AtomicU32, value: f32) {
    let step = |bits| {
        let mean = f32::from_bits(bits);
        Some((mean + RATE * (value - mean)).clamp(0.0, 1.0).to_bits())
    };
    // The closure never refuses, so neither does the update.
    let _ = cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(predicted_share: f32, prompt_tokens: u64, cached_tokens: u64) -> Outcome {
        Outcome {
            predicted_share,
            prompt_tokens,
            cached_tokens,
        }
    }

    fn after(times: usize, outcome: Outcome) -> Trust {
        let trust = Trust::new();
        for _ in 0..times {
            trust.observe(3, outcome);
        }
        trust
    }

    fn close(a: f32, b: f32) -> bool {
        (a - b).abs() < 1e-3
    }

    #[test]
    fn trust_follows_the_formula() {
        for (times, given, trust, error) in [
            (0, outcome(1.0, 1000, 0), 1.0, 0.0),
            // Kept, to the token and within the slack.
            (9, outcome(0.5, 1000, 500), 1.0, 0.0),
            (
                9,
                outcome(0.5, 1000, 436),
                1.0,
                0.064 * (1.0 - 0.875_f32.powi(9)),
            ),
            // Broken: nothing was cached. kept = 64/1000.
            (1, outcome(1.0, 1000, 0), 1.0 - 0.125 * 0.936, 0.125),
            (8, outcome(1.0, 1_000_000, 0), 0.3436, 0.6564),
            // Half kept: kept = (436 + 64) / 1000.
            (1000, outcome(1.0, 1000, 436), 0.5, 0.564),
            // More than promised is no broken promise.
            (1000, outcome(0.1, 1000, 900), 1.0, 0.8),
            // Nothing was promised.
            (1000, outcome(0.0, 1000, 0), 1.0, 0.0),
            (1000, outcome(0.064, 1000, 0), 1.0, 0.064),
            // Nothing to learn from.
            (9, outcome(1.0, 0, 0), 1.0, 0.0),
            (9, outcome(f32::NAN, 1000, 0), 1.0, 0.0),
            // A server that counts more cached than sent.
            (9, outcome(1.0, 1000, 5000), 1.0, 0.0),
        ] {
            let it = after(times, given);
            assert!(close(it.of(3), trust), "{given:?} × {times}: {}", it.of(3));
            assert!(
                close(it.error(3), error),
                "{given:?} × {times}: {}",
                it.error(3)
            );
        }
    }

    #[test]
    fn trust_comes_back_when_promises_are_kept() {
        let trust = after(100, outcome(1.0, 1_000_000, 0));
        assert!(trust.of(3) < 0.01);
        for _ in 0..8 {
            trust.observe(3, outcome(1.0, 1_000_000, 1_000_000));
        }
        assert!(close(trust.of(3), 0.656), "{}", trust.of(3));
        for _ in 0..100 {
            trust.observe(3, outcome(1.0, 1_000_000, 1_000_000));
        }
        assert!(trust.of(3) > 0.99);
    }

    #[test]
    fn endpoints_are_apart_and_can_be_forgotten() {
        let trust = after(2, outcome(0.5, 1000, 100));
        assert_eq!((trust.of(2), trust.of(4), trust.of(9_999)), (1.0, 1.0, 1.0));
        trust.observe(u32::MAX, outcome(1.0, 1000, 0));
        assert_eq!(trust.of(u32::MAX), 1.0);
        let totals = Totals {
            answers: 2,
            predicted_tokens: 1000,
            cached_tokens: 200,
        };
        assert_eq!(
            (trust.totals(3), trust.totals(9_999)),
            (totals, Totals::default())
        );
        trust.forget(3);
        trust.forget(9_999);
        assert_eq!((trust.of(3), trust.error(3)), (1.0, 0.0));
        assert_eq!(trust.totals(3), Totals::default());
    }

    #[test]
    fn no_answer_is_lost_when_many_come_at_once() {
        let trust = Trust::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        trust.observe(0, outcome(1.0, 1000, 1000));
                    }
                });
            }
        });
        assert_eq!(trust.totals(0).answers, 2000);
        assert_eq!(trust.of(0), 1.0);
    }
}
