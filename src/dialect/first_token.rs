//! Whether an event of a stream carries generated content.

use super::json::{Cursor, Invalid};

/// Most bytes of an event that are looked at.
pub(super) const MAX_HEAD: usize = 16 << 10;

/// Fields that hold generated text, in whichever dialect: `delta` is the Responses API's, `thinking` and
/// `partial_json` are Anthropic's.
const TEXT: [&str; 9] = [
    "content",
    "text",
    "delta",
    "reasoning_content",
    "reasoning",
    "thinking",
    "partial_json",
    "arguments",
    "refusal",
];

/// Fields that hold generated items: `token_ids` is vLLM's, `output_ids` SGLang's, which has no text beside it when it
/// runs without a tokenizer (`--skip-tokenizer-init`).
const LISTS: [&str; 3] = ["tool_calls", "token_ids", "output_ids"];

/// Fields that repeat the request or sum up the response.
const ASIDE: [&str; 5] = ["response", "message", "error", "usage", "metadata"];

/// Whether the data of an event has generated content: a text field that is not empty, or an item. So pings,
/// `[DONE]`, preambles with a role alone, and closing events with a finish reason or usage alone have none.
/// Data that is not JSON has.
pub(super) fn generated(data: &[u8]) -> bool {
    let data = data[..data.len().min(MAX_HEAD)].trim_ascii();
    // An event cut at the limit may end within a character.
    let text = match std::str::from_utf8(data) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&data[..error.valid_up_to()]).unwrap_or_default(),
    };
    match text.as_bytes().first() {
        Some(b'{') => {
            let mut found = false;
            // What follows an error is not needed: the rest is taken to have nothing.
            let _ = search(&mut Cursor::new(text), &mut found);
            found
        }
        Some(_) => text != "[DONE]",
        None => false,
    }
}

fn search(cursor: &mut Cursor<'_>, found: &mut bool) -> Result<(), Invalid> {
    match cursor.peek()? {
        b'{' => cursor.object(|cursor, key| {
            if ASIDE.contains(&key) {
                return cursor.skip().map(drop);
            }
            match cursor.peek()? {
                b'"' if TEXT.contains(&key) => {
                    *found |= cursor.string()?.is_some_and(|text| !text.is_empty());
                    Ok(())
                }
                b'[' if LISTS.contains(&key) => {
                    *found |= cursor.peek_into_array()? != b']';
                    cursor.skip().map(drop)
                }
                _ => search(cursor, found),
            }
        }),
        b'[' => cursor.array(|cursor| search(cursor, found)),
        _ => cursor.skip().map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_events_have_content() {
        for (data, expected) in [
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#,
                false,
            ),
            (r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, true),
            (
                r#"{"choices":[{"delta":{"reasoning_content":"Hm"}}]}"#,
                true,
            ),
            (
                r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c"}]}}]}"#,
                true,
            ),
            (
                r#"{"choices":[{"delta":{"tool_calls":[]},"finish_reason":"stop"}]}"#,
                false,
            ),
            (r#"{"choices":[{"index":0,"text":" a"}]}"#, true),
            (r#"{"choices":[],"usage":{"prompt_tokens":1}}"#, false),
            (
                r#"{"type":"message_start","message":{"content":[{"text":"x"}],"role":"assistant"}}"#,
                false,
            ),
            (r#"{"type":"ping"}"#, false),
            (
                r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#,
                false,
            ),
            (
                r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"Hi"}}"#,
                true,
            ),
            (
                r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"Hm"}}"#,
                true,
            ),
            (
                r#"{"type":"response.created","response":{"text":"x","instructions":"y"}}"#,
                false,
            ),
            (
                r#"{"type":"response.output_text.delta","delta":"Hi"}"#,
                true,
            ),
            (r#"{"error":{"text":"overloaded"}}"#, false),
            (r#"{"text":"Hi","meta_info":{}}"#, true),
            (r#"{"output_ids":[],"meta_info":{}}"#, false),
            (r#"{"output_ids":[31],"meta_info":{}}"#, true),
            (r#"{"text":"Hi""#, true),
            (r#"{"id":"Hi"#, false),
            (" [DONE] ", false),
            ("", false),
            ("Hi", true),
        ] {
            assert_eq!(generated(data.as_bytes()), expected, "{data}");
        }
    }

    #[test]
    fn a_long_event_is_judged_by_its_head() {
        let long = |head: &str| format!("{{{head}\"pad\":\"{}\"}}", "é".repeat(MAX_HEAD));
        assert!(generated(long(r#""text":"Hi","#).as_bytes()));
        assert!(!generated(long("").as_bytes()));
    }
}
