//! A request that failed comes again: it goes where it does not fail with the same GPU.

use gpu_probes::telemetry::Gpu;
use serde_json::Value;

use crate::support::agent::{Agent, gpu};
use crate::support::ask::{Exchange, channel};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{machine, until};

/// Fewer than it takes for an endpoint to be put out.
const ROUNDS: usize = 4;

/// Sends the prompt, with this id; where it goes.
async fn post(picker: &Picker, id: &str, prompt: &str) -> (Exchange, String) {
    let body = serde_json::json!({"model": "m", "prompt": prompt}).to_string();
    let headers = [("x-request-id", id)];
    let mut exchange =
        Exchange::post(&channel(picker.grpc), "/v1/completions", &headers, body).await;
    let destination = exchange.destination().await.unwrap();
    (exchange, destination)
}

async fn retries(picker: &Picker) -> f64 {
    picker.metric("retries_total{").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_to_another_gpu_and_if_it_can_to_another_node() {
    let _machine = machine::shared().await;
    let sims = Sims::start(4, &[]).await;
    // The first two share a GPU, the third is on their node, the last one is not.
    let shared = Gpu {
        owners: ["sim-0", "sim-1"]
            .map(|pod| gpu("", pod, 0).owners.remove(0))
            .into(),
        ..gpu("GPU-a", "", 0)
    };
    let agents = [
        Agent::start("n1", vec![shared, gpu("GPU-b", "sim-2", 0)]).await,
        Agent::start("n2", vec![gpu("GPU-c", "sim-3", 0)]).await,
    ];
    let config = picker::config(&sims.endpoints_file, &[("gpu-cotenant-scorer", 1)]);
    // What they have to do meanwhile is to make no difference.
    let config = config.replace(
        "- type: gpu-cotenant-scorer\n",
        "- {type: gpu-cotenant-scorer, parameters: {halfAt: 1000000}}\n",
    );
    let addresses = agents.each_ref().map(|agent| agent.address.to_string());
    let flag = format!("--gpu-agents={}", addresses.join(","));
    let picker = Picker::start(&config, &[&flag, "--allow-experimental-plugins"]).await;
    until("all GPUs", async || {
        let known = picker
            .metric("gpus{name=\"default\",of=\"endpoint\"}")
            .await;
        (known == 3.0).then_some(())
    })
    .await;

    let last = sims.addresses[3].to_string();
    for round in 0..ROUNDS {
        let (first, second) = (format!("first-{round}"), format!("second-{round}"));
        // Longer than what a request is known by at its ends.
        let prompt = format!("{} Round {round}.", "Which way? ".repeat(500));
        let (exchange, failed_at) = post(&picker, &first, &prompt).await;
        exchange.answer_with("503", "{}".to_owned()).await;
        let (exchange, went_to) = post(&picker, &second, &prompt).await;
        if failed_at == last {
            assert_ne!(went_to, last);
        } else {
            assert_eq!(went_to, last, "failed at {failed_at}");
        }
        let page = picker.page(&format!("/debug/decisions/{second}")).await;
        let record: Value = serde_json::from_str(&page).unwrap();
        assert_eq!(record["retryOf"], *first, "{page}");
        let failed = sims
            .addresses
            .iter()
            .position(|a| a.to_string() == failed_at);
        let name = format!("default/sim-{}", failed.unwrap());
        assert_eq!(record["failedAt"], serde_json::json!([name]), "{page}");
        // It is served, and so forgotten.
        let seen = retries(&picker).await;
        assert_eq!(seen, (round + 1) as f64);
        exchange.answer("{}".to_owned()).await;
        let (exchange, _) = post(&picker, "third", &prompt).await;
        exchange.answer("{}".to_owned()).await;
        assert_eq!(retries(&picker).await, seen);
    }
    let page = picker.page("/debug/decisions/third").await;
    assert!(!page.contains("retryOf"), "{page}");
    let wrong = ["endpoint", "board", "node"].map(|shares| {
        let picker = &picker;
        async move {
            picker
                .metric(&format!("retries_total{{shares=\"{shares}\""))
                .await
        }
    });
    for count in wrong {
        assert_eq!(count.await, 0.0);
    }
}
