//! Numbers for things that come again, in a bounded memory.

use std::collections::HashMap;

/// Numbers in the order in which keys are first met. At least the last `most` keys that were asked for are remembered, and at
/// most twice as many: when the young generation is full it becomes the old one, and the old one is forgotten.
#[derive(Debug)]
pub(super) struct Numbers {
    young: HashMap<u64, u32>,
    old: HashMap<u64, u32>,
    most: usize,
    next: u32,
}

// === impl Numbers ===

impl Numbers {
    pub(super) fn new(most: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            most,
            next: 0,
        }
    }

    /// That of `key`. `None`: there are no more numbers.
    pub(super) fn of(&mut self, key: u64) -> Option<u32> {
        if let Some(&number) = self.young.get(&key) {
            return Some(number);
        }
        let number = match self.old.get(&key) {
            Some(&number) => number,
            None => {
                let number = self.next;
                self.next = self.next.checked_add(1)?;
                number
            }
        };
        if self.young.len() >= self.most {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, number);
        Some(number)
    }
}
