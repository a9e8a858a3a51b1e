//! What tells of the GPUs is gone, or talks nonsense: nothing follows from it.

use pointsman::cli::demo::bootstrap::Profile;
use rustix::process::Signal;
use tokio::sync::watch;

use super::Node;
use crate::support::exporter::exporter;
use crate::support::{get, machine, until};

/// All that GPUs may be put out for.
const CAUSES: [&str; 7] = [
    "gpu-drain",
    "gpu-link",
    "gpu-ecc",
    "gpu-app-fatal",
    "gpu-fatal",
    "gpu-recovery",
    "gpu-lost",
];

impl Node {
    /// Everybody serves, nobody was ever out for what was told of a GPU, and no request was lost.
    pub(super) async fn is_undisturbed(&self) {
        self.ground.answers(100).await;
        let page = self.ground.page().await;
        for cause in CAUSES {
            let cause = ("cause".to_owned(), cause.to_owned());
            let ever = page.sum("endpoint_ejections_total", [(&cause.0, &cause.1)]);
            assert_eq!(ever, 0.0, "{cause:?}");
        }
        assert_eq!(self.ground.lost(), 0);
    }

    pub(super) async fn until_sources(&self, state: &str) {
        let (name, state) = ("state".to_owned(), state.to_owned());
        until(&format!("a source that is {state}"), async || {
            let page = self.ground.page().await;
            (page.sum("gpu_sources", [(&name, &state)]) >= 1.0).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_stopped_and_started_disturbs_nothing() {
    let _machine = machine::shared().await;
    let mut node = Node::start(Profile::FullDuplex, 3, &[]).await;
    for _ in 0..3 {
        node.agent.signal(Signal::KILL).unwrap();
        node.agent.ended().await.unwrap();
        node.is_undisturbed().await;
        node.restart_agent().await;
        node.until_sources("heard").await;
    }
    // It is there, and says nothing.
    node.agent.signal(Signal::STOP).unwrap();
    node.until_sources("silent").await;
    node.is_undisturbed().await;
    node.agent.signal(Signal::CONT).unwrap();
    node.until_sources("heard").await;
    node.is_undisturbed().await;
    // And it is believed again.
    node.ground.sims.gpu(0, r#"{"xid":79}"#).await;
    node.until_stands("sim-0", "gpu-lost").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_an_exporters_page_disturbs_nothing() {
    let _machine = machine::shared().await;
    let (shown, page) = watch::channel(String::new());
    let port = exporter(page).await;
    let plugins = format!(
        "- {{type: dcgm-data-source, parameters: {{port: {port}, interval: 100ms}}}}\n- {{type: dcgm-extractor}}\n"
    );
    let sources = "  \
  sources:
  - {pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}
  - {pluginRef: dcgm-data-source, extractors: [{pluginRef: dcgm-extractor}]}
";
    let mut node = Node::with(Profile::DecisionOnly, 3, &[], [&plugins, sources]).await;
    // The agent's own page is one, as an exporter's is.
    let good = get(node.agent_at[1], "/metrics").await;
    node.agent.signal(Signal::KILL).unwrap();
    node.agent.ended().await.unwrap();
    shown.send_replace(good.clone());
    node.until_sources("heard").await;
    node.is_undisturbed().await;
    let absurd: String = good
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| Some(format!("{} NaN\n", line.rsplit_once(' ')?.0)))
        .collect();
    for garbage in [
        "<html>".to_owned(),
        good[..good.len() / 2].to_owned(),
        absurd,
        "\u{0}\u{7f}".repeat(1_000),
    ] {
        shown.send_replace(garbage);
        node.is_undisturbed().await;
        shown.send_replace(good.clone());
    }
    node.is_undisturbed().await;
    let errors = node.ground.page().await;
    assert!(errors.total("datalayer_extract_errors_total") > 0.0);
}
