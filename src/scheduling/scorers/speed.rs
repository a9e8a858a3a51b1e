//! `speed-scorer` (ours): endpoints that are slower get less, in proportion.
//!
//! ```text
//! s     = 1 − fade · (1 − speed / fastest)         fastest over the candidates, at least minWeight
//! score = 1 + slowest s − slowest s / s            slowest over the candidates
//! ```
//!
//! The speed of an endpoint is learned from what it serves, and begins with what its GPUs tell of their clocks
//! ([`crate::pool::health`]); where neither is known it is the median of the pool. The score is made to stand beside
//! `work-scorer` with the same weight: that says `least cost / cost`, and the sum is best where cost ÷ s is least. So an
//! endpoint of half the speed is as good as another while it has half the work. All equally fast: all 1.
//!
//! `fade` falls from 1 to 0 as the mean of `max(queue / 5, KV cache / 0.8)` over the candidates, each smoothed over time
//! (half-life 10 s), goes from `fadeFrom` (0.8) to `fadeTo` (1.2): where all are full, what is taken from the slow ones overloads the others, and more requests are late
//! than before (simulation: reference §7.3). `minWeight` (0.3) is there for the same reason, and because a slow endpoint
//! without requests cannot be measured. In the default profile. Beside other scorers its weight is a matter of taste.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::super::{Context, Scorer};
use crate::config::{PluginUse, Problem};

/// What is full, as `utilization-detector` has it.
const FULL_QUEUE: f32 = 5.0;
const FULL_CACHE: f32 = 0.8;

/// How long it takes for half of how full the pool was to be forgotten, in milliseconds. A slow endpoint that is suddenly as
/// welcome as the others gets all that it was spared at once, and reads prompts for seconds.
const REMEMBERS: f32 = 10_000.0;
/// How seldom more is taken in, in milliseconds.
const LOOKS: u32 = 50;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Speed {
    params: Params,
    /// How full each endpoint is, by its number: profiles and subsets have other candidates, and ask the same plugin.
    full: ArcSwap<Vec<Smoothed>>,
}

/// A number over time: milliseconds in the upper half, what it was in the lower one; 0 = none yet.
#[derive(Debug, Default)]
struct Smoothed(AtomicU64);

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Params {
    min_weight: f32,
    fade_from: f32,
    fade_to: f32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            min_weight: 0.3,
            fade_from: 0.8,
            fade_to: 1.2,
        }
    }
}

// === impl Speed ===

impl Speed {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let problem = |field, message| Err(plugin.parameters.field_problem(field, message));
        if !(0.01..=1.0).contains(&params.min_weight) {
            return problem("minWeight", "is not a number from 0.01 to 1");
        }
        if !(0.0..=1e6).contains(&params.fade_from) {
            return problem("fadeFrom", "is not a number from 0 to 1000000");
        }
        if !(params.fade_to > params.fade_from && params.fade_to <= 1e6) {
            return problem("fadeTo", "is not a number above fadeFrom, up to 1000000");
        }
        Ok(Self {
            params,
            full: ArcSwap::default(),
        })
    }

    /// How much differences count: 1 while there is room, 0 where all is full.
    fn fade(&self, cx: &Context<'_>, candidates: &[u32]) -> f32 {
        let remembered = self.full.load();
        let (mut sum, mut known, mut places) = (0.0, 0_u32, 0);
        for &candidate in candidates {
            let at = candidate as usize;
            let full = (cx.load.waiting[at] / FULL_QUEUE).max(cx.load.kv_usage[at] / FULL_CACHE);
            if full.is_nan() {
                continue;
            }
            let number = cx.snapshot.numbers()[at] as usize;
            sum += match remembered.get(number) {
                Some(remembered) => remembered.follow(full, cx.now_ms),
                None => {
                    places = places.max(number + 1);
                    full
                }
            };
            known += 1;
        }
        if places > 0 {
            self.grow(&remembered, places);
        }
        let full = if known == 0 { 0.0 } else { sum / known as f32 };
        let Params {
            fade_from, fade_to, ..
        } = self.params;
        ((fade_to - full) / (fade_to - fade_from)).clamp(0.0, 1.0)
    }

    /// Makes room for so many. Numbers are used again, so there are no more than endpoints at a time.
    fn grow(&self, remembered: &[Smoothed], places: usize) {
        let mut grown: Vec<Smoothed> = remembered.iter().map(Smoothed::copy).collect();
        grown.resize_with(places, Smoothed::default);
        // What others take in meanwhile is taken in again soon.
        self.full.store(Arc::new(grown));
    }
}

// === impl Smoothed ===

impl Smoothed {
    fn copy(&self) -> Self {
        Self(self.0.load(Ordering::Relaxed).into())
    }

    /// Takes in that it is `value` at `now_ms`, unless something was a moment ago, and returns what it is over time.
    fn follow(&self, value: f32, now_ms: u64) -> f32 {
        let seen = self.0.load(Ordering::Relaxed);
        let (then, before) = ((seen >> 32) as u32, f32::from_bits(seen as u32));
        let since = (now_ms as u32).wrapping_sub(then);
        let next = match (seen, since) {
            (0, _) => value,
            (_, 0..LOOKS) => return before,
            _ => value + (before - value) * (-(since as f32) / REMEMBERS).exp2(),
        };
        let packed = (now_ms & 0xffff_ffff) << 32 | u64::from(next.to_bits());
        // Of two at once either counts.
        self.0.store(packed, Ordering::Relaxed);
        next
    }
}

impl Scorer for Speed {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let out = &mut out[..candidates.len()];
        let (mut slowest, mut fastest) = (f32::INFINITY, 0.0_f32);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            *out = cx.load.speed[candidate as usize];
            slowest = slowest.min(*out);
            fastest = fastest.max(*out);
        }
        if slowest >= fastest {
            out.fill(1.0);
            return;
        }
        let fade = self.fade(cx, candidates);
        let least = self.params.min_weight;
        let faded = |speed: f32| 1.0 - fade * (1.0 - (speed / fastest).max(least));
        let slowest = faded(slowest);
        for out in out {
            *out = 1.0 + slowest - slowest / faded(*out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{plugin, scores_for, snapshot, with_context};
    use super::super::work::Work;
    use super::*;
    use crate::pool::LoadView;

    fn view(speed: &[f32], waiting: f32) -> LoadView {
        LoadView {
            waiting: vec![waiting; speed.len()],
            kv_usage: vec![f32::NAN; speed.len()],
            speed: speed.to_vec(),
            ..Default::default()
        }
    }

    #[test]
    fn the_formula() {
        for (parameters, speed, waiting, expected) in [
            ("{}", [1.0, 1.0, 1.0], 0.0, [1.0, 1.0, 1.0]),
            ("{}", [1.0, 0.5, 1.0], 0.0, [1.0, 0.5, 1.0]),
            // Whoever is slower than 0.3 is not.
            ("{}", [1.0, 0.1, 0.6], 0.0, [1.0, 0.3, 0.8]),
            // Beside the fastest, wherever the median is.
            ("{}", [2.0, 1.0, 2.0], 0.0, [1.0, 0.5, 1.0]),
            ("{minWeight: 0.5}", [1.0, 0.1, 1.0], 0.0, [1.0, 0.5, 1.0]),
            // Half faded, then wholly.
            ("{}", [1.0, 0.5, 1.0], 5.0, [1.0, 0.75, 1.0]),
            ("{}", [1.0, 0.5, 1.0], 6.0, [1.0, 1.0, 1.0]),
            ("{}", [1.0, 0.5, 1.0], f32::NAN, [1.0, 0.5, 1.0]),
        ] {
            let scorer = Speed::of(&plugin("speed-scorer", parameters)).unwrap();
            let got = scores_for(&scorer, &snapshot(3), &view(&speed, waiting), 0, &[]);
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    (got - expected).abs() < 1e-5,
                    "{speed:?}: {got} is not {expected}"
                );
            }
        }
        for wrong in ["{minWeight: 0}", "{fadeTo: 0.5}", "{fadeFrom: -1}"] {
            let got = Speed::of(&plugin("speed-scorer", wrong)).unwrap_err();
            assert!(got.message.contains("is not a number"), "{}", got.message);
        }
    }

    #[test]
    fn how_full_it_is_is_remembered() {
        let full = Smoothed::default();
        let near = |got: f32, expected: f32| assert!((got - expected).abs() < 1e-3, "{got}");
        near(full.follow(1.0, 5), 1.0);
        near(full.follow(0.0, 5), 1.0);
        near(full.follow(0.0, 10_005), 0.5);
        near(full.follow(2.0, 20_005), 1.25);
        near(full.follow(0.0, 20_000_000), 0.0);
        // The upper half of the clock goes round.
        let full = Smoothed::default();
        near(full.follow(1.0, 0xffff_ffff), 1.0);
        near(full.follow(0.0, 0xffff_ffff + 10_000), 0.5);
    }

    /// One plugin of two profiles: what one's candidates are full of is nothing to the other's.
    #[test]
    fn each_endpoint_is_as_full_as_it_is() {
        let scorer = Speed::of(&plugin("speed-scorer", "{}")).unwrap();
        let snapshot = snapshot(4);
        let mut load = view(&[1.0, 0.5, 1.0, 0.5], 0.0);
        (load.waiting[0], load.waiting[1]) = (20.0, 20.0);
        let scores = |candidates: &[u32]| {
            let mut out = [0.0; 2];
            with_context(&snapshot, &load, 0, &[], |cx| {
                scorer.score(cx, candidates, &mut out);
            });
            out
        };
        for _ in 0..2 {
            assert_eq!(scores(&[0, 1]), [1.0, 1.0]);
            assert_eq!(scores(&[2, 3]), [1.0, 0.5]);
        }
    }

    /// Requests go where work ÷ speed is least, if they go one after another to the best.
    #[test]
    fn beside_the_work_scorer_each_gets_its_share() {
        let work = Work::of(&plugin("work-scorer", "{}")).unwrap();
        let speed = Speed::of(&plugin("speed-scorer", "{}")).unwrap();
        let snapshot = snapshot(4);
        let speeds = [1.0, 1.0, 0.5, 0.3];
        let mut load = LoadView {
            in_flight: vec![0; 4],
            tokens: vec![0; 4],
            requests: vec![f32::NAN; 4],
            ..view(&speeds, 0.0)
        };
        for _ in 0..560 {
            let scores = [&work as &dyn Scorer, &speed]
                .map(|scorer| scores_for(scorer, &snapshot, &load, 0, &[]));
            let total = |at: &usize| scores[0][*at] + scores[1][*at];
            let best = (0..4).max_by(|a, b| total(a).total_cmp(&total(b))).unwrap();
            load.in_flight[best] += 1;
        }
        for (got, speed) in load.in_flight.iter().zip(speeds) {
            let share = 200.0 * speed;
            let off = (*got as f32 - share).abs() / share;
            assert!(off < 0.1, "{:?} for {speeds:?}", load.in_flight);
        }
    }
}
