//! Several pools behind one picker: a stream belongs to that whose picker it is addressed to.

use std::net::SocketAddr;

use http::StatusCode;
use serde_json::{Value, json};

use super::{PROFILES, SCORERS};
use crate::support::envoy::Envoy;
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{free_address, machine, until};

/// Calls the picker's cluster `name`.
fn call_it(resources: &mut Value, name: &str) {
    let renamed = resources
        .to_string()
        .replace("\"picker\"", &format!("{name:?}"));
    *resources = serde_json::from_str(&renamed).unwrap();
}

/// Has each stream say that it is for `pool`.
fn say_it_is_for(value: &mut Value, pool: &str) {
    match value {
        Value::Object(object) if object.contains_key("envoy_grpc") => {
            let metadata = json!([{"key": "x-pointsman-pool", "value": pool}]);
            object.insert("initial_metadata".to_owned(), metadata);
        }
        Value::Object(object) => object.values_mut().for_each(|v| say_it_is_for(v, pool)),
        Value::Array(list) => list.iter_mut().for_each(|v| say_it_is_for(v, pool)),
        _ => {}
    }
}

/// Sends three requests through an Envoy before the picker at `grpc`, its bootstrap changed by `edit`. All go to `servers`
/// whose names are told apart from others' by their number.
async fn go_to(
    expected: &[&str],
    grpc: SocketAddr,
    all: &[SocketAddr],
    edit: impl FnOnce(&mut Value),
) {
    let [_, full_duplex] = PROFILES;
    let envoy = Envoy::start(full_duplex, &[grpc], all, edit).await;
    for _ in 0..3 {
        let answer = envoy.chat(3, false, &[]).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let server = answer.server().unwrap();
        assert!(
            expected.contains(&server),
            "{server} is none of {expected:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stream_belongs_to_the_pool_whose_picker_it_is_addressed_to() {
    let _machine = machine::shared().await;
    let sims = Sims::start(3, &["--ttft=1ms", "--itl=1ms"]).await;
    let folder = tempfile::tempdir().unwrap();
    let lines = std::fs::read_to_string(&sims.endpoints_file).unwrap();
    let part = |name: &str, left_out: &[&str]| {
        let mut text = lines.clone();
        for server in left_out {
            text = text.replace(
                &format!("- {{name: {server}"),
                &format!("# {{name: {server}"),
            );
        }
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    };
    // The first pool has the process's own configuration, the second one that follows another file.
    let first = part("first.yaml", &["sim-1", "sim-2"]);
    let second = part("second.yaml", &["sim-0"]);
    let config = folder.path().join("config.yaml");
    std::fs::write(&config, picker::config(&second, &SCORERS[..1])).unwrap();
    let own = free_address().unwrap();
    let pools = json!({"pools": [
        {"name": "llama", "namespace": "models"},
        {"name": "qwen", "namespace": "models", "configFile": config, "port": own.port()},
    ]});
    let file = folder.path().join("pools.yaml");
    std::fs::write(&file, pools.to_string()).unwrap();
    let flags = [
        "--secure-serving=true",
        "--health-checking",
        &format!("--pools-file={}", file.display()),
    ];
    let picker = Picker::start(&picker::config(&first, &SCORERS), &flags).await;
    let all = &sims.addresses;

    // As Istio calls it, as kgateway does, as who sets metadata does, and a port of its own.
    go_to(&["sim-0"], picker.grpc, all, |envoy| {
        call_it(envoy, "outbound|9002||llama-epp.models.svc.cluster.local");
    })
    .await;
    let second = ["sim-1", "sim-2"];
    go_to(&second, picker.grpc, all, |envoy| {
        call_it(envoy, "qwen-epp.models.svc:9002");
    })
    .await;
    go_to(&second, picker.grpc, all, |envoy| {
        say_it_is_for(envoy, "models/qwen")
    })
    .await;
    go_to(&second, own, all, |_| {}).await;
    let page = picker.page("/metrics").await;
    for line in [
        "llm_d_epp_ready_endpoints{pool=\"models/llama\",name=\"llama\"} 1",
        "llm_d_epp_ready_endpoints{pool=\"models/qwen\",name=\"qwen\"} 2",
        "llm_d_epp_streams_without_pool_total 0",
    ] {
        assert!(
            page.lines().any(|l| l.starts_with(line)),
            "{line} is not in\n{page}"
        );
    }

    let decisions = picker.page("/debug/decisions").await;
    let decisions: Value = serde_json::from_str(&decisions).unwrap();
    let decisions = decisions["decisions"].as_array().unwrap().iter();
    // The newest first.
    let of: Vec<_> = decisions
        .map(|d| (d["poolId"].as_str().unwrap(), d["pool"].as_u64().unwrap()))
        .collect();
    let expected = [vec![("models/qwen", 2); 9], vec![("models/llama", 1); 3]];
    assert_eq!(of, expected.concat());

    // Nobody's: the gateway does as if there were no picker, and it is counted.
    let [decision_only, _] = PROFILES;
    let envoy = Envoy::start(decision_only, &[picker.grpc], all, |_| {}).await;
    envoy.chat(3, false, &[]).await;
    until("a stream without a pool to be counted", async || {
        let page = picker.page("/metrics").await;
        let line = page
            .lines()
            .find(|l| l.starts_with("llm_d_epp_streams_without_pool_total"))?;
        (!line.ends_with(" 0")).then_some(())
    })
    .await;

    let states: Value = serde_json::from_str(&picker.page("/debug/plugins/state").await).unwrap();
    for pool in ["models/llama", "models/qwen"] {
        assert!(states[pool]["scheduling"].is_object(), "{states}");
    }
    let gpus = picker.page("/debug/gpus?pool=models/qwen").await;
    assert!(gpus.contains("\"gpus\""), "{gpus}");
}
