//! `max-score-picker`: the highest total wins, ties at random.
//!
//! `maxNumOfEndpoints` (1): how many to name, the others as fallbacks in the order of their scores. Source: the llm-d / GIE
//! picker, which shuffles and then sorts stably; for one endpoint a single pass does the same. The default.

use rand::RngExt as _;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;

use super::super::{Picker, Reason};
use super::rank;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct MaxScore {
    pub(in crate::scheduling) endpoints: usize,
}

impl Picker for MaxScore {
    fn pick(
        &self,
        candidates: &[u32],
        scores: &[f32],
        rng: &mut SmallRng,
        out: &mut Vec<u32>,
    ) -> Reason {
        if self.endpoints == 1 {
            let (best, ties) = best(candidates, scores, rng);
            out.extend(best);
            return reason(ties > 1);
        }
        let mut order: Vec<(f32, u32)> = scores
            .iter()
            .map(|&score| rank(score))
            .zip(candidates.iter().copied())
            .collect();
        order.shuffle(rng);
        order.sort_by(|a, b| b.0.total_cmp(&a.0));
        let tie = matches!(order.as_slice(), [a, b, ..] if a.0 == b.0);
        out.extend(
            order
                .into_iter()
                .take(self.endpoints)
                .map(|(_, candidate)| candidate),
        );
        reason(tie)
    }

    fn endpoints(&self) -> usize {
        self.endpoints
    }
}

fn reason(tie: bool) -> Reason {
    if tie { Reason::Tie } else { Reason::Scored }
}

/// One of the best, each as likely as the others, and how many there are.
fn best(candidates: &[u32], scores: &[f32], rng: &mut SmallRng) -> (Option<u32>, u32) {
    let mut best = None;
    let (mut top, mut ties) = (f32::NEG_INFINITY, 0u32);
    for (&candidate, &score) in candidates.iter().zip(scores) {
        let score = rank(score);
        if score > top || ties == 0 {
            (best, top, ties) = (Some(candidate), score, 1);
        } else if score == top {
            ties += 1;
        }
    }
    // Drawn once it is known among how many: an idle pool is one great tie.
    if ties > 1 {
        let all = candidates.iter().zip(scores);
        let mut equal = all.filter(|&(_, &score)| rank(score) == top);
        let drawn = rng.random_range(0..ties) as usize;
        best = equal.nth(drawn).map(|(&candidate, _)| candidate);
    }
    (best, ties)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{firsts, order};
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn the_best_wins_and_ties_are_spread() {
        for endpoints in [1, 2] {
            let counts = firsts(&MaxScore { endpoints }, &[0.5, 2.0, 2.0, 2.0, 0.0], 3000);
            assert_eq!((counts[0], counts[4]), (0, 0));
            // 1000 each; 150 is more than five standard deviations.
            assert!(
                counts[1..4].iter().all(|n| n.abs_diff(1000) < 150),
                "{counts:?}"
            );
        }
    }

    #[test]
    fn a_tie_is_told() {
        for endpoints in [1, 2] {
            for (scores, expected) in [
                (&[0.1, 0.3, 0.2][..], Reason::Scored),
                (&[0.3, 0.1, 0.3], Reason::Tie),
                (&[0.1, 0.1, 0.3], Reason::Scored),
                (&[0.1], Reason::Scored),
            ] {
                let mut rng = SmallRng::seed_from_u64(1);
                let candidates: Vec<u32> = (0..scores.len() as u32).collect();
                let picker = MaxScore { endpoints };
                let got = picker.pick(&candidates, scores, &mut rng, &mut Vec::new());
                assert_eq!(got, expected, "{scores:?}");
            }
        }
    }

    #[test]
    fn fallbacks_come_in_the_order_of_scores() {
        assert_eq!(
            order(&MaxScore { endpoints: 3 }, &[0.1, 0.4, 0.2, 0.3]),
            [1, 3, 2]
        );
        assert_eq!(order(&MaxScore { endpoints: 9 }, &[0.1, 0.4]), [1, 0]);
    }
}
