//! How fast each endpoint is beside the others: learned from what it serves, begun from what its GPUs tell.
//!
//! Two things are measured where responses come by, each over the last seconds (half-lives 3 s and 10 s):
//!
//! ```text
//! decode  = tokens / time between them · (1 + requests / 100)
//! prefill = (tokens of prompt to be read when it was sent + 1000) / time to the first token
//! ```
//!
//! Decoding slows down with the batch, so it is put into terms of an empty one: on engines of all sizes the weights are read
//! in the time of about a hundred requests' KV cache (measured constants: reference H100, A100, RTX 4090, L4: 80 to 95). Each
//! is compared with the pool's median of the same (the upper of two), and
//!
//! ```text
//! ln measured = 2/3 · ln decode + 1/3 · ln prefill          where both are known; at least 50 tokens, 8 first tokens
//! ln speed    ← follows ln measured within a second
//! ```
//!
//! When the weight that the GPUs leave changes, the speed changes by the same ratio at once (when it rises, to no more than the
//! weight or what it was), and measuring begins anew: the clocks are the start, what is served corrects them. An endpoint that nothing is measured of goes back to what its GPUs
//! say (half-life 30 s), so one that was slow gets its chance. Differences below [`UNFELT`] are noise, and count as none.

use super::marks::Reading;

/// Half-lives of what is measured, and of what is believed without, in seconds.
const DECODE: f32 = 3.0;
const PREFILL: f32 = 10.0;
const FORGETS: f32 = 30.0;
/// How soon the speed follows, in seconds.
const FOLLOWS: f32 = 1.0;
/// Requests whose KV cache takes as long to read as the weights.
const BATCH: f32 = 100.0;
/// Tokens of prefill that take as long as all that is around a request. As in `work-scorer`.
const OVERHEAD: f32 = 1000.0;
/// What must have been seen to know anything.
const TOKENS: f32 = 50.0;
const FIRSTS: f32 = 8.0;
/// Differences of `ln speed` that are noise.
const UNFELT: f32 = 0.15;
/// The greatest difference that is believed.
const MOST: f32 = 10.0;
/// A weight that changed by less did not, as a ratio.
const STEP: f32 = 0.05;

/// What is remembered of one endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    seen: Reading,
    tokens: f32,
    token_s: f32,
    firsts: f32,
    read: f32,
    read_s: f32,
    /// Logarithm of the speed.
    ln: f32,
    /// What the GPUs left when that was last changed for it.
    weight: f32,
}

/// What one endpoint's pace is just now; NaN: not known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    decode: f32,
    prefill: f32,
}

/// The medians of a pool; NaN: fewer than two are known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Medians(Measured);

// === impl Pace ===

impl Pace {
    pub(super) const NEW: Self = Self {
        seen: Reading::NONE,
        tokens: 0.0,
        token_s: 0.0,
        firsts: 0.0,
        read: 0.0,
        read_s: 0.0,
        ln: 0.0,
        weight: 1.0,
    };

    /// Takes in what was left in the last `seconds`; `requests` are there, and the GPUs leave `weight`.
    pub(super) fn measure(
        &mut self,
        marks: Reading,
        requests: f32,
        weight: f32,
        seconds: f32,
    ) -> Measured {
        let before = std::mem::replace(&mut self.seen, marks);
        let ratio = weight / self.weight;
        if (ratio - 1.0).abs() > STEP {
            // An engine that the clocks do not hold up was found to be fast all the same: it gains nothing by their end.
            let most = self.ln.max(weight.ln());
            self.ln = (self.ln + ratio.ln()).min(most);
            self.weight = weight;
            // What was left since the last time was before that, most of it.
            (self.tokens, self.token_s) = (0.0, 0.0);
            (self.firsts, self.read, self.read_s) = (0.0, 0.0, 0.0);
            return Measured::NOTHING;
        }
        let since = |now: u64, before: u64| now.wrapping_sub(before) as f32;
        let micros = |now, before| since(now, before) / 1e6;
        let keeps = (-seconds / DECODE).exp2();
        self.tokens = self.tokens * keeps + since(marks.tokens, before.tokens);
        self.token_s = self.token_s * keeps + micros(marks.token_us, before.token_us);
        let keeps = (-seconds / PREFILL).exp2();
        let firsts = marks.firsts.wrapping_sub(before.firsts) as f32;
        self.firsts = self.firsts * keeps + firsts;
        self.read = self.read * keeps + since(marks.read, before.read) + firsts * OVERHEAD;
        self.read_s = self.read_s * keeps + micros(marks.read_us, before.read_us);
        let rate = |known: bool, count: f32, seconds: f32| match known && seconds > 0.0 {
            true => count / seconds,
            false => f32::NAN,
        };
        let batch = 1.0 + requests / BATCH;
        Measured {
            decode: rate(self.tokens >= TOKENS, self.tokens, self.token_s) * batch,
            prefill: rate(self.firsts >= FIRSTS, self.read, self.read_s),
        }
    }

    /// Learns from `measured` beside the others' `medians`; `seconds` since the last time.
    pub(super) fn learn(&mut self, measured: Measured, medians: &Medians, seconds: f32) {
        let decode = (measured.decode / medians.0.decode).ln();
        let prefill = (measured.prefill / medians.0.prefill).ln();
        let together = match (decode.is_finite(), prefill.is_finite()) {
            (true, true) => (2.0 * decode + prefill) / 3.0,
            (true, false) => decode,
            (false, true) => prefill,
            (false, false) => {
                let keeps = (-seconds / FORGETS).exp2();
                let told = self.weight.ln();
                self.ln = told + (self.ln - told) * keeps;
                return;
            }
        };
        let bound = MOST.ln();
        self.ln += (together.clamp(-bound, bound) - self.ln) * (seconds / FOLLOWS).min(1.0);
    }

    /// The speed beside the pool's median: 1.0 = as fast, or not known.
    pub(super) fn speed(&self) -> f32 {
        let felt = (self.ln.abs() - UNFELT).max(0.0).min(MOST.ln());
        felt.copysign(self.ln).exp()
    }
}

// === impl Measured ===

impl Measured {
    const NOTHING: Self = Self {
        decode: f32::NAN,
        prefill: f32::NAN,
    };
}

// === impl Medians ===

impl Medians {
    /// Of those that are known. Reorders `all`.
    pub(super) fn of(all: &mut [Measured]) -> Self {
        Self(Measured {
            decode: median(all, |measured| measured.decode),
            prefill: median(all, |measured| measured.prefill),
        })
    }
}

fn median(all: &mut [Measured], value: impl Fn(&Measured) -> f32) -> f32 {
    let known = all.iter().filter(|m| !value(m).is_nan()).count();
    all.sort_unstable_by(|a, b| {
        let (a, b) = (value(a), value(b));
        a.is_nan().cmp(&b.is_nan()).then(a.total_cmp(&b))
    });
    match known {
        0 | 1 => f32::NAN,
        known => value(&all[known / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it is after the GPUs left `weights`, from a speed whose logarithm was `ln`.
    fn after(ln: f32, weights: &[f32]) -> f32 {
        let mut pace = Pace {
            ln,
            weight: weights[0],
            ..Pace::NEW
        };
        for &weight in &weights[1..] {
            pace.measure(Reading::NONE, 0.0, weight, 0.5);
        }
        pace.ln.exp()
    }

    #[test]
    fn what_is_given_back_is_no_more_than_was_taken() {
        let half = 0.5_f32.ln();
        for (what, ln, weights, expected) in [
            ("it is slowed down", 0.0, &[1.0, 0.5][..], 0.5),
            ("and no more", half, &[0.5, 1.0], 1.0),
            ("step by step", half, &[0.5, 0.6, 0.8, 1.0], 1.0),
            ("hardly slower was measured", -0.05, &[0.5, 1.0], 1.0),
            ("as fast as the others", 0.0, &[0.5, 0.7, 1.0], 1.0),
            ("faster", 0.3, &[0.5, 1.0], 0.3_f32.exp()),
            ("slower than the clocks say", 2.0 * half, &[0.5, 1.0], 0.5),
        ] {
            let got = after(ln, weights);
            assert!((got - expected).abs() < 0.01, "{what}: {got}");
        }
    }
}
