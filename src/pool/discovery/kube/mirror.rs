//! What the API server has of one type, by name.

use std::collections::{HashMap, HashSet};

use kube::runtime::watcher::Event;

/// Follows a watch. While a list is read again, what was known before stays.
#[derive(Debug)]
pub(super) struct Mirror<V> {
    known: HashMap<String, V>,
    listing: Option<HashMap<String, V>>,
    synced: bool,
}

// === impl Mirror ===

impl<V: PartialEq> Mirror<V> {
    /// Whether it was read whole.
    pub(super) fn synced(&self) -> bool {
        self.synced
    }

    /// Others are followed from now on; what is known stays until they were read whole.
    pub(super) fn begin_again(&mut self) {
        (self.synced, self.listing) = (false, None);
    }

    pub(super) fn get(&self, name: &str) -> Option<&V> {
        self.known.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&String, &V)> {
        self.known.iter()
    }

    /// Takes an event with the object's name, and returns the names of those that came, changed or went.
    pub(super) fn take(&mut self, event: Event<(String, V)>) -> Vec<String> {
        match event {
            Event::Apply((name, object)) => {
                if self.known.get(&name) == Some(&object) {
                    return Vec::new();
                }
                self.known.insert(name.clone(), object);
                vec![name]
            }
            Event::Delete((name, _)) => {
                let gone = self.known.remove(&name);
                gone.map(|_| name).into_iter().collect()
            }
            Event::Init => {
                self.listing = Some(HashMap::new());
                Vec::new()
            }
            Event::InitApply((name, object)) => {
                let listing = self.listing.get_or_insert_default();
                listing.insert(name, object);
                Vec::new()
            }
            Event::InitDone => {
                self.synced = true;
                let listed = self.listing.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.known, listed);
                let names: HashSet<&String> = before.keys().chain(self.known.keys()).collect();
                let changed = names.into_iter();
                let changed = changed.filter(|&name| before.get(name) != self.known.get(name));
                changed.cloned().collect()
            }
        }
    }
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self {
            known: HashMap::new(),
            listing: None,
            synced: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_again_tells_what_changed_meanwhile() {
        let mut mirror = Mirror::default();
        let entry = |name: &str, value| (name.to_owned(), value);
        assert!(mirror.take(Event::Init).is_empty());
        mirror.take(Event::InitApply(entry("a", 1)));
        mirror.take(Event::InitApply(entry("b", 1)));
        assert!(!mirror.synced() && mirror.get("a").is_none());
        assert_eq!(mirror.take(Event::InitDone).len(), 2);
        assert!(mirror.synced());
        assert_eq!(mirror.take(Event::Apply(entry("a", 1))), [""; 0]);
        assert_eq!(mirror.take(Event::Apply(entry("a", 2))), ["a"]);

        // A list that breaks off changes nothing, whatever it began with.
        mirror.take(Event::Init);
        mirror.take(Event::InitApply(entry("x", 1)));
        mirror.take(Event::Init);
        assert_eq!((mirror.get("b"), mirror.get("x")), (Some(&1), None));
        mirror.take(Event::InitApply(entry("a", 2)));
        mirror.take(Event::InitApply(entry("c", 1)));
        let mut changed = mirror.take(Event::InitDone);
        changed.sort();
        assert_eq!(changed, ["b", "c"]);
        assert_eq!(mirror.take(Event::Delete(entry("b", 1))), [""; 0]);
        assert_eq!(mirror.take(Event::Delete(entry("a", 2))), ["a"]);
        assert_eq!(mirror.iter().count(), 1);
    }
}
