//! Requests whose response comes by on another stream than the one that was asked to pick.
//!
//! In the decision-only profile the picking stream ends when the request goes on; a second filter, in
//! observability mode, shows the response. Both streams carry the request's `x-request-id`. The observer announces
//! the flight, the picking stream hands over what it booked for the request, and from then on the observer's end is
//! the request's end. Nothing waits for the other: a booking that finds no observer ends with its own stream, so the
//! observing filter belongs in front of the picking one. An observer without a booking tells the breaker what it
//! sees, and no more.
//!
//! Ids are the client's to choose, so two requests may have one. The first observer of an id gets the first booking for
//! it; the others end with their own streams.

use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use parking_lot::Mutex;

use super::served::Booking;

/// The announced flights, by request id. As many as there are observing streams.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights(Arc<DashMap<Box<str>, Arc<Flight>>>);

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
    /// Announces that the response to `id` will be seen. `None` if another stream already does.
    pub(super) fn announce(&self, id: &str) -> Option<Announced> {
        match self.0.entry(id.into()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                let flight = Arc::new(Flight::default());
                entry.insert(Arc::clone(&flight));
                Some(Announced {
                    flights: self.clone(),
                    id: id.into(),
                    flight,
                })
            }
        }
    }

    /// Hands a booking over to whoever sees the response; gives it back if nobody does.
    pub(super) fn hand_over(&self, id: &str, booking: Booking) -> Option<Booking> {
        let Some(flight) = self.0.get(id).map(|flight| Arc::clone(&flight)) else {
            return Some(booking);
        };
        let mut place = flight.0.lock();
        if !matches!(*place, Handover::Awaited) {
            return Some(booking);
        }
        *place = Handover::Here(Box::new(booking));
        None
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
            Handover::Done => {
                *place = Handover::Done;
                None
            }
        }
    }
}

impl Drop for Announced {
    fn drop(&mut self) {
        self.flights.0.remove(&self.id);
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
        assert!(flights.0.is_empty());
    }
}
