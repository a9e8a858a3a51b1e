//! What `vllm:lora_requests_info` tells: which adapters had requests running and waiting at the same time, and when
//! that was last so.

use std::time::{SystemTime, UNIX_EPOCH};

/// Combinations that are kept. vLLM keeps all, for ever; its readers look at the latest alone.
const KEPT: usize = 64;

/// Smallest step between two stamps, in seconds: readers take the greatest, so no two may be equal.
const STEP: f64 = 1e-6;

/// One combination. Names are sorted, with commas between them; vLLM has them in the order of their requests.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sim) struct Combination {
    pub(in crate::sim) running: String,
    pub(in crate::sim) waiting: String,
    /// When it was last so, as seconds of Unix time.
    pub(in crate::sim) at: f64,
}

/// The combinations that occurred, in the order of their first occurrence. Empty until there was a request.
#[derive(Debug, Default)]
pub(super) struct History {
    seen: Vec<Combination>,
    /// The one that is so now.
    current: usize,
    last: f64,
}

// === impl History ===

impl History {
    pub(super) fn seen(&self) -> &[Combination] {
        &self.seen
    }

    /// From now on it is so.
    pub(super) fn record(&mut self, running: String, waiting: String) {
        let same = |c: &Combination| c.running == running && c.waiting == waiting;
        self.current = self.seen.iter().position(same).unwrap_or_else(|| {
            if self.seen.len() == KEPT {
                let at = |n: &usize| self.seen[*n].at;
                let oldest = (0..KEPT).min_by(|a, b| at(a).total_cmp(&at(b)));
                self.seen.remove(oldest.unwrap_or(0));
            }
            self.seen.push(Combination {
                running,
                waiting,
                at: 0.0,
            });
            self.seen.len() - 1
        });
        self.still();
    }

    /// It is still so.
    pub(super) fn still(&mut self) {
        if let Some(current) = self.seen.get_mut(self.current) {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            self.last = now.as_secs_f64().max(self.last + STEP);
            current.at = self.last;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_series_a_combination_and_the_latest_has_the_greatest_stamp() {
        let mut history = History::default();
        history.still();
        assert!(history.seen().is_empty());
        for (running, waiting) in [("a", ""), ("a", "b"), ("", ""), ("a", ""), ("", "")] {
            history.record(running.to_owned(), waiting.to_owned());
            let latest = history.seen().iter().max_by(|a, b| a.at.total_cmp(&b.at));
            let latest = latest.map(|c| (&*c.running, &*c.waiting));
            assert_eq!(latest, Some((running, waiting)));
        }
        let seen: Vec<_> = history.seen().iter().map(|c| &*c.running).collect();
        assert_eq!(seen, ["a", "a", ""]);
        let before = history.seen()[2].at;
        history.still();
        assert!(history.seen()[2].at > before);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut history = History::default();
        for n in 0..200 {
            history.record(n.to_string(), String::new());
            history.record(String::new(), String::new());
        }
        assert_eq!(history.seen().len(), KEPT);
        let mut kept: Vec<_> = history.seen().iter().map(|c| c.running.clone()).collect();
        kept.retain(|name| !name.is_empty());
        let expected: Vec<_> = (200 - KEPT + 1..200).map(|n| n.to_string()).collect();
        assert_eq!(kept, expected);
    }
}
