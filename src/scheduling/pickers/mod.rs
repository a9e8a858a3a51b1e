//! Pickers, one file each.

pub(super) mod max_score;
pub(super) mod random;
pub(super) mod weighted_random;

#[cfg(test)]
mod tests {
    use super::super::Picker;
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
