//! The life of one stream, from the picker's side.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use prost_types::Struct;

use super::control::{CONFORMANCE_SERVED, DESTINATION, LB, REQUEST_ID, SERVED};
use super::decide::{Answer, Question, Renamed, flow};
use super::denial::Denial;
use super::edits::control_headers;
use super::flights::Announced;
use super::retries::Attempt;
use super::served::{Booking, Response, is_fault};
use super::{Picker, Policy};
use crate::dialect::{self, Api, Dialect, ModelRewriter};
use crate::extproc::{
    Exchange, HeaderEdits, Headers, Metadata, Overrun, Refusal, RequestBody, ResponseBody, Verdict,
};
use crate::pool::{Member, clock_ms};
use crate::telemetry::metrics::{ReasonLabels, Stage};

/// What a request without a path is taken for, as the reference does.
const DEFAULT_PATH: &str = "/v1/completions";

/// One request, and its response if this stream shows it.
#[derive(Debug)]
pub struct PickExchange {
    picker: Arc<Picker>,
    policy: Arc<Policy>,
    headers: Arc<Headers>,
    metadata: Arc<Metadata>,
    api: Api,
    /// No parser is configured for the path.
    no_parser: bool,
    started: Instant,
    request_id: Option<String>,
    /// Nobody waits for replies.
    observed: bool,
    /// Held here from the decision until the response or another stream takes it.
    booking: Option<Booking>,
    announced: Option<Announced>,
    /// What profiles chose for the request; where this stream sent it is first.
    ran: Vec<(usize, Arc<Member>)>,
    renamed: Option<Renamed>,
    request_rewriter: Option<ModelRewriter>,
    response_rewriter: Option<ModelRewriter>,
    response: Option<Response>,
}

// === impl PickExchange ===

impl PickExchange {
    pub(super) fn new(picker: Arc<Picker>) -> Self {
        Self {
            policy: picker.policy.load_full(),
            picker,
            headers: Arc::default(),
            metadata: Arc::default(),
            api: Api::Passthrough,
            no_parser: false,
            started: Instant::now(),
            request_id: None,
            observed: false,
            booking: None,
            announced: None,
            ran: Vec::new(),
            renamed: None,
            request_rewriter: None,
            response_rewriter: None,
            response: None,
        }
    }

    fn deny(&self, denial: &Denial) -> Refusal {
        let reason = denial.reason();
        let metrics = &self.picker.metrics;
        metrics
            .refused
            .get_or_create(&ReasonLabels { reason })
            .inc();
        if !denial.is_counted() {
            let steering = self.picker.steering(&self.headers, &self.metadata);
            let flow = flow(&self.policy, &steering);
            let priority = self.picker.priority(steering);
            let series = metrics.series("", "", flow, priority);
            series.failed(denial.error_code());
        }
        self.processed();
        let pool = self.picker.options.pool_id.as_deref();
        tracing::debug!(pool, reason, %denial, "A request was refused.");
        denial.refusal(self.api.dialect())
    }

    fn accept(&mut self, mut answer: Answer, unseen: bool) -> Verdict {
        let mut booking = Booking::new(
            answer.reservation,
            answer.series,
            self.started,
            answer.streaming,
        );
        booking.attempt = answer.known_by.map(|key| {
            let (retries, sent) = (&self.picker.retries, &booking.reservation);
            Attempt::new(retries, key, &self.headers, sent.slot(), sent.sent_at())
        });
        booking.before = answer.before;
        booking.via = answer.via;
        booking.counted = answer.counted;
        booking.recorded = answer.recorded;
        booking.prediction = answer
            .prediction
            .map(|prediction| (Arc::clone(&self.picker.prefix), prediction));
        self.booking = match &self.request_id {
            Some(id) => self.picker.flights.hand_over(id, booking),
            None => Some(booking),
        };
        self.ran = answer.ran;
        // A body that is only now to come gets its new name as it passes.
        self.request_rewriter = answer
            .renamed
            .as_ref()
            .filter(|_| unseen && self.edits_passing_body())
            .map(|renamed| ModelRewriter::request(&renamed.to));
        self.renamed = answer.renamed;
        if self.request_rewriter.is_some() {
            answer.verdict.headers.remove.push("content-length");
        }
        self.processed();
        answer.verdict
    }

    /// The request is decided or refused: those that waited longest are among the latter.
    fn processed(&self) {
        let took = self.started.elapsed().as_secs_f64();
        self.picker.metrics.processing.observe(took);
    }

    /// What plugins tell in the headers of a response that `served` gave.
    fn stamps(&self, served: Option<&Arc<Member>>, status: u16) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        // An endpoint that fails is none to come back to.
        if !is_fault(status) {
            let mut ran: Vec<_> = self.ran.iter().map(|(at, member)| (*at, member)).collect();
            if let (Some(first), Some(served)) = (ran.first_mut(), served) {
                first.1 = served;
            }
            let followers = self.policy.scheduler.followers(&ran);
            let stamps = followers.filter_map(|(follower, chosen)| follower.stamp(chosen));
            for stamp in stamps {
                // Plugins of several profiles may tell the same.
                if !edits.set.iter().any(|(name, _)| *name == stamp.name) {
                    edits.set.push((stamp.name.into(), stamp.value));
                }
            }
        }
        edits
    }

    /// Whether a body that passes by is JSON that we may change. An encoded one is not.
    fn edits_passing_body(&self) -> bool {
        self.api != Api::Passthrough && !self.headers.contains("content-encoding")
    }

    /// Which API the request is for, as far as a parser is configured for it.
    fn resolve(&self, headers: &Headers) -> Option<Api> {
        if headers.contains("upgrade") || headers.get(":method") == Some("CONNECT") {
            return Some(Api::Passthrough);
        }
        let path = headers
            .first_of(&[":path", "x-original-path", "x-forwarded-path"])
            .unwrap_or(DEFAULT_PATH);
        let parsers = &self.policy.parsers;
        match dialect::resolve(path) {
            api if parsers.contains(&api.dialect()) => Some(api),
            _ => parsers
                .contains(&Dialect::Passthrough)
                .then_some(Api::Passthrough),
        }
    }
}

impl Exchange for PickExchange {
    fn request_headers(&mut self, headers: Headers, observed: bool) {
        self.started = Instant::now();
        self.observed = observed;
        match self.resolve(&headers) {
            Some(api) => self.api = api,
            None => self.no_parser = true,
        }
        self.request_id = headers.first_of(&[REQUEST_ID]).map(str::to_owned);
        if observed && let Some(id) = &self.request_id {
            self.announced = self.picker.flights.announce(id);
        }
        self.headers = Arc::new(headers);
    }

    fn request_metadata(&mut self, metadata: Metadata) {
        // Nobody else holds it before the decision.
        if let Some(known) = Arc::get_mut(&mut self.metadata) {
            known.merge(metadata);
        }
    }

    fn reads_body(&self) -> bool {
        self.api != Api::Passthrough
    }

    fn undecided_edits(&self) -> HeaderEdits {
        let mut remove = control_headers(&self.headers);
        remove.push(DESTINATION);
        HeaderEdits {
            set: Vec::new(),
            remove,
        }
    }

    async fn decide(&mut self, body: RequestBody) -> Result<Verdict, Refusal> {
        if self.no_parser && !matches!(body, RequestBody::None) {
            return Err(self.deny(&Denial::NoParser));
        }
        let new_id = match self.request_id {
            Some(_) => None,
            None => Some(uuid::Uuid::new_v4().to_string()),
        };
        let unseen = matches!(body, RequestBody::Unseen);
        let question = Question {
            policy: Arc::clone(&self.policy),
            headers: Arc::clone(&self.headers),
            metadata: Arc::clone(&self.metadata),
            api: self.api,
            body,
            request_id: new_id,
            asked: Instant::now(),
        };
        let received = question.asked.duration_since(self.started).as_secs_f64();
        self.picker.metrics.stage(Stage::Receive, received);
        let picker = Arc::clone(&self.picker);
        let decided = self
            .picker
            .desk
            .run(move |progress| picker.decide(question, progress))
            .await;
        match decided {
            Ok(answer) => Ok(self.accept(answer, unseen)),
            Err(denial) => Err(self.deny(&denial)),
        }
    }

    fn refuse(&mut self, overrun: Overrun) -> Refusal {
        self.deny(&Denial::from(overrun))
    }

    fn edits_request(&self) -> bool {
        self.request_rewriter.is_some()
    }

    fn request_chunk(&mut self, chunk: Bytes, end: bool, out: &mut Vec<Bytes>) {
        rewrite(&mut self.request_rewriter, chunk, end, out);
    }

    fn response_headers(
        &mut self,
        headers: &Headers,
        metadata: &Metadata,
        body: ResponseBody,
    ) -> HeaderEdits {
        let begun = Instant::now();
        let status = headers
            .first_of(&[":status", "status"])
            .and_then(|status| status.parse().ok())
            .unwrap_or(200);
        if let Some(announced) = &self.announced {
            self.booking = announced.booking();
        }
        let streaming = self.booking.as_ref().is_some_and(|b| b.streaming);
        let kind = headers.get("content-type").unwrap_or_default();
        // Some servers stream under another name, but an answer in JSON is one document.
        let sse = kind.contains("text/event-stream") || streaming && !kind.contains("json");
        let snapshot = self.picker.pool.snapshot();
        let booking = self.booking.take();
        // What was reached by another address was served where it was picked.
        let via = booking.as_ref().and_then(|booking| booking.via);
        let served = metadata
            .string(LB, SERVED)
            .and_then(|address| address.parse().ok())
            .filter(|address| via != Some(*address))
            .and_then(|address| snapshot.by_address(&address))
            .map(|position| snapshot.member(position));
        let mut edits = self.stamps(served, status);
        if self.policy.reporters.tell_served() {
            let told = told_served(metadata).to_owned();
            edits.set.push((CONFORMANCE_SERVED.into(), told.into()));
        }
        let shown = match body {
            ResponseBody::Unseen => false,
            ResponseBody::Untold => self.picker.bodies.are_shown(clock_ms()),
            ResponseBody::Seen | ResponseBody::Editable => true,
        };
        let mut response = Response::new(booking, served, status, (sse, shown), self.started);
        response.worked(begun.elapsed());
        self.response = Some(response);

        let Some(renamed) = self
            .renamed
            .as_ref()
            .filter(|_| body == ResponseBody::Editable)
        else {
            return edits;
        };
        let (Some(from), false) = (&renamed.from, headers.contains("content-encoding")) else {
            return edits;
        };
        self.response_rewriter = Some(ModelRewriter::new(sse, &renamed.to, from));
        edits.remove.push("content-length");
        edits
    }

    fn edits_response(&self) -> bool {
        self.response_rewriter.is_some()
    }

    fn response_chunk(&mut self, chunk: Bytes, end: bool, out: &mut Vec<Bytes>) {
        let begun = Instant::now();
        if let Some(response) = &mut self.response {
            if self.observed && response.is_new() {
                self.picker.bodies.seen(clock_ms());
            }
            response.chunk(&chunk, begun);
        }
        rewrite(&mut self.response_rewriter, chunk, end, out);
        if let Some(response) = &mut self.response {
            response.worked(begun.elapsed());
        }
    }

    fn response_ended(&mut self) -> Option<Struct> {
        let mut response = self.response.take()?;
        if let Some(announced) = &self.announced {
            response.book(announced.booking());
        }
        let reporters = &self.policy.reporters;
        // Nobody reads what an observer would say.
        let told = match self.observed || reporters.is_empty() {
            true => None,
            false => response
                .usage()
                .and_then(|usage| reporters.report(&usage, &self.picker.metrics.unreported)),
        };
        response.ended();
        told
    }
}

/// What the gateway says of where the request was served, word by word, or that it does not.
fn told_served(metadata: &Metadata) -> &str {
    match (metadata.namespace(LB), metadata.string(LB, SERVED)) {
        (_, Some(address)) => address,
        (None, _) => "fail: missing envoy lb metadata",
        (Some(_), None) => "fail: missing destination endpoint served metadata",
    }
}

fn rewrite(rewriter: &mut Option<ModelRewriter>, chunk: Bytes, end: bool, out: &mut Vec<Bytes>) {
    match rewriter {
        None => out.push(chunk),
        Some(rewriter) => {
            out.extend(rewriter.feed(chunk));
            if end {
                out.extend(rewriter.finish());
            }
        }
    }
}

impl Drop for PickExchange {
    fn drop(&mut self) {
        // The request went on and this stream will not see its response. Perhaps the observer came by now.
        if let (Some(booking), Some(id), None) =
            (self.booking.take(), &self.request_id, &self.response)
        {
            self.picker.flights.leave(id, booking);
        }
    }
}

#[cfg(test)]
mod tests;
