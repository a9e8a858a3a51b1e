//! `/debug/decisions`: why requests went where they went.

use serde_json::{Value, json};

use super::reload::config;
use crate::support::ask::ask;
use crate::support::picker::Picker;
use crate::support::{http, machine};

async fn page(picker: &Picker, path: &str) -> Value {
    serde_json::from_str(&picker.page(path).await).unwrap()
}

async fn status(picker: &Picker, path: &str) -> u16 {
    let uri = format!("http://{}{path}", picker.metrics);
    let response = http().get(uri.parse().unwrap()).await.unwrap();
    response.status().as_u16()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_is_found_by_the_request_s_id() {
    let _machine = machine::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path(), "header-based-testing-filter");
    let picker = Picker::start(&config, &[]).await;
    let two = "10.0.0.3:80, 10.0.0.1:80";
    let headers = [
        ("x-request-id", "the-first"),
        ("test-epp-endpoint-selection", two),
    ];
    let destination = ask(picker.grpc, &headers).await.unwrap();
    let of_nobody = [
        ("x-request-id", "the second"),
        ("test-epp-endpoint-selection", "10.9.9.9"),
    ];
    assert_eq!(ask(picker.grpc, &of_nobody).await, Err(429));

    let found = page(&picker, "/debug/decisions/the-first").await;
    assert_eq!(found["requestId"], "the-first");
    assert_eq!(
        (&found["pool"], &found["candidates"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(found["destinations"], json!([destination]));
    // There is one.
    assert_eq!(found.get("poolId"), None);
    let profile = &found["profiles"][0];
    assert_eq!(
        profile["filters"],
        json!([
            {"name": "header-based-testing-filter", "removed": 1, "endpoints": ["default/e2"]},
            {"name": "health", "removed": 0, "endpoints": []},
        ])
    );
    let endpoints = profile["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 2);
    assert_eq!(
        (&endpoints[0]["rank"], &endpoints[0]["address"]),
        (&json!(1), &json!(destination))
    );
    assert_eq!(profile["runnerUp"], endpoints[1]["name"]);
    // Nothing is scraped: the scorer could not tell, and that is what is said.
    assert_eq!(endpoints[0]["scrapeAgeMs"], Value::Null);
    assert_eq!(endpoints[0]["terms"][0]["scorer"], "queue-scorer");
    assert_eq!(
        (&profile["reason"], &profile["picker"]),
        (&json!("picker"), &json!("max-score-picker"))
    );

    let refused = page(&picker, "/debug/decisions/the%20second").await;
    assert_eq!(refused["error"], "filters left no endpoint");
    assert_eq!(refused["profiles"][0]["filters"][0]["removed"], 3);
    let latest = page(&picker, "/debug/decisions?limit=1").await;
    assert_eq!(latest["decisions"], json!([refused]));
    let latest = page(&picker, "/debug/decisions").await;
    assert_eq!(latest["decisions"], json!([refused, found]));
    assert_eq!(status(&picker, "/debug/decisions/another").await, 404);
    assert_eq!(status(&picker, "/debug/decisions?limit=all").await, 400);

    let picker = Picker::start(&config, &["--decision-records=0"]).await;
    assert_eq!(status(&picker, "/debug/decisions").await, 404);
}
