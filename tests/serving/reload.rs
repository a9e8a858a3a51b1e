//! The configuration file, edited while the picker serves.

use std::path::Path;

use rustix::process::Signal;

use crate::support::ask::{Exchange, ask, channel};
use crate::support::picker::Picker;
use crate::support::{machine, until};
use crate::vectors::page::Page;

const HEADER: &str = "test-epp-endpoint-selection";
const SECOND: &str = "10.0.0.2:80";

/// A configuration of endpoints that nobody needs to reach, with one more plugin in its profile.
pub(super) fn config(folder: &Path, plugin: &str) -> String {
    let endpoints = folder.join("endpoints.yaml");
    let entry = |n| format!("- {{name: e{n}, address: 10.0.0.{n}, port: 80}}\n");
    let entries: String = (1..=3).map(entry).collect();
    std::fs::write(&endpoints, format!("endpoints:\n{entries}")).unwrap();
    let endpoints = serde_json::json!(endpoints.to_string_lossy());
    format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: file-discovery, parameters: {{path: {endpoints}}}}}
- {{type: queue-scorer}}
- {{type: {plugin}}}
dataLayer: {{discovery: {{pluginRef: file-discovery}}, injectDefaults: false}}
"
    )
}

fn put(picker: &Picker, config: &str) {
    let next = picker.folder.path().join("next");
    std::fs::write(&next, config).unwrap();
    std::fs::rename(next, picker.folder.path().join("picker.yaml")).unwrap();
}

/// Waits until so many new versions were taken and refused.
async fn reloads(picker: &Picker, success: u32, failure: u32) {
    until("the new version", async || {
        let page = picker.page("/metrics").await;
        let lines = [("success", success), ("failure", failure)].map(|(result, count)| {
            format!("llm_d_epp_config_reloads_total{{result=\"{result}\"}} {count}\n")
        });
        lines.iter().all(|line| page.contains(line)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_version_decides_and_a_bad_one_is_told_and_changes_nothing() {
    let _machine = machine::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let running = config(folder.path(), "running-requests-size-scorer");
    let steered = config(folder.path(), "header-based-testing-filter");
    let picker = Picker::start(&running, &[]).await;
    // Without the filter the header means nothing, and none is needed.
    let to_nobody = [(HEADER, "10.9.9.9")];
    assert!(ask(picker.grpc, &to_nobody).await.is_ok());

    put(&picker, &steered);
    reloads(&picker, 1, 0).await;
    assert_eq!(ask(picker.grpc, &to_nobody).await, Err(429));
    let to_second = [(HEADER, SECOND)];
    assert_eq!(ask(picker.grpc, &to_second).await.unwrap(), SECOND);

    put(&picker, &steered.replace("queue-scorer", "queue-scorrer"));
    reloads(&picker, 1, 1).await;
    let log = picker.process.printed();
    assert!(
        log.contains("line 5: plugins: type `queue-scorrer` is not known; did you mean"),
        "{log}"
    );
    assert!(log.contains("the last good one stays"), "{log}");
    let page = picker.page("/metrics").await;
    assert!(page.contains("llm_d_epp_config_last_reload_success 0\n"));
    assert_eq!(ask(picker.grpc, &to_nobody).await, Err(429));
    assert_eq!(ask(picker.grpc, &to_second).await.unwrap(), SECOND);

    // Another endpoints file is not taken; the rest of that version is.
    put(&picker, &running.replace("endpoints.yaml", "other.yaml"));
    reloads(&picker, 2, 1).await;
    assert!(ask(picker.grpc, &to_nobody).await.is_ok());
    let log = picker.process.printed();
    assert!(log.contains("takes effect with a restart"), "{log}");
    let page = picker.page("/metrics").await;
    assert!(page.contains("llm_d_epp_config_last_reload_success 1\n"));

    // Asked to, it reads the same once more.
    picker.process.signal(Signal::HUP).unwrap();
    reloads(&picker, 3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_began_under_the_old_version_is_decided_by_it() {
    let _machine = machine::shared().await;
    let folder = tempfile::tempdir().unwrap();
    let running = config(folder.path(), "running-requests-size-scorer");
    let steered = config(folder.path(), "header-based-testing-filter");
    let picker = Picker::start(&steered, &[]).await;
    let headers = [(":method", "POST"), (":path", "/v1/completions")];
    let mut old = Exchange::begin(&channel(picker.grpc), &headers, false).await;
    old.body(r#"{"model":"m","#, false);
    until("its body to come", async || {
        let page = Page(picker.page("/metrics").await);
        (page.total("request_body_buffered_bytes") == 13.0).then_some(())
    })
    .await;

    put(&picker, &running);
    reloads(&picker, 1, 0).await;
    assert!(ask(picker.grpc, &[]).await.is_ok());
    old.body(r#""prompt":"hi"}"#, true);
    // The old version wants a header that names endpoints.
    assert_eq!(old.destination().await, Err(429));
}
