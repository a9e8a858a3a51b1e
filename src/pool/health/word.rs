//! An endpoint's health as decisions read it: one number, so that a thousand endpoints cost a thousand loads.

use super::cause::{Cause, Effect};

/// Kept out by what requests or the engine told.
const OUT: u32 = 1;
/// Kept out by what its GPUs told.
const OUT_BY_GPUS: u32 = 1 << 1;
/// Gets less.
const DERATED: u32 = 1 << 2;
/// Where the worst cause is, plus one.
const CAUSE: u32 = 8;
/// Where the weight is, in 255ths.
const WEIGHT: u32 = 16;

/// See the module. 0 = nothing is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Word(pub(in crate::pool) u32);

// === impl Word ===

impl Word {
    /// Of an endpoint with these causes, and with the `weight` that its GPUs leave it.
    pub(super) fn of(causes: impl Iterator<Item = Cause>, weight: f32) -> Self {
        let (mut word, mut worst) = (0, None);
        for cause in causes {
            worst = worst.max(Some(cause));
            word |= match cause.effect() {
                Effect::Derate => DERATED,
                _ if cause.is_of_gpus() => OUT_BY_GPUS,
                _ => OUT,
            };
        }
        let Some(worst) = worst else {
            return Self(0);
        };
        let weight = (weight.clamp(0.0, 1.0) * 255.0).round() as u32;
        Self(word | (worst as u32 + 1) << CAUSE | weight << WEIGHT)
    }

    /// Whether requests are kept away from it; `gpus`: also for what its GPUs told.
    pub fn is_out(self, gpus: bool) -> bool {
        let mask = if gpus { OUT | OUT_BY_GPUS } else { OUT };
        self.0 & mask != 0
    }

    /// The worst of what is wrong.
    pub fn cause(self) -> Option<Cause> {
        let number = (self.0 >> CAUSE) & 0xff;
        Cause::ALL.get((number as usize).checked_sub(1)?).copied()
    }

    /// What its GPUs leave of its speed, 0 to 1.
    pub fn weight(self) -> f32 {
        match self.0 {
            0 => 1.0,
            word => ((word >> WEIGHT) & 0xff) as f32 / 255.0,
        }
    }

    /// `ok`, `derated`, `draining` or `ejected`.
    pub fn name(self) -> &'static str {
        match self.cause().map(Cause::effect) {
            None => "ok",
            Some(Effect::Derate) => "derated",
            Some(Effect::Drain) => "draining",
            Some(Effect::Eject) => "ejected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (causes, out, out_with_gpus, name, weight) in [
            (&[][..], false, false, "ok", 1.0),
            (&[Cause::GpuThrottled], false, false, "derated", 0.5),
            (&[Cause::GpuDrain], false, true, "draining", 0.5),
            (
                &[Cause::GpuFatal, Cause::GpuSoft],
                false,
                true,
                "ejected",
                0.5,
            ),
            (&[Cause::Wedged], true, true, "ejected", 0.5),
            (
                &[Cause::Failures, Cause::GpuLost],
                true,
                true,
                "ejected",
                0.5,
            ),
        ] {
            let word = Word::of(causes.iter().copied(), 0.5);
            assert_eq!(word.is_out(false), out, "{causes:?}");
            assert_eq!(word.is_out(true), out_with_gpus, "{causes:?}");
            assert_eq!(word.name(), name);
            assert!((word.weight() - weight).abs() < 0.01, "{causes:?}");
            assert_eq!(word.cause(), causes.iter().copied().max());
        }
    }
}
