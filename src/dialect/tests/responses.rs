//! What is read from responses, and what is changed in them.

use bytes::Bytes;
use proptest::prelude::*;

use super::{document_text, split};
use crate::dialect::{ModelRewriter, ResponseScanner, Usage};

fn counts(input: u64, output: u64, cached: Option<u64>) -> Option<Usage> {
    Some(Usage {
        input: Some(input),
        output: Some(output),
        cached,
    })
}

fn scan(is_sse: bool, parts: &[Bytes]) -> (Option<Usage>, bool) {
    let mut scanner = ResponseScanner::new(is_sse);
    for part in parts {
        scanner.feed(part);
    }
    (scanner.usage(), scanner.first_token())
}

fn rewrite(is_sse: bool, from: &str, parts: &[Bytes]) -> String {
    let mut rewriter = ModelRewriter::new(is_sse, from, "new");
    let mut out = Vec::new();
    for part in parts {
        out.extend(rewriter.feed(part.clone()));
    }
    out.extend(rewriter.finish());
    assert!(out.iter().all(|piece| !piece.is_empty()));
    String::from_utf8(out.concat()).unwrap()
}

/// The body whole, cut in two at every place, and byte by byte.
fn every_split(body: &str) -> impl Iterator<Item = Vec<Bytes>> {
    let body = body.as_bytes();
    let twos = (0..body.len()).map(|at| split(body, &[at]));
    twos.chain([split(body, &vec![1; body.len()])])
}

#[test]
fn usage_of_a_document() {
    for (body, usage) in [
        (
            r#"{"id":"c","choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":9}"}}],"usage":{"prompt_tokens":7,"completion_tokens":10,"total_tokens":17}}"#,
            counts(7, 10, None),
        ),
        (
            r#"{"usage": {"prompt_tokens":"7","completion_tokens":10,"total_tokens":17,"prompt_tokens_details":{"audio_tokens":1,"cached_tokens":4}}}"#,
            counts(7, 10, Some(4)),
        ),
        (
            r#"{"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":5,"total_tokens":10},"model":"m"}"#,
            counts(5, 5, Some(2)),
        ),
        (
            r#"{"type":"message","content":[],"usage":{"input_tokens":80,"output_tokens":30,"cache_read_input_tokens":20,"cache_creation_input_tokens":5}}"#,
            counts(105, 30, Some(20)),
        ),
        (
            r#"{"text":"a","meta_info":{"prompt_tokens":3,"completion_tokens":2,"cached_tokens":1}}"#,
            counts(3, 2, Some(1)),
        ),
        (
            r#"{"object":"list","data":[{"embedding":[0.1,-2e-3,3]},{"usage":{"prompt_tokens":1}}],"usage":{"prompt_tokens":4,"total_tokens":4}}"#,
            Some(Usage {
                input: Some(4),
                ..Usage::default()
            }),
        ),
        (r#"{"usage":null}"#, None),
        (r#"{"usage":{"prompt_tokens":null}}"#, None),
        (r#"{"usage":{"prompt_tokens":}}"#, None),
        (
            r#"{"a":"usage","b":["usage",{"usage":{"prompt_tokens":1}}]}"#,
            None,
        ),
        (r#"{"choices":[],"x":{"usage":{"prompt_tokens":1}}}"#, None),
        (r#"[{"usage":{"prompt_tokens":1}}]"#, None),
        ("not json at all, \"usage\":{\"prompt_tokens\":1}", None),
        ("}}]]{\"usage\":{\"prompt_tokens\":1", None),
    ] {
        for parts in every_split(body) {
            assert_eq!(scan(false, &parts), (usage, true), "{body} {parts:?}");
        }
    }
    assert_eq!(scan(false, &[]), (None, false));
}

const OPENAI: &str = "data: {\"model\":\"old\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}],\"usage\":null}\n\n\
    data: {\"model\":\"old\",\"choices\":[{\"delta\":{\"content\":\"the usage: \\\"usage\\\":{\\\"prompt_tokens\\\":1}\"}}]}\n\n\
    data: {\"model\":\"old\",\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":10,\"total_tokens\":17}}\n\n\
    data: [DONE]\n\n";

const ANTHROPIC: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"old\",\"content\":[],\"usage\":{\"input_tokens\":15,\"cache_read_input_tokens\":10,\"cache_creation_input_tokens\":0,\"output_tokens\":1}}}\n\n\
    event: ping\ndata: {\"type\":\"ping\"}\n\n\
    event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hi\"}}\n\n\
    event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":12}}\n\n\
    event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{}}\n\n\
    event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

const RESPONSES: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"model\":\"old\",\"usage\":null}}\n\n\
    event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"usage\"}\n\n\
    event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"output\":[{\"content\":[{\"text\":\"\\\"usage\\\":\"}]}],\"model\":\"old\",\"usage\":{\"input_tokens\":5,\"output_tokens\":5,\"total_tokens\":10}}}\n\n";

#[test]
fn usage_of_a_stream() {
    let mut cases = vec![
        (OPENAI.to_owned(), counts(7, 10, None), true),
        (ANTHROPIC.to_owned(), counts(25, 12, Some(10)), true),
        (RESPONSES.to_owned(), counts(5, 5, None), true),
        // Usage in every chunk; null fields leave what was known.
        (
            "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":1,\"total_tokens\":8}}\n\ndata:{\"usage\":{\"prompt_tokens\":null,\"completion_tokens\":2,\"total_tokens\":9}}\n\n".to_owned(),
            counts(7, 2, None),
            false,
        ),
        // The last line need not end.
        (
            "data: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}".to_owned(),
            counts(1, 2, None),
            false,
        ),
        (
            ": data: {\"usage\":{\"prompt_tokens\":1}}\nid: 1\ndatum: {\"usage\":{\"prompt_tokens\":1}}\ndata\n\ndata: [DONE]\n\n".to_owned(),
            None,
            false,
        ),
        // A broken event does not spoil the next one.
        (
            "data: {\"a\":\"{{{[\ndata: {\"usage\":{\"prompt_tokens\":{\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n".to_owned(),
            counts(1, 2, None),
            false,
        ),
        ("data: Hi\n".to_owned(), None, true),
    ];
    for ends in ["\r", "\r\n"] {
        for index in 0..3 {
            let (body, usage, token) = cases[index].clone();
            cases.push((body.replace('\n', ends), usage, token));
        }
    }
    for (body, usage, token) in cases {
        for parts in every_split(&body) {
            assert_eq!(scan(true, &parts), (usage, token), "{body} {parts:?}");
        }
    }
}

#[test]
fn the_first_token_comes_with_the_first_content() {
    let mut scanner = ResponseScanner::new(true);
    let mut seen = Vec::new();
    for line in OPENAI.split_inclusive("\n\n") {
        scanner.feed(line.as_bytes());
        seen.push(scanner.first_token());
    }
    assert_eq!(seen, [false, true, true, true]);
}

#[test]
fn models_are_rewritten() {
    let sse = |body: &str| {
        (
            true,
            body.to_owned(),
            body.replace("\"model\":\"old\"", "\"model\":\"new\""),
        )
    };
    let json = |body: &str, expected: &str| (false, body.to_owned(), expected.to_owned());
    for (is_sse, body, expected) in [
        sse(OPENAI),
        sse(ANTHROPIC),
        sse(RESPONSES),
        sse(&OPENAI.replace('\n', "\r\n")),
        sse(
            "data:{\"model\":\"old\"}\n: {\"model\":\"o\"}\ndata: {\"model\":\"old\n\"}\ndata: {\"model\":\"old\"}",
        ),
        json(r#"{"model":"old"}"#, r#"{"model":"new"}"#),
        json(r#"{"model" : "old" }"#, r#"{"model" : "new" }"#),
        json(r#"{"model":"\u006fld"}"#, r#"{"model":"new"}"#),
        json(
            r#"{"r\u0065sponse":{"mod\u0065l":"old"}}"#,
            r#"{"r\u0065sponse":{"mod\u0065l":"new"}}"#,
        ),
        json(
            r#"{"a":{"model":"old"},"b":[{"model":"old"}],"c":"\"model\":\"old\"","model":"old","message":{"model":"old"}}"#,
            r#"{"a":{"model":"old"},"b":[{"model":"old"}],"c":"\"model\":\"old\"","model":"new","message":{"model":"new"}}"#,
        ),
        json(r#"{"model":"other"}"#, r#"{"model":"other"}"#),
        json(r#"{"model":null}"#, r#"{"model":null}"#),
        json(
            r#"{"model":{"model":"old"}}"#,
            r#"{"model":{"model":"old"}}"#,
        ),
        json(r#"{"model":"ol"#, r#"{"model":"ol"#),
        json(r#"{"x":1}"#, r#"{"x":1}"#),
        json("not json", "not json"),
    ] {
        for parts in every_split(&body) {
            assert_eq!(rewrite(is_sse, "old", &parts), expected, "{parts:?}");
        }
    }
}

#[test]
fn an_unchanged_chunk_is_passed_on_as_it_is() {
    let chunk = Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n");
    let mut rewriter = ModelRewriter::new(true, "old", "new");
    let out = rewriter.feed(chunk.clone());
    assert_eq!(out.len(), 1);
    assert_eq!(out[0].as_ptr(), chunk.as_ptr());
}

/// Streams of well and badly formed lines.
fn stream() -> impl Strategy<Value = String> {
    let usage = "\"usage\":\\{(\"(prompt|input|output|total)_tokens\":[0-9]{1,2},?){0,2}\\}";
    let line = prop_oneof![
        document_text().prop_map(|doc| format!("data: {doc}")),
        usage.prop_map(|usage| format!("data: {{{usage}}}")),
        usage.prop_map(|usage| format!("data:{{\"response\":{{{usage},\"model\":\"old\"}}}}")),
        Just("data: {\"model\": \"old\", \"choices\":[{\"text\":\"t\"}]}".to_owned()),
        Just(r#"data: {"text":"\"model\":\"old\",\"usage\":{}"}"#.to_owned()),
        "[data: {}\\[\\]\":,\\\\a1]{0,30}",
    ];
    let end = prop::sample::select(&["\n", "\r\n", "\r", "\n\n", ""][..]);
    prop::collection::vec((line, end), 0..6).prop_map(|lines| {
        lines
            .into_iter()
            .flat_map(|(l, e)| [l, e.to_owned()])
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// What is known after a chunk depends on the bytes so far alone.
    #[test]
    fn the_first_token_comes_at_the_same_byte_however_the_stream_is_split(
        body in stream(), is_sse in any::<bool>(), cuts in prop::collection::vec(0usize..60, 0..20),
    ) {
        let mut scanner = ResponseScanner::new(is_sse);
        let mut fed = 0;
        for part in split(body.as_bytes(), &cuts) {
            scanner.feed(&part);
            fed += part.len();
            let mut at_once = ResponseScanner::new(is_sse);
            at_once.feed(&body.as_bytes()[..fed]);
            prop_assert_eq!(scanner.first_token(), at_once.first_token(), "after {} bytes", fed);
            prop_assert_eq!(scanner.usage(), at_once.usage());
        }
    }

    #[test]
    fn any_split_gives_the_same(
        body in stream(), is_sse in any::<bool>(), cuts in prop::collection::vec(0usize..60, 0..20),
    ) {
        let whole = split(body.as_bytes(), &[]);
        let parts = split(body.as_bytes(), &cuts);
        prop_assert_eq!(scan(is_sse, &whole), scan(is_sse, &parts));
        prop_assert_eq!(rewrite(is_sse, "old", &whole), rewrite(is_sse, "old", &parts));
        // With a name that nothing has, nothing changes.
        prop_assert_eq!(rewrite(is_sse, "nobody", &parts), body);
    }
}
