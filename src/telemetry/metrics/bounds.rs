//! How many values of a label there may be.

use std::collections::HashSet;

use parking_lot::Mutex;

use super::{LONGEST, OTHER};

/// The first so many values of a label; what comes later, and what is too long, is `other`.
#[derive(Debug)]
pub(super) struct Distinct {
    most: usize,
    known: Mutex<HashSet<Box<str>>>,
}

// === impl Distinct ===

impl Distinct {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: Mutex::default(),
        }
    }

    pub(super) fn bounded(&self, value: &str) -> String {
        let bounded = if self.admits(value) { value } else { OTHER };
        bounded.to_owned()
    }

    fn admits(&self, value: &str) -> bool {
        if value.len() > LONGEST {
            return false;
        }
        let mut known = self.known.lock();
        if known.contains(value) {
            return true;
        }
        known.len() < self.most && known.insert(value.into())
    }
}
