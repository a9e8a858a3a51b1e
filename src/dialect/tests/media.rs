//! What else than text is found in request bodies.

use crate::dialect::{Api, RequestFacts, inspect};

fn read(api: Api, body: &str) -> RequestFacts {
    inspect(api, body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error}"))
}

#[test]
fn images_sound_and_videos_are_seen_where_parts_have_them() {
    let parts = |parts: &str| format!(r#"{{"messages":[{{"role":"user","content":{parts}}}]}}"#);
    for (body, expected) in [
        (parts(r#""image_url""#), false),
        (parts(r#"[{"type":"text","text":"image_url"}]"#), false),
        (parts(r#"[{"type":"image_url","image_url":{"url":"data:x"}}]"#), true),
        (parts(r#"[{"type":"text","text":"a"},{"input_audio":{"data":""}}]"#), true),
        (parts(r#"[{"video_url":"x"}]"#), true),
        (parts(r#"[{"audio_url":"x"}]"#), true),
        (parts(r#"[{"type":"text","text":"a","image_url":null}]"#), false),
        // Not a part.
        (r#"{"messages":[{"role":"user","content":"x","image_url":"y"}],"input_audio":1}"#.to_owned(), false),
        // The last of duplicates counts.
        (
            r#"{"messages":[{"content":[{"image_url":"x"}]}],"messages":[{"role":"user","content":"x"}]}"#.to_owned(),
            false,
        ),
    ] {
        assert_eq!(read(Api::ChatCompletions, &body).multimodal, expected, "{body}");
    }
    let items = r#"{"input":[{"role":"user","content":[{"type":"input_image","image_url":"x"}]}]}"#;
    assert!(read(Api::Responses, items).multimodal);
}

#[test]
fn what_is_attached_is_found_in_its_place_and_salts_are_read() {
    let body = r#"{"cache_salt":"a\u0062","messages":[{"role":"user","content":[
        {"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"data:1"}},
        {"type":"file","file":{"file_id":"f"}},{"image_url":null},{"text":"y","source":[2]}]}]}"#;
    let facts = read(Api::ChatCompletions, body);
    let attached: Vec<_> = facts.attached.iter().map(|r| &body[r.clone()]).collect();
    assert_eq!(
        attached,
        [r#"{"url":"data:1"}"#, r#"{"file_id":"f"}"#, "[2]"]
    );
    assert_eq!(facts.cache_salt.as_deref(), Some("ab"));
    let sglang = read(Api::SglangGenerate, r#"{"text":"x","extra_key":"k"}"#);
    assert_eq!(sglang.cache_salt.as_deref(), Some("k"));
    let void = r#"{"messages":[{"content":[{"image_url":"x"}],"content":[{"image_url":"yz"}]}]}"#;
    let facts = read(Api::ChatCompletions, void);
    let attached: Vec<_> = facts.attached.iter().map(|r| &void[r.clone()]).collect();
    assert_eq!((attached, facts.multimodal), (vec![r#""yz""#], true));
}
