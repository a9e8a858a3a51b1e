//! `weighted-random-picker`: a candidate's chance is its share of all scores.
//!
//! Formula: weighted sampling without replacement (A-Res of Efraimidis and Spirakis): the largest keys `u^(1/score)` win, `u`
//! uniform in 0..1; all scores zero, at random. Source: the llm-d / GIE picker. Use it where scores are rough and
//! several pickers share a pool.

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::super::{Picker, Reason};
use super::random::Random;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct WeightedRandom {
    pub(in crate::scheduling) endpoints: usize,
}

impl Picker for WeightedRandom {
    fn pick(
        &self,
        candidates: &[u32],
        scores: &[f32],
        rng: &mut SmallRng,
        out: &mut Vec<u32>,
    ) -> Reason {
        if !scores.iter().any(|&score| score > 0.0) {
            let random = Random {
                endpoints: self.endpoints,
            };
            return random.pick(candidates, scores, rng, out);
        }
        let mut keyed: Vec<(f64, u32)> = candidates
            .iter()
            .zip(scores)
            .map(|(&candidate, &score)| {
                // The logarithm of the key orders alike and does not underflow. Zero never wins over anything.
                let key = match score > 0.0 {
                    true => rng.random::<f64>().ln() / f64::from(score),
                    false => f64::NEG_INFINITY,
                };
                (key, candidate)
            })
            .collect();
        keyed.sort_by(|a, b| b.0.total_cmp(&a.0));
        out.extend(
            keyed
                .into_iter()
                .take(self.endpoints)
                .map(|(_, candidate)| candidate),
        );
        Reason::Random
    }

    fn endpoints(&self) -> usize {
        self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::firsts;
    use super::*;

    #[test]
    fn chances_follow_scores() {
        let counts = firsts(&WeightedRandom { endpoints: 1 }, &[1.0, 3.0, 0.0], 4000);
        assert_eq!(counts[2], 0);
        assert!(counts[0].abs_diff(1000) < 200, "{counts:?}");
        let counts = firsts(&WeightedRandom { endpoints: 1 }, &[0.0, 0.0], 2000);
        assert!(counts[0].abs_diff(1000) < 200, "{counts:?}");
    }
}
