//! dcgm-exporters as a DaemonSet: reached at the nodes of the endpoints.

use serde_json::Value;
use tokio::sync::watch;

use crate::support::cluster::Cluster;
use crate::support::exporter::exporter;
use crate::support::picker::Picker;
use crate::support::{machine, until};

const PAGE: &str = r#"# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",Hostname="node-1",pod="a",namespace="models"} 40
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exporter_of_a_node_is_reached_at_the_nodes_address() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    let (_shown, page) = watch::channel(PAGE.to_owned());
    let port = exporter(page).await;
    cluster.pool(&[8000]);
    // Nothing is at the pods' addresses, and the DNS knows no node-1.
    cluster.pod("a", "10.1.0.1", true, None);
    cluster.pod("b", "10.1.0.2", true, None);
    let config = format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: queue-scorer}}
- {{type: dcgm-data-source, parameters: {{port: {port}, useNodeAddress: true}}}}
- {{type: dcgm-extractor}}
dataLayer:
  sources:
  - {{pluginRef: dcgm-data-source, extractors: [{{pluginRef: dcgm-extractor}}]}}
"
    );
    let flags = [
        "--pool-name=pool",
        "--metrics-endpoint-auth=false",
        "--allow-experimental-plugins",
    ];
    let picker = Picker::start_in(&cluster.kubeconfig, &config, &flags).await;
    until("the exporter's GPUs", async || {
        let page: Value = serde_json::from_str(&picker.page("/debug/gpus").await).unwrap();
        let of_exporter = page["sources"][0]["address"] == format!("127.0.0.1:{port}");
        let endpoints = page["gpus"][0]["endpoints"].as_array()?;
        let names: Vec<_> = endpoints.iter().map(|e| &e["name"]).collect();
        // The other pod of the node was not given it.
        (of_exporter && names == ["models/a-rank-0"]).then_some(())
    })
    .await;
}
