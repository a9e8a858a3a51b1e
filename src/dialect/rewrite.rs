//! Giving a response the model's name that the client used, while it streams by.

use bytes::Bytes;

use super::escape;
use super::stream::{Lines, Step, Tracker};

/// Longest model value that is held back until it is complete, in bytes with its quotes; a longer one is
/// left as it is.
const MAX_HELD: usize = 1024;

/// Replaces the model's name in a JSON document, or in each data line of an event stream: the field `model`
/// of the document and of its `response` or `message`. No other byte changes, generated text least of all, and
/// nothing is held back but the beginning of a model's name that the chunk's end cut. The output is the same
/// however the input is split.
#[derive(Debug)]
pub struct ModelRewriter {
    /// `None`: the response is one JSON document.
    lines: Option<Lines>,
    tracker: Tracker,
    /// The only name to replace; `None` = any.
    from: Option<String>,
    /// The new name as a JSON string.
    to: Bytes,
    /// A model's name is being read; what earlier chunks had of it.
    held: Option<Vec<u8>>,
}

/// A chunk on its way out.
struct Outgoing {
    chunk: Bytes,
    /// Up to here the chunk is dealt with.
    done: usize,
    /// Where in the chunk the model's name begins that is being read.
    name: usize,
    pieces: Vec<Bytes>,
}

// === impl ModelRewriter ===

impl ModelRewriter {
    /// Replaces the name `from` (any name, if `None`) by `to`.
    pub fn new(is_sse: bool, from: Option<&str>, to: &str) -> Self {
        Self {
            lines: is_sse.then(Lines::default),
            tracker: Tracker::new(&[b"model"]),
            from: from.map(str::to_owned),
            to: escape::quote(to).into(),
            held: None,
        }
    }

    /// Takes the next bytes of the body and returns what to send for them: slices of `chunk`, and new names.
    pub fn feed(&mut self, chunk: Bytes) -> Vec<Bytes> {
        let len = chunk.len();
        let mut out = Outgoing {
            chunk,
            done: 0,
            name: 0,
            pieces: Vec::new(),
        };
        match self.lines.take() {
            None => self.track(&mut out, 0, len),
            Some(mut lines) => {
                let mut at = 0;
                while let Some(piece) = lines.next(&out.chunk, &mut at) {
                    self.track(&mut out, piece.range.start, piece.range.end);
                    if piece.ends {
                        self.let_go(&mut out);
                        self.tracker.reset();
                    }
                }
                self.lines = Some(lines);
            }
        }
        match &mut self.held {
            Some(held) if held.len() + len - out.name <= MAX_HELD => {
                let name = out.name;
                out.pass(name);
                held.extend_from_slice(&out.chunk[name..]);
            }
            _ => {
                self.let_go(&mut out);
                out.pass(len);
            }
        }
        out.pieces
    }

    /// At the end of the body: what was still held back.
    pub fn finish(&mut self) -> Option<Bytes> {
        let held = self.held.take()?;
        (!held.is_empty()).then(|| held.into())
    }

    fn track(&mut self, out: &mut Outgoing, from: usize, to: usize) {
        let mut at = from;
        loop {
            match self.tracker.advance(&out.chunk[at..to]) {
                Step::More => return,
                Step::Begin(n) => {
                    at += n;
                    if out.chunk[at] == b'"' {
                        self.held = Some(Vec::new());
                        out.name = at;
                    }
                }
                Step::End(n) => {
                    at += n;
                    self.settle(out, at);
                }
            }
        }
    }

    /// The model's name ends before `end`.
    fn settle(&mut self, out: &mut Outgoing, end: usize) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        let here = &out.chunk[out.name..end];
        let ours = if held.is_empty() {
            self.replaces(here)
        } else {
            let earlier = held.len();
            held.extend_from_slice(here);
            let ours = self.replaces(&held);
            held.truncate(earlier);
            ours
        };
        if ours {
            let name = out.name;
            out.pass(name);
            out.pieces.push(self.to.clone());
            out.done = end;
        } else {
            out.push(held);
        }
    }

    fn replaces(&self, value: &[u8]) -> bool {
        if value.len() > MAX_HELD {
            return false;
        }
        let Some(from) = &self.from else { return true };
        let Ok(name) = std::str::from_utf8(&value[1..value.len() - 1]) else {
            return false;
        };
        if name.contains('\\') {
            escape::unescape(name) == *from
        } else {
            name == from
        }
    }

    /// What is held back is no name after all.
    fn let_go(&mut self, out: &mut Outgoing) {
        if let Some(held) = self.held.take() {
            out.push(held);
        }
    }
}

// === impl Outgoing ===

impl Outgoing {
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
