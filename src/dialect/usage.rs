//! What a response says it used, and when its first token came.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use memchr::{memchr2, memchr3, memrchr2};

use super::Usage;
use super::first_token::{self, MAX_HEAD};
use super::json::{Cursor, Invalid};
use super::stream::{Lines, PARENTS, Piece, Step, Tracker};

/// Longest usage object that is read, in bytes without the contents of its arrays; a longer one is passed over.
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
    object: Option<Object>,
    counts: Counts,
    first_token: bool,
    /// The head of a data line that came in part, while there is no token.
    head: Vec<u8>,
}

/// The text of an object, without the contents of its arrays: SGLang puts the log probabilities of all tokens beside
/// its counts.
#[derive(Debug, Default)]
struct Object {
    text: Vec<u8>,
    /// Arrays that are open.
    arrays: usize,
    in_string: bool,
    /// The last byte was a backslash.
    escaped: bool,
}

/// Counts as the dialects name them. Each was the last that the server gave.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prompt_tokens: Option<u64>,
    input_tokens: Option<u64>,
    output: Option<u64>,
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
            tracker: Tracker::new(FIELDS, &PARENTS),
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
                Step::Begin(at) | Step::End(at) | Step::Close(at) => at,
            };
            if let Some(object) = &mut self.object
                && !object.take(&rest[..read])
            {
                self.object = None;
            }
            match step {
                Step::More => return,
                Step::Close(_) => {}
                Step::Begin(_) => self.object = Some(Object::default()),
                Step::End(_) => {
                    if let Some(object) = self.object.take() {
                        self.counts.read(&object.text);
                    }
                }
            }
            rest = &rest[read..];
        }
    }
}

// === impl Object ===

impl Object {
    /// Takes the next bytes. `false`: it is too long.
    fn take(&mut self, bytes: &[u8]) -> bool {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let was_outside = self.arrays == 0;
            let run = self.step(rest);
            at += run;
            let kept = match (was_outside, self.arrays) {
                (true, _) => &rest[..run],
                (false, 0) => b"]",
                (false, _) => b"",
            };
            if self.text.len() + kept.len() > MAX_USAGE {
                return false;
            }
            self.text.extend_from_slice(kept);
        }
        true
    }

    /// Crosses bytes up to the next that matters, and returns how many.
    fn step(&mut self, bytes: &[u8]) -> usize {
        if std::mem::take(&mut self.escaped) {
            return 1;
        }
        let next = if self.in_string {
            memchr2(b'"', b'\\', bytes)
        } else {
            memchr3(b'"', b'[', b']', bytes)
        };
        let Some(next) = next else {
            return bytes.len();
        };
        match bytes[next] {
            b'"' => self.in_string = !self.in_string,
            b'\\' => self.escaped = true,
            b'[' => self.arrays += 1,
            _ => self.arrays = self.arrays.saturating_sub(1),
        }
        next + 1
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
        let usage = Usage {
            input,
            output: self.output,
            cached: self.cached.or(self.cache_read),
        };
        (usage != Usage::default()).then_some(usage)
    }
}

/// A count; some servers quote it.
fn number(raw: &str) -> Option<u64> {
    raw.trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(scanner: &ResponseScanner) -> usize {
        let object = scanner
            .object
            .as_ref()
            .map_or(0, |object| object.text.len());
        assert!(scanner.head.len() <= MAX_HEAD && object <= MAX_USAGE);
        scanner.head.len() + object
    }

    #[test]
    fn arrays_are_left_out_of_an_object() {
        let text = br#"{"a":[1,"]",[{"b":"\"]["}]],"c":{"d":[]},"e\"[":"[\\"}"#;
        let expected = br#"{"a":[],"c":{"d":[]},"e\"[":"[\\"}"#;
        for size in 1..=text.len() {
            let mut object = Object::default();
            assert!(text.chunks(size).all(|chunk| object.take(chunk)));
            assert_eq!(object.text, expected, "{size}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let chunk = [b'a'; 1000];
        // A line that does not end, and has no token in its head.
        let mut scanner = ResponseScanner::new(true);
        scanner.feed(b"data: {\"usage\":{\"x\":\"");
        let mut most = 0;
        for _ in 0..100 {
            scanner.feed(&chunk);
            most = most.max(kept(&scanner));
        }
        assert!((20_000..=MAX_HEAD + MAX_USAGE).contains(&most), "{most}");
        assert!(scanner.object.is_none(), "the object is given up");
        scanner.feed(b"\",\"prompt_tokens\":1}}\n");
        assert_eq!((scanner.usage(), kept(&scanner)), (None, 0));
        // Behind text of any length usage is still found; with the first token, heads are not kept any more.
        scanner.feed(b"data: {\"text\":\"x\"}\ndata: {\"response\":{\"output\":\"");
        for _ in 0..100 {
            scanner.feed(&chunk);
            assert_eq!(kept(&scanner), 0);
        }
        scanner.feed(b"\",\"usage\":{\"input_tokens\":1,\"output_tokens\":2}}}\n");
        let usage = Usage {
            input: Some(1),
            output: Some(2),
            cached: None,
        };
        assert_eq!((scanner.usage(), kept(&scanner)), (Some(usage), 0));
    }

    #[test]
    fn log_probabilities_do_not_hide_usage() {
        let list = r#"[[-0.1,2,"\"]{"],[-0.2,3,null]],"#.repeat(600);
        let body = format!(
            r#"{{"text":"a","meta_info":{{"id":"r","output_token_logprobs":[{list}1],"finish_reason":{{"type":"length"}},"prompt_tokens":3,"completion_tokens":2,"cached_tokens":1}}}}"#
        );
        let event = format!("data: {body}\n\n");
        let usage = Usage {
            input: Some(3),
            output: Some(2),
            cached: Some(1),
        };
        for (sse, text) in [(false, &body), (true, &event)] {
            for size in [1, 7, 4096, text.len()] {
                let mut scanner = ResponseScanner::new(sse);
                for chunk in text.as_bytes().chunks(size) {
                    scanner.feed(chunk);
                    kept(&scanner);
                }
                assert_eq!(scanner.usage(), Some(usage), "{sse} {size}");
            }
        }
    }
}
