//! Changing the model's name in a body while it streams by.

mod request;
mod response;

use bytes::Bytes;

/// Changes the model's name in a body that comes in chunks. No other byte changes, generated text least of all. The
/// output is the same however the input is split.
#[derive(Debug)]
pub struct ModelRewriter(Body);

#[derive(Debug)]
enum Body {
    Request(request::Rewriter),
    Response(response::Rewriter),
}

/// A chunk on its way out.
struct Outgoing {
    chunk: Bytes,
    /// Up to here the chunk is dealt with.
    done: usize,
    pieces: Vec<Bytes>,
}

// === impl ModelRewriter ===

impl ModelRewriter {
    /// For a response, a server-sent event stream or else a JSON document: the name `from` becomes `to` in the field
    /// `model` of the document (of each event) and of its `response` or `message`. At most 1 KiB is held back: the
    /// beginning of a name whose end has not come.
    pub fn new(is_sse: bool, from: &str, to: &str) -> Self {
        Self(Body::Response(response::Rewriter::new(is_sse, from, to)))
    }

    /// For a request: whatever `model` it has becomes `to`, and if it has none it gets one at its end. A body that is
    /// no JSON object passes as it is.
    pub fn request(to: &str) -> Self {
        Self(Body::Request(request::Rewriter::new(to)))
    }

    /// Takes the next bytes of the body and returns what to send for them: slices of `chunk`, and new names.
    pub fn feed(&mut self, chunk: Bytes) -> Vec<Bytes> {
        match &mut self.0 {
            Body::Request(rewriter) => rewriter.feed(chunk),
            Body::Response(rewriter) => rewriter.feed(chunk),
        }
    }

    /// At the end of the body: what was still held back.
    pub fn finish(&mut self) -> Option<Bytes> {
        match &mut self.0 {
            Body::Request(_) => None,
            Body::Response(rewriter) => rewriter.finish(),
        }
    }
}

// === impl Outgoing ===

impl Outgoing {
    fn new(chunk: Bytes) -> Self {
        Self {
            chunk,
            done: 0,
            pieces: Vec::new(),
        }
    }

    /// Sends the chunk up to `end`.
    fn pass(&mut self, end: usize) {
        if self.done < end {
            self.pieces.push(self.chunk.slice(self.done..end));
            self.done = end;
        }
    }

    /// Sends what earlier chunks had.
    fn push(&mut self, held: Vec<u8>) {
        if !held.is_empty() {
            self.pieces.push(held.into());
        }
    }
}
