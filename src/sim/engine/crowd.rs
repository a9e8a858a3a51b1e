//! Engines that take turns on the same GPUs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// How many of the engines on the same GPUs have work. Each of these has the GPUs for its share of the time.
#[derive(Debug, Default)]
pub(in crate::sim) struct Crowd(AtomicU32);

/// An engine in a crowd.
#[derive(Debug)]
pub(super) struct Member {
    crowd: Arc<Crowd>,
    works: bool,
}

// === impl Member ===

impl Member {
    pub(super) fn new(crowd: Arc<Crowd>) -> Self {
        Self {
            crowd,
            works: false,
        }
    }

    /// Whether it has work from now on.
    pub(super) fn work(&mut self, works: bool) {
        if works == self.works {
            return;
        }
        self.works = works;
        if works {
            self.crowd.0.fetch_add(1, Ordering::Relaxed);
        } else {
            self.crowd.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many times as long its work takes.
    pub(super) fn slow(&self) -> f64 {
        f64::from(self.crowd.0.load(Ordering::Relaxed).max(1))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.work(false);
    }
}
