//! `blocking-testing-scorer`: blocks the thread for `sleepMs` milliseconds. For tests of what the picker does when a
//! plugin hangs; it is alpha, so no configuration gets it by accident.

use std::time::Duration;

use super::super::{Context, NEUTRAL, Scorer};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct BlockingTesting {
    pub(in crate::scheduling) sleep: Duration,
}

impl Scorer for BlockingTesting {
    fn score(&self, _cx: &Context<'_>, _candidates: &[u32], out: &mut [f32]) {
        std::thread::sleep(self.sleep);
        out.fill(NEUTRAL);
    }
}
