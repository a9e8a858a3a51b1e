//! What we sent and what has not come back: reserved when the decision is made, released by a drop.
//!
//! A count here can neither leak nor fall below zero, because the only way to take one away is to drop
//! the [`Reservation`] that added it. Scrapes do not touch it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::slab::Slot;

/// One request in flight at one endpoint. Dropping it is the request's end.
#[derive(Debug)]
pub struct Reservation {
    slot: Arc<Slot>,
}

// === impl Reservation ===

impl Reservation {
    /// Counts one request at `slot`, from now until the drop.
    pub fn new(slot: &Arc<Slot>) -> Self {
        let (segment, i) = (slot.segment(), slot.index());
        segment.in_flight[i].fetch_add(1, Ordering::Relaxed);
        segment.sent[i].fetch_add(1, Ordering::Relaxed);
        Self {
            slot: Arc::clone(slot),
        }
    }

    /// The request turned out to be served elsewhere (a retry, a fallback): count it there.
    pub fn move_to(&mut self, slot: &Arc<Slot>) {
        if slot.number() != self.slot.number() {
            *self = Self::new(slot);
        }
    }

    /// Where it is counted.
    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.slot.segment().in_flight[self.slot.index()].fetch_sub(1, Ordering::Relaxed);
    }
}
