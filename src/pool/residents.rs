//! Which LoRA adapters an engine holds, as far as can be told.
//!
//! vLLM's `lora_requests_info` lists the adapters of requests that run or wait at this moment, old versions and new
//! ones; none says what is loaded. An adapter stays loaded after its last request until a slot is needed for another. So
//! what was served is remembered: adapters seen running on the page, and those of requests that we sent there ourselves
//! (adapters only: a name counts as one once any page listed it, or a list of models ([`super::models`]), which says what
//! a server would load and nothing of what it has loaded). The `max_lora` most recent are taken to be resident; an
//! engine evicts the least recently used of its own. An endpoint that tells nothing of adapters has forgotten them: it
//! was restarted, or has none.

use std::collections::HashSet;

use parking_lot::RwLock;

use super::slab::LoraState;

/// More adapters than a pool serves. What comes later counts where it is seen running, but not where it is sent.
const MOST_KNOWN: usize = 16_384;
/// More slots than any engine has.
const MOST_RESIDENT: usize = 1024;

/// Keys of all adapters that any page, or any list of models, named.
#[derive(Debug, Default)]
pub(super) struct KnownAdapters(RwLock<HashSet<u64>>);

// === impl KnownAdapters ===

impl KnownAdapters {
    pub(super) fn count(&self) -> usize {
        self.0.read().len()
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.0.read().contains(&key)
    }

    pub(super) fn add(&self, listed: impl Iterator<Item = u64> + Clone) {
        if listed.clone().all(|key| self.contains(key)) {
            return;
        }
        let mut known = self.0.write();
        for key in listed {
            if known.len() < MOST_KNOWN {
                known.insert(key);
            }
        }
    }
}

// === impl LoraState ===

impl LoraState {
    /// In a [hint](LoraState::hint): there is room to load one more adapter.
    pub const ROOM: u64 = 1 << 62;
    /// In a hint: there is a state that it is of.
    const THERE: u64 = 1 << 63;

    /// One word that says, of most adapters, that they are not in here: whoever looks for one at many endpoints then
    /// has to look at few. Has the bit of [`LoraState::hint_of`] for each that is; never 0.
    pub fn hint(&self) -> u64 {
        let keys = self.running.iter().chain(&self.waiting);
        let keys = keys.chain(&self.resident).copied();
        let room = if self.has_room() { Self::ROOM } else { 0 };
        keys.map(Self::hint_of)
            .fold(Self::THERE | room, |a, b| a | b)
    }

    /// The bit of the adapter `key`, which it may share with others.
    pub fn hint_of(key: u64) -> u64 {
        1 << (key % 62)
    }

    /// Another adapter could be loaded without another having to go.
    pub fn has_room(&self) -> bool {
        self.running.len() + self.waiting.len() < self.max as usize
    }

    /// This page's state, with what is remembered from `before`.
    pub(super) fn after(&self, before: Option<&LoraState>) -> Self {
        let before = before.map_or(&[][..], |state| &state.resident);
        Self {
            resident: self.recent(self.running.iter().chain(before).copied()),
            ..self.clone()
        }
    }

    /// With a request for `key` sent there; `None` if that changes nothing.
    pub(super) fn sent(&self, key: u64) -> Option<Self> {
        if self.resident.first() == Some(&key) {
            return None;
        }
        let keys = std::iter::once(key).chain(self.resident.iter().copied());
        Some(Self {
            resident: self.recent(keys),
            ..self.clone()
        })
    }

    /// As many of `keys`, most recent first, as there are slots, each once.
    fn recent(&self, keys: impl Iterator<Item = u64>) -> Box<[u64]> {
        let slots = (self.max as usize).min(MOST_RESIDENT);
        let mut recent: Vec<u64> = Vec::new();
        for key in keys {
            if recent.len() == slots {
                break;
            }
            if !recent.contains(&key) {
                recent.push(key);
            }
        }
        recent.into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::models::ModelList;
    use super::super::slab::{Scrape, Slab, Slot, lora_key};
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    fn page(running: &[u64], waiting: &[u64]) -> Scrape {
        Scrape {
            lora: Some(LoraState {
                max: 2,
                running: running.into(),
                waiting: waiting.into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn resident(slot: &Slot) -> Vec<u64> {
        let state = slot.segment().lora[slot.index()].load();
        let hint = slot.segment().lora_hint[slot.index()].load(Ordering::Relaxed);
        assert_eq!(hint, state.as_deref().map_or(0, LoraState::hint));
        state
            .as_ref()
            .map_or_else(Vec::new, |state| state.resident.to_vec())
    }

    #[test]
    fn what_was_served_stays_until_the_slots_are_needed() {
        let slab = Arc::new(Slab::default());
        let slot = slab.take();
        for (running, waiting, expected) in [
            (&[][..], &[][..], vec![]),
            (&[1], &[9], vec![1]),
            // Idle.
            (&[], &[], vec![1]),
            (&[2], &[], vec![2, 1]),
            (&[], &[], vec![2, 1]),
            (&[1], &[], vec![1, 2]),
            (&[3], &[], vec![3, 1]),
            (&[4, 5], &[], vec![4, 5]),
        ] {
            slot.record(&page(running, waiting), 0, 1);
            assert_eq!(resident(&slot), expected, "{running:?}");
        }
        // Restarted.
        slot.record(&Scrape::default(), 0, 1);
        assert!(resident(&slot).is_empty());
    }

    #[test]
    fn a_listed_adapter_is_known_and_not_resident() {
        let slab = Arc::new(Slab::default());
        let (here, there) = (slab.take(), slab.take());
        let list = br#"{"data":[{"id":"base"},{"id":"a","parent":"base"}]}"#;
        there.list_models(Some(ModelList::parse(list, 1).unwrap()));
        here.record(&page(&[], &[]), 0, 1);
        assert!(resident(&here).is_empty() && resident(&there).is_empty());
        here.adapter_sent(lora_key("base"));
        assert!(resident(&here).is_empty(), "no adapter");
        here.adapter_sent(lora_key("a"));
        assert_eq!(resident(&here), [lora_key("a")]);
    }

    #[test]
    fn what_we_send_counts_once_it_is_known_to_be_an_adapter() {
        let slab = Arc::new(Slab::default());
        let (here, there) = (slab.take(), slab.take());
        here.adapter_sent(1);
        here.record(&page(&[], &[]), 0, 1);
        here.adapter_sent(1);
        assert!(resident(&here).is_empty(), "a model, for all we know");
        there.record(&page(&[2], &[1]), 0, 1);
        here.adapter_sent(1);
        here.adapter_sent(2);
        here.adapter_sent(7);
        assert_eq!(resident(&here), [2, 1]);
        here.adapter_sent(1);
        assert_eq!(resident(&here), [1, 2]);
        // The page does not show it yet.
        here.record(&page(&[], &[]), 0, 2);
        assert_eq!(resident(&here), [1, 2]);
    }
}
