//! What is to happen, in the order in which it will.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Something that happens at a moment; what was put in first comes first among equals.
#[derive(Debug)]
struct Due<T> {
    at: f64,
    number: u64,
    what: T,
}

/// The future.
#[derive(Debug)]
pub(super) struct Events<T> {
    heap: BinaryHeap<Due<T>>,
    number: u64,
}

// === impl Events ===

impl<T> Events<T> {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            number: 0,
        }
    }

    pub(super) fn put(&mut self, at: f64, what: T) {
        self.number += 1;
        self.heap.push(Due {
            at,
            number: self.number,
            what,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn next(&mut self) -> Option<(f64, T)> {
        self.heap.pop().map(|due| (due.at, due.what))
    }
}

// === impl Due ===

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Due<T> {}

impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Due<T> {
    /// The heap has its greatest on top: the earliest is the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        let earlier = other.at.total_cmp(&self.at);
        earlier.then(other.number.cmp(&self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_comes_first_and_of_equals_the_first() {
        let mut events = Events::new();
        for (at, what) in [(2.0, 'a'), (1.0, 'b'), (2.0, 'c'), (0.5, 'd'), (1.0, 'e')] {
            events.put(at, what);
        }
        let order: Vec<_> = std::iter::from_fn(|| events.next())
            .map(|(_, w)| w)
            .collect();
        assert_eq!(order, ['d', 'b', 'e', 'a', 'c']);
    }
}
