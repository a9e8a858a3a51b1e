//! One stream: what comes in, in which state, and what is replied.
//!
//! | Request body mode | Decided at | Replies |
//! |---|---|---|
//! | FULL_DUPLEX_STREAMED (also when the client does not say) | end of the body, or trailers | headers, then the body in pieces, then trailers |
//! | BUFFERED, BUFFERED_PARTIAL | the body message | headers at once (control headers removed), the decision on the body |
//! | STREAMED, GRPC, NONE | headers | headers, then one reply a body message |
//!
//! A request without a body, or whose body the decision does not need, is decided at its headers in every mode. Whatever
//! comes after the end of a full-duplex body (some Envoy versions send a second end) is ignored. Observed streams get no
//! reply at all.
//!
//! A session is pulled by its reader: while nobody takes replies, nothing is read, and when the client goes
//! away all of it is dropped, wherever it was.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost_types::Struct;
use tonic::{Code, Status, Streaming};

use super::budget::{BodyBudget, Held};
use super::reply::{self, Side};
use super::server::OpenStream;
use super::{Exchange, Headers, Metadata, Processor, Refusal, RequestBody, ResponseBody, Verdict};
use crate::proto::envoy::extensions::filters::http::ext_proc::v3::processing_mode::BodySendMode;
use crate::proto::ext_proc::processing_request::Request;
use crate::proto::ext_proc::{
    HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse, ProtocolConfiguration,
};

/// How long a client that was refused may go on sending.
const DRAIN: Duration = Duration::from_secs(5);

pub(super) struct Session<P: Processor> {
    inbound: Streaming<ProcessingRequest>,
    exchange: P::Exchange,
    outbox: VecDeque<ProcessingResponse>,
    held: Held,
    chunks: Vec<Bytes>,
    request_mode: BodySendMode,
    response_mode: BodySendMode,
    first: bool,
    observed: bool,
    /// It is observed, and which bodies will come was not said: Envoy never does.
    untold: bool,
    /// Request headers have come, so they can be replied to.
    headers: bool,
    request: Phase,
    response: Phase,
    /// The client was given an answer of ours.
    refused: bool,
    /// Somebody waits for this stream, so a server that drains does too.
    awaited: Option<OpenStream>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of it has come.
    Waiting,
    /// Headers have come; for a request: it is not decided.
    Open,
    /// Decided, but more of the body may come (request only).
    Passing,
    /// All of it has come and was replied to.
    Ended,
}

// === impl Session ===

impl<P: Processor> Session<P> {
    pub(super) fn new(
        inbound: Streaming<ProcessingRequest>,
        processor: &Arc<P>,
        budget: &Arc<BodyBudget>,
        awaited: OpenStream,
    ) -> Self {
        Self {
            inbound,
            exchange: processor.open(),
            outbox: VecDeque::new(),
            held: Held::new(budget),
            chunks: Vec::new(),
            request_mode: BodySendMode::FullDuplexStreamed,
            response_mode: BodySendMode::FullDuplexStreamed,
            first: true,
            observed: false,
            untold: false,
            headers: false,
            request: Phase::Waiting,
            response: Phase::Waiting,
            refused: false,
            awaited: Some(awaited),
        }
    }

    /// The next reply; `None` ends the stream with OK.
    pub(super) async fn next(&mut self) -> Option<Result<ProcessingResponse, Status>> {
        loop {
            if let Some(reply) = self.outbox.pop_front() {
                return Some(Ok(reply));
            }
            if self.refused {
                self.drain().await;
                return None;
            }
            if matches!(self.request, Phase::Passing | Phase::Ended) {
                // What was held of the request has left.
                self.held.clear();
            }
            match self.inbound.message().await {
                Ok(Some(message)) => self.handle(message).await,
                Ok(None) => return self.unfinished().map(Err),
                // A reset by the client reads as its end. What comes here is a message that could not be taken.
                Err(status) => {
                    return Some(Err(match status.code() {
                        Code::OutOfRange => Status::resource_exhausted(status.message()),
                        _ => status,
                    }));
                }
            }
        }
    }

    /// After a refusal: lets the client finish. A stream that is closed while its client still sends is reset, and a
    /// proxy may see the reset before it sees the refusal.
    async fn drain(&mut self) {
        let rest = async { while let Ok(Some(_)) = self.inbound.message().await {} };
        // A client that goes on for longer has seen it.
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }

    /// The client stopped sending. OK would make a proxy go on with the bytes that it has back: if some are
    /// still here, that is a truncated message, so it must be an error.
    fn unfinished(&self) -> Option<Status> {
        if self.observed {
            return None;
        }
        let request = matches!(self.request, Phase::Open);
        let response = self.response == Phase::Open && self.exchange.edits_response();
        (request || response).then(|| Status::aborted("the stream was closed before end_of_stream"))
    }

    async fn handle(&mut self, message: ProcessingRequest) {
        if std::mem::take(&mut self.first) {
            self.configure(message.protocol_config.as_ref(), message.observability_mode);
        }
        let metadata = message.metadata_context.map(Metadata::from);
        let Some(request) = message.request else {
            return;
        };
        if matches!(
            request,
            Request::RequestHeaders(_) | Request::RequestBody(_) | Request::RequestTrailers(_)
        ) && let Some(metadata) = metadata
        {
            self.exchange.request_metadata(metadata);
            return self.handle_part(request, Metadata::default()).await;
        }
        self.handle_part(request, metadata.unwrap_or_default())
            .await;
    }

    async fn handle_part(&mut self, part: Request, metadata: Metadata) {
        match part {
            Request::RequestHeaders(headers) => self.request_headers(headers).await,
            Request::RequestBody(body) => self.request_body(body).await,
            Request::RequestTrailers(_) => self.request_trailers().await,
            Request::ResponseHeaders(headers) => self.response_headers(headers, &metadata),
            Request::ResponseBody(body) => self.response_body(body),
            Request::ResponseTrailers(_) => self.response_trailers(),
        }
    }

    fn configure(&mut self, config: Option<&ProtocolConfiguration>, observed: bool) {
        self.observed = observed;
        self.untold = observed && config.is_none();
        if observed {
            self.awaited = None;
        }
        if let Some(config) = config {
            self.request_mode = config.request_body_mode();
            self.response_mode = config.response_body_mode();
        }
    }

    // --- request ---

    async fn request_headers(&mut self, message: HttpHeaders) {
        if self.request != Phase::Waiting {
            return;
        }
        self.request = Phase::Open;
        self.headers = true;
        self.exchange
            .request_headers(Headers::from(message.headers), self.observed);
        if self.observed {
            self.request = Phase::Passing;
            return;
        }
        if message.end_of_stream {
            self.decide_at_headers(RequestBody::None, Phase::Ended)
                .await;
            return;
        }
        match self.request_mode {
            BodySendMode::FullDuplexStreamed if self.exchange.reads_body() => {}
            BodySendMode::Buffered | BodySendMode::BufferedPartial => {
                let edits = self.exchange.undecided_edits();
                self.push(reply::headers(Side::Request, edits));
            }
            _ => {
                self.decide_at_headers(RequestBody::Unseen, Phase::Passing)
                    .await;
            }
        }
    }

    async fn decide_at_headers(&mut self, body: RequestBody, then: Phase) {
        if let Some(verdict) = self.decide(body, then).await {
            self.push(reply::decided_headers(verdict.headers, verdict.metadata));
        }
    }

    async fn request_body(&mut self, message: HttpBody) {
        if self.observed {
            return;
        }
        if self.request == Phase::Waiting {
            // The client does not send headers: then there is nothing to say to them.
            self.request = Phase::Open;
            self.exchange.request_headers(Headers::default(), false);
        }
        match (self.request, self.request_mode) {
            (Phase::Open, BodySendMode::FullDuplexStreamed) => {
                if self.keep(message.body) && message.end_of_stream {
                    self.decide_full_duplex(true).await;
                }
            }
            (Phase::Open, _) => {
                let whole =
                    message.end_of_stream || self.request_mode != BodySendMode::BufferedPartial;
                if self.keep(message.body) {
                    self.decide_buffered(whole).await;
                }
            }
            (Phase::Passing, BodySendMode::FullDuplexStreamed) => self.stream_request(message),
            (_, BodySendMode::FullDuplexStreamed) => {}
            (_, BodySendMode::Grpc) => self.push(reply::grpc(Side::Request, message)),
            _ => self.pass_request(message),
        }
    }

    /// A piece of a full-duplex body that was decided without it.
    fn stream_request(&mut self, message: HttpBody) {
        let end = message.end_of_stream;
        if end {
            self.request = Phase::Ended;
        }
        let mut out = Vec::with_capacity(1);
        self.exchange.request_chunk(message.body, end, &mut out);
        let outbox = &mut self.outbox;
        reply::stream_body(Side::Request, out, end, |reply| outbox.push_back(reply));
    }

    fn pass_request(&mut self, message: HttpBody) {
        let instead = if self.exchange.edits_request() {
            let mut out = Vec::new();
            self.exchange
                .request_chunk(message.body, message.end_of_stream, &mut out);
            Some(reply::joined(out))
        } else {
            None
        };
        self.push(reply::body(Side::Request, instead));
    }

    async fn request_trailers(&mut self) {
        if self.observed {
            return;
        }
        match (self.request, self.request_mode) {
            (Phase::Open, BodySendMode::FullDuplexStreamed) => {
                self.decide_full_duplex(false).await;
                if !self.refused {
                    self.push(reply::trailers(Side::Request));
                }
            }
            // The body that was announced never came: only the metadata can still carry the decision.
            (Phase::Open, _) => {
                if let Some(verdict) = self.decide(RequestBody::None, Phase::Ended).await {
                    self.push(reply::decided_trailers(verdict.metadata));
                }
            }
            (phase, _) => {
                if phase == Phase::Passing && self.exchange.edits_request() {
                    self.pass_rest();
                }
                self.request = Phase::Ended;
                self.push(reply::trailers(Side::Request));
            }
        }
    }

    /// Trailers came instead of a last piece: a full-duplex client still takes what was held back.
    fn pass_rest(&mut self) {
        let mut out = Vec::new();
        self.exchange.request_chunk(Bytes::new(), true, &mut out);
        if self.request_mode == BodySendMode::FullDuplexStreamed {
            let outbox = &mut self.outbox;
            reply::stream_body(Side::Request, out, false, |reply| outbox.push_back(reply));
        }
    }

    /// `end`: the body ends the request; otherwise trailers follow it.
    async fn decide_full_duplex(&mut self, end: bool) {
        let chunks = std::mem::take(&mut self.chunks);
        let echo = chunks.clone();
        let body = RequestBody::Whole(chunks, self.held.clone());
        let Some(verdict) = self.decide(body, Phase::Ended).await else {
            return;
        };
        let pieces = verdict.body.unwrap_or(echo);
        if self.headers {
            self.push(reply::decided_headers(verdict.headers, verdict.metadata));
            let outbox = &mut self.outbox;
            reply::stream_body(Side::Request, pieces, end, |reply| outbox.push_back(reply));
        } else {
            let mut metadata = verdict.metadata;
            let outbox = &mut self.outbox;
            reply::stream_body(Side::Request, pieces, end, |mut reply| {
                reply.dynamic_metadata = metadata.take();
                outbox.push_back(reply);
            });
        }
    }

    /// `whole`: all of the body is here; otherwise it is the beginning, and the rest goes on without us.
    async fn decide_buffered(&mut self, whole: bool) {
        let chunks = std::mem::take(&mut self.chunks);
        let beginning = if whole { Vec::new() } else { chunks.clone() };
        let body = if whole {
            RequestBody::Whole(chunks, self.held.clone())
        } else {
            RequestBody::Unseen
        };
        let Some(verdict) = self.decide(body, Phase::Passing).await else {
            return;
        };
        let mut body = verdict.body.map(reply::joined);
        if !whole && self.exchange.edits_request() {
            let mut out = Vec::new();
            for chunk in beginning {
                self.exchange.request_chunk(chunk, false, &mut out);
            }
            // Nothing can be said to the rest, so nothing may be held back for it.
            self.exchange.request_chunk(Bytes::new(), true, &mut out);
            body = Some(reply::joined(out));
        }
        self.push(reply::decided_body(verdict.headers, verdict.metadata, body));
    }

    async fn decide(&mut self, body: RequestBody, then: Phase) -> Option<Verdict> {
        match self.exchange.decide(body).await {
            Ok(verdict) => {
                self.request = then;
                Some(verdict)
            }
            Err(refusal) => {
                self.refuse(refusal);
                None
            }
        }
    }

    /// Keeps a piece of the body, within the budgets; `false` when the stream was refused instead.
    fn keep(&mut self, chunk: Bytes) -> bool {
        if chunk.is_empty() {
            return true;
        }
        match self.held.take(chunk.len()) {
            Ok(()) => {
                self.chunks.push(chunk);
                true
            }
            Err(overrun) => {
                let refusal = self.exchange.refuse(overrun);
                self.refuse(refusal);
                false
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.request = Phase::Ended;
        self.chunks = Vec::new();
        self.held.clear();
        self.push(reply::immediate(refusal));
        self.refused = true;
    }

    // --- response ---

    fn response_headers(&mut self, message: HttpHeaders, metadata: &Metadata) {
        if self.response != Phase::Waiting {
            return;
        }
        self.response = Phase::Open;
        let headers = Headers::from(message.headers);
        let body = match self.response_mode {
            _ if message.end_of_stream => ResponseBody::Unseen,
            _ if self.untold => ResponseBody::Untold,
            BodySendMode::None => ResponseBody::Unseen,
            BodySendMode::Grpc => ResponseBody::Seen,
            _ if self.observed => ResponseBody::Seen,
            _ => ResponseBody::Editable,
        };
        let edits = self.exchange.response_headers(&headers, metadata, body);
        let told = self.response_ended(message.end_of_stream);
        if !self.observed {
            self.push_telling(reply::headers(Side::Response, edits), told);
        }
    }

    fn response_body(&mut self, message: HttpBody) {
        let duplex = self.response_mode == BodySendMode::FullDuplexStreamed;
        if self.response == Phase::Ended && (duplex || self.observed) {
            return;
        }
        let end = message.end_of_stream;
        if self.response_mode == BodySendMode::Grpc && !self.observed {
            let body = message.body.clone();
            self.exchange.response_chunk(body, end, &mut Vec::new());
            let told = self.response_ended(end);
            return self.push_telling(reply::grpc(Side::Response, message), told);
        }
        let edits = !self.observed && self.exchange.edits_response();
        let mut out = Vec::with_capacity(1);
        self.exchange.response_chunk(message.body, end, &mut out);
        let told = self.response_ended(end);
        if self.observed {
            return;
        }
        if duplex {
            let outbox = &mut self.outbox;
            reply::stream_body(Side::Response, out, end, |reply| outbox.push_back(reply));
            // With the end of the body there is a last piece.
            if let (Some(_), Some(last)) = (&told, self.outbox.back_mut()) {
                last.dynamic_metadata = told;
            }
        } else {
            let instead = edits.then(|| reply::joined(out));
            self.push_telling(reply::body(Side::Response, instead), told);
        }
    }

    fn response_trailers(&mut self) {
        let mut told = None;
        if self.response == Phase::Open {
            let mut out = Vec::new();
            self.exchange.response_chunk(Bytes::new(), true, &mut out);
            told = self.response_ended(true);
            if self.response_mode == BodySendMode::FullDuplexStreamed && !self.observed {
                let outbox = &mut self.outbox;
                reply::stream_body(Side::Response, out, false, |mut reply| {
                    // What was held back is the last piece; without it, only the trailers can tell.
                    reply.dynamic_metadata = told.take();
                    outbox.push_back(reply);
                });
            }
        }
        if !self.observed {
            self.push_telling(reply::trailers(Side::Response), told);
        }
    }

    /// With `end`: tells the exchange, once, and returns what that tells the client.
    fn response_ended(&mut self, end: bool) -> Option<Struct> {
        if !end || self.response == Phase::Ended {
            return None;
        }
        self.response = Phase::Ended;
        self.exchange.response_ended()
    }

    fn push_telling(&mut self, mut reply: ProcessingResponse, told: Option<Struct>) {
        reply.dynamic_metadata = told;
        self.push(reply);
    }

    fn push(&mut self, reply: ProcessingResponse) {
        self.outbox.push_back(reply);
    }
}
