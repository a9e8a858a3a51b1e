//! Envoy's external processing protocol, seen from the server.
//!
//! One gRPC stream is one HTTP request passing through one filter. This room turns the messages of a
//! stream into the calls of an [`Exchange`] and its answers into replies in the order and shape that the
//! client's configuration demands ([`session`]). What is decided, and why, it does not know: a
//! [`Processor`] makes the exchanges; where there are several, a [`Switch`] says whose a stream is.

use std::borrow::Cow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use prost_types::Struct;

mod authority;
mod budget;
pub mod headers;
pub mod health;
pub mod listener;
mod reply;
pub mod server;
mod session;
mod streams;
mod switch;
pub mod tls;

pub use budget::{BodyBudget, Held};
pub use headers::{Headers, Metadata};
pub use server::{Limits, ServeError};
pub use streams::StreamMetrics;
pub use switch::{Call, Switch};

/// Makes an [`Exchange`] for each stream.
pub trait Processor: Send + Sync + 'static {
    /// The state of one stream.
    type Exchange: Exchange;

    /// A stream was opened.
    fn open(self: &Arc<Self>) -> Self::Exchange;
}

/// One HTTP request and its response. Dropping it is the end of the stream, however it came about.
pub trait Exchange: Send + 'static {
    /// The request's headers. With `observed`, nobody waits for a decision: the request was, or will be,
    /// decided on another stream.
    fn request_headers(&mut self, headers: Headers, observed: bool);

    /// Dynamic metadata that came with a message of the request. Later messages overrule earlier ones.
    fn request_metadata(&mut self, metadata: Metadata);

    /// Whether the decision needs the body. Where it does not, it is made at the headers and the body passes by.
    fn reads_body(&self) -> bool;

    /// What must not get past us even if no decision follows: for clients that let headers go before the body.
    fn undecided_edits(&self) -> HeaderEdits;

    /// All of the request that this stream will show is here: decide. Bounded in time by the implementation.
    fn decide(
        &mut self,
        body: RequestBody,
    ) -> impl Future<Output = Result<Verdict, Refusal>> + Send;

    /// The stream itself cannot go on: the answer for the client.
    fn refuse(&mut self, overrun: Overrun) -> Refusal;

    /// A piece of the request body that goes on after the decision: what to send instead is pushed to `out`; nothing
    /// pushed = the piece is held back.
    fn request_chunk(&mut self, chunk: Bytes, end: bool, out: &mut Vec<Bytes>) {
        let _ = end;
        out.push(chunk);
    }

    /// Whether [`Exchange::request_chunk`] may change anything.
    fn edits_request(&self) -> bool {
        false
    }

    /// The response's headers, and the metadata that came with them. `body`: what will be seen of its body.
    fn response_headers(
        &mut self,
        headers: &Headers,
        metadata: &Metadata,
        body: ResponseBody,
    ) -> HeaderEdits;

    /// Whether [`Exchange::response_chunk`] may change anything.
    fn edits_response(&self) -> bool;

    /// A piece of the response body: what to send instead is pushed to `out`. It is called with `end` for the
    /// last piece, which may be empty.
    fn response_chunk(&mut self, chunk: Bytes, end: bool, out: &mut Vec<Bytes>);

    /// The response is complete. What is returned, metadata namespaces for the client, goes with the last reply to it: to
    /// the last piece of its body, or to what follows that.
    fn response_ended(&mut self) -> Option<Struct>;
}

/// What a stream shows of a response body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseBody {
    /// Nothing, or there is none.
    Unseen,
    /// The client does not say. It can only be observed.
    Untold,
    /// All of it, and it cannot be edited.
    Seen,
    /// All of it, and it may be edited.
    Editable,
}

/// The request body, as far as the client's mode shows it.
#[derive(Debug)]
pub enum RequestBody {
    /// There is none.
    None,
    /// All of it, in the pieces in which it came, and what it takes of the byte budget.
    Whole(Vec<Bytes>, Held),
    /// There is one, but this stream shows it too late or not at all.
    Unseen,
}

/// A decision: the request goes on.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Changes to the request's headers.
    pub headers: HeaderEdits,
    /// Metadata namespaces for the client.
    pub metadata: Option<Struct>,
    /// The body to send instead, if it changes.
    pub body: Option<Vec<Bytes>>,
}

/// Changes to headers: what is not named stays as it is.
#[derive(Debug, Default)]
pub struct HeaderEdits {
    /// Set, whatever was there.
    pub set: Vec<(Cow<'static, str>, Bytes)>,
    /// Removed.
    pub remove: Vec<&'static str>,
}

/// An answer to the client in place of the model server's.
#[derive(Debug)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// Headers beside it.
    pub headers: Vec<(&'static str, String)>,
    /// Body, UTF-8.
    pub body: Bytes,
    /// One word for the client's access log.
    pub details: &'static str,
}

/// Why a stream cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overrun {
    /// One body is larger than the limit, in bytes.
    BodyTooLarge(usize),
    /// All bodies together are larger than the limit.
    NoBufferLeft,
}
