//! What a client learns of the prefix cache.

use super::*;

#[tokio::test]
async fn a_prompt_that_was_read_before_is_cached_and_usage_says_so() {
    let sim = Sim::of(Pace::Steps(EngineSpec::new("H100", "llama3-8b", 1))).await;
    let prompt = "y".repeat(400);
    for (n, cached) in [0, 96, 96].into_iter().enumerate() {
        let body = format!(
            r#"{{"prompt":"{prompt}","stream":{},"stream_options":{{"include_usage":true}}}}"#,
            n == 2
        );
        let (status, answer) = sim.send("POST", "/v1/completions", &body).await;
        let mut scanner = ResponseScanner::new(n == 2);
        scanner.feed(answer.as_bytes());
        assert_eq!(status, 200, "{answer}");
        assert_eq!(scanner.usage().unwrap().cached, Some(cached), "{answer}");
    }
    // Whose cache does not exist says nothing of it.
    let fixed = Sim::start().await;
    let (_, answer) = fixed.post("/v1/completions", r#"{"prompt":"1"}"#).await;
    assert_eq!(answer["usage"]["prompt_tokens_details"], Value::Null);
}

/// A conversation in each API: the second turn has the first one's answer in it.
#[tokio::test]
async fn an_answer_is_cached_as_part_of_the_next_turn() {
    let sim = Sim::of(Pace::Steps(EngineSpec::new("H100", "llama3-8b", 1))).await;
    let question = "z".repeat(100);
    let answer = " word".repeat(40);
    for (path, field, limit, part) in [
        ("/v1/chat/completions", "messages", "max_tokens", None),
        (
            "/v1/responses",
            "input",
            "max_output_tokens",
            Some("output_text"),
        ),
        ("/v1/messages", "messages", "max_tokens", Some("text")),
    ] {
        // So that the APIs do not find each other's.
        let asked = json!({"role": "user", "content": format!("{path}{question}")});
        let said = match part {
            None => json!(answer),
            Some(kind) => json!([{"type": kind, "text": answer}]),
        };
        let said = json!({"role": "assistant", "content": said});
        let mut cached = Vec::new();
        for turns in [vec![&asked], vec![&asked, &said, &asked]] {
            let body = json!({"model": "base", field: turns, limit: 40});
            let (status, text) = sim.send("POST", path, &body.to_string()).await;
            let mut scanner = ResponseScanner::new(false);
            scanner.feed(text.as_bytes());
            let usage = scanner.usage().unwrap();
            assert_eq!((status, usage.output), (200, Some(40)), "{text}");
            cached.push((usage.input.unwrap(), usage.cached.unwrap()));
        }
        let (asked, hit) = (cached[0].0, cached[1].1);
        assert_eq!(cached[0].1, 0, "{path}");
        // All full blocks of the first turn; of its answer all but the last token, which nothing has read.
        assert_eq!(hit, (asked + 39) / 16 * 16, "{path}");
        assert!(hit > asked);
    }
    let question = format!("{}{question}", "/v1/messages");
    let body = json!({"model": "base", "max_tokens": 1, "stream": true, "messages": [{"role": "user", "content": question}]});
    let (_, events) = sim.send("POST", "/v1/messages", &body.to_string()).await;
    let start = events.lines().find_map(|line| line.strip_prefix("data: "));
    let start: Value = serde_json::from_str(start.unwrap()).unwrap();
    let usage = &start["message"]["usage"];
    let [read, written, rest] = [
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "input_tokens",
    ]
    .map(|name| usage[name].as_u64().unwrap());
    let all = read + written + rest;
    assert_eq!(
        (read, written, rest),
        ((all - 1) / 16 * 16, 0, all % 16),
        "{usage}"
    );
    assert_eq!(
        Sim::start()
            .await
            .post(
                "/v1/messages",
                r#"{"model":"base","messages":["1"],"max_tokens":1}"#
            )
            .await
            .1["usage"],
        json!({"input_tokens": 10, "output_tokens": 1})
    );
}
