use super::*;
use crate::pool::slab::Slab;
use crate::pool::{Breaker, Outcome, breaker};

fn who(number: u32) -> Who {
    Who { number, life: 1 }
}

fn pieces(text: &str, length: usize) -> Vec<Bytes> {
    let pieces = text.as_bytes().chunks(length);
    pieces.map(Bytes::copy_from_slice).collect()
}

#[test]
fn a_request_is_known_by_what_is_in_it_however_it_comes() {
    let retries = Retries::default();
    let body = "The way. ".repeat(1_000);
    let key = |tenant, model, body: &str, length| {
        retries
            .key(tenant, model, None, &pieces(body, length))
            .unwrap()
    };
    let known = key(None, "m", &body, 10_000);
    for length in [1, 7, 1_000, 8_999] {
        assert_eq!(key(None, "m", &body, length), known, "{length}");
    }
    let others = [
        key(Some("t"), "m", &body, 100),
        key(None, "n", &body, 100),
        key(None, "m", &format!("{body} "), 100),
        key(None, "m", &body.replacen("The", "Thy", 1), 100),
        key(None, "m", &format!("{}!", &body[..body.len() - 1]), 100),
    ];
    assert!(!others.contains(&known));
    assert_eq!(retries.key(None, "m", None, &[]), None);
    // Nobody outside can say what is hashed alike.
    let other = Retries::default().key(None, "m", None, &pieces(&body, 100));
    assert_ne!(other, Some(known));
}

#[test]
fn failures_are_remembered_for_a_while_and_until_the_request_is_served() {
    let retries = Retries::default();
    assert_eq!(retries.look(1, 10), None);
    retries.failed(1, "first", who(7), 10);
    for place in [8, 7, 9, 10, 11] {
        retries.failed(1, "second", who(place), 20);
    }
    let found = retries.look(1, 30).unwrap();
    assert_eq!(&*found.of, "first");
    assert_eq!(found.at, [who(7), who(8), who(9), who(10)]);
    assert_eq!(retries.look(2, 30), None);
    // It is as old as its first failure.
    assert_eq!(retries.look(1, 10 + TTL_MS), None);

    retries.failed(2, "", who(7), 10 + TTL_MS);
    assert_eq!(retries.failed.lock().of.len(), 1);
    retries.served(3, 11 + TTL_MS);
    assert!(retries.look(2, 11 + TTL_MS).is_some());
    retries.served(2, 11 + TTL_MS);
    assert_eq!(retries.look(2, 11 + TTL_MS), None);
    assert_eq!(retries.until.load(Ordering::Relaxed), 0);
}

#[test]
fn there_is_an_end_to_what_is_remembered() {
    let retries = Retries::default();
    let id = "ä".repeat(ID);
    for key in 0..3 * MOST as u64 {
        retries.failed(key, &id, who(1), 1);
        if key % 2 == 0 {
            retries.served(key, 2);
        }
    }
    let failed = retries.failed.lock();
    assert!(failed.of.len() <= MOST && failed.order.len() <= MOST);
    drop(failed);
    let last = 3 * MOST as u64 - 1;
    assert!(retries.look(last, 2).unwrap().of.len() <= ID);
    assert_eq!(retries.look(1, 2), None);
}

/// An attempt at a slot of its own, sent at 50.
fn attempt(retries: &Arc<Retries>, slot: &Arc<Slot>) -> Attempt {
    Attempt::new(retries, 5, &Arc::default(), slot, 50)
}

#[test]
fn attempts_say_how_they_ended() {
    let slab = Arc::new(Slab::default());
    let slots = [(); 2].map(|()| slab.take());
    let retries = Arc::new(Retries::default());
    let at = || retries.look(5, clock_ms()).map(|retry| retry.at);
    // No answer was waited for, and nothing is wrong with the endpoint.
    drop(attempt(&retries, &slots[0]));
    attempt(&retries, &slots[0]).ended(false);
    attempt(&retries, &slots[0]).ended(true);
    assert_eq!(at(), None);

    attempt(&retries, &slots[0]).failed();
    let first = Who::of(&slots[0]);
    assert_eq!(at(), Some(vec![first]));
    let mut moved = attempt(&retries, &slots[0]);
    moved.moved_to(&slots[1]);
    assert_eq!(at(), Some(vec![first]));
    moved.failed();
    assert_eq!(at(), Some(vec![first, Who::of(&slots[1])]));
    let mut moved = attempt(&retries, &slots[0]);
    moved.moved_to(&slots[1]);
    moved.ended(true);
    assert_eq!(at(), None);
}

#[test]
fn who_waits_for_an_endpoint_that_breaks_down_has_failed_there() {
    let slab = Arc::new(Slab::default());
    let slots = [(); 2].map(|()| slab.take());
    for (slot, broke_at) in slots.iter().zip([40, 60]) {
        for _ in 0..breaker::STREAK {
            Breaker::observe(slot, Outcome::Failed, 1, broke_at);
        }
        let retries = Arc::new(Retries::default());
        drop(attempt(&retries, slot));
        // One that was out already was to be tried out, or there was nothing else.
        let remembered = retries.look(5, clock_ms()).is_some();
        assert_eq!(remembered, broke_at > 50, "{broke_at}");
    }
}
