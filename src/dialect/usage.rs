//! What a response says it used, and when its first token came.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::memrchr2;

use super::Usage;
use super::first_token::{self, MAX_HEAD};
use super::json::{Cursor, Invalid};
use super::stream::{Lines, Piece, Step, Tracker};

/// Longest usage object that is read, in bytes; a longer one is passed over.
const MAX_USAGE: usize = 16 << 10;

/// Fields with usage in them; `meta_info` is SGLang's.
const FIELDS: &[&[u8]] = &[b"usage", b"meta_info"];

/// The end of the names of all counts. An event without it has no usage; in generated text the quote would
/// have a backslash before it.
static MARK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"_tokens\""));

/// Watches the bytes of a response go by. It gives the same answers however they are split, takes any input,
/// and keeps at most 32 KiB (the first event until there is a token, and one usage object).
#[derive(Debug)]
pub struct ResponseScanner {
    /// `None`: the response is one JSON document.
    lines: Option<Lines>,
    tracker: Tracker,
    /// The part that came of the usage object in progress.
    object: Option<Vec<u8>>,
    counts: Counts,
    first_token: bool,
    /// The head of a data line that came in part, while there is no token.
    head: Vec<u8>,
}

/// Counts as the dialects name them. Each was the last that the server gave.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cached: Option<u64>,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
}

// === impl ResponseScanner ===

impl ResponseScanner {
    /// For a server-sent event stream, or else for a JSON document.
    pub fn new(is_sse: bool) -> Self {
        Self {
            lines: is_sse.then(Lines::default),
            tracker: Tracker::new(FIELDS),
            object: None,
            counts: Counts::default(),
            first_token: false,
            head: Vec::new(),
        }
    }

    /// Takes the next bytes of the body.
    pub fn feed(&mut self, chunk: &[u8]) {
        let Some(mut lines) = self.lines.take() else {
            self.first_token |= !chunk.is_empty();
            self.track(chunk);
            return;
        };
        let mut at = 0;
        if self.first_token && lines.at_line_start() && MARK.find(chunk).is_none() {
            // Nothing to see but in a line that the next chunk may finish.
            at = memrchr2(b'\n', b'\r', chunk).map_or(0, |end| end + 1);
        }
        while let Some(piece) = lines.next(chunk, &mut at) {
            let data = &chunk[piece.range.clone()];
            self.look_for_token(data, &piece);
            let whole = piece.begins && piece.ends;
            if !whole || MARK.find(data).is_some() {
                self.track(data);
            }
            if piece.ends {
                self.tracker.reset();
                self.object = None;
            }
        }
        self.lines = Some(lines);
    }

    /// Generated content has come. In a stream: a data line with text, a tool call or token ids that are not
    /// empty; role-only preambles, pings, comments and `[DONE]` do not count. Else: the first byte.
    pub fn first_token(&self) -> bool {
        self.first_token
    }

    /// What the server has counted so far; of several reports the last one of each field counts.
    pub fn usage(&self) -> Option<Usage> {
        self.counts.usage()
    }

    fn look_for_token(&mut self, data: &[u8], piece: &Piece) {
        if self.first_token {
            return;
        }
        if piece.begins && piece.ends {
            self.first_token = first_token::generated(data);
            return;
        }
        let free = MAX_HEAD - self.head.len();
        self.head.extend_from_slice(&data[..data.len().min(free)]);
        if piece.ends {
            self.first_token = first_token::generated(&self.head);
            self.head.clear();
            if self.first_token {
                self.head = Vec::new();
            }
        }
    }

    fn track(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let step = self.tracker.advance(rest);
            let read = match step {
                Step::More => rest.len(),
                Step::Begin(at) | Step::End(at) => at,
            };
            match &mut self.object {
                Some(object) if object.len() + read <= MAX_USAGE => {
                    object.extend_from_slice(&rest[..read]);
                }
                _ => self.object = None,
            }
            match step {
                Step::More => return,
                Step::Begin(_) => self.object = Some(Vec::new()),
                Step::End(_) => {
                    if let Some(object) = self.object.take() {
                        self.counts.read(&object);
                    }
                }
            }
            rest = &rest[read..];
        }
    }
}

// === impl Counts ===

impl Counts {
    /// Takes the counts of a usage object. A value that is none (`null`, say) leaves all as it was.
    fn read(&mut self, object: &[u8]) {
        let mut counts = *self;
        if let Ok(text) = std::str::from_utf8(object)
            && counts.read_object(&mut Cursor::new(text)).is_ok()
        {
            *self = counts;
        }
    }

    fn read_object(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Invalid> {
        cursor.object(|cursor, key| {
            let count = match key {
                "prompt_tokens" => &mut self.prompt_tokens,
                "input_tokens" => &mut self.input_tokens,
                "completion_tokens" | "output_tokens" => &mut self.output,
                "total_tokens" => &mut self.total,
                "cached_tokens" => &mut self.cached,
                "cache_read_input_tokens" => &mut self.cache_read,
                "cache_creation_input_tokens" => &mut self.cache_creation,
                "prompt_tokens_details" | "input_tokens_details" if cursor.peek()? == b'{' => {
                    return cursor.object(|cursor, key| {
                        let count = number(cursor.raw()?);
                        if key == "cached_tokens" {
                            self.cached = count.or(self.cached);
                        }
                        Ok(())
                    });
                }
                _ => return cursor.skip().map(drop),
            };
            *count = number(cursor.raw()?).or(*count);
            Ok(())
        })
    }

    fn usage(&self) -> Option<Usage> {
        // Anthropic counts cached tokens beside the input, all others within it.
        let apart = [self.input_tokens, self.cache_read, self.cache_creation];
        let input = apart.into_iter().flatten().reduce(u64::saturating_add);
        let input = self.prompt_tokens.or(input);
        let sum = || Some(input?.saturating_add(self.output?));
        let usage = Usage {
            input,
            output: self.output,
            total: self.total.or_else(sum),
            cached: self.cached.or(self.cache_read),
        };
        (usage != Usage::default()).then_some(usage)
    }
}

/// A count; some servers quote it.
fn number(raw: &str) -> Option<u64> {
    raw.trim_matches('"').parse().ok()
}
