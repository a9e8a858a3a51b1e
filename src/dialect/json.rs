//! A pull scanner over complete JSON text: validates every byte once, builds nothing.
//!
//! Strings are crossed with `memchr`, so a body that is mostly one long prompt costs about as much as
//! reading it. Nesting is bounded, so no document can exhaust the stack.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

use super::escape::unescape;

/// Deepest nesting that is read; a request that nests deeper is refused.
pub(super) const MAX_DEPTH: u32 = 128;

/// U+FEFF, as some editors put it before a text.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Why a text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Invalid {
    /// What is wrong.
    pub(super) what: &'static str,
    /// Offset of the offending byte.
    pub(super) at: usize,
}

/// A string met in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Text {
    /// The content, without the quotes, escapes as they stand.
    pub(super) content: Range<usize>,
    /// Whether the content has escapes.
    escaped: bool,
}

/// A position in a JSON text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
    depth: u32,
}

// === impl Text ===

impl Text {
    pub(super) fn is_empty(&self) -> bool {
        self.content.is_empty()
    }
}

// === impl Cursor ===

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            at: 0,
            depth: 0,
        }
    }

    /// Past a byte order mark, which RFC 8259 lets a reader ignore.
    pub(super) fn behind_mark(text: &'a str) -> Self {
        let mut cursor = Self::new(text);
        if text.as_bytes().starts_with(BYTE_ORDER_MARK) {
            cursor.at = BYTE_ORDER_MARK.len();
        }
        cursor
    }

    /// Offset of the next byte to be read. After [`Self::peek`] it is where the next value starts.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, not consumed.
    pub(super) fn peek(&mut self) -> Result<u8, Invalid> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                _ => return Ok(byte),
            }
        }
        self.invalid("unexpected end of JSON input")
    }

    /// Inside an array that was only peeked at: the first byte of its first element, or `]`.
    pub(super) fn peek_into_array(&self) -> Result<u8, Invalid> {
        let mut inside = Cursor {
            at: self.at + 1,
            ..*self
        };
        inside.peek()
    }

    /// Nothing but white space may follow.
    pub(super) fn finish(&mut self) -> Result<(), Invalid> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => self.invalid("unexpected data after the top-level value"),
        }
    }

    /// Walks an object. `member` is called with each key, escapes resolved, and must read its value.
    pub(super) fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        if self.peek()? != b'{' {
            return self.invalid("expected an object");
        }
        self.open()?;
        if self.peek()? != b'}' {
            loop {
                let key = self.key()?;
                let key = self.decode(&key);
                member(self, &key)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    b'}' => break,
                    _ => return self.invalid("expected ',' or '}'"),
                }
            }
        }
        self.close();
        Ok(())
    }

    /// Walks an array. `element` must read one value.
    pub(super) fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        if self.peek()? != b'[' {
            return self.invalid("expected an array");
        }
        self.open()?;
        if self.peek()? != b']' {
            loop {
                element(self)?;
                match self.peek()? {
                    b',' => self.at += 1,
                    b']' => break,
                    _ => return self.invalid("expected ',' or ']'"),
                }
            }
        }
        self.close();
        Ok(())
    }

    /// Reads a string; any other value is crossed and gives `None`.
    pub(super) fn string(&mut self) -> Result<Option<Text>, Invalid> {
        if self.peek()? == b'"' {
            return self.quoted().map(Some);
        }
        self.skip()?;
        Ok(None)
    }

    /// Reads any value and gives its text.
    pub(super) fn raw(&mut self) -> Result<&'a str, Invalid> {
        let span = self.skip()?;
        Ok(&self.text[span])
    }

    /// A string's content, escapes resolved.
    pub(super) fn decode(&self, text: &Text) -> Cow<'a, str> {
        let raw = &self.text[text.content.clone()];
        if text.escaped {
            Cow::Owned(unescape(raw))
        } else {
            Cow::Borrowed(raw)
        }
    }

    /// Crosses any value, checking its grammar, and gives its span. Not recursive.
    pub(super) fn skip(&mut self) -> Result<Range<usize>, Invalid> {
        // One bit a level, innermost lowest: is that container an object? MAX_DEPTH levels fit.
        let mut objects: u128 = 0;
        let base = self.depth;
        self.peek()?;
        let start = self.at;
        'value: loop {
            match self.peek()? {
                b'"' => {
                    self.quoted()?;
                }
                opening @ (b'{' | b'[') => {
                    self.open()?;
                    let object = opening == b'{';
                    objects = objects << 1 | u128::from(object);
                    if self.peek()? != opening + 2 {
                        if object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                }
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                b'-' | b'0'..=b'9' => self.number()?,
                _ => return self.invalid("expected a value"),
            }
            while self.depth > base {
                let object = objects & 1 == 1;
                match self.peek()? {
                    b',' => {
                        self.at += 1;
                        if object {
                            self.key()?;
                        }
                        continue 'value;
                    }
                    b'}' if object => self.close(),
                    b']' if !object => self.close(),
                    _ if object => return self.invalid("expected ',' or '}'"),
                    _ => return self.invalid("expected ',' or ']'"),
                }
                objects >>= 1;
            }
            return Ok(start..self.at);
        }
    }

    fn invalid<T>(&self, what: &'static str) -> Result<T, Invalid> {
        Err(Invalid { what, at: self.at })
    }

    fn open(&mut self) -> Result<(), Invalid> {
        if self.depth == MAX_DEPTH {
            return self.invalid("nested deeper than 128 levels");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    /// A key and its colon.
    fn key(&mut self) -> Result<Text, Invalid> {
        if self.peek()? != b'"' {
            return self.invalid("expected a string as key");
        }
        let key = self.quoted()?;
        if self.peek()? != b':' {
            return self.invalid("expected ':'");
        }
        self.at += 1;
        Ok(key)
    }

    /// A string; the cursor stands at its opening quote.
    fn quoted(&mut self) -> Result<Text, Invalid> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut escaped = false;
        self.at = start;
        loop {
            let rest = &bytes[self.at..];
            let run = plain_run(rest);
            self.at += run;
            match rest.get(run) {
                Some(b'"') => {
                    let content = start..self.at;
                    self.at += 1;
                    return Ok(Text { content, escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape(&rest[run..])?;
                }
                Some(_) => return self.invalid("control character in a string"),
                None => return self.invalid("unexpected end of JSON input"),
            }
        }
    }

    /// One escape; `rest` starts at its backslash.
    fn escape(&mut self, rest: &[u8]) -> Result<(), Invalid> {
        match rest.get(1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = rest.get(2..6).unwrap_or_default();
                if digits.len() < 4 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return self.invalid("invalid \\u escape in a string");
                }
                self.at += 6;
            }
            Some(_) => return self.invalid("invalid escape in a string"),
            None => return self.invalid("unexpected end of JSON input"),
        }
        Ok(())
    }

    fn literal(&mut self, literal: &str) -> Result<(), Invalid> {
        if !self.text.as_bytes()[self.at..].starts_with(literal.as_bytes()) {
            return self.invalid("invalid literal");
        }
        self.at += literal.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Invalid> {
        let bytes = self.text.as_bytes();
        if bytes[self.at] == b'-' {
            self.at += 1;
        }
        // RFC 8259: no leading zeros.
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Invalid> {
        let rest = &self.text.as_bytes()[self.at..];
        let n = rest
            .iter()
            .position(|b| !b.is_ascii_digit())
            .unwrap_or(rest.len());
        if n == 0 {
            return self.invalid("invalid number");
        }
        self.at += n;
        Ok(())
    }
}

/// How many bytes come before the first quote, backslash or control character.
fn plain_run(bytes: &[u8]) -> usize {
    // Text with many escapes has short runs, which cost less in words than a call of memchr does.
    const SHORT: usize = 4;
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGH: u64 = ONES << 7;
    // In each byte's high bit: is the byte 0? Right up to the first one, which is all that is asked.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let words = bytes.as_chunks::<8>().0;
    let words = &words[..words.len().min(SHORT)];
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = zeros(word ^ (ONES * u64::from(b'"')));
        let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * u64::from(b' ')) & !word;
        let hits = (quote | backslash | control) & HIGH;
        if hits != 0 {
            return n * 8 + hits.trailing_zeros() as usize / 8;
        }
    }
    let rest = &bytes[words.len() * 8..];
    let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    let control = |byte: &u8| *byte < b' ';
    // The smallest byte first instead of a search at once: this form is vectorised.
    let smallest = rest[..run].iter().fold(u8::MAX, |low, b| low.min(*b));
    let run = if control(&smallest) {
        rest.iter().position(control).unwrap_or(run)
    } else {
        run
    };
    words.len() * 8 + run
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn valid(text: &str) -> bool {
        let mut cursor = Cursor::new(text);
        cursor.skip().and_then(|_| cursor.finish()).is_ok()
    }

    #[test]
    fn plain_runs_end_at_the_first_special_byte() {
        for len in 0..80 {
            for at in 0..=len {
                for special in [b'"', b'\\', 0, b'\n', 0x1f] {
                    let mut text = b"\x20!#[]\x7f\x80\xa2\xdc\xff".repeat(8)[..len].to_vec();
                    text.splice(at.., [&[special], &b"\"\\\n"[..]].concat());
                    assert_eq!(plain_run(&text), at, "{special} at {at}");
                }
            }
            assert_eq!(plain_run(&vec![b'a'; len]), len);
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nest = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(valid(&nest(128)));
        assert!(!valid(&nest(129)));
        assert!(!valid(&nest(1_000_000)));
    }

    /// JSON-like text: documents, and documents with a few bytes changed.
    fn nearly_json() -> impl Strategy<Value = String> {
        prop_oneof![
            "[\\[\\]{}\":,0-9a-f.eE+\\-\\\\ untrulse\n]{0,24}",
            (crate::dialect::tests::document(), any::<(u16, u8)>()).prop_map(
                |(doc, (at, byte))| {
                    let mut bytes = doc.to_string().into_bytes();
                    let at = usize::from(at) % bytes.len();
                    bytes[at] = byte;
                    String::from_utf8_lossy(&bytes).into_owned()
                }
            ),
        ]
    }

    proptest! {
        #[test]
        fn accepts_exactly_json(text in nearly_json()) {
            let judge = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(valid(&text), judge, "{}", text);
        }
    }
}
