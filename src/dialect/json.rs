//! A pull scanner over complete JSON text: validates every byte once, builds nothing.
//!
//! Strings are crossed with `memchr`, so a body that is mostly one long prompt costs about as much as
//! reading it. Nesting is bounded, so no document can exhaust the stack.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;

/// Deepest nesting that is read; a request that nests deeper is refused.
pub(super) const MAX_DEPTH: u32 = 128;

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
            let run = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            // The smallest byte instead of a search: this form is vectorised.
            if rest[..run].iter().fold(u8::MAX, |low, b| low.min(*b)) < b' ' {
                self.at += rest.iter().position(|b| *b < b' ').unwrap_or(0);
                return self.invalid("control character in a string");
            }
            self.at += run;
            match rest.get(run) {
                Some(b'"') => {
                    let content = start..self.at;
                    self.at += 1;
                    return Ok(Text { content, escaped });
                }
                Some(_) => {
                    escaped = true;
                    self.escape(&rest[run..])?;
                }
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

/// Resolves the escapes of a JSON string's content. What is no valid escape, a lone surrogate included,
/// becomes U+FFFD: a name must never fail to be read because of it.
pub(super) fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((plain, escape)) = rest.split_once('\\') {
        out.push_str(plain);
        let mut chars = escape.chars();
        let code = chars.next();
        rest = chars.as_str();
        match code {
            Some(c @ ('"' | '\\' | '/')) => out.push(c),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let (c, after) = unicode_escape(rest);
                out.push(c);
                rest = after;
            }
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
    out.push_str(rest);
    out
}

/// The character that follows `\u`, which may take a second escape, and the text after it.
fn unicode_escape(text: &str) -> (char, &str) {
    let Some((high, rest)) = hex4(text) else {
        return (char::REPLACEMENT_CHARACTER, text);
    };
    if let Some(c) = char::from_u32(high) {
        return (c, rest);
    }
    let low = rest.strip_prefix("\\u").and_then(hex4);
    match low {
        Some((low @ 0xDC00..0xE000, after)) if high < 0xDC00 => {
            let code = 0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00);
            let c = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            (c, after)
        }
        _ => (char::REPLACEMENT_CHARACTER, rest),
    }
}

fn hex4(text: &str) -> Option<(u32, &str)> {
    let digits = text.get(..4)?;
    let all_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16).ok()?;
    all_hex.then_some((code, &text[4..]))
}

/// `text` as a JSON string, quotes included.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
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
    fn nesting_is_bounded() {
        let nest = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(valid(&nest(128)));
        assert!(!valid(&nest(129)));
        assert!(!valid(&nest(1_000_000)));
    }

    #[test]
    fn escapes() {
        for (raw, plain) in [
            (r"a\u0062c", "abc"),
            (r"\ud83d\ude00", "😀"),
            (r"\ud83dx", "\u{fffd}x"),
            (r"\ude00\ud83d", "\u{fffd}\u{fffd}"),
            (r"\ud83d\u0041", "\u{fffd}A"),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"\u00e", "\u{fffd}00e"),
            (r"\u+0e1", "\u{fffd}+0e1"),
            ("tail\\", "tail\u{fffd}"),
        ] {
            assert_eq!(unescape(raw), plain, "{raw}");
        }
    }

    /// JSON-like text: documents, and documents with a few bytes changed.
    fn nearly_json() -> impl Strategy<Value = String> {
        prop_oneof![
            "[\\[\\]{}\":,0-9a-f.eE+\\-\\\\ untrulse\n]{0,24}",
            (crate::dialect::tests::document(), any::<(u16, u8)>()).prop_map(|(doc, (at, byte))| {
                let mut bytes = doc.to_string().into_bytes();
                let at = usize::from(at) % bytes.len();
                bytes[at] = byte;
                String::from_utf8_lossy(&bytes).into_owned()
            }),
        ]
    }

    proptest! {
        #[test]
        fn accepts_exactly_json(text in nearly_json()) {
            let judge = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(valid(&text), judge, "{}", text);
        }

        #[test]
        fn quote_round_trips(text in any::<String>()) {
            let quoted = quote(&text);
            prop_assert_eq!(&serde_json::from_str::<String>(&quoted).unwrap(), &text);
            prop_assert_eq!(unescape(&quoted[1..quoted.len() - 1]), text);
        }
    }
}
