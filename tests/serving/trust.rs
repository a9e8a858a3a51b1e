//! What model servers say of their caches, held against what was predicted of them.

use super::herd::{CHAT, QUICK, REFERENCE, Yard, chat};
use crate::support::ask::Exchange;
use crate::support::machine;
use crate::vectors::page::Page;

/// Of a prompt of 4000 letters.
const PROMPT_TOKENS: u32 = 1_000;
/// Whole blocks of 64 tokens.
const CACHED_TOKENS: u32 = 960;

async fn post(yard: &Yard, prompt: &str) -> (Exchange, String) {
    let mut exchange = Exchange::post(&yard.channel(), CHAT, &[], chat(&[prompt])).await;
    let destination = exchange.destination().await.unwrap();
    (exchange, destination)
}

/// Where `prompt` goes, whose server says that so many of its tokens were cached.
async fn served(yard: &Yard, prompt: &str, cached: u32) -> String {
    let (exchange, destination) = post(yard, prompt).await;
    let usage = serde_json::json!({
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": cached},
    });
    let answer = serde_json::json!({"choices": [], "usage": usage});
    exchange.answer(answer.to_string()).await;
    destination
}

/// The gauge of the server at `address`.
async fn gauge(yard: &Yard, name: &str, address: &str) -> f64 {
    let mut servers = yard.sims.addresses.iter();
    let number = servers.position(|server| server.to_string() == address);
    let server = format!("sim-{}", number.unwrap());
    let gauges = Page(yard.picker.page("/metrics").await).by_endpoint(name);
    let found = gauges.iter().find(|(name, _)| *name == server);
    found
        .unwrap_or_else(|| panic!("{name} of {server}: {gauges:?}"))
        .1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_no_promise_loses_its_requests() {
    let _machine = machine::shared().await;
    let mut yard = Yard::start(REFERENCE, 2, &QUICK).await;
    let prompt = yard.text(4_000);
    let liar = served(&yard, &prompt, 0).await;
    // Trusted, it is preferred even with another request in flight.
    let (busy, to) = post(&yard, &prompt).await;
    assert_eq!(served(&yard, &prompt, CACHED_TOKENS).await, liar);
    assert_eq!(to, liar);
    busy.answer("{}".to_owned()).await;
    assert_eq!(gauge(&yard, "prefix_trust", &liar).await, 1.0);
    for _ in 0..8 {
        assert_eq!(served(&yard, &prompt, 0).await, liar);
    }
    let trust = gauge(&yard, "prefix_trust", &liar).await;
    assert!(trust < 0.5, "{trust}");
    assert!(gauge(&yard, "prefix_prediction_error", &liar).await > 0.5);
    // Now a request in flight outweighs it.
    let (busy, to) = post(&yard, &prompt).await;
    assert_eq!(to, liar);
    let honest = served(&yard, &prompt, 0).await;
    assert_ne!(honest, liar);
    busy.answer("{}".to_owned()).await;
    // The other one holds it too, and is believed.
    for _ in 0..10 {
        assert_eq!(served(&yard, &prompt, CACHED_TOKENS).await, honest);
    }
    assert_eq!(gauge(&yard, "prefix_trust", &honest).await, 1.0);
    let error = gauge(&yard, "prefix_prediction_error", &honest).await;
    assert!(error < 0.01, "{error}");
    // For people the same is on one page.
    let state = yard.picker.page("/debug/plugins/state").await;
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    let index = &state["prefix_index"];
    assert!(index["bytes"].as_u64() > Some(0), "{index}");
    let endpoints = index["endpoints"].as_array().unwrap();
    assert_eq!((endpoints.len(), &index["not_shown"]), (2, &0.into()));
    let held = endpoints.iter().map(|e| e["blocks"].as_u64().unwrap());
    let expected = u64::from(CACHED_TOKENS / 64);
    assert_eq!(held.collect::<Vec<_>>(), [expected; 2], "{index}");
    assert_eq!(index["blocks"], 2 * expected);
    let trusts = || endpoints.iter().map(|e| e["trust"].as_f64().unwrap());
    assert!(trusts().any(|trust| trust < 0.5) && trusts().any(|trust| trust == 1.0));
}
