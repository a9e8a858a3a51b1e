//! Push scanners for bodies: they take the bytes in whatever pieces these come, keep a few bytes of state,
//! and never fail.

use std::ops::Range;

use memchr::memchr2;

use super::escape;

/// Longest key that is looked at, in bytes: `meta_info` with every letter escaped.
const MAX_KEY: usize = 9 * 6;

/// The objects of a response event that may hold what we look for, beside the event itself: the Responses
/// API's `response` and Anthropic's `message`.
pub(super) const PARENTS: [&[u8]; 2] = [b"response", b"message"];

/// Finds the values of certain fields of a JSON document: fields of the document itself, and of an object
/// that is one of its fields named in `parents`. Text inside strings is never mistaken for a field.
#[derive(Debug)]
pub(super) struct Tracker {
    /// Names of the fields.
    wanted: &'static [&'static [u8]],
    parents: &'static [&'static [u8]],
    /// Whether the end of the document is told: not yet.
    close: bool,
    /// The outermost container has a string.
    members: bool,
    /// Containers that are open.
    depth: usize,
    /// Whether the two outermost containers are objects.
    object: [bool; 2],
    /// The outermost object's last key is one of `parents`.
    under_parent: bool,
    /// A string here would be a key.
    key_next: bool,
    /// The last key was a wanted one: its value comes next.
    armed: bool,
    string: Option<InString>,
    key: Key,
    value: Option<Value>,
}

/// Inside a string.
#[derive(Clone, Copy, Debug)]
struct InString {
    /// It is a key that may be wanted.
    key: bool,
    /// The last byte was a backslash.
    escaped: bool,
}

/// The wanted value that is being crossed.
#[derive(Clone, Copy, Debug)]
struct Value {
    /// Containers that are open around it.
    depth: usize,
    /// A number or a literal: it has no end mark of its own.
    scalar: bool,
}

/// The bytes of a key; one longer than `MAX_KEY` only keeps its length.
#[derive(Debug)]
struct Key {
    bytes: [u8; MAX_KEY],
    len: usize,
}

/// How far [`Tracker::advance`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All bytes are read.
    More,
    /// A wanted value starts at this offset; go on from there.
    Begin(usize),
    /// The wanted value ended before this offset; go on from there.
    End(usize),
    /// The brace at this offset ends the document, an object; go on from there. Told of requests alone, once.
    Close(usize),
}

/// Finds the data lines of a server-sent event stream, whatever its line ends. Each data line is taken for a
/// document of its own, as all model servers write them.
#[derive(Debug, Default)]
pub(super) struct Lines(Line);

#[derive(Clone, Copy, Debug)]
enum Line {
    /// In the field's name; so many bytes of `data:` have matched.
    Name(usize),
    /// In a data line, behind the colon.
    Data,
    /// In any other line.
    Other,
}

/// What one chunk has of one data line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it is in the chunk.
    pub(super) range: Range<usize>,
    /// The line starts in this chunk.
    pub(super) begins: bool,
    /// The line ends in this chunk.
    pub(super) ends: bool,
}

// === impl Tracker ===

impl Tracker {
    pub(super) fn new(wanted: &'static [&'static [u8]], parents: &'static [&'static [u8]]) -> Self {
        Self {
            wanted,
            parents,
            close: false,
            members: false,
            depth: 0,
            object: [false; 2],
            under_parent: false,
            key_next: false,
            armed: false,
            string: None,
            key: Key {
                bytes: [0; MAX_KEY],
                len: 0,
            },
            value: None,
        }
    }

    /// Finds fields of the document alone, and tells its end.
    pub(super) fn of_request(wanted: &'static [&'static [u8]]) -> Self {
        Self {
            close: true,
            ..Self::new(wanted, &[])
        }
    }

    /// Starts a new document.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.wanted, self.parents);
    }

    /// Whether the document, an object, has members so far.
    pub(super) fn has_members(&self) -> bool {
        self.members
    }

    /// Reads up to the next beginning or end of a wanted value.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Some(string) = self.string {
                at = self.in_string(string, bytes, at);
                if self.string.is_none() && self.ends_value() {
                    return Step::End(at);
                }
                continue;
            }
            if self.value.is_some_and(|value| value.scalar)
                && matches!(
                    byte,
                    b',' | b'}' | b']' | b':' | b'"' | b' ' | b'\n' | b'\r' | b'\t'
                )
            {
                self.value = None;
                return Step::End(at);
            }
            if self.armed && !matches!(byte, b':' | b' ' | b'\n' | b'\r' | b'\t') {
                self.armed = false;
                if !matches!(byte, b',' | b'}' | b']') {
                    self.value = Some(Value {
                        depth: self.depth,
                        scalar: !matches!(byte, b'"' | b'{' | b'['),
                    });
                    return Step::Begin(at);
                }
            }
            if self.close && byte == b'}' && self.depth == 1 && self.object[0] {
                self.close = false;
                return Step::Close(at);
            }
            at += 1;
            match byte {
                b'"' => {
                    self.members |= self.depth == 1;
                    let key = self.key_next && self.keys_count();
                    self.key.len = 0;
                    self.string = Some(InString {
                        key,
                        escaped: false,
                    });
                }
                b'{' | b'[' => {
                    if let Some(object) = self.object.get_mut(self.depth) {
                        *object = byte == b'{';
                    }
                    self.depth += 1;
                    self.key_next = byte == b'{';
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    self.key_next = false;
                    if self.ends_value() {
                        return Step::End(at);
                    }
                }
                b',' => self.key_next = true,
                b':' => self.key_next = false,
                // Long lists of numbers, as in embeddings, are crossed quickly.
                _ if self.depth > 2 => {
                    let rest = &bytes[at..];
                    at += rest
                        .iter()
                        .position(|b| matches!(b, b'"' | b'{' | b'}' | b'[' | b']'))
                        .unwrap_or(rest.len());
                }
                _ => {}
            }
        }
        Step::More
    }

    /// Crosses what `bytes` has of a string; returns the offset behind.
    fn in_string(&mut self, mut string: InString, bytes: &[u8], mut at: usize) -> usize {
        if string.escaped {
            string.escaped = false;
            if string.key {
                self.key.extend(&bytes[at..=at]);
            }
            at += 1;
        }
        let rest = &bytes[at..];
        let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
        if string.key {
            self.key.extend(&rest[..run]);
        }
        at += run;
        self.string = Some(string);
        match rest.get(run) {
            None => at,
            Some(b'\\') => {
                if string.key {
                    self.key.extend(b"\\");
                }
                self.string = Some(InString {
                    escaped: true,
                    ..string
                });
                at + 1
            }
            Some(_) => {
                self.string = None;
                if string.key {
                    self.end_key();
                }
                at + 1
            }
        }
    }

    fn end_key(&mut self) {
        self.key_next = false;
        let key = self.key.get();
        let plain;
        let key = if key.contains(&b'\\') {
            plain = escape::unescape(&String::from_utf8_lossy(key));
            plain.as_bytes()
        } else {
            key
        };
        if self.depth == 1 {
            self.under_parent = self.parents.contains(&key);
        }
        self.armed = self.wanted.contains(&key);
    }

    /// Whether keys of the innermost container are looked at.
    fn keys_count(&self) -> bool {
        self.value.is_none()
            && match self.depth {
                1 => self.object[0],
                2 => self.object[0] && self.object[1] && self.under_parent,
                _ => false,
            }
    }

    /// The innermost string or container just ended: was it the wanted value?
    fn ends_value(&mut self) -> bool {
        let ends = self
            .value
            .is_some_and(|value| !value.scalar && self.depth <= value.depth);
        if ends {
            self.value = None;
        }
        ends
    }
}

// === impl Key ===

impl Key {
    fn extend(&mut self, bytes: &[u8]) {
        if let Some(free) = self.bytes.get_mut(self.len..self.len + bytes.len()) {
            free.copy_from_slice(bytes);
        }
        self.len = (self.len + bytes.len()).min(MAX_KEY + 1);
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

// === impl Line ===

impl Default for Line {
    fn default() -> Self {
        Self::Name(0)
    }
}

// === impl Lines ===

impl Lines {
    /// No line has begun.
    pub(super) fn at_line_start(&self) -> bool {
        matches!(self.0, Line::Name(0))
    }

    /// The next piece of a data line in `chunk` from `at` on, and `at` moved behind it.
    pub(super) fn next(&mut self, chunk: &[u8], at: &mut usize) -> Option<Piece> {
        const NAME: &[u8] = b"data:";
        let mut begins = false;
        while let Some(&byte) = chunk.get(*at) {
            match self.0 {
                Line::Name(matched) => {
                    self.0 = match byte {
                        b'\r' | b'\n' => Line::Name(0),
                        b if b != NAME[matched] => Line::Other,
                        _ if matched + 1 == NAME.len() => {
                            begins = true;
                            Line::Data
                        }
                        _ => Line::Name(matched + 1),
                    };
                    *at += 1;
                }
                Line::Data | Line::Other => {
                    let rest = &chunk[*at..];
                    let end = memchr2(b'\n', b'\r', rest);
                    let range = *at..*at + end.unwrap_or(rest.len());
                    *at = range.end + usize::from(end.is_some());
                    let data = matches!(self.0, Line::Data);
                    if end.is_some() {
                        self.0 = Line::Name(0);
                    }
                    if data {
                        return Some(Piece {
                            range,
                            begins,
                            ends: end.is_some(),
                        });
                    }
                }
            }
        }
        None
    }
}
