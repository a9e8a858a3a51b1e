//! With strict headers a client says nothing of itself, and Envoy does, in metadata.

use http::StatusCode;
use serde_json::{Value, json};

use super::{PROFILES, SCORERS};
use crate::support::envoy::Envoy;
use crate::support::machine;
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;

/// As docs/envoy.md has it: Envoy says the fairness id before it asks the picker, and lets the picker see it.
fn say(resources: &mut Value) {
    let chain = &mut resources["listeners"][0]["filter_chains"][0];
    let filters = &mut chain["filters"][0]["typed_config"]["http_filters"];
    let filters = filters.as_array_mut().unwrap();
    let picks = |filter: &Value| filter["name"] == "pick";
    let pick = filters.iter().position(picks).unwrap();
    let seen = &mut filters[pick]["typed_config"]["metadata_options"]["forwarding_namespaces"];
    seen["untyped"]
        .as_array_mut()
        .unwrap()
        .push(json!("pointsman"));
    let say = json!({
        "name": "say",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config",
            "metadata": [{
                "metadata_namespace": "pointsman",
                "value": {"x-llm-d-inference-fairness-id": "team-a"},
            }],
        },
    });
    filters.insert(pick, say);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_strict_headers_envoy_alone_says_whose_a_request_is() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &["--ttft=1ms", "--itl=1ms"]).await;
    let config = picker::config(&sims.endpoints_file, &SCORERS);
    let flags = [
        "--secure-serving=true",
        "--health-checking",
        "--strict-client-headers",
    ];
    for profile in PROFILES {
        for (says, flow) in [(false, "default-flow"), (true, "team-a")] {
            let picker = Picker::start(&config, &flags).await;
            let envoy = Envoy::start(profile, &[picker.grpc], &sims.addresses, |resources| {
                if says {
                    say(resources);
                }
            })
            .await;
            let claims = [
                ("x-llm-d-inference-fairness-id", "me"),
                ("x-gateway-inference-fairness-id", "me"),
            ];
            let answer = envoy.chat(2, false, &claims).await;
            assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
            let page = picker.page("/metrics").await;
            let flows = page
                .lines()
                .filter(|line| line.starts_with("llm_d_epp_request_total{"));
            let expected = format!("fairness_id=\"{flow}\"");
            let flows: Vec<&str> = flows.collect();
            assert!(
                !flows.is_empty() && flows.iter().all(|line| line.contains(&expected)),
                "{profile:?}, Envoy says: {says}: {flows:?}"
            );
        }
    }
}
