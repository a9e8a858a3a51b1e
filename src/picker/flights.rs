//! Requests whose response comes by on another stream than the one that was asked to pick.
//!
//! In the decision-only profile the picking stream ends when the request goes on; a second filter, in
//! observability mode, shows the response. Both streams carry the request's `x-request-id`. The observer announces
//! the flight, the picking stream hands over what it booked for the request, and from then on the observer's end is
//! the request's end. Nothing waits for the other. Where there are observers at all, a booking whose observer is late
//! is kept for [`LATE`]; where there are none, a booking ends with its own stream. An observer without a booking
//! tells the breaker what it sees, and no more.
//!
//! Ids are the client's to choose, so two requests may have one. The first observer of an id gets the first booking for
//! it; the others end with their own streams.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;

use super::served::Booking;

/// How long a booking is kept for an observer that has not come yet.
const LATE: Duration = Duration::from_secs(2);
/// How many are.
const MOST_LATE: usize = 10_000;

/// The flights by request id: as many as there are observing streams, and [`MOST_LATE`].
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    flights: DashMap<Box<str>, Arc<Flight>>,
    /// An observer has been here.
    observed: AtomicBool,
    late: AtomicUsize,
}

/// One request, between its two streams.
#[derive(Debug, Default)]
pub(super) struct Flight(Mutex<Handover>);

#[derive(Debug, Default)]
enum Handover {
    /// The observer is there.
    #[default]
    Awaited,
    /// The booking too.
    Here(Box<Booking>),
    /// The observer has it; another booking is not its own.
    Done,
    /// The booking, and no observer yet.
    Late(Box<Booking>),
}

/// An announcement; withdrawn by the drop.
#[derive(Debug)]
pub(super) struct Announced {
    flights: Flights,
    id: Box<str>,
    flight: Arc<Flight>,
}

// === impl Flights ===

impl Flights {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.flights.len()
    }

    /// Announces that the response to `id` will be seen. `None` if another stream already does.
    pub(super) fn announce(&self, id: &str) -> Option<Announced> {
        self.0.observed.store(true, Ordering::Relaxed);
        let flight = match self.0.flights.entry(id.into()) {
            Entry::Vacant(entry) => Arc::clone(&entry.insert(Arc::default())),
            Entry::Occupied(entry) => {
                let mut place = entry.get().0.lock();
                match std::mem::take(&mut *place) {
                    Handover::Late(booking) => *place = Handover::Here(booking),
                    other => {
                        *place = other;
                        return None;
                    }
                }
                drop(place);
                Arc::clone(entry.get())
            }
        };
        Some(Announced {
            flights: self.clone(),
            id: id.into(),
            flight,
        })
    }

    /// Hands a booking over to whoever sees the response; gives it back if nobody does.
    pub(super) fn hand_over(&self, id: &str, booking: Booking) -> Option<Booking> {
        let Some(flight) = self.0.flights.get(id).map(|flight| Arc::clone(&flight)) else {
            return Some(booking);
        };
        let mut place = flight.0.lock();
        if !matches!(*place, Handover::Awaited) {
            return Some(booking);
        }
        *place = Handover::Here(Box::new(booking));
        None
    }

    /// The booking's own stream ends. If observers come here, its own may still.
    pub(super) fn leave(&self, id: &str, booking: Booking) {
        let Some(booking) = self.hand_over(id, booking) else {
            return;
        };
        let board = &self.0;
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        if !board.observed.load(Ordering::Relaxed)
            || board.late.fetch_add(1, Ordering::Relaxed) >= MOST_LATE
        {
            return;
        }
        if let Entry::Vacant(entry) = board.flights.entry(id.into()) {
            entry.insert(Arc::new(Flight(Mutex::new(Handover::Late(Box::new(
                booking,
            ))))));
        }
        let (flights, id): (Self, Box<str>) = (self.clone(), id.into());
        runtime.spawn(async move {
            tokio::time::sleep(LATE).await;
            flights.0.late.fetch_sub(1, Ordering::Relaxed);
            let is_late = |flight: &Flight| matches!(*flight.0.lock(), Handover::Late(_));
            flights
                .0
                .flights
                .remove_if(&id, |_, flight| is_late(flight));
        });
    }
}

// === impl Announced ===

impl Announced {
    /// The booking, once it was handed over.
    pub(super) fn booking(&self) -> Option<Booking> {
        let mut place = self.flight.0.lock();
        match std::mem::take(&mut *place) {
            Handover::Awaited => None,
            Handover::Here(booking) => {
                *place = Handover::Done;
                Some(*booking)
            }
            other => {
                *place = other;
                None
            }
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.flights.0.flights.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picker::served::tests::booking;

    #[test]
    fn a_booking_goes_to_the_observer_or_comes_back() {
        let flights = Flights::default();
        assert!(flights.hand_over("a", booking()).is_some());
        let announced = flights.announce("a").unwrap();
        assert!(flights.announce("a").is_none());
        assert!(flights.hand_over("b", booking()).is_some());
        assert!(flights.hand_over("a", booking()).is_none());
        assert!(flights.hand_over("a", booking()).is_some());
        assert!(announced.booking().is_some());
        assert!(announced.booking().is_none());
        // Another request with the same id, while the first is still under way.
        assert!(flights.hand_over("a", booking()).is_some());
        drop(announced);
        assert!(flights.0.flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_observer_finds_the_booking_for_a_while() {
        let flights = Flights::default();
        flights.leave("a", booking());
        assert!(flights.0.flights.is_empty(), "nobody ever observed");
        drop(flights.announce("x"));
        flights.leave("a", booking());
        let announced = flights.announce("a").unwrap();
        assert!(announced.booking().is_some());
        drop(announced);
        flights.leave("b", booking());
        tokio::time::sleep(LATE * 2).await;
        assert!(flights.0.flights.is_empty());
        assert_eq!(flights.0.late.load(Ordering::Relaxed), 0);
        assert!(flights.announce("b").unwrap().booking().is_none());
    }
}
