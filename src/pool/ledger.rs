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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;
    use crate::pool::snapshot::tests::endpoint;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Connect(u32),
        Cancel(usize),
        Move(usize, u32),
        Flap(Vec<u8>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u32>().prop_map(Step::Connect),
            3 => any::<usize>().prop_map(Step::Cancel),
            1 => (any::<usize>(), any::<u32>()).prop_map(|(a, b)| Step::Move(a, b)),
            1 => proptest::collection::vec(0u8..6, 1..6).prop_map(Step::Flap),
        ]
    }

    fn members(names: &[u8]) -> Vec<crate::pool::Endpoint> {
        names
            .iter()
            .map(|n| endpoint(&n.to_string(), &format!("10.0.0.{n}:80")))
            .collect()
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_requests_that_live(steps in proptest::collection::vec(step(), 1..200)) {
            let pool = Pool::default();
            pool.replace(members(&[0, 1, 2]));
            let mut live: Vec<Reservation> = Vec::new();
            for step in steps {
                let snapshot = pool.snapshot();
                let slot = |n: u32| &snapshot.member(n % snapshot.len() as u32).slot;
                match step {
                    Step::Connect(n) => live.push(Reservation::new(slot(n))),
                    Step::Cancel(n) if !live.is_empty() => {
                        let at = n % live.len();
                        live.swap_remove(at);
                    }
                    Step::Move(n, to) if !live.is_empty() => {
                        let at = n % live.len();
                        live[at].move_to(slot(to));
                    }
                    Step::Flap(names) => {
                        pool.replace(members(&names));
                    }
                    Step::Cancel(_) | Step::Move(..) => {}
                }
                let snapshot = pool.snapshot();
                for (position, member) in (0u32..).zip(snapshot.members()) {
                    let (s, i) = snapshot.cell(position);
                    let counted = s.in_flight[i].load(Ordering::Relaxed);
                    let really = live.iter().filter(|r| Arc::ptr_eq(r.slot(), &member.slot)).count();
                    prop_assert_eq!(counted as usize, really);
                }
            }
            let slots: Vec<_> = live.iter().map(|r| Arc::clone(r.slot())).collect();
            live.clear();
            for slot in slots {
                prop_assert_eq!(slot.segment().in_flight[slot.index()].load(Ordering::Relaxed), 0);
            }
        }
    }
}
