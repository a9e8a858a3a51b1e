//! What a request asks, in tokens: a chat template and a tokenizer, both as simple as they can be.
//!
//! Four bytes of text are a token, and [`WORD`], of which all answers are made, is one. A message is its role and its
//! content between marks. So an answer that comes back as a message of the next turn is the very tokens that were
//! generated, after the very tokens that asked for them, as with a real template.

use std::borrow::Cow;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The word that every token of an answer is.
pub(super) const WORD: &str = " word";

/// Bytes of any other token.
const TOKEN_BYTES: usize = 4;

/// Tokens that no text is: a byte of it is never 255.
pub(super) const ANSWER: u32 = 0xffff_ff00;
const BEGIN: u32 = 0xffff_ff01;
const ROLE_ENDS: u32 = 0xffff_ff02;
const END: u32 = 0xffff_ff03;

/// Tokens that are being put together.
#[derive(Debug, Default)]
pub(super) struct Text(Vec<u32>);

/// How a field of a request is read.
pub(super) type Read = fn(&mut Text, &RawValue);

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    role: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
}

// === impl Text ===

impl Text {
    /// At least one: an engine reads no empty prompt.
    pub(super) fn into_tokens(mut self) -> Vec<u32> {
        if self.0.is_empty() {
            self.0.push(END);
        }
        self.0
    }

    /// Messages, and the beginning of an answer to them.
    pub(super) fn chat(&mut self, messages: &RawValue) {
        match list(messages) {
            Some(messages) => messages.into_iter().for_each(|one| self.message(one)),
            None => self.say("user", messages),
        }
        self.begin("assistant");
    }

    /// What a system says before them.
    pub(super) fn system(&mut self, content: &RawValue) {
        self.say("system", content);
    }

    /// Text, or tokens, without a template; of a list one after the other.
    pub(super) fn plain(&mut self, value: &RawValue) {
        if let Ok(token) = serde_json::from_str(value.get()) {
            self.0.push(token);
        } else if let Some(values) = list(value) {
            values.into_iter().for_each(|value| self.plain(value));
        } else {
            self.content(value);
        }
    }

    fn message(&mut self, message: &RawValue) {
        let Ok(read) = serde_json::from_str::<Message<'_>>(message.get()) else {
            return self.say("user", message);
        };
        self.begin(read.role.as_deref().unwrap_or("user"));
        if let Some(content) = read.content {
            self.content(content);
        }
        if let Some(calls) = read.tool_calls.filter(|calls| calls.get().len() > 2) {
            self.read(calls.get());
        }
        self.0.push(END);
    }

    fn say(&mut self, role: &str, content: &RawValue) {
        self.begin(role);
        self.content(content);
        self.0.push(END);
    }

    fn begin(&mut self, role: &str) {
        self.0.push(BEGIN);
        self.read(role);
        self.0.push(ROLE_ENDS);
    }

    /// A text, or parts that have one; whatever else, as it stands in the body.
    fn content(&mut self, content: &RawValue) {
        if let Ok(text) = serde_json::from_str::<Cow<'_, str>>(content.get()) {
            return self.read(&text);
        }
        for part in list(content).unwrap_or_else(|| vec![content]) {
            match serde_json::from_str(part.get()) {
                Ok(Part { text: Some(text) }) => self.read(&text),
                _ => self.read(part.get()),
            }
        }
    }

    fn read(&mut self, text: &str) {
        let mut from = 0;
        for word in memmem::find_iter(text.as_bytes(), WORD) {
            self.bytes(&text.as_bytes()[from..word]);
            self.0.push(ANSWER);
            from = word + WORD.len();
        }
        self.bytes(&text.as_bytes()[from..]);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let token = |chunk: &[u8]| {
            let mut token = [0; TOKEN_BYTES];
            token[..chunk.len()].copy_from_slice(chunk);
            u32::from_le_bytes(token)
        };
        self.0.extend(bytes.chunks(TOKEN_BYTES).map(token));
    }
}

fn list(value: &RawValue) -> Option<Vec<&RawValue>> {
    serde_json::from_str(value.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(read: Read, json: &str) -> Vec<u32> {
        let mut text = Text::default();
        read(&mut text, serde_json::from_str(json).unwrap());
        text.into_tokens()
    }

    #[test]
    fn four_bytes_are_a_token_and_so_is_a_word_of_an_answer() {
        for (json, tokens) in [
            (r#""""#, 1),
            (r#""abcde""#, 2),
            (r#""\u0061bcd""#, 1),
            (r#"" word word""#, 2),
            (r#""abcde word wordx""#, 5),
            (r#"["abcd","ef"]"#, 2),
            ("[1,2,3]", 3),
            ("[[1],[2,3]]", 3),
            ("{}", 1),
        ] {
            assert_eq!(read(Text::plain, json).len(), tokens, "{json}");
        }
        assert_eq!(read(Text::plain, "[7,70000]"), [7, 70_000]);
    }

    #[test]
    fn an_answer_goes_on_where_it_was_asked_for() {
        let asked = r#"{"role":"user","content":"how is it?"}"#;
        let mut expected = read(Text::chat, &format!("[{asked}]"));
        expected.extend([ANSWER; 5]);
        for answer in [
            r#"{"role":"assistant","content":" word word word word word"}"#,
            r#"{ "content": " word word word word word", "role": "assistant", "tool_calls": [] }"#,
            r#"{"type":"message","role":"assistant","content":[{"type":"output_text","text":" word word word word word"}]}"#,
        ] {
            let next = read(Text::chat, &format!("[{asked},{answer},{asked}]"));
            assert!(next.starts_with(&expected), "{answer}");
            assert!(next.len() > expected.len());
        }
        let other = read(Text::chat, &asked.replace("user", "tool"));
        assert!(!other.starts_with(&expected[..4]), "roles count");
    }

    #[test]
    fn whatever_is_no_message_is_read_as_it_stands() {
        for json in [
            "7",
            r#"["a"]"#,
            r#"[{"role":7}]"#,
            r#"[{"content":[{"x":1}]}]"#,
        ] {
            assert!(read(Text::chat, json).len() > 4, "{json}");
        }
    }
}
