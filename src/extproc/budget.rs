//! The byte budgets of request bodies: one body, and all bodies together.

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

/// What one stream holds. Dropping it gives the bytes back.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<BodyBudget>,
    bytes: usize,
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
    pub(super) fn new(budget: &Arc<BodyBudget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Takes `more` bytes, or says which limit forbids it; then nothing more is held.
    pub(super) fn take(&mut self, more: usize) -> Result<(), Overrun> {
        let budget = &*self.budget;
        if self.bytes + more > budget.one {
            return Err(Overrun::BodyTooLarge(budget.one));
        }
        let before = budget.held.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if before + more > budget.all {
            return Err(Overrun::NoBufferLeft);
        }
        Ok(())
    }

    /// Gives everything back before the stream ends.
    pub(super) fn release(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        self.budget.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_hold_and_bytes_come_back() {
        let budget = Arc::new(BodyBudget::new(10, 15));
        let mut a = Held::new(&budget);
        let mut b = Held::new(&budget);
        assert_eq!(a.take(10), Ok(()));
        assert_eq!(a.take(1), Err(Overrun::BodyTooLarge(10)));
        assert_eq!(b.take(5), Ok(()));
        assert_eq!(b.take(1), Err(Overrun::NoBufferLeft));
        drop(b);
        assert_eq!(budget.held(), 10);
        drop(a);
        assert_eq!(budget.held(), 0);
    }
}
