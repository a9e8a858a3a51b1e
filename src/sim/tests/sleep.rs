//! Sleep mode.

use super::*;

#[tokio::test]
async fn a_server_sleeps_and_wakes_up_as_vllm_does() {
    let sim = Arc::new(Sim::of(Pace::Steps(EngineSpec::new("L4", "llama3-8b", 1))).await);
    let memory = async || sim.send("GET", "/admin/gpu", "").await.1;
    let memory = async || {
        let gpu: Value = serde_json::from_str(&memory().await).unwrap();
        gpu["memory_used"].as_f64().unwrap() / 1e9
    };
    let asleep = async || sim.send("GET", "/is_sleeping", "").await.1;
    let page = async |line: &str| {
        let (_, page) = sim.send("GET", "/metrics", "").await;
        page.lines().any(|found| found == line)
    };
    let state = |state: &str, value| {
        format!(
            r#"vllm:engine_sleep_state{{engine="0",model_name="base",sleep_state="{state}"}} {value}.0"#
        )
    };
    let awake = memory().await;
    assert_eq!(asleep().await, r#"{"is_sleeping":false}"#);
    assert!(page(&state("awake", 1)).await);

    // A prompt that takes longer than the order does.
    let first = Arc::clone(&sim);
    let running = tokio::spawn(async move {
        first
            .post("/v1/completions", r#"{"prompt":"1","max_tokens":150}"#)
            .await
    });
    while !page(r#"vllm:num_requests_running{engine="0",model_name="base"} 1.0"#).await {}
    assert_eq!(
        sim.send("POST", "/sleep?level=1", "").await,
        (200, String::new())
    );
    let (status, answer) = running.await.unwrap();
    assert_eq!(
        (status, &answer["choices"][0]["finish_reason"]),
        (200, &json!("abort"))
    );
    assert!(page(r#"vllm:request_success_total{engine="0",finished_reason="abort",model_name="base"} 1.0"#).await);
    assert!(
        awake > 16.0 && memory().await < 3.0,
        "weights and cache are gone"
    );
    assert_eq!(asleep().await, r#"{"is_sleeping":true}"#);
    assert!(page(&state("awake", 0)).await && page(&state("weights_offloaded", 1)).await);
    assert_eq!(sim.send("GET", "/health", "").await.0, 200);

    // It waits.
    let second = Arc::clone(&sim);
    let waiting = tokio::spawn(async move {
        second
            .post("/v1/completions", r#"{"prompt":"1","max_tokens":2}"#)
            .await
    });
    while !page(r#"vllm:num_requests_waiting{engine="0",model_name="base"} 1.0"#).await {}
    assert_eq!(sim.send("POST", "/wake_up", "").await, (200, String::new()));
    let (status, answer) = waiting.await.unwrap();
    assert_eq!(
        (status, &answer["choices"][0]["finish_reason"]),
        (200, &json!("length"))
    );
    assert!((memory().await - awake).abs() < 1e-9);

    assert_eq!(sim.send("POST", "/sleep?level=2", "").await.0, 200);
    assert!(page(&state("discard_all", 1)).await);
    for wrong in [
        "/sleep?level=3",
        "/sleep?mode=wait",
        "/wake_up?tags=weights",
    ] {
        assert_eq!(sim.send("POST", wrong, "").await.0, 400, "{wrong}");
    }
    sim.send("POST", "/wake_up", "").await;
    assert_eq!(sim.send("POST", "/sleep?level=0", "").await.0, 200);
    assert_eq!(memory().await, awake, "only paused");
}
