//! `random-picker`: any candidate, all alike; scores do not count. Source: the llm-d / GIE picker. A baseline to compare with.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;

use super::super::{Picker, Reason};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Random {
    pub(in crate::scheduling) endpoints: usize,
}

impl Picker for Random {
    fn pick(
        &self,
        candidates: &[u32],
        _scores: &[f32],
        rng: &mut SmallRng,
        out: &mut Vec<u32>,
    ) -> Reason {
        out.extend(candidates.sample(rng, self.endpoints));
        Reason::Random
    }

    fn endpoints(&self) -> usize {
        self.endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{firsts, order};
    use super::*;

    #[test]
    fn all_alike() {
        let counts = firsts(&Random { endpoints: 1 }, &[0.0, 9.0, 0.0], 3000);
        assert!(counts.iter().all(|n| n.abs_diff(1000) < 150), "{counts:?}");
        assert_eq!(order(&Random { endpoints: 5 }, &[0.0, 0.0]).len(), 2);
    }
}
