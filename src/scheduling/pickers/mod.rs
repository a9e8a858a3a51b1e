//! Pickers, one file each.

pub(super) mod max_score;
pub(super) mod random;
pub(super) mod weighted_random;

/// What a total counts as in comparisons: NaN is worse than everything, and still somewhere to go.
fn rank(score: f32) -> f32 {
    if score.is_nan() {
        f32::NEG_INFINITY
    } else {
        score
    }
}

#[cfg(test)]
mod tests {
    use super::super::Picker;
    use super::max_score::MaxScore;
    use super::random::Random;
    use super::weighted_random::WeightedRandom;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    /// How often each of `scores` comes first in `rounds` picks.
    pub(super) fn firsts(picker: &dyn Picker, scores: &[f32], rounds: u32) -> Vec<u32> {
        let seed = rand::random();
        println!("seed {seed}");
        let mut rng = SmallRng::seed_from_u64(seed);
        let candidates: Vec<u32> = (0..scores.len() as u32).collect();
        let mut counts = vec![0; scores.len()];
        let mut out = Vec::new();
        for _ in 0..rounds {
            out.clear();
            picker.pick(&candidates, scores, &mut rng, &mut out);
            counts[out[0] as usize] += 1;
        }
        counts
    }

    #[test]
    fn whatever_the_scores_there_is_a_pick_and_nan_is_the_last() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        for endpoints in [1, 2] {
            let pickers: [&dyn Picker; 3] = [
                &MaxScore { endpoints },
                &WeightedRandom { endpoints },
                &Random { endpoints },
            ];
            for (n, picker) in pickers.into_iter().enumerate() {
                for scores in [
                    &[nan][..],
                    &[nan, nan],
                    &[-inf, -inf],
                    &[inf, inf],
                    &[-1.0, nan],
                ] {
                    let counts = firsts(picker, scores, 200);
                    if scores[0].is_nan() && scores.len() == 2 {
                        assert!(counts.iter().all(|&n| n > 20), "{n} {scores:?} {counts:?}");
                    }
                }
                if n < 2 {
                    assert_eq!(firsts(picker, &[nan, 0.1, nan], 200), [0, 200, 0], "{n}");
                }
            }
        }
    }

    /// One pick of them all.
    pub(super) fn order(picker: &dyn Picker, scores: &[f32]) -> Vec<u32> {
        let candidates: Vec<u32> = (0..scores.len() as u32).collect();
        let mut out = Vec::new();
        picker.pick(
            &candidates,
            scores,
            &mut SmallRng::seed_from_u64(1),
            &mut out,
        );
        out
    }
}
