//! Servers that fail: the next of the list answers, and the failing one stops getting requests.

use bytes::Bytes;
use http::{Method, StatusCode};
use pointsman::cli::demo::bootstrap::{Profile, cluster};
use tempfile::TempDir;

use super::{Chain, PROFILES, SCORERS};
use crate::support::envoy::{Envoy, without_retries};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{http, machine, until};

/// With a list of three endpoints in every decision.
async fn with_fallbacks(profile: Profile, sims: &[&Sims]) -> (Picker, Envoy, TempDir) {
    let endpoints: String = sims
        .iter()
        .map(|sims| {
            let text = std::fs::read_to_string(&sims.endpoints_file).unwrap();
            text.replace("endpoints:\n", "")
                .replace("name: ", &format!("name: {}-", sims.addresses[0].port()))
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.yaml");
    std::fs::write(&file, format!("endpoints:\n{endpoints}")).unwrap();
    let config = picker::config(&file, &SCORERS)
        .replace(
            "dataLayer:",
            "- type: max-score-picker\n  parameters: {maxNumOfEndpoints: 3}\ndataLayer:",
        )
        .replace(
            "schedulingProfiles:\n- name: default\n  plugins:\n",
            "schedulingProfiles:\n- name: default\n  plugins:\n  - {pluginRef: max-score-picker}\n",
        );
    let flags = ["--secure-serving=true", "--health-checking"];
    let picker = Picker::start(&config, &flags).await;
    let addresses: Vec<_> = sims.iter().flat_map(|s| s.addresses.clone()).collect();
    let envoy = Envoy::start(profile, &[picker.grpc], &addresses, |resources| {
        // The retries and the list are under test, not Envoy's own view of who is alive.
        let pool = cluster(resources, "pool").unwrap();
        pool.as_object_mut().unwrap().remove("outlier_detection");
    })
    .await;
    (picker, envoy, folder)
}

async fn fault(server: std::net::SocketAddr, fault: &'static str) {
    let request = http::Request::post(format!("http://{server}/admin/fault"))
        .header("content-type", "application/json")
        .body(Bytes::from_static(fault.as_bytes()).into())
        .unwrap();
    let status = http().request(request).await.unwrap().status();
    assert_eq!(status, StatusCode::NO_CONTENT);
}

fn large() -> Bytes {
    let text = "x".repeat(1_300_000);
    Bytes::from(format!(
        r#"{{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{{"role":"user","content":"{text}"}}],"max_tokens":1}}"#
    ))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_endpoint_of_the_list_answers() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let (alive, mut dead) = (
            Sims::start(1, &["--ttft=1ms", "--prefill-rate=1e9"]).await,
            Sims::start(2, &["--ttft=1ms", "--prefill-rate=1e9"]).await,
        );
        let (_picker, envoy, _folder) = with_fallbacks(profile, &[&alive, &dead]).await;
        // One answers 503, then both are gone; there are requests for which they are the first choice.
        fault(dead.addresses[0], r#"{"status": 503}"#).await;
        for round in 0..2 {
            for _ in 0..4 {
                for body in [crate::support::envoy::chat_body(1, false), large()] {
                    let path = "/v1/chat/completions";
                    let answer = envoy.send(Method::POST, path, &[], body).await;
                    assert_eq!(answer.status, StatusCode::OK, "{round}: {answer:?}");
                }
            }
            if round == 0 {
                dead.process.signal(rustix::process::Signal::KILL).unwrap();
                dead.process.ended().await.unwrap();
            }
        }
        assert!(envoy.stat("cluster.pool.upstream_rq_retry_success").await > 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_fast_stops_getting_requests_and_comes_back() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let flags = ["--ttft=20ms", "--itl=1ms"];
        let chain = Chain::start(profile, 3, &flags, &[]).await;
        // Without retries and Envoy's own ejection: what the picker learns it learns from what was served.
        let envoy = Envoy::start(
            profile,
            &[chain.picker.grpc],
            &chain.sims.addresses,
            without_retries,
        )
        .await;
        fault(chain.sims.addresses[0], r#"{"status": 500}"#).await;
        until("the breaker to open", async || {
            let answer = envoy.chat(1, false, &[]).await;
            let page = chain.picker.page("/metrics").await;
            let _ = answer;
            let open = "llm_d_epp_endpoint_breaker_open{";
            page.lines()
                .any(|l| l.starts_with(open) && l.contains("sim-0") && l.ends_with(" 1.0"))
                .then_some(())
        })
        .await;
        let mut failed = 0;
        for _ in 0..100 {
            let answer = envoy.chat(1, false, &[]).await;
            failed += u32::from(answer.status != StatusCode::OK);
        }
        // A probe now and then may meet it.
        assert!(failed <= 5, "{failed} of 100 failed");
        fault(chain.sims.addresses[0], "{}").await;
        until("it to get requests again", async || {
            let answer = envoy.chat(1, false, &[]).await;
            (answer.server() == Some("sim-0") && answer.status == StatusCode::OK).then_some(())
        })
        .await;
    }
}
