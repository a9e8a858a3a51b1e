//! Whether observers see the bodies of responses.
//!
//! Envoy says of a stream which bodies it will show, but not of one that only observes. Where bodies are shown, the head of a
//! streamed answer tells nothing; where they are not, it is all there ever is. So it is learned: bodies are shown if one was
//! lately.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// For how long one body tells of the next, in milliseconds: longer than a whole pool hangs, and short enough for a
/// gateway that is set up anew.
const LATELY_MS: u64 = 600_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// In milliseconds of [`crate::pool::clock_ms`]; 0 = none was.
    seen_at: AtomicU64,
}

// === impl Bodies ===

impl Bodies {
    /// A piece of one was shown.
    pub(super) fn seen(&self, now_ms: u64) {
        self.seen_at.store(now_ms.max(1), Relaxed);
    }

    /// Whether they are shown.
    pub(super) fn are_shown(&self, now_ms: u64) -> bool {
        let seen_at = self.seen_at.load(Relaxed);
        seen_at != 0 && now_ms.saturating_sub(seen_at) <= LATELY_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tells_of_the_next_for_a_while() {
        let bodies = Bodies::default();
        assert!(!bodies.are_shown(0) && !bodies.are_shown(1_000));
        bodies.seen(1_000);
        assert!(bodies.are_shown(1_000) && bodies.are_shown(1_000 + LATELY_MS));
        assert!(!bodies.are_shown(1_001 + LATELY_MS));
    }
}
