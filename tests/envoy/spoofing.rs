//! A client that names a destination gets nowhere with it: with a picker, without one, and when the picker refuses.

use std::net::SocketAddr;

use http::StatusCode;
use pointsman::cli::demo::bootstrap::{Profile, cluster};
use serde_json::{Value, json};

use super::{PROFILES, SCORERS};
use crate::support::envoy::Envoy;
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{machine, until};

/// The pool as gateways without a list of endpoints have it: whatever the header says.
fn original_dst(resources: &mut Value) {
    let pool = cluster(resources, "pool").unwrap();
    let pool = pool.as_object_mut().unwrap();
    for field in [
        "load_assignment",
        "load_balancing_policy",
        "outlier_detection",
    ] {
        pool.remove(field);
    }
    pool.insert("type".into(), "ORIGINAL_DST".into());
    pool.insert("lb_policy".into(), "CLUSTER_PROVIDED".into());
    pool.insert(
        "original_dst_lb_config".into(),
        json!({"use_http_header": true, "http_header_name": "x-gateway-destination-endpoint"}),
    );
}

/// How often the server at `address` was asked for a completion.
async fn requests(address: SocketAddr) -> f64 {
    let page = crate::support::get(address, "/metrics").await;
    page.lines()
        .filter(|line| line.starts_with("vllm:request_success_total{"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_chooses_its_own_endpoint() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        for is_original_dst in [false, true] {
            spoof(profile, is_original_dst).await;
        }
    }
}

async fn spoof(profile: Profile, is_original_dst: bool) {
    let canary = Sims::start(1, &["--ttft=1ms", "--itl=1ms"]).await;
    let sims = Sims::start(2, &["--ttft=1ms", "--itl=1ms"]).await;
    let config = picker::config(&sims.endpoints_file, &SCORERS);
    let flags = ["--secure-serving=true", "--health-checking"];
    let mut picker = Picker::start(&config, &flags).await;
    let envoy = Envoy::start(profile, &[picker.grpc], &sims.addresses, |resources| {
        if is_original_dst {
            original_dst(resources);
        }
    })
    .await;
    let spoofed = canary.addresses[0].to_string();
    let names = [
        "x-gateway-destination-endpoint",
        "X-Gateway-Destination-Endpoint",
        "x-gateway-destination-endpoint-subset",
        "x-prefiller-host-port",
    ];
    let send = async || {
        let mut answers = Vec::new();
        for name in names {
            answers.push(envoy.chat(2, false, &[(name, &spoofed)]).await);
        }
        answers
    };
    for answer in send().await {
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    }

    // The picker refuses.
    let both = std::fs::read_to_string(&sims.endpoints_file).unwrap();
    std::fs::write(&sims.endpoints_file, "endpoints: []\n").unwrap();
    until("the pool to be empty", async || {
        let answer = envoy.chat(1, false, &[]).await;
        (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    for answer in send().await {
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    }
    std::fs::write(&sims.endpoints_file, both).unwrap();

    // There is no picker.
    picker
        .process
        .signal(rustix::process::Signal::KILL)
        .unwrap();
    picker.process.ended().await.unwrap();
    until("Envoy to go on without a picker", async || {
        let answer = envoy.chat(1, false, &[]).await;
        // Without a list of endpoints there is nowhere to go on to.
        let expected = match is_original_dst {
            true => StatusCode::SERVICE_UNAVAILABLE,
            false => StatusCode::OK,
        };
        (answer.status == expected).then_some(())
    })
    .await;
    for answer in send().await {
        assert_eq!(
            answer.status == StatusCode::OK,
            !is_original_dst,
            "{answer:?}"
        );
    }
    let reached = requests(canary.addresses[0]).await;
    assert_eq!(reached, 0.0, "{profile:?}, ORIGINAL_DST: {is_original_dst}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_headers_do_not_reach_the_model_server() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = super::Chain::start(profile, 1, &[], &[]).await;
        let headers = [
            ("x-llm-d-inference-objective", "critical"),
            ("x-gateway-inference-objective", "critical"),
            ("X-LLM-D-Inference-Fairness-ID", "me"),
            ("x-gateway-inference-fairness-id", "me"),
            ("x-prefiller-host-port", "10.0.0.1:80"),
            ("x-encoder-hosts-ports", "10.0.0.1:80"),
            ("x-data-parallel-host-port", "10.0.0.1:80"),
            ("x-gateway-destination-endpoint-subset", "10.0.0.1:80"),
            ("x-mine", "one"),
            ("x-mine", "two"),
        ];
        let path = "/admin/echo/v1/chat/completions";
        let body = crate::support::envoy::chat_body(1, false);
        let answer = chain
            .envoy
            .send(http::Method::POST, path, &headers, body)
            .await;
        let echo: Value = serde_json::from_str(&answer.text()).unwrap();
        let arrived: Vec<(String, String)> =
            serde_json::from_value(echo["headers"].clone()).unwrap();
        let names: Vec<&str> = arrived.iter().map(|(name, _)| name.as_str()).collect();
        let values: Vec<&str> = arrived
            .iter()
            .filter(|(name, _)| name == "x-mine")
            .flat_map(|(_, value)| value.split(',').map(str::trim))
            .collect();
        assert_eq!(values, ["one", "two"], "{arrived:?}");
        for (name, _) in &headers[..8] {
            let name = name.to_ascii_lowercase();
            assert!(!names.contains(&name.as_str()), "{name} in {arrived:?}");
        }
    }
}
