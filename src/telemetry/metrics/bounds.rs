//! How many values of a label there may be.

use std::collections::HashSet;
use std::fmt;

use parking_lot::{Mutex, RwLock};

use super::{CONFIGURED, LONGEST, OTHER};

/// The first so many values of a label, and [`CONFIGURED`] more that are configured; what else comes, and what is too long, is
/// `other`.
pub(super) struct Distinct {
    most: usize,
    known: Mutex<Known>,
    configured: RwLock<Vec<Box<IsConfigured>>>,
}

/// Whether a value is configured now.
pub(super) type IsConfigured = dyn Fn(&str) -> bool + Send + Sync;

#[derive(Default)]
struct Known {
    first: HashSet<Box<str>>,
    configured: HashSet<Box<str>>,
}

// === impl Distinct ===

impl Distinct {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            known: Mutex::default(),
            configured: RwLock::default(),
        }
    }

    /// Those of which `is_configured` says so never stand behind those that merely came first.
    pub(super) fn follow(&self, is_configured: Box<IsConfigured>) {
        self.configured.write().push(is_configured);
    }

    pub(super) fn bounded(&self, value: &str) -> String {
        let bounded = if self.admits(value) { value } else { OTHER };
        bounded.to_owned()
    }

    /// As [`Self::bounded`], and `other` too unless it is configured.
    pub(super) fn configured(&self, value: &str) -> String {
        match self.is_configured(value) {
            true => self.bounded(value),
            false => OTHER.to_owned(),
        }
    }

    fn is_configured(&self, value: &str) -> bool {
        let configured = self.configured.read();
        configured.iter().any(|is_configured| is_configured(value))
    }

    fn admits(&self, value: &str) -> bool {
        if value.len() > LONGEST {
            return false;
        }
        let mut known = self.known.lock();
        if known.first.contains(value) {
            return true;
        }
        if known.first.len() < self.most {
            return known.first.insert(value.into());
        }
        if !self.is_configured(value) {
            return false;
        }
        let known = &mut known.configured;
        if known.contains(value) {
            return true;
        }
        if known.len() >= CONFIGURED {
            known.retain(|value| self.is_configured(value));
        }
        known.len() < CONFIGURED && known.insert(value.into())
    }
}

impl fmt::Debug for Distinct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Distinct")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}
