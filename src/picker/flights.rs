//! Requests whose response comes by on another stream than the one that was asked to pick.
//!
//! In the decision-only profile the picking stream ends when the request goes on; a second filter, in
//! observability mode, shows the response. Both streams carry the request's `x-request-id`. The observer announces
//! the flight, the picking stream hands over what it booked for the request, and from then on the observer's end is
//! the request's end. Nothing waits for the other: a booking that finds no observer ends with its own stream, and an
//! observer without a booking counts what it sees for itself.

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
pub(super) struct Flight(Mutex<Option<Booking>>);

/// An announcement; withdrawn by the drop.
#[derive(Debug)]
pub(super) struct Announced {
    flights: Flights,
    id: Box<str>,
    flight: Arc<Flight>,
}

// === impl Flights ===

impl Flights {
    /// Announces that the response to `id` will be seen. `None` if another stream already does: ids are not always
    /// unique.
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
        let Some(flight) = self.0.get(id) else {
            return Some(booking);
        };
        let mut place = flight.0.lock();
        if place.is_some() {
            return Some(booking);
        }
        *place = Some(booking);
        None
    }
}

// === impl Announced ===

impl Announced {
    /// The booking, once it was handed over.
    pub(super) fn booking(&self) -> Option<Booking> {
        self.flight.0.lock().take()
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
        drop(announced);
        assert!(flights.0.is_empty());
    }
}
