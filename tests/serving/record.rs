//! `serve --record`: what was asked for comes back as a trace, and nothing of what was said.

use std::path::Path;

use http::{Method, StatusCode};
use pointsman::cli::demo::bootstrap::Profile;
use pointsman::sim::workload::{self, Description, ReadOptions, Scale, Traffic};
use rustix::process::Signal;
use std::sync::Arc;

use crate::envoy::{Chain, SCORERS};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{machine, pointsman};

/// Bytes of the system prompt that all share.
const SHARED: usize = 4_000;

/// A conversation whose first message is everybody's and whose second is its own.
fn body(number: usize) -> bytes::Bytes {
    let words = |word: &str, bytes: usize| word.chars().cycle().take(bytes).collect::<String>();
    let body = serde_json::json!({
        "model": "meta-llama/Llama-3.1-8B-Instruct",
        "messages": [
            {"role": "system", "content": words("confidential ", SHARED)},
            {"role": "user", "content": words(&format!("secret-{number} "), 2_000)},
        ],
        "max_tokens": 5,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    body.to_string().into()
}

fn shared(a: &[u64], b: &[u64]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn leaks(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap();
    let words = ["confidential", "secret", "Llama", "user", "Which"];
    words.iter().any(|word| text.contains(word))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_recorded_is_a_trace_without_a_word_of_text() {
    let _machine = machine::shared().await;
    for profile in [Profile::DecisionOnly, Profile::FullDuplex] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("arrivals.jsonl");
        let flag = format!("--record={}", file.display());
        let flags = ["--ttft=5ms", "--itl=1ms"];
        let mut chain = Chain::start(profile, 2, &flags, &[&flag, "--drain-timeout=1s"]).await;
        for number in [0, 1, 1, 2] {
            let path = "/v1/chat/completions";
            let headers = [("content-type", "application/json")];
            let answer = chain.envoy.send(Method::POST, path, &headers, body(number));
            let answer = answer.await;
            assert!(answer.status == StatusCode::OK && answer.is_whole_stream());
        }
        let page = chain.picker.page("/metrics").await;
        let missing = "llm_d_epp_record_dropped_total{reason=\"behind\"} 0\n";
        assert!(page.contains(missing), "{page}");
        chain.picker.process.signal(Signal::TERM).unwrap();
        assert!(chain.picker.process.ended().await.unwrap().success());

        assert!(!leaks(&file));
        let trace = Arc::new(workload::read(&file, &ReadOptions::default()).unwrap());
        assert_eq!((trace.len(), trace.block_tokens()), (4, 64));
        let traffic = Traffic::new(Arc::clone(&trace), Scale::default()).unwrap();
        let arrivals: Vec<_> = traffic.arrivals().collect();
        let mut chains = Vec::new();
        for (arrival, seen) in arrivals.iter().zip(trace.seen()) {
            // Text and roles, at four bytes a token.
            assert!((1_500..1_520).contains(&arrival.prompt), "{arrival:?}");
            assert_eq!(arrival.output, 5);
            assert!(0.004 < seen.ttft && seen.ttft <= seen.e2e, "{seen:?}");
            let mut chain = Vec::new();
            trace.chain(arrival, 64, usize::MAX, &mut chain);
            chains.push(chain);
        }
        assert_eq!(chains[1], chains[2]);
        for pair in [(0, 1), (0, 3), (2, 3)] {
            let blocks = shared(&chains[pair.0], &chains[pair.1]);
            assert_eq!(blocks, SHARED / 4 / 64, "{pair:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_recorded_whole_and_described() {
    let _machine = machine::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("arrivals.jsonl");
    let sims = Sims::start(2, &[]).await;
    let config = picker::config(&sims.endpoints_file, &SCORERS);
    let flag = format!("--record={}", file.display());
    let mut picker = Picker::start(&config, &[&flag, "--drain-timeout=1s"]).await;
    let load = pointsman()
        .args(["load", &format!("--address={}", picker.grpc), "--json"])
        .args(["--rate=50", "--duration=2s", "--warmup=0s"])
        .args([
            "--prompt-bytes=8000",
            "--response-chunks=3",
            "--chunk-interval=1ms",
        ])
        .output()
        .await
        .unwrap();
    let load: serde_json::Value = serde_json::from_slice(&load.stdout).unwrap();
    assert_eq!(load["errors"], serde_json::json!({}));
    let page = picker.page("/metrics").await;
    let decided = page.lines().find_map(|line| {
        let count = line.strip_prefix("llm_d_epp_request_processing_duration_seconds_count ");
        count?.parse::<u64>().ok()
    });
    picker.process.signal(Signal::TERM).unwrap();
    assert!(picker.process.ended().await.unwrap().success());

    assert!(
        !leaks(&file)
            && !std::fs::read_to_string(&file)
                .unwrap()
                .contains("quick brown")
    );
    let trace = Arc::new(workload::read(&file, &ReadOptions::default()).unwrap());
    assert_eq!(Some(trace.len() as u64), decided);
    let described = Description::of(&trace);
    // The prompt is the same every time, so all but the first could be cached.
    let blocks = (described.prompt.max / 64 * 64) as f64;
    let n = described.requests as f64;
    let expected = (n - 1.0) / n * blocks / f64::from(described.prompt.max);
    assert!(
        (described.ideal_hit.unwrap() - expected).abs() < 1e-9,
        "{described}"
    );
    assert!(trace.seen().iter().all(|seen| seen.ttft.is_finite()));
    let output = pointsman()
        .arg("replay")
        .arg("--describe")
        .arg(&file)
        .output();
    let output = output.await.unwrap();
    assert!(output.status.success());
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains(&format!("{described}")), "{told}");
}
