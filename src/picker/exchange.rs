//! The life of one stream, from the picker's side.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Picker;
use super::control::{LB, REQUEST_ID, SERVED};
use super::decide::{Answer, Question, Renamed};
use super::denial::Denial;
use super::flights::Announced;
use super::served::{Booking, Response};
use crate::dialect::{self, Api, ModelRewriter};
use crate::extproc::{
    Exchange, HeaderEdits, Headers, Metadata, Overrun, Refusal, RequestBody, Verdict,
};
use crate::telemetry::metrics::ReasonLabels;

/// What a request without a path is taken for, as the reference does.
const DEFAULT_PATH: &str = "/v1/completions";

/// One request, and its response if this stream shows it.
#[derive(Debug)]
pub struct PickExchange {
    picker: Arc<Picker>,
    headers: Arc<Headers>,
    metadata: Arc<Metadata>,
    api: Api,
    started: Instant,
    request_id: Option<String>,
    /// Held here from the decision until the response or another stream takes it.
    booking: Option<Booking>,
    announced: Option<Announced>,
    streaming: bool,
    renamed: Option<Renamed>,
    request_rewriter: Option<ModelRewriter>,
    response_rewriter: Option<ModelRewriter>,
    response: Option<Response>,
}

// === impl PickExchange ===

impl PickExchange {
    pub(super) fn new(picker: Arc<Picker>) -> Self {
        Self {
            picker,
            headers: Arc::default(),
            metadata: Arc::default(),
            api: Api::Passthrough,
            started: Instant::now(),
            request_id: None,
            booking: None,
            announced: None,
            streaming: false,
            renamed: None,
            request_rewriter: None,
            response_rewriter: None,
            response: None,
        }
    }

    fn deny(&self, denial: &Denial) -> Refusal {
        let reason = denial.reason();
        self.picker
            .metrics
            .refused
            .get_or_create(&ReasonLabels { reason })
            .inc();
        tracing::debug!(reason, %denial, "A request was refused.");
        denial.refusal(self.api.dialect())
    }

    fn accept(&mut self, answer: Answer, seen_whole: bool) -> Verdict {
        let booking = Booking::new(answer.reservation, answer.series, self.started);
        self.booking = match &self.request_id {
            Some(id) => self.picker.flights.hand_over(id, booking),
            None => Some(booking),
        };
        self.streaming = answer.streaming;
        // A body that is only now to come gets its new name as it passes.
        self.request_rewriter = answer
            .renamed
            .as_ref()
            .filter(|_| !seen_whole && self.api != Api::Passthrough)
            .map(|renamed| ModelRewriter::request(&renamed.to));
        self.renamed = answer.renamed;
        self.picker
            .metrics
            .processing
            .observe(self.started.elapsed().as_secs_f64());
        answer.verdict
    }
}

impl Exchange for PickExchange {
    fn request_headers(&mut self, headers: Headers, observed: bool) {
        self.started = Instant::now();
        let path = headers
            .first_of(&[":path", "x-original-path", "x-forwarded-path"])
            .unwrap_or(DEFAULT_PATH);
        if !self.picker.options.passthrough {
            self.api = dialect::resolve(path);
        }
        self.request_id = headers.get(REQUEST_ID).map(str::to_owned);
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

    async fn decide(&mut self, body: RequestBody) -> Result<Verdict, Refusal> {
        let new_id = match self.request_id {
            Some(_) => None,
            None => Some(uuid::Uuid::new_v4().to_string()),
        };
        let seen_whole = !matches!(body, RequestBody::Unseen);
        let question = Question {
            headers: Arc::clone(&self.headers),
            metadata: Arc::clone(&self.metadata),
            api: self.api,
            body,
            request_id: new_id,
        };
        let picker = Arc::clone(&self.picker);
        let decided = self
            .picker
            .desk
            .run(move |progress| picker.decide(question, progress))
            .await;
        match decided {
            Ok(answer) => Ok(self.accept(answer, seen_whole)),
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
        end: bool,
    ) -> HeaderEdits {
        let status = headers
            .first_of(&[":status", "status"])
            .and_then(|status| status.parse().ok())
            .unwrap_or(200);
        let sse = headers
            .get("content-type")
            .is_some_and(|kind| kind.contains("text/event-stream"));
        if let Some(announced) = &self.announced {
            self.booking = announced.booking();
        }
        let snapshot = self.picker.pool.snapshot();
        let served = metadata
            .string(LB, SERVED)
            .and_then(|address| address.parse().ok())
            .and_then(|address| snapshot.by_address(&address))
            .map(|position| snapshot.member(position));
        self.response = Some(Response::new(self.booking.take(), served, status, sse));

        let Some(renamed) = self.renamed.as_ref().filter(|_| !end) else {
            return HeaderEdits::default();
        };
        let (Some(from), false) = (&renamed.from, headers.contains("content-encoding")) else {
            return HeaderEdits::default();
        };
        self.response_rewriter = Some(ModelRewriter::new(sse, &renamed.to, from));
        HeaderEdits {
            set: Vec::new(),
            remove: vec!["content-length"],
        }
    }

    fn edits_response(&self) -> bool {
        self.response_rewriter.is_some()
    }

    fn response_chunk(&mut self, chunk: Bytes, end: bool, out: &mut Vec<Bytes>) {
        if let Some(response) = &mut self.response {
            response.chunk(&chunk);
        }
        rewrite(&mut self.response_rewriter, chunk, end, out);
    }

    fn response_ended(&mut self) {
        if let Some(response) = self.response.take() {
            response.ended();
        }
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
            drop(self.picker.flights.hand_over(id, booking));
        }
    }
}
