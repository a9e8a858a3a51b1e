//! How fast what others hold of a GPU's memory grows.

/// For how long ahead growth counts, in milliseconds: about what a long answer takes.
const HORIZON_MS: f64 = 10_000.0;
/// Over what time the rate is averaged, in milliseconds.
const MEMORY_MS: f64 = 5_000.0;

/// Bytes of others on one GPU, over time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Growth {
    /// When they were last read, in milliseconds; 0 = never.
    at: u64,
    bytes: u64,
    /// Bytes a millisecond, never negative.
    rate: f64,
}

// === impl Growth ===

impl Growth {
    /// Others held `bytes` at `now_ms`.
    pub(super) fn read(&mut self, bytes: u64, now_ms: u64) {
        let past = now_ms.saturating_sub(self.at) as f64;
        if self.at > 0 && past > 0.0 {
            let rate = bytes.saturating_sub(self.bytes) as f64 / past;
            let new = 1.0 - (-past / MEMORY_MS).exp();
            self.rate += (rate - self.rate) * new;
        }
        if past > 0.0 {
            (self.at, self.bytes) = (now_ms, bytes);
        }
    }

    /// They hold what they held.
    pub(super) fn still(&mut self, now_ms: u64) {
        if self.at > 0 {
            self.read(self.bytes, now_ms);
        }
    }

    /// Bytes that they are expected to take beside, before long.
    pub(super) fn ahead(&self) -> u64 {
        (self.rate * HORIZON_MS) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_growth_is_carried_on_and_an_end_of_it_is_believed() {
        let mut growth = Growth::default();
        assert_eq!(growth.ahead(), 0);
        // 1 MB a second.
        for second in 1..=30u64 {
            growth.read(second * 1_000_000, second * 1_000);
        }
        assert!(
            (9_900_000..=10_000_000).contains(&growth.ahead()),
            "{growth:?}"
        );
        growth.still(50_000);
        assert!(growth.ahead() < 200_000, "{growth:?}");
        // What shrinks gives nothing back in advance.
        growth.read(0, 51_000);
        assert!(growth.ahead() < 200_000, "{growth:?}");
        // Two readings of one moment tell nothing.
        growth.read(9_000_000_000, 51_000);
        assert!(growth.ahead() < 200_000, "{growth:?}");
    }
}
