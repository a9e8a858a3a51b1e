//! What is read from request bodies.

use proptest::prelude::*;
use serde_json::Value;

use super::document_text;
use super::tree::Tree;
use crate::dialect::encoding::tests::{CODINGS, encode, header};
use crate::dialect::{Api, RequestFacts, decode, escape, inserted_parts, inspect, spliced_parts};

const APIS: [Api; 13] = [
    Api::ChatCompletions,
    Api::Completions,
    Api::Embeddings,
    Api::Responses,
    Api::Conversations,
    Api::ChatCompletionsRender,
    Api::CompletionsRender,
    Api::ImagesGenerations,
    Api::Messages,
    Api::CountTokens,
    Api::VllmGenerate,
    Api::SglangGenerate,
    Api::Passthrough,
];

fn read(api: Api, body: &str) -> RequestFacts {
    inspect(api, body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

/// The prompt's ranges as they stand in the body.
fn prompt(api: Api, body: &str) -> Vec<&str> {
    let facts = read(api, body);
    let texts: Vec<&str> = facts.prompt.iter().map(|r| &body[r.clone()]).collect();
    let bytes: usize = texts.iter().map(|text| text.len()).sum();
    assert_eq!(facts.prompt_bytes, bytes);
    texts
}

#[test]
fn prompt_ranges() {
    let cases: &[(Api, &str, &[&str])] = &[
        (
            Api::ChatCompletions,
            r#"{"tools":[{"type":"function"}],"messages":[{"role":"system","content":"Be \"kind\""},
              {"role":"user","content":[{"type":"text","text":"Look"},{"type":"image_url","image_url":{"url":"data:text"}},"!"]},
              {"role":"assistant","content":null,"tool_calls":[{"id":"1"}]}],"user":"content"}"#,
            &[
                r#"[{"type":"function"}]"#,
                "system",
                r#"Be \"kind\""#,
                "user",
                "Look",
                "!",
                "assistant",
                r#"[{"id":"1"}]"#,
            ],
        ),
        (Api::Completions, r#"{"prompt":"Hi"}"#, &["Hi"]),
        (Api::Completions, r#"{"prompt":["a","","b"]}"#, &["a", "b"]),
        (Api::Completions, r#"{"prompt":[1, 2]}"#, &["[1, 2]"]),
        (
            Api::Completions,
            r#"{"prompt":[[1],[2,3]]}"#,
            &["[1]", "[2,3]"],
        ),
        (Api::Embeddings, r#"{"input":"Hi"}"#, &["Hi"]),
        (Api::Embeddings, r#"{"input":["a","b"]}"#, &["a", "b"]),
        (
            Api::Responses,
            r#"{"instructions":"Be","input":[{"role":"user","content":[{"type":"input_text","text":"Hi"}]},
              {"type":"function_call","arguments":"{}","name":"f"},{"type":"function_call_output","output":"7"}]}"#,
            &["Be", "user", "Hi", "{}", "7"],
        ),
        (Api::Responses, r#"{"input":"Hi"}"#, &["Hi"]),
        // Prompts that are not where the reference looks for them.
        (
            Api::Embeddings,
            r#"{"messages":[{"role":"user","content":"Hi"}]}"#,
            &["user", "Hi"],
        ),
        (Api::Completions, r#"{"prompt_embeds":"AAAA"}"#, &[]),
        (
            Api::Completions,
            r#"{"prompt":"","prompt_embeds":["AA"]}"#,
            &[],
        ),
        (
            Api::Responses,
            r#"{"prompt":{"id":"pmpt_1","variables":{"x":"y"}}}"#,
            &[r#"{"id":"pmpt_1","variables":{"x":"y"}}"#],
        ),
        (Api::Responses, r#"{"previous_response_id":"resp_1"}"#, &[]),
        (Api::Responses, r#"{"conversation":{"id":"conv_1"}}"#, &[]),
        (Api::Conversations, "{}", &[]),
        (Api::Conversations, r#"{"metadata":{"a":"b"}}"#, &[]),
        (
            Api::Conversations,
            r#"{"items":[{"role":"user","content":"Hi"}]}"#,
            &["user", "Hi"],
        ),
        (Api::ImagesGenerations, r#"{"prompt":"A cat"}"#, &["A cat"]),
        (
            Api::Messages,
            r#"{"system":[{"type":"text","text":"Be"}],"messages":[{"role":"user","content":"Hi"},
              {"role":"assistant","content":[{"type":"tool_use","id":"t","name":"f","input":{"x":1}}]},
              {"role":"user","content":[{"type":"tool_result","content":[{"type":"text","text":"7"}]}]}],"tools":[]}"#,
            &[
                "Be",
                "user",
                "Hi",
                "assistant",
                r#"{"x":1}"#,
                "user",
                "7",
                "[]",
            ],
        ),
        (Api::CountTokens, r#"{"messages":[]}"#, &[]),
        (Api::VllmGenerate, r#"{"token_ids":[1,2]}"#, &["[1,2]"]),
        (Api::SglangGenerate, r#"{"text":"Hi"}"#, &["Hi"]),
        (
            Api::SglangGenerate,
            r#"{"input_ids":[[1],[2]]}"#,
            &["[1]", "[2]"],
        ),
        (Api::SglangGenerate, r#"{"input_embeds":[[0.5]]}"#, &[]),
        (Api::Passthrough, "no healthy upstream", &[]),
        // The last of duplicate keys counts, at every level.
        (
            Api::ChatCompletions,
            r#"{"messages":[{"role":"a","content":"b"}],"tools":[1],"messages":[{"content":"c","role":"d","content":"e"}]}"#,
            &["[1]", "d", "e"],
        ),
        (
            Api::Completions,
            r#"{"prompt":"a","prompt":["b","c"],"prompt":"d"}"#,
            &["d"],
        ),
    ];
    for (api, body, expected) in cases {
        assert_eq!(prompt(*api, body), *expected, "{body}");
    }
}

#[test]
fn model_and_flags() {
    let facts = read(
        Api::ChatCompletions,
        r#"{"mod\u0065l":"a\ud83d\ude00","stream":true,"max_tokens":5,"max_completion_tokens":7,"messages":[{"model":"no"}]}"#,
    );
    assert_eq!(facts.model.as_deref(), Some("a😀"));
    assert_eq!(facts.model_span, Some(14..29));
    assert!(facts.stream);
    assert_eq!(facts.max_tokens, Some(7));

    let facts = read(
        Api::Completions,
        r#"{"model":"a","model" : "b","stream":true,"stream":"true","max_tokens":5,"max_tokens":"6","prompt":"p"}"#,
    );
    assert_eq!(facts.model.as_deref(), Some("b"));
    assert_eq!(facts.model_span, Some(23..26));
    assert!(!facts.stream);
    assert_eq!(facts.max_tokens, None);

    for (api, body, max_tokens) in [
        (
            Api::Responses,
            r#"{"input":"","max_output_tokens":9,"max_tokens":1}"#,
            Some(9),
        ),
        (
            Api::Messages,
            r#"{"messages":[{}],"max_tokens":1024}"#,
            Some(1024),
        ),
        (
            Api::VllmGenerate,
            r#"{"token_ids":[1],"sampling_params":{"max_tokens":3}}"#,
            Some(3),
        ),
        (
            Api::SglangGenerate,
            r#"{"text":"a","sampling_params":{"max_new_tokens":4,"max_tokens":1}}"#,
            Some(4),
        ),
        (
            Api::SglangGenerate,
            r#"{"text":"a","sampling_params":[{"max_new_tokens":4}]}"#,
            None,
        ),
        (Api::Completions, r#"{"prompt":"a","max_tokens":-1}"#, None),
        (Api::Completions, r#"{"prompt":"a","max_tokens":1.5}"#, None),
        (
            Api::Completions,
            r#"{"prompt":"a","max_tokens":1e400}"#,
            None,
        ),
    ] {
        assert_eq!(read(api, body).max_tokens, max_tokens, "{body}");
    }
    let facts = read(
        Api::SglangGenerate,
        r#"{"text":"a","lora_path":"ad\u0061pter"}"#,
    );
    assert_eq!(facts.lora.as_deref(), Some("adapter"));
    // An empty name is no model, but there is something to replace.
    let facts = read(Api::Completions, r#"{"prompt":"a","model":""}"#);
    assert_eq!((facts.model, facts.model_span), (None, Some(22..24)));
    // Reference case 9: not our error.
    let facts = read(Api::Completions, r#"{"prompt":"a"}"#);
    assert_eq!((facts.model, facts.model_span), (None, None));
}

#[test]
fn refusals() {
    let json = "error unmarshaling request bodyMap: ";
    let chat = "invalid chat completions request: must have valid messages field";
    let completions = "invalid completions request: must have prompt field";
    let embeddings = "invalid embeddings request: must have input field";
    let generate = "invalid generate request: must have non-empty token_ids field";
    for (api, body, error) in [
        (Api::Completions, &b"no healthy upstream"[..], json),
        (Api::Completions, b"", json),
        (Api::Completions, b"[]", json),
        (Api::Completions, b"null", json),
        (Api::Completions, br#"{"prompt":"a"} x"#, json),
        (Api::Completions, br#"{"prompt":"a""#, json),
        (Api::Completions, b"{\"prompt\":\"\xff\"}", json),
        (Api::Completions, b"{\"prompt\":\"a\nb\"}", json),
        (Api::ChatCompletions, br#"{"model":"m"}"#, chat),
        (Api::ChatCompletions, br#"{"messages":[]}"#, chat),
        (Api::ChatCompletions, br#"{"messages":"hi"}"#, chat),
        (Api::ChatCompletions, br#"{"messages":["hi"]}"#, chat),
        (
            Api::ChatCompletions,
            br#"{"messages":[{}],"messages":null}"#,
            chat,
        ),
        (Api::ChatCompletionsRender, b"{}", chat),
        (Api::Completions, b"{}", completions),
        (Api::CompletionsRender, br#"{"prompt":null}"#, completions),
        (Api::Completions, br#"{"prompt":""}"#, completions),
        (Api::Completions, br#"{"prompt":[]}"#, completions),
        (Api::Embeddings, b"{}", embeddings),
        (Api::Embeddings, br#"{"input":[]}"#, embeddings),
        (Api::Embeddings, br#"{"messages":[]}"#, embeddings),
        (
            Api::Completions,
            br#"{"prompt_embeds":[],"prompt":[]}"#,
            completions,
        ),
        (Api::Completions, br#"{"prompt_embeds":""}"#, completions),
        (
            Api::Responses,
            br#"{"input":null}"#,
            "invalid responses request: must have input field",
        ),
        (
            Api::Responses,
            br#"{"prompt":null,"previous_response_id":"","conversation":null}"#,
            "invalid responses request: must have input field",
        ),
        (
            Api::ImagesGenerations,
            b"{}",
            "invalid images generations request: must have prompt field",
        ),
        (
            Api::Messages,
            br#"{"messages":[]}"#,
            "invalid messages request: must have valid messages field",
        ),
        (Api::VllmGenerate, b"{}", generate),
        (Api::VllmGenerate, br#"{"token_ids":[ ]}"#, generate),
        (Api::SglangGenerate, b"{", json),
    ] {
        let text = String::from_utf8_lossy(body).into_owned();
        let found = inspect(api, body).expect_err(&text).to_string();
        assert!(found.starts_with(error), "{text}: {found}");
    }
    assert_eq!(
        inspect(Api::Completions, b"{\"a\":nul}").unwrap_err().0,
        "error unmarshaling request bodyMap: invalid literal at byte 5"
    );
    // What is not for us to judge.
    for api in [Api::CountTokens, Api::Passthrough] {
        assert_eq!(inspect(api, b"\xff{"), Ok(RequestFacts::default()));
    }
}

#[test]
fn nesting_and_duplicates_stay_cheap() {
    let deep = format!("{{\"messages\":{}", r#"[{"content":"#.repeat(100_000));
    let error = inspect(Api::Messages, deep.as_bytes()).unwrap_err();
    assert!(error.0.contains("nested deeper"), "{error}");
    // Quadratic work would take minutes here.
    let parts = r#"{"text":"a"},"#.repeat(20_000);
    let again = r#""content":"b","#.repeat(100_000);
    let body = format!(r#"{{"messages":[{{"content":[{parts}""],{again}"role":"r"}}]}}"#);
    assert_eq!(prompt(Api::ChatCompletions, &body), ["b", "r"]);
}

#[test]
fn the_number_of_ranges_is_bounded() {
    let many = format!("[{}\"a\"]", "\"a\",".repeat(99_999));
    let facts = read(Api::Completions, &format!(r#"{{"prompt":{many}}}"#));
    assert_eq!((facts.prompt.len(), facts.prompt_bytes), (65_536, 100_000));
    // A duplicate key takes back what was only counted, too.
    let body = format!(r#"{{"prompt":{many},"prompt":"bc"}}"#);
    assert_eq!(prompt(Api::Completions, &body), ["bc"]);
    let parts = r#"{"text":"a"},"#.repeat(99_999);
    let body = format!(
        r#"{{"messages":[{{"content":[{parts}{{"text":"a"}}],"role":"r","content":"b"}}]}}"#
    );
    let facts = read(Api::ChatCompletions, &body);
    assert_eq!(facts.prompt_bytes, 2);
}

#[test]
fn what_added_nothing_is_taken_back_after_what_stood_before_it() {
    let body = r#"{"items":[{"content":"a","role":null,"content":null,"role":null}]}"#;
    let facts = read(Api::Conversations, body);
    assert_eq!((facts.prompt.len(), facts.prompt_bytes), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn agrees_with_a_tree(body in document_text()) {
        let doc: Value = serde_json::from_str(&body).unwrap();
        for api in APIS {
            let tree = Tree::of(api, &doc);
            let facts = match inspect(api, body.as_bytes()) {
                Ok(facts) => facts,
                Err(error) => {
                    prop_assert!(!tree.usable, "{:?}: {}", api, error);
                    continue;
                }
            };
            prop_assert!(tree.usable, "{:?}", api);
            prop_assert_eq!(facts.max_tokens, tree.max_tokens, "{:?}", api);
            prop_assert!(facts.prompt.is_sorted_by_key(|range| range.start));
            let mut prompt: Vec<String> = facts.prompt.iter().map(|range| {
                let text = &body[range.clone()];
                if body[..range.start].ends_with('"') {
                    escape::unescape(text)
                } else {
                    serde_json::from_str::<Value>(text).unwrap().to_string()
                }
            }).collect();
            prompt.sort_unstable();
            prop_assert_eq!(&prompt, &tree.prompt, "{:?}", api);
            if api == Api::Passthrough {
                continue;
            }
            prop_assert_eq!(facts.stream, doc["stream"] == true);
            let model = doc["model"].as_str().filter(|name| !name.is_empty());
            prop_assert_eq!(facts.model.as_deref(), model);
            let span = facts.model_span.map(|span| serde_json::from_str(&body[span]).unwrap());
            prop_assert_eq!(span.as_ref(), doc.get("model"));
            if api == Api::SglangGenerate {
                prop_assert_eq!(facts.lora.as_deref(), doc["lora_path"].as_str());
            }
        }
    }

    #[test]
    fn noise_never_panics(body in prop::collection::vec(any::<u8>(), 0..64)) {
        for api in APIS {
            let _ = inspect(api, &body);
        }
    }
}

proptest! {
    // Brotli is slow to start.
    #![proptest_config(ProptestConfig::with_cases(60))]
    /// The way of an encoded body whose model is renamed: decoded, read, edited.
    #[test]
    fn encoded_bodies_are_renamed(doc in document_text(), old in any::<String>(), new in any::<String>()) {
        let (old, quoted) = (escape::quote(&old), escape::quote(&new));
        let rest = format!(r#""rest":{doc}}}"#);
        for (body, expected) in [
            (format!(r#"{{"model":{old},{rest}"#), format!(r#"{{"model":{quoted},{rest}"#)),
            (format!("{{{rest}"), format!(r#"{{"model":{quoted},{rest}"#)),
        ] {
            for coding in CODINGS {
                let encoded = encode(coding, body.as_bytes());
                let plain = decode(header(coding), &encoded, body.len()).unwrap().unwrap();
                let facts = inspect(Api::SglangGenerate, &plain).unwrap();
                let chunks = [plain.into()];
                let parts = match &facts.model_span {
                    Some(span) => spliced_parts(&chunks, span, &new),
                    None => inserted_parts(&chunks, &new),
                };
                prop_assert_eq!(&parts.concat(), expected.as_bytes(), "{}", coding);
            }
        }
    }
}

#[test]
fn what_is_kept_elsewhere_comes_before_what_is_here() {
    for (api, fields, expected) in [
        (Api::Responses, r#""input":"x""#, false),
        (
            Api::Responses,
            r#""input":"x","previous_response_id":"r""#,
            true,
        ),
        (
            Api::Responses,
            r#""conversation":{"id":"c"},"input":"x""#,
            true,
        ),
        (
            Api::Responses,
            r#""input":"x","previous_response_id":null,"conversation":"""#,
            false,
        ),
        // Of duplicate keys the last one counts.
        (
            Api::Responses,
            r#""input":"x","conversation":"c","conversation":null"#,
            false,
        ),
        (
            Api::Completions,
            r#""prompt":"x","prompt_embeds":"AA""#,
            true,
        ),
        // What other APIs do not have means nothing there.
        (
            Api::Completions,
            r#""prompt":"x","previous_response_id":"r""#,
            false,
        ),
    ] {
        let body = format!("{{{fields}}}");
        assert_eq!(
            inspect(api, body.as_bytes()).unwrap().continues,
            expected,
            "{body}"
        );
    }
}
