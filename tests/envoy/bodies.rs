//! Bodies arrive as they were sent, whatever their size and form.

use std::io::Write as _;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::Value;

use super::{Chain, PROFILES};
use crate::support::machine;

/// The simulator tells the length and the hash of what arrived.
async fn arrives(chain: &Chain, path: &str, headers: &[(&str, &str)], body: Bytes) {
    let expected = (
        body.len() as u64,
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&body)),
    );
    let answer = chain.envoy.send(Method::POST, path, headers, body).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    let echo: Value = serde_json::from_str(&answer.text()).unwrap();
    let got = (
        echo["body_bytes"].as_u64().unwrap(),
        echo["body_xxh3"].as_str().unwrap().to_owned(),
    );
    assert_eq!(got, expected);
}

fn chat(bytes: usize) -> Bytes {
    let text = "All work and no play makes a dull day. ".repeat(bytes / 39 + 1);
    Bytes::from(format!(
        r#"{{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{{"role":"user","content":"{}"}}],"max_tokens":1}}"#,
        &text[..bytes]
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_byte_for_byte() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 2, &[], &[]).await;
        for bytes in [0, 1, 61_999, 62_001, 1_300_000, 20 << 20] {
            // The echo answers on a path that no parser reads, so this is the passing way …
            arrives(&chain, "/admin/echo", &[], chat(bytes)).await;
            // … and this the one that is read first.
            arrives(&chain, "/admin/echo/v1/chat/completions", &[], chat(bytes)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_bodies_are_read_and_arrive_compressed() {
    let _machine = machine::shared().await;
    let plain = chat(200_000);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let gzip = Bytes::from(gzip.finish().unwrap());
    let zstd = Bytes::from(zstd::encode_all(&plain[..], 3).unwrap());
    for profile in PROFILES {
        let chain = Chain::start(profile, 2, &[], &[]).await;
        for (encoding, body) in [("gzip", &gzip), ("zstd", &zstd)] {
            let headers = [("content-encoding", encoding)];
            let path = "/admin/echo/v1/chat/completions";
            arrives(&chain, path, &headers, body.clone()).await;
        }
        let page = chain.picker.page("/metrics").await;
        let label = r#"model_name="meta-llama/Llama-3.1-8B-Instruct""#;
        assert!(page.contains(label), "the model was not read:\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_413() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 1, &[], &["--max-body-bytes=1Mi"]).await;
        let path = "/v1/chat/completions";
        let answer = chain
            .envoy
            .send(Method::POST, path, &[], chat(2 << 20))
            .await;
        assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{answer:?}");
        let error: Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(error["error"]["code"], "request_too_large");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_under_another_name_is_asked_for_and_answers_under_the_clients() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 2, &["--ttft=1ms", "--itl=1ms"], &[]).await;
        for stream in [false, true] {
            let body = format!(
                r#"{{"model":"fast","stream":{stream},"messages":[{{"role":"user","content":"the model is \"fast\""}}],"max_tokens":3}}"#
            );
            let target = "meta-llama/Llama-3.1-8B-Instruct";
            let headers = [("x-llm-d-model-name-rewrite", target)];
            let path = "/v1/chat/completions";
            let answer = chain
                .envoy
                .send(Method::POST, path, &headers, body.into())
                .await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            // Only where the response comes by can it be renamed.
            let name = match profile {
                pointsman::cli::demo::bootstrap::Profile::FullDuplex => "fast",
                pointsman::cli::demo::bootstrap::Profile::DecisionOnly => target,
            };
            let expected = format!("\"model\":\"{name}\"");
            let text = answer.text();
            assert!(text.contains(&expected), "{expected} is not in {text}");
        }
    }
}
