//! What a request holds while it is served, and what its response teaches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::dialect::{ResponseScanner, Usage};
use crate::pool::{Breaker, Member, Outcome, Reservation, clock_ms};
use crate::prefix::{Prediction, PrefixCache};
use crate::telemetry::inflight::Counted;
use crate::telemetry::metrics::{RequestSeries, Running};

/// What was booked for a request when it was picked for. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct Booking {
    pub(super) reservation: Reservation,
    /// At the endpoints that work on the request before its first token: prefill, encode.
    pub(super) before: Vec<(Reservation, Option<Counted>)>,
    /// Where the request was sent, if that is not the endpoint's own address.
    pub(super) via: Option<SocketAddr>,
    pub(super) series: Arc<RequestSeries>,
    pub(super) started: Instant,
    /// The client asked for a stream.
    pub(super) streaming: bool,
    /// In the gauges of what is in flight, if they are kept.
    pub(super) counted: Option<Counted>,
    /// What was thought to be cached of its prompt, and who wants to know what was.
    pub(super) prediction: Option<(Arc<PrefixCache>, Prediction)>,
    _running: Running,
}

/// A response on its way.
#[derive(Debug)]
pub(super) struct Response {
    booking: Option<Booking>,
    scanner: ResponseScanner,
    streaming: bool,
    failed: bool,
    bytes: u64,
    first_token: Option<Instant>,
}

/// HTTP statuses that say that the server, not the request, is at fault. 429 is load, not a fault.
pub(super) fn is_fault(status: u16) -> bool {
    matches!(status, 500 | 502 | 503 | 504)
}

// === impl Booking ===

impl Booking {
    pub(super) fn new(
        reservation: Reservation,
        series: Arc<RequestSeries>,
        started: Instant,
        streaming: bool,
    ) -> Self {
        Self {
            _running: series.run(),
            reservation,
            before: Vec::new(),
            via: None,
            series,
            started,
            streaming,
            counted: None,
            prediction: None,
        }
    }

    /// The first token came by: the prompt is read.
    fn prefilled(&mut self) {
        let left = self.reservation.prefilled();
        if let Some(counted) = &mut self.counted {
            counted.left(left);
        }
    }

    /// There is a token, or an end: what comes before is over.
    fn begun(&mut self) {
        for (reservation, _counted) in self.before.drain(..) {
            reservation.ended();
        }
    }
}

// === impl Response ===

impl Response {
    /// Response headers came. `served` is the endpoint that the gateway reports; without a report it is the one that
    /// was picked. A gateway goes elsewhere only when the picked one failed it. `seen` is when this stream saw the
    /// request: without a booking, that is when it was sent.
    pub(super) fn new(
        mut booking: Option<Booking>,
        served: Option<&Arc<Member>>,
        status: u16,
        streaming: bool,
        seen: Instant,
    ) -> Self {
        let now = clock_ms();
        let sent_at = match &booking {
            Some(booking) => booking.reservation.sent_at(),
            None => now.saturating_sub(seen.elapsed().as_millis() as u64),
        };
        if let (Some(booking), Some(member)) = (&mut booking, served) {
            let reserved = booking.reservation.slot();
            if reserved.number() != member.slot.number() {
                Breaker::observe(reserved, Outcome::Failed, sent_at, now);
                booking.prediction = None;
            }
            booking.reservation.move_to(&member.slot);
            if let Some(counted) = &mut booking.counted {
                let id = &member.endpoint.id;
                counted.move_to(&id.namespace, &id.name);
            }
        }
        let slot = served
            .map(|member| &member.slot)
            .or(booking.as_ref().map(|b| b.reservation.slot()));
        if let Some(slot) = slot {
            let outcome = if is_fault(status) {
                Outcome::Failed
            } else {
                Outcome::Ok
            };
            Breaker::observe(slot, outcome, sent_at, now);
        }
        let failed = status >= 400;
        if let Some(booking) = booking.as_ref().filter(|_| failed) {
            booking.series.failed("ModelServerError");
        }
        Self {
            booking,
            scanner: ResponseScanner::new(streaming),
            streaming,
            failed,
            bytes: 0,
            first_token: None,
        }
    }

    /// The booking, if it came only now.
    pub(super) fn book(&mut self, booking: Option<Booking>) {
        if self.booking.is_none() {
            self.booking = booking;
        }
    }

    pub(super) fn chunk(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.scanner.feed(chunk);
        if self.first_token.is_none() && self.scanner.first_token() {
            self.first_token = Some(Instant::now());
            let streaming = self.streaming;
            if let Some(booking) = &mut self.booking {
                booking.begun();
                if streaming {
                    booking.prefilled();
                }
            }
        }
    }

    /// What the server counted, if it did.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.scanner.usage()
    }

    /// All of the response came by.
    pub(super) fn ended(mut self) {
        let Some(mut booking) = self.booking.take() else {
            return;
        };
        booking.begun();
        booking.series.response_bytes.observe(self.bytes as f64);
        if !self.failed {
            self.measure(&booking);
        }
        booking.reservation.ended();
    }

    fn measure(&self, booking: &Booking) {
        let series = &booking.series;
        let total = booking.started.elapsed().as_secs_f64();
        series.duration.observe(total);
        let ttft = self
            .first_token
            .map(|at| at.duration_since(booking.started).as_secs_f64());
        if let Some(ttft) = ttft {
            series.ttft(self.streaming).observe(ttft);
        }
        let Some(usage) = self.scanner.usage() else {
            return;
        };
        record_usage(series, &usage);
        if let (Some((cache, prediction)), Some(input), Some(cached)) =
            (&booking.prediction, usage.input, usage.cached)
        {
            cache.answered(*prediction, input, cached);
        }
        if let Some(output) = usage.output.filter(|&n| n > 0) {
            series.ntpot.observe(total / output as f64);
            if let Some(ttft) = ttft.filter(|_| self.streaming && output > 1) {
                series.tpot.observe((total - ttft) / (output - 1) as f64);
            }
        }
    }
}

fn record_usage(series: &RequestSeries, usage: &Usage) {
    for (tokens, histogram) in [
        (usage.input, &series.input),
        (usage.output, &series.output),
        (usage.cached, &series.cached),
    ] {
        if let Some(tokens) = tokens {
            histogram.observe(tokens as f64);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pool::slab::Slab;
    use crate::pool::{Endpoint, EndpointId, Pool, Snapshot, breaker};
    use crate::telemetry::metrics::Metrics;
    use std::sync::atomic::Ordering;

    pub(in crate::picker) fn booking() -> Booking {
        let slot = Arc::new(Slab::default()).take();
        let series = Metrics::new().series("m", "m", "default-flow", 0);
        Booking::new(Reservation::new(&slot), series, Instant::now(), false)
    }

    #[test]
    fn usage_is_recorded_once_and_the_booking_ends_with_the_response() {
        let booking = booking();
        let slot = Arc::clone(booking.reservation.slot());
        let series = Arc::clone(&booking.series);
        let mut response = Response::new(Some(booking), None, 200, false, Instant::now());
        response.chunk(br#"{"usage":{"prompt_tokens":7,"completion_tokens":10,"#);
        response.chunk(br#""total_tokens":17}}"#);
        assert_eq!(
            slot.segment().in_flight[slot.index()].load(Ordering::Relaxed),
            1
        );
        response.ended();
        let (s, i) = (slot.segment(), slot.index());
        assert_eq!(s.in_flight[i].load(Ordering::Relaxed), 0);
        assert_eq!(s.ended_since[i].load(Ordering::Relaxed), 1);
        assert_eq!(series.running.get(), 0);
    }

    #[test]
    fn what_comes_before_the_first_token_ends_with_it() {
        let token = b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\n\n";
        let role = b"data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n";
        for chunks in [&[&role[..], token][..], &[role], &[]] {
            let slots = [(); 2].map(|()| Arc::new(Slab::default()).take());
            let in_flight = |n: usize| {
                let (s, i) = (slots[n].segment(), slots[n].index());
                s.in_flight[i].load(Ordering::Relaxed)
            };
            let booking = Booking {
                before: slots.iter().map(|s| (Reservation::new(s), None)).collect(),
                ..booking()
            };
            let mut response = Response::new(Some(booking), None, 200, true, Instant::now());
            for chunk in chunks {
                assert_eq!((in_flight(0), in_flight(1)), (1, 1));
                response.chunk(chunk);
            }
            let open = u32::from(chunks.len() < 2);
            assert_eq!((in_flight(0), in_flight(1)), (open, open));
            response.ended();
            assert_eq!((in_flight(0), in_flight(1)), (0, 0));
            for slot in &slots {
                let ended = slot.segment().ended_since[slot.index()].load(Ordering::Relaxed);
                assert_eq!(ended, 1);
            }
        }
    }

    #[test]
    fn what_nobody_saw_to_end_has_not_ended() {
        for seen_to_begin in [false, true] {
            let booking = booking();
            let slot = Arc::clone(booking.reservation.slot());
            if seen_to_begin {
                drop(Response::new(
                    Some(booking),
                    None,
                    200,
                    true,
                    Instant::now(),
                ));
            } else {
                drop(booking);
            }
            let (s, i) = (slot.segment(), slot.index());
            assert_eq!(s.in_flight[i].load(Ordering::Relaxed), 0);
            assert_eq!(s.ended_since[i].load(Ordering::Relaxed), 0);
        }
    }

    /// Two endpoints.
    fn snapshot() -> Arc<Snapshot> {
        let members = ["10.0.0.1", "10.0.0.2"].map(|ip| Endpoint {
            id: EndpointId {
                namespace: "default".into(),
                name: ip.into(),
            },
            address: ip.parse().unwrap(),
            port: 80,
            labels: Default::default(),
        });
        Pool::default().replace(members.to_vec())
    }

    #[test]
    fn without_a_booking_a_request_was_sent_when_it_was_seen() {
        let snapshot = snapshot();
        // The first opened before this request was seen, the second after it.
        for (position, opened) in [(0, 0), (1, clock_ms() + 60_000)] {
            let member = snapshot.member(position);
            for _ in 0..breaker::STREAK {
                Breaker::observe(&member.slot, Outcome::Failed, 0, opened);
            }
            assert!(snapshot.is_open(position));
            Response::new(None, Some(member), 200, false, Instant::now()).ended();
        }
        assert!(!snapshot.is_open(0) && snapshot.is_open(1));
    }

    #[test]
    fn an_endpoint_that_the_gateway_gave_up_on_has_failed() {
        let snapshot = snapshot();
        let series = Metrics::new().series("m", "m", "default-flow", 0);
        let (picked, served) = (snapshot.member(0), snapshot.member(1));
        for n in 0..breaker::STREAK {
            assert!(!snapshot.is_open(0), "{n}");
            let reservation = Reservation::new(&picked.slot);
            let booking = Booking::new(reservation, Arc::clone(&series), Instant::now(), false);
            Response::new(Some(booking), Some(served), 200, false, Instant::now()).ended();
        }
        assert!(snapshot.is_open(0) && !snapshot.is_open(1));
        // As it is reported where it was picked, nothing has failed.
        for _ in 0..breaker::STREAK {
            let reservation = Reservation::new(&served.slot);
            let booking = Booking::new(reservation, Arc::clone(&series), Instant::now(), false);
            Response::new(Some(booking), Some(served), 200, false, Instant::now()).ended();
        }
        assert!(!snapshot.is_open(1));
    }
}
