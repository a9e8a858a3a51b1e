//! Changing a request's model by editing its text: every other byte stays as the client sent it.

use std::ops::Range;

use bytes::Bytes;

use super::escape;
use super::json::BYTE_ORDER_MARK;

/// A body that came in pieces, with the value at `span` ([`super::RequestFacts::model_span`]) replaced by `model`.
/// Around the edit the result is made of slices of those pieces: nothing is copied.
pub fn spliced_parts(chunks: &[Bytes], span: &Range<usize>, model: &str) -> Vec<Bytes> {
    replaced(chunks, span, escape::quote(model))
}

/// A body that came in pieces, with a model put in front of its first field; the pieces are not copied. A body that
/// is no JSON object is returned as it is.
pub fn inserted_parts(chunks: &[Bytes], model: &str) -> Vec<Bytes> {
    let bytes = || chunks.iter().flatten();
    let mark = bytes().take(BYTE_ORDER_MARK.len()).eq(BYTE_ORDER_MARK);
    let mut tokens = bytes()
        .enumerate()
        .skip(if mark { BYTE_ORDER_MARK.len() } else { 0 })
        .filter(|(_, byte)| !byte.is_ascii_whitespace());
    let Some((brace, b'{')) = tokens.next() else {
        return chunks.to_vec();
    };
    let comma = match tokens.next() {
        Some((_, b'}')) => "",
        _ => ",",
    };
    let field = format!("\"model\":{}{comma}", escape::quote(model));
    replaced(chunks, &(brace + 1..brace + 1), field)
}

fn replaced(chunks: &[Bytes], span: &Range<usize>, text: String) -> Vec<Bytes> {
    let mut text = Some(Bytes::from(text));
    let mut parts = Vec::with_capacity(chunks.len() + 2);
    let mut start = 0;
    for chunk in chunks {
        let len = chunk.len();
        let from = span.start.saturating_sub(start).min(len);
        let to = span.end.saturating_sub(start).min(len);
        parts.push(chunk.slice(..from));
        if start + len >= span.start {
            parts.extend(text.take());
        }
        parts.push(chunk.slice(to.max(from)..));
        start += len;
    }
    parts.extend(text);
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dialect::tests::{document, split};
    use crate::dialect::{Api, inspect};

    fn splice(body: &[u8], span: &Range<usize>, model: &str) -> Vec<u8> {
        spliced_parts(&[Bytes::copy_from_slice(body)], span, model).concat()
    }

    fn insert(body: &[u8], model: &str) -> Vec<u8> {
        inserted_parts(&[Bytes::copy_from_slice(body)], model).concat()
    }

    #[test]
    fn only_the_model_changes() {
        let body = b"{ \"model\" :\t\"a\\u0062\" , \"n\":1e400,\"prompt\":\"<&>\" ,\"seed\":12345678901234567890}\n";
        let span = inspect(Api::Completions, body).unwrap().model_span.unwrap();
        assert_eq!(
            splice(body, &span, "x\"y\\z\n"),
            &b"{ \"model\" :\t\"x\\\"y\\\\z\\n\" , \"n\":1e400,\"prompt\":\"<&>\" ,\"seed\":12345678901234567890}\n"[..]
        );
    }

    #[test]
    fn a_missing_model_is_inserted() {
        for (body, with) in [
            ("{}", r#"{"model":"m"}"#),
            (" {\n } ", " {\"model\":\"m\"\n } "),
            (r#" { "prompt":"p"}"#, r#" {"model":"m", "prompt":"p"}"#),
            (
                "\u{feff}{\"prompt\":1}",
                "\u{feff}{\"model\":\"m\",\"prompt\":1}",
            ),
            ("[1]", "[1]"),
            ("\u{feff}", "\u{feff}"),
            ("", ""),
        ] {
            assert_eq!(insert(body.as_bytes(), "m"), with.as_bytes(), "{body}");
            let bytes = split(body.as_bytes(), &vec![1; body.len()]);
            assert_eq!(inserted_parts(&bytes, "m").concat(), with.as_bytes());
        }
    }

    #[test]
    fn a_byte_order_mark_stays() {
        let body = "\u{feff} {\"model\":\"a\",\"prompt\":\"p\"}".as_bytes();
        let facts = inspect(Api::Completions, body).unwrap();
        assert_eq!(facts.model.as_deref(), Some("a"));
        assert_eq!(&body[facts.prompt[0].clone()], b"p");
        let renamed = splice(body, &facts.model_span.unwrap(), "b");
        assert_eq!(
            renamed,
            "\u{feff} {\"model\":\"b\",\"prompt\":\"p\"}".as_bytes()
        );
        // Two marks are one too many.
        assert!(
            inspect(
                Api::Completions,
                "\u{feff}\u{feff}{\"prompt\":\"p\"}".as_bytes()
            )
            .is_err()
        );
    }

    #[test]
    fn a_model_that_is_no_string_is_replaced() {
        let body = br#"{"model":null,"prompt":"p"}"#;
        let facts = inspect(Api::Completions, body).unwrap();
        assert_eq!(facts.model, None);
        let fixed = splice(body, &facts.model_span.unwrap(), "m");
        assert_eq!(fixed, &br#"{"model":"m","prompt":"p"}"#[..]);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            before in "[ -~]{0,12}", value in "[ -~]{0,8}", after in "[ -~]{0,12}",
            model in any::<String>(), cuts in prop::collection::vec(0usize..40, 0..5),
        ) {
            let body = format!("{before}{value}{after}").into_bytes();
            let span = before.len()..before.len() + value.len();
            let whole = splice(&body, &span, &model);
            prop_assert!(whole.starts_with(before.as_bytes()) && whole.ends_with(after.as_bytes()));
            let middle = &whole[before.len()..whole.len() - after.len()];
            prop_assert_eq!(&serde_json::from_slice::<String>(middle).unwrap(), &model);
            let parts = spliced_parts(&split(&body, &cuts), &span, &model);
            prop_assert_eq!(parts.concat(), &whole[..]);
        }

        #[test]
        fn an_inserted_model_is_read_back(mut doc in document(), model in "\\PC{1,8}", cuts in prop::collection::vec(0usize..40, 0..5)) {
            doc.as_object_mut().unwrap().remove("model");
            let body = doc.to_string().into_bytes();
            let with = inserted_parts(&split(&body, &cuts), &model).concat();
            prop_assert_eq!(insert(&body, &model), &with[..]);
            let mut expected: serde_json::Value = serde_json::from_slice(&body).unwrap();
            expected["model"] = model.into();
            prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&with).unwrap(), expected);
        }
    }
}
