//! The byte budgets of request bodies: one body, and all that is held of bodies together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Overrun;

/// What all streams together may hold.
#[derive(Debug)]
pub struct BodyBudget {
    one: usize,
    all: usize,
    held: AtomicUsize,
}

/// What one request holds of the budget, shared by all that work on it: the bytes come back when the last of
/// them is done, which may be long after its client was answered.
#[derive(Clone, Debug)]
pub struct Held(Arc<Holding>);

#[derive(Debug)]
struct Holding {
    budget: Arc<BodyBudget>,
    bytes: AtomicUsize,
}

// === impl BodyBudget ===

impl BodyBudget {
    /// `one` byte limit for a body and `all` for the sum of those held at a time.
    pub fn new(one: usize, all: usize) -> Self {
        Self {
            one,
            all,
            held: AtomicUsize::new(0),
        }
    }

    /// Bytes held now, by all streams.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

// === impl Held ===

impl Held {
    pub(crate) fn new(budget: &Arc<BodyBudget>) -> Self {
        Self(Arc::new(Holding {
            budget: Arc::clone(budget),
            bytes: AtomicUsize::new(0),
        }))
    }

    /// Lets go of what was taken; others that share it still hold it.
    pub(super) fn clear(&mut self) {
        if self.0.bytes.load(Ordering::Relaxed) > 0 {
            *self = Self::new(&self.0.budget);
        }
    }

    /// Takes `more` bytes of a body, or says which limit forbids it.
    pub(super) fn take(&self, more: usize) -> Result<(), Overrun> {
        let one = self.0.budget.one;
        if self.0.bytes.load(Ordering::Relaxed) + more > one {
            return Err(Overrun::BodyTooLarge(one));
        }
        self.copy(more)
    }

    /// Takes `more` bytes for something that is made of the body: only the sum of all is limited.
    pub fn copy(&self, more: usize) -> Result<(), Overrun> {
        let budget = &*self.0.budget;
        let before = budget.held.fetch_add(more, Ordering::Relaxed);
        if before + more > budget.all {
            budget.held.fetch_sub(more, Ordering::Relaxed);
            return Err(Overrun::NoBufferLeft);
        }
        self.0.bytes.fetch_add(more, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back `bytes` of what was taken.
    pub fn give_back(&self, bytes: usize) {
        self.0.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.0.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let bytes = *self.bytes.get_mut();
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_bytes_come_back() {
        let budget = Arc::new(BodyBudget::new(10, 15));
        let (a, b) = (Held::new(&budget), Held::new(&budget));
        assert_eq!(a.take(10), Ok(()));
        assert_eq!(a.take(1), Err(Overrun::BodyTooLarge(10)));
        assert_eq!(b.take(5), Ok(()));
        assert_eq!(b.take(1), Err(Overrun::NoBufferLeft));
        assert_eq!(b.copy(1), Err(Overrun::NoBufferLeft));
        drop(b);
        assert_eq!(budget.held(), 10);
        assert_eq!(a.copy(5), Ok(()));
        a.give_back(2);
        assert_eq!(budget.held(), 13);
        let shared = a.clone();
        drop(a);
        assert_eq!(budget.held(), 13);
        drop(shared);
        assert_eq!(budget.held(), 0);
    }
}
