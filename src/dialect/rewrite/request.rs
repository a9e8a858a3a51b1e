//! Requests: the model server sees the model under the name that it knows.

use bytes::Bytes;

use super::Outgoing;
use crate::dialect::escape;
use crate::dialect::json::BYTE_ORDER_MARK;
use crate::dialect::stream::{Step, Tracker};

/// Replaces every value of the top-level field `model`, or adds the field before the last brace. Nothing is held back.
#[derive(Debug)]
pub(super) struct Rewriter {
    form: Form,
    tracker: Tracker,
    /// The new name as a JSON string.
    to: Bytes,
    found: bool,
    /// In a value that is replaced.
    skipping: bool,
}

/// What the body is.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// Not known: nothing came but white space and so many bytes of a byte order mark.
    Unknown(usize),
    Object,
    /// Another kind of value, or compressed.
    Other,
}

// === impl Rewriter ===

impl Rewriter {
    pub(super) fn new(to: &str) -> Self {
        Self {
            form: Form::Unknown(0),
            tracker: Tracker::of_request(&[b"model"]),
            to: escape::quote(to).into(),
            found: false,
            skipping: false,
        }
    }

    pub(super) fn feed(&mut self, chunk: Bytes) -> Vec<Bytes> {
        let len = chunk.len();
        let mut out = Outgoing::new(chunk);
        self.look_at(&out.chunk);
        if matches!(self.form, Form::Object) {
            self.track(&mut out);
        }
        if self.skipping {
            out.done = len;
        }
        out.pass(len);
        out.pieces
    }

    fn track(&mut self, out: &mut Outgoing) {
        let mut at = 0;
        loop {
            match self.tracker.advance(&out.chunk[at..]) {
                Step::More => return,
                Step::Begin(n) => {
                    at += n;
                    out.pass(at);
                    out.pieces.push(self.to.clone());
                    (self.found, self.skipping) = (true, true);
                }
                Step::End(n) => {
                    at += n;
                    out.done = at;
                    self.skipping = false;
                }
                Step::Close(n) => {
                    at += n;
                    if !self.found {
                        out.pass(at);
                        let comma: &[u8] = if self.tracker.has_members() {
                            b","
                        } else {
                            b""
                        };
                        out.pieces
                            .push([comma, b"\"model\":", &self.to].concat().into());
                    }
                }
            }
        }
    }

    /// Judges the body by its first byte that is no white space.
    fn look_at(&mut self, chunk: &[u8]) {
        for &byte in chunk {
            let Form::Unknown(mark) = self.form else {
                return;
            };
            self.form = match byte {
                b' ' | b'\n' | b'\r' | b'\t' => continue,
                b'{' => Form::Object,
                byte if BYTE_ORDER_MARK.get(mark) == Some(&byte) => Form::Unknown(mark + 1),
                _ => Form::Other,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use crate::dialect::ModelRewriter;
    use crate::dialect::tests::{document_text, split};

    fn rewrite(body: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut rewriter = ModelRewriter::request("new");
        let parts = split(body, cuts);
        let mut out: Vec<_> = parts
            .into_iter()
            .flat_map(|part| rewriter.feed(part))
            .collect();
        out.extend(rewriter.finish());
        assert!(out.iter().all(|piece| !piece.is_empty()));
        out.concat()
    }

    #[test]
    fn any_model_becomes_the_new_one() {
        for (body, expected) in [
            (r#"{"model":"old","a":1}"#, r#"{"model":"new","a":1}"#),
            (
                r#"{ "a" : 1 , "model" : "old" } "#,
                r#"{ "a" : 1 , "model" : "new" } "#,
            ),
            (r#"{"mod\u0065l":"old"}"#, r#"{"mod\u0065l":"new"}"#),
            (
                r#"{"\u006D\u006f\u0064\u0065\u006c":"old"}"#,
                r#"{"\u006D\u006f\u0064\u0065\u006c":"new"}"#,
            ),
            (
                r#"{"mod\"l":"old","model":1}"#,
                r#"{"mod\"l":"old","model":"new"}"#,
            ),
            (r#"{"model":null}"#, r#"{"model":"new"}"#),
            (r#"{"model":-1.5e3 ,"a":1}"#, r#"{"model":"new" ,"a":1}"#),
            (
                r#"{"model":{"model":["}"]},"a":1}"#,
                r#"{"model":"new","a":1}"#,
            ),
            (
                r#"{"model":"a","model":"b"}"#,
                r#"{"model":"new","model":"new"}"#,
            ),
            // Of a request, `response` and `message` are anything.
            (
                r#"{"response":{"model":"x"},"message":{"model":"y"},"model":"old"}"#,
                r#"{"response":{"model":"x"},"message":{"model":"y"},"model":"new"}"#,
            ),
            (
                r#"{"messages":[{"model":"x"}],"prompt":"\"model\":\"x\"","model":"old"}"#,
                r#"{"messages":[{"model":"x"}],"prompt":"\"model\":\"x\"","model":"new"}"#,
            ),
            // A missing one is added.
            (r#"{"a":{"model":1}}"#, r#"{"a":{"model":1},"model":"new"}"#),
            (r#"{"a":1 } "#, r#"{"a":1 ,"model":"new"} "#),
            (r#"{"a":[]}"#, r#"{"a":[],"model":"new"}"#),
            ("{}", r#"{"model":"new"}"#),
            (" {\n} {}", " {\n\"model\":\"new\"} {}"),
            ("\u{feff}{\"a\":1}", "\u{feff}{\"a\":1,\"model\":\"new\"}"),
            // What is no object, or has no end, stays.
            (r#"[{"model":"old"}]"#, r#"[{"model":"old"}]"#),
            (r#""model""#, r#""model""#),
            (
                "(\u{b5}/\u{fd}{\"model\":1}{}",
                "(\u{b5}/\u{fd}{\"model\":1}{}",
            ),
            (r#"{"a":"#, r#"{"a":"#),
            ("", ""),
        ] {
            let twos = (0..body.len()).map(|at| vec![at]);
            for cuts in twos.chain([vec![1; body.len()]]) {
                let result = rewrite(body.as_bytes(), &cuts);
                assert_eq!(String::from_utf8_lossy(&result), expected, "{cuts:?}");
            }
        }
        let long = format!(r#"{{"model":"{}"}}"#, "a".repeat(5000));
        assert_eq!(rewrite(long.as_bytes(), &[1000; 5]), br#"{"model":"new"}"#);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn only_the_model_changes_however_the_body_is_split(
            body in document_text(), cuts in prop::collection::vec(0usize..60, 0..20),
        ) {
            let result = rewrite(body.as_bytes(), &cuts);
            prop_assert_eq!(&result, &rewrite(body.as_bytes(), &[]));
            let mut expected: Value = serde_json::from_str(&body).unwrap();
            expected["model"] = "new".into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&result).unwrap(), expected);
        }

        #[test]
        fn anything_passes(body in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..100) {
            prop_assert_eq!(rewrite(&body, &[cut]), rewrite(&body, &[]));
        }
    }
}
