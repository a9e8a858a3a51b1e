//! Responses: the client sees the model under the name that it used.

use bytes::Bytes;

use super::Outgoing;
use crate::dialect::escape;
use crate::dialect::stream::{Lines, PARENTS, Step, Tracker};

/// Longest model value that is held back until it is complete, in bytes with its quotes; a longer one is
/// left as it is.
const MAX_HELD: usize = 1024;

/// Replaces a name by another in a JSON document, or in each data line of an event stream: in the field `model` of the
/// document and of its `response` or `message`. Nothing is held back but the beginning of a name that the chunk's end
/// cut.
#[derive(Debug)]
pub(super) struct Rewriter {
    /// `None`: the response is one JSON document.
    lines: Option<Lines>,
    tracker: Tracker,
    /// The name to replace.
    from: String,
    /// The new name as a JSON string.
    to: Bytes,
    /// A model's name is being read; what earlier chunks had of it.
    held: Option<Vec<u8>>,
    /// Where in the chunk that name begins.
    name: usize,
}

// === impl Rewriter ===

impl Rewriter {
    pub(super) fn new(is_sse: bool, from: &str, to: &str) -> Self {
        Self {
            lines: is_sse.then(Lines::default),
            tracker: Tracker::new(&[b"model"], &PARENTS),
            from: from.to_owned(),
            to: escape::quote(to).into(),
            held: None,
            name: 0,
        }
    }

    pub(super) fn feed(&mut self, chunk: Bytes) -> Vec<Bytes> {
        let len = chunk.len();
        let mut out = Outgoing::new(chunk);
        self.name = 0;
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
            Some(held) if held.len() + len - self.name <= MAX_HELD => {
                let name = self.name;
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

    pub(super) fn finish(&mut self) -> Option<Bytes> {
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
                        self.name = at;
                    }
                }
                Step::End(n) => {
                    at += n;
                    self.settle(out, at);
                }
                Step::Close(n) => at += n,
            }
        }
    }

    /// The model's name ends before `end`.
    fn settle(&mut self, out: &mut Outgoing, end: usize) {
        let Some(mut held) = self.held.take() else {
            return;
        };
        let here = &out.chunk[self.name..end];
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
            let name = self.name;
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
        let Ok(name) = std::str::from_utf8(&value[1..value.len() - 1]) else {
            return false;
        };
        if name.contains('\\') {
            escape::unescape(name) == self.from
        } else {
            name == self.from
        }
    }

    /// What is held back is no name after all.
    fn let_go(&mut self, out: &mut Outgoing) {
        if let Some(held) = self.held.take() {
            out.push(held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let long = "a".repeat(1500);
        let mut rewriter = Rewriter::new(false, &long, "new");
        let mut out = rewriter.feed(Bytes::from_static(b"{\"model\":\""));
        let mut most = 0;
        for chunk in long.as_bytes().chunks(100) {
            out.extend(rewriter.feed(Bytes::copy_from_slice(chunk)));
            let held = rewriter.held.as_ref().map_or(0, Vec::len);
            assert!(held <= MAX_HELD, "{held}");
            most = most.max(held);
        }
        assert!(most > MAX_HELD - 100, "{most}");
        // A name too long is let go, whatever it is.
        assert_eq!(out.concat().len(), 1510);
        let end = format!("\",\"response\":{{\"model\":\"{long}\"}}}}");
        out.extend(rewriter.feed(end.clone().into()));
        assert!(out.concat().ends_with(end.as_bytes()));
        let mut rewriter = Rewriter::new(false, "a", "new");
        let out = rewriter.feed(Bytes::from_static(
            b"{\"model\":\"b\",\"response\":{\"model\":\"a\"}}",
        ));
        assert_eq!(
            out.concat(),
            b"{\"model\":\"b\",\"response\":{\"model\":\"new\"}}"
        );
    }
}
