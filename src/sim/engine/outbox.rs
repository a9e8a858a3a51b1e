//! What becomes of a prefix cache, on its way to whoever publishes it.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::sim::step::BlockChange;

/// Notices that wait at most.
const MOST: usize = 100_000;

/// One after the other, for one reader.
#[derive(Debug, Default)]
pub(in crate::sim) struct Outbox {
    notices: Mutex<VecDeque<Notice>>,
    filled: Notify,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sim) enum Notice {
    Change(BlockChange),
    /// The reader was too slow: what would stand here is lost.
    Lost,
    /// A new process, with an empty cache.
    Restarted,
}

// === impl Outbox ===

impl Outbox {
    pub(super) fn push(&self, notices: impl IntoIterator<Item = Notice>) {
        let mut waiting = self.notices.lock();
        for notice in notices {
            if notice == Notice::Restarted {
                // Nobody can ask the new process for what the old one did not send.
                waiting.clear();
            }
            if waiting.len() < MOST {
                waiting.push_back(notice);
            } else if waiting.back() != Some(&Notice::Lost) {
                waiting.push_back(Notice::Lost);
            }
        }
        drop(waiting);
        self.filled.notify_one();
    }

    /// How many wait.
    pub(in crate::sim) fn len(&self) -> usize {
        self.notices.lock().len()
    }

    /// Takes the oldest, at most so many.
    pub(in crate::sim) fn take(&self, most: usize) -> Vec<Notice> {
        let mut waiting = self.notices.lock();
        let most = most.min(waiting.len());
        waiting.drain(..most).collect()
    }

    /// Until something was added since the last call.
    pub(in crate::sim) async fn filled(&self) {
        self.filled.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_says_that_something_is_missing() {
        let outbox = Outbox::default();
        let cleared = || Notice::Change(BlockChange::Cleared);
        outbox.push((0..MOST + 7).map(|_| cleared()));
        assert_eq!(outbox.len(), MOST + 1);
        assert_eq!(outbox.take(MOST).last(), Some(&cleared()));
        assert_eq!(outbox.take(9), [Notice::Lost]);
        outbox.push([cleared(), Notice::Restarted, cleared()]);
        assert_eq!(outbox.take(9), [Notice::Restarted, cleared()]);
    }
}
