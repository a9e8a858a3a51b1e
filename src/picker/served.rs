//! What a request holds while it is served, and what its response teaches.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::retries::Attempt;
use crate::dialect::{ResponseScanner, Usage};
use crate::pool::slab::Slot;
use crate::pool::{Breaker, Member, Outcome, Reservation, clock_ms};
use crate::prefix::{Prediction, PrefixCache};
use crate::telemetry::inflight::Counted;
use crate::telemetry::metrics::{RequestSeries, Running};
use crate::telemetry::record::Recorded;
use crate::telemetry::record::format::AnswerLine;

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
    /// It is in a capture, which its answer belongs into too.
    pub(super) recorded: Option<Recorded>,
    /// Who remembers that it failed, if it does.
    pub(super) attempt: Option<Attempt>,
    _running: Running,
}

/// A response on its way.
#[derive(Debug)]
pub(super) struct Response {
    booking: Option<Booking>,
    scanner: ResponseScanner,
    streaming: bool,
    failed: bool,
    /// Who serves it, as long as that did not do its part.
    owed_by: Option<Arc<Slot>>,
    /// When the request was sent, in milliseconds of [`clock_ms`].
    sent_at: u64,
    bytes: u64,
    first_token: Option<Instant>,
    /// When the last piece of its body came.
    last_chunk: Option<Instant>,
    /// How long we worked on it.
    worked: Duration,
}

/// How an engine's stream breaks off: an event with an error in the place of tokens.
const ERROR_EVENT: &[u8] = b"data: {\"error\"";
/// What front ends say by themselves, whatever became of the engine behind them: that a connection is alive, and that an
/// answer of the Responses API is to come.
const NO_ANSWER: [&[u8]; 5] = [
    b":",
    b"event: ping",
    b"event: response.created",
    b"event: response.queued",
    b"event: response.in_progress",
];
/// Tokens of an answer in one piece from which on the time to its first hardly counts.
const LONG: u64 = 32;

/// Whether `chunk` begins with the event of an error that is the server's: vLLM and SGLang write each event by itself, and
/// put the status that it would have been into it.
fn breaks_off(chunk: &[u8]) -> bool {
    let code = |chunk: &[u8]| {
        let at = memchr::memmem::find(chunk, b"\"code\":")?;
        chunk[at + 7..].trim_ascii_start().first().copied()
    };
    chunk.starts_with(ERROR_EVENT) && code(chunk) == Some(b'5')
}

/// Whether `chunk` begins with one of [`NO_ANSWER`].
fn is_no_answer(chunk: &[u8]) -> bool {
    chunk.is_empty() || NO_ANSWER.iter().any(|said| chunk.starts_with(said))
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
            recorded: None,
            attempt: None,
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
    /// was picked. A gateway goes elsewhere only when the picked one failed it. `streaming`: it is a stream, and its pieces
    /// will be shown. `seen` is when this stream saw the request: without a booking, that is when it was sent.
    ///
    /// The head of a stream says nothing of the engine: front ends send it before there is a token. So such a stream
    /// counts as served when a piece of it comes, or its end; where none will be shown, and for an answer in one piece,
    /// the head is what there is.
    pub(super) fn new(
        mut booking: Option<Booking>,
        served: Option<&Arc<Member>>,
        status: u16,
        (streaming, shown): (bool, bool),
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
                if let Some(attempt) = &mut booking.attempt {
                    attempt.moved_to(&member.slot);
                }
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
        let failed = status >= 400;
        let mut owed_by = None;
        match slot {
            None => {}
            Some(slot) if is_fault(status) => {
                Breaker::observe(slot, Outcome::Failed, sent_at, now);
            }
            Some(slot) if failed => Breaker::observe(slot, Outcome::Ok, sent_at, now),
            Some(slot) if streaming && shown => owed_by = Some(Arc::clone(slot)),
            Some(slot) => {
                Breaker::observe(slot, Outcome::Ok, sent_at, now);
                slot.marks().piece();
            }
        }
        if let Some(booking) = booking.as_mut().filter(|_| failed) {
            booking.series.failed("ModelServerError");
            if let Some(attempt) = &mut booking.attempt {
                match is_fault(status) {
                    true => attempt.failed(),
                    false => attempt.ended(false),
                }
            }
        }
        Self {
            booking,
            scanner: ResponseScanner::new(streaming),
            streaming,
            failed,
            owed_by,
            sent_at,
            bytes: 0,
            first_token: None,
            last_chunk: None,
            worked: Duration::ZERO,
        }
    }

    /// The booking, if it came only now.
    pub(super) fn book(&mut self, booking: Option<Booking>) {
        if self.booking.is_none() {
            self.booking = booking;
        }
    }

    /// A piece of its body, which came at `at`.
    pub(super) fn chunk(&mut self, chunk: &[u8], at: Instant) {
        self.bytes += chunk.len() as u64;
        if self.streaming && self.first_token.is_some() {
            self.gap(at);
        }
        if self.streaming && !self.failed && breaks_off(chunk) {
            self.broken();
        }
        self.last_chunk = Some(at);
        self.scanner.feed(chunk);
        let begins = self.first_token.is_none() && self.scanner.first_token();
        if begins || !self.streaming || !is_no_answer(chunk) {
            self.moved();
        }
        if begins {
            self.first_token = Some(at);
            let streaming = self.streaming;
            if let Some(booking) = &mut self.booking {
                booking.begun();
                if streaming {
                    booking.prefilled();
                }
            }
        }
    }

    /// The engine did something for it.
    fn moved(&mut self) {
        if self.failed {
            return;
        }
        if let Some(slot) = self.owed_by.take() {
            Breaker::observe(&slot, Outcome::Ok, self.sent_at, clock_ms());
            if self.booking.is_none() {
                slot.marks().piece();
            }
        }
        if let Some(booking) = &self.booking {
            booking.reservation.slot().marks().piece();
        }
    }

    /// No piece of its body came.
    pub(super) fn is_new(&self) -> bool {
        self.last_chunk.is_none()
    }

    /// What the server counted, if it did.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.scanner.usage()
    }

    /// A piece after the first token, at `at`: how long after the one before.
    fn gap(&self, at: Instant) {
        if let (Some(booking), Some(last)) = (&self.booking, self.last_chunk) {
            let gap = at.duration_since(last);
            booking.series.itl.observe(gap.as_secs_f64());
            booking.reservation.slot().marks().generated(1, gap);
        }
    }

    /// The server gave up on it.
    fn broken(&mut self) {
        self.failed = true;
        let owed_by = self.owed_by.take();
        let booked = self.booking.as_ref().map(|b| b.reservation.slot());
        if let Some(slot) = booked.or(owed_by.as_ref()) {
            Breaker::observe(slot, Outcome::Failed, self.sent_at, clock_ms());
        }
        if let Some(booking) = &mut self.booking {
            booking.series.failed("ModelServerError");
            if let Some(attempt) = &mut booking.attempt {
                attempt.failed();
            }
        }
    }

    /// So much time went into a piece of it.
    pub(super) fn worked(&mut self, time: Duration) {
        self.worked += time;
    }

    /// All of the response came by.
    pub(super) fn ended(mut self) {
        self.moved();
        let Some(mut booking) = self.booking.take() else {
            return;
        };
        booking.begun();
        let worked = self.worked.as_secs_f64();
        booking.series.response_processing.observe(worked);
        booking.series.response_bytes.observe(self.bytes as f64);
        if !self.failed {
            if let Some(attempt) = &mut booking.attempt {
                attempt.ended(true);
            }
            self.measure(&booking);
            if let Some(recorded) = booking.recorded.take() {
                recorded.answered(self.answer(&booking));
            }
        }
        booking.reservation.ended();
    }

    /// Seconds to the first token, if there was one.
    fn ttft(&self, booking: &Booking) -> Option<f64> {
        self.first_token
            .map(|at| at.duration_since(booking.started).as_secs_f64())
    }

    /// As a capture tells it.
    fn answer(&self, booking: &Booking) -> AnswerLine {
        let usage = self.scanner.usage().unwrap_or_default();
        AnswerLine {
            of: 0,
            out: usage.output,
            r#in: usage.input,
            cached: usage.cached,
            // The first token of an answer in one piece is its end.
            ttft: self.ttft(booking).filter(|_| self.streaming),
            e2e: booking.started.elapsed().as_secs_f64(),
        }
    }

    fn measure(&self, booking: &Booking) {
        let series = &booking.series;
        let total = booking.started.elapsed().as_secs_f64();
        series.duration.observe(total);
        let ttft = self.ttft(booking);
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
            if !self.streaming && output >= LONG {
                let marks = booking.reservation.slot().marks();
                marks.generated(output, booking.started.elapsed());
            }
            if let Some(ttft) = ttft.filter(|_| self.streaming && output > 1) {
                series.tpot.observe((total - ttft) / (output - 1) as f64);
            }
        }
    }
}

impl Drop for Response {
    /// Also of a response that was cut off: those are not the cheapest.
    fn drop(&mut self) {
        if let Some(booking) = &self.booking {
            let worked = self.worked.as_secs_f64();
            booking.series.response_processing.observe(worked);
        }
    }
}

fn record_usage(series: &RequestSeries, usage: &Usage) {
    for (tokens, histogram) in [
        (usage.input.filter(|&n| n > 0), &series.input),
        (usage.output.filter(|&n| n > 0), &series.output),
        (usage.cached, &series.cached),
    ] {
        if let Some(tokens) = tokens {
            histogram.observe(tokens as f64);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
