//! The objectives that requests may name, and their priorities: what Kubernetes keeps as InferenceObjectives.
//!
//! Discovery fills them; a request that names none, or one that is not known, has [`DEFAULT_PRIORITY`].

use std::collections::HashMap;

use arc_swap::ArcSwap;

/// Of a request without an objective.
pub const DEFAULT_PRIORITY: i32 = 0;
/// Objectives that are kept. Each may be a label of every series of requests.
pub const MOST_OBJECTIVES: usize = 1000;

/// Priorities by objective. Negative ones may be shed.
#[derive(Debug, Default)]
pub struct Objectives(ArcSwap<HashMap<String, i32>>);

// === impl Objectives ===

impl Objectives {
    /// Makes `priorities` the only ones. Returns whether that is a change.
    pub fn replace(&self, priorities: HashMap<String, i32>) -> bool {
        let changed = **self.0.load() != priorities;
        if changed {
            self.0.store(priorities.into());
        }
        changed
    }

    /// The priority of the objective called `name`.
    pub fn priority(&self, name: &str) -> i32 {
        let known = self.0.load();
        known.get(name).copied().unwrap_or(DEFAULT_PRIORITY)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.load().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_known_has_the_default() {
        let objectives = Objectives::default();
        assert_eq!(objectives.priority("batch"), 0);
        let known = || HashMap::from([("batch".to_owned(), -1), ("chat".to_owned(), i32::MAX)]);
        assert!(objectives.replace(known()) && !objectives.replace(known()));
        let names = ["batch", "chat", "Batch", ""];
        let got = names.map(|name| objectives.priority(name));
        assert_eq!((got, objectives.count()), ([-1, i32::MAX, 0, 0], 2));
        assert!(objectives.replace(HashMap::new()));
        assert_eq!(objectives.priority("batch"), 0);
    }
}
