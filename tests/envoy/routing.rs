//! Requests go where the load is lowest, by what the servers report.

use http::{Method, StatusCode};

use super::{Chain, PROFILES, SCORERS};
use crate::support::envoy::{Envoy, chat_body};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{http, machine, until};

/// Requests that run on `server` until they are dropped.
async fn occupy(server: std::net::SocketAddr, requests: usize) -> Vec<hyper::body::Incoming> {
    let mut held = Vec::new();
    for _ in 0..requests {
        let request = http::Request::post(format!("http://{server}/v1/chat/completions"))
            .body(chat_body(100_000, true).into())
            .unwrap();
        let response = http().request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        held.push(response.into_body());
    }
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_loaded_server_gets_the_requests() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let flags = ["--ttft=1ms", "--itl=20ms"];
        let chain = Chain::start(profile, 3, &flags, &[]).await;
        for idle in [2, 0, 1] {
            let mut load = Vec::new();
            for (server, &address) in chain.sims.addresses.iter().enumerate() {
                if server != idle {
                    load.extend(occupy(address, 4).await);
                }
            }
            // The picker has seen it when its own gauges say so: 8 requests over 3 servers.
            until("the load to be scraped", async || {
                let page = chain.picker.page("/metrics").await;
                let line = page
                    .lines()
                    .find(|l| l.starts_with("llm_d_epp_average_running_requests"))?;
                let average: f64 = line.rsplit(' ').next()?.parse().ok()?;
                (average > 2.5).then_some(())
            })
            .await;
            for stream in [false, true] {
                let answer = chain.envoy.chat(3, stream, &[]).await;
                assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                let expected = format!("sim-{idle}");
                assert_eq!(answer.server(), Some(expected.as_str()), "{profile:?}");
                assert!(!stream || answer.is_whole_stream(), "{answer:?}");
            }
            drop(load);
            until("the load to go", async || {
                let page = chain.picker.page("/metrics").await;
                let line = page
                    .lines()
                    .find(|l| l.starts_with("llm_d_epp_average_running_requests"))?;
                line.ends_with(" 0.0").then_some(())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_of_a_request_is_counted_once_and_nothing_stays_in_flight() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 2, &["--ttft=1ms", "--itl=1ms"], &[]).await;
        let body = serde_json::json!({
            "model": "meta-llama/Llama-3.1-8B-Instruct",
            "messages": [{"role": "user", "content": "Which way?"}],
            "max_tokens": 7,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        for _ in 0..3 {
            let body = body.to_string().into();
            let path = "/v1/chat/completions";
            let answer = chain.envoy.send(Method::POST, path, &[], body).await;
            assert!(answer.is_whole_stream(), "{answer:?}");
        }
        until("usage to be counted", async || {
            let page = chain.picker.page("/metrics").await;
            let value = |name: &str| -> Option<f64> {
                let line = page.lines().find(|line| line.starts_with(name))?;
                line.rsplit(' ').next()?.parse().ok()
            };
            let counted = [
                value("llm_d_epp_request_total{")? == 3.0,
                value("llm_d_epp_request_output_tokens_sum{")? == 21.0,
                value("llm_d_epp_request_ttft_seconds_count{")? >= 0.0,
                value("llm_d_epp_request_running{")? == 0.0,
            ];
            counted.iter().all(|&done| done).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_endpoints_file_moves_the_traffic() {
    let _machine = machine::shared().await;
    let [profile, _] = PROFILES;
    let chain = Chain::start(profile, 2, &["--ttft=1ms", "--itl=1ms"], &[]).await;
    let file = &chain.sims.endpoints_file;
    let both = std::fs::read_to_string(file).unwrap();
    let only = both.replace("- {name: sim-0", "# {name: sim-0");
    let ready = async |count: u32| {
        until("the file to be read", async || {
            let page = chain.picker.page("/metrics").await;
            let line = format!("llm_d_epp_ready_endpoints{{name=\"default\"}} {count}");
            page.lines().any(|l| l.starts_with(&line)).then_some(())
        })
        .await;
    };
    std::fs::write(file, only).unwrap();
    ready(1).await;
    for _ in 0..5 {
        assert_eq!(
            chain.envoy.chat(1, false, &[]).await.server(),
            Some("sim-1")
        );
    }
    // A bad edit changes nothing.
    std::fs::write(file, "endpoints: [{name: x}]").unwrap();
    until("the bad edit to be seen", async || {
        let log = chain.picker.process.printed();
        log.contains("the last good version stays").then_some(())
    })
    .await;
    assert_eq!(
        chain.envoy.chat(1, false, &[]).await.server(),
        Some("sim-1")
    );
    std::fs::write(file, both).unwrap();
    ready(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_body_and_unknown_paths_are_routed_too() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 2, &[], &[]).await;
        let models = chain
            .envoy
            .send(Method::GET, "/v1/models", &[], Default::default())
            .await;
        assert_eq!(models.status, StatusCode::OK);
        assert!(models.text().contains("Llama"), "{models:?}");
        let unknown = chain
            .envoy
            .send(Method::PUT, "/some/where", &[], "not JSON".into())
            .await;
        // The server's own 404.
        assert_eq!(unknown.status, StatusCode::NOT_FOUND);
        assert!(unknown.server().is_some());
        let page = chain.picker.page("/metrics").await;
        assert!(page.contains("request_total{"), "{page}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_pool_is_503_in_the_clients_own_dialect() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 1, &[], &[]).await;
        std::fs::write(&chain.sims.endpoints_file, "endpoints: []\n").unwrap();
        until("the pool to be empty", async || {
            let answer = chain.envoy.chat(1, false, &[]).await;
            (answer.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
        })
        .await;
        let answer = chain.envoy.chat(1, false, &[]).await;
        assert_eq!(
            answer.headers["x-llm-d-request-dropped-reason"],
            "rejected-no-endpoints"
        );
        assert!(answer.headers.contains_key("retry-after"));
        let error: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(error["error"]["type"], "server_error");
        let body = r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#;
        let answer = chain
            .envoy
            .send(Method::POST, "/v1/messages", &[], body.into())
            .await;
        let error: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(error["type"], "error");
        assert_eq!(error["error"]["type"], "overloaded_error");
        let get = chain
            .envoy
            .send(Method::GET, "/v1/models", &[], Default::default())
            .await;
        assert_eq!(get.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// Istio and Higress call the picker's cluster so, and give the stream no other `:authority`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_name_is_no_host_reaches_the_picker() {
    let _machine = machine::shared().await;
    for name in [
        "outbound|9002||llama-epp.models.svc.cluster.local",
        "envoyextensionpolicy/models/llama/extproc/0",
    ] {
        for profile in PROFILES {
            let sims = Sims::start(1, &["--ttft=1ms", "--itl=1ms"]).await;
            let config = picker::config(&sims.endpoints_file, &SCORERS);
            let flags = ["--secure-serving=true", "--health-checking"];
            let picker = Picker::start(&config, &flags).await;
            let envoy = Envoy::start(profile, &[picker.grpc], &sims.addresses, |resources| {
                let renamed = resources
                    .to_string()
                    .replace("\"picker\"", &format!("{name:?}"));
                *resources = serde_json::from_str(&renamed).unwrap();
            })
            .await;
            for _ in 0..3 {
                let answer = envoy.chat(3, true, &[]).await;
                assert!(answer.is_whole_stream(), "{answer:?}");
            }
            until("the picker to have picked", async || {
                let page = picker.page("/metrics").await;
                let picks = page.lines().find(|line| {
                    line.starts_with("llm_d_epp_scheduler_attempts_total{status=\"success\"")
                })?;
                (picks.rsplit(' ').next()? == "3").then_some(())
            })
            .await;
        }
    }
}
