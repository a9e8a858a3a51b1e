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
