//! Claims (dynamic resource allocation): the kubelet names devices, ResourceSlices of the API server say which GPUs they are.

use std::path::Path;
use std::sync::Arc;

use gpu_probes::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use gpu_probes::podresources::{
    ClaimResource, ContainerResources, DynamicResource, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources,
};
use gpu_probes::telemetry::{Gpu, Snapshot};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use super::*;
use crate::support::cluster::Cluster;

/// A kubelet whose pods hold claims: each pod's name, and the device.
#[derive(Clone)]
struct Kubelet(Arc<Vec<(&'static str, &'static str)>>);

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let pods = self.0.iter().map(|(pod, device)| PodResources {
            name: (*pod).to_owned(),
            namespace: "default".to_owned(),
            containers: vec![ContainerResources {
                name: "server".to_owned(),
                dynamic_resources: vec![DynamicResource {
                    claim_name: "gpu".to_owned(),
                    claim_namespace: "default".to_owned(),
                    claim_resources: vec![ClaimResource {
                        driver_name: "gpu.nvidia.com".to_owned(),
                        pool_name: "node-1".to_owned(),
                        device_name: (*device).to_owned(),
                    }],
                }],
                ..ContainerResources::default()
            }],
        });
        Ok(Response::new(ListPodResourcesResponse {
            pod_resources: pods.collect(),
        }))
    }
}

fn kubelet(folder: &Path, pods: &[(&'static str, &'static str)]) -> String {
    let socket = folder.join("kubelet.sock");
    let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
    let service = PodResourcesListerServer::new(Kubelet(Arc::new(pods.to_vec())));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    format!("--pod-resources-socket={}", socket.display())
}

/// A board that is a whole GPU, and one of two instances of one size.
fn node() -> State {
    let mut state = super::node();
    let instance = |uuid: &str, gpu_instance| Mig {
        uuid: uuid.to_owned(),
        gpu_instance,
        profile: "3g.40gb".to_owned(),
        memory_total: 40 << 30,
        ..Mig::default()
    };
    state.gpus[1].mig = vec![instance("MIG-1111", 1), instance("MIG-2222", 2)];
    state
}

fn slice(version: &str, node: &str, devices: Value) -> Value {
    json!({
        "apiVersion": format!("resource.k8s.io/{version}"),
        "kind": "ResourceSlice",
        "metadata": {"name": format!("{node}-gpu.nvidia.com-abcde")},
        "spec": {
            "driver": "gpu.nvidia.com",
            "nodeName": node,
            "pool": {"name": node, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    })
}

/// Attributes of a device with this UUID.
fn attributes(uuid: &str) -> Value {
    json!({"uuid": {"string": uuid}, "type": {"string": "gpu"}, "cudaComputeCapability": {"version": "9.0.0"}})
}

fn owns(snapshot: &Snapshot, uuid: &str, pod: &str) -> bool {
    let owned = |gpu: &Gpu| gpu.uuid == uuid && gpu.owners.iter().any(|owner| owner.pod == pod);
    snapshot.gpus.iter().any(owned)
}

async fn until_owned(probe: &Probe, owned: &[(&str, &str)]) {
    until("the claims' owners", async || {
        let snapshot = again(probe).await;
        let all = owned.iter().all(|(uuid, pod)| owns(&snapshot, uuid, pod));
        all.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_tell_what_names_do_not_and_their_changes_are_followed() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    let devices = json!([
        {"name": "green", "attributes": attributes("GPU-aaaa")},
        {"name": "gpu-1-mig-3g40gb-9-4", "attributes": attributes("MIG-2222")},
    ]);
    assert!(cluster.api.put(slice("v1", "node-1", devices)));
    // Another node's devices have the same names.
    let theirs = json!([{"name": "green", "attributes": attributes("MIG-1111")}]);
    assert!(cluster.api.put(slice("v1", "node-2", theirs)));
    let pods = [("whole", "green"), ("part", "gpu-1-mig-3g40gb-9-4")];
    let probe = Probe::start_with(Some(&node()), |folder, command| {
        command
            .env("KUBECONFIG", &cluster.kubeconfig)
            .args([&kubelet(folder, &pods), "--resource-slices"]);
    })
    .await;
    until_owned(&probe, &[("GPU-aaaa", "whole"), ("MIG-2222", "part")]).await;
    let page = get(probe.metrics, "/metrics").await;
    assert!(
        page.contains("pointsman_probe_resource_slices_read{Hostname=\"node-1\"} 1\n"),
        "{page}"
    );

    // The instances were made anew.
    let devices = json!([
        {"name": "green", "attributes": attributes("GPU-aaaa")},
        {"name": "gpu-1-mig-3g40gb-9-4", "attributes": attributes("MIG-1111")},
    ]);
    assert!(cluster.api.put(slice("v1", "node-1", devices)));
    until_owned(&probe, &[("MIG-1111", "part")]).await;

    // Nothing is asked that deploy/probe/resource-slices.yaml does not allow.
    let rights = std::fs::read_to_string("deploy/probe/resource-slices.yaml").unwrap();
    assert!(rights.contains("resources: [resourceslices]\n  verbs: [list, watch]\n"));
    for call in cluster.api.calls() {
        assert_eq!(call.resource, "resourceslices");
        assert!(["list", "watch"].contains(&call.verb.as_str()), "{call:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_api_server_is_asked_by_the_version_that_it_has() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.api.serve_groups(&["resource.k8s.io/v1beta1"]);
    let devices = json!([{"name": "green", "basic": {"attributes": attributes("GPU-aaaa")}}]);
    assert!(cluster.api.put(slice("v1beta1", "node-1", devices)));
    let probe = Probe::start_with(Some(&node()), |folder, command| {
        command
            .env("KUBECONFIG", &cluster.kubeconfig)
            .args([&kubelet(folder, &[("whole", "green")]), "--resource-slices"]);
    })
    .await;
    until_owned(&probe, &[("GPU-aaaa", "whole")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_or_an_api_server_names_are_all_there_is() {
    let _machine = machine::shared().await;
    let cluster = Cluster::start().await;
    cluster.api.forbid(pointsman::sim::kube::Call {
        verb: "list".to_owned(),
        group: "resource.k8s.io".to_owned(),
        resource: "resourceslices".to_owned(),
    });
    let nowhere = tempfile::tempdir().unwrap();
    let nowhere = nowhere.path().join("no-kubeconfig");
    for (kubeconfig, complaint) in [
        (&cluster.kubeconfig, "resourceslices cannot be followed"),
        (&nowhere, "no Kubernetes API server to ask"),
    ] {
        let pods = [("named", "gpu-0"), ("lost", "green")];
        let probe = Probe::start_with(Some(&node()), |folder, command| {
            command
                .env("KUBECONFIG", kubeconfig)
                .args([&kubelet(folder, &pods), "--resource-slices"]);
        })
        .await;
        until_owned(&probe, &[("GPU-aaaa", "named")]).await;
        until("the complaint", async || {
            probe.process.printed().contains(complaint).then_some(())
        })
        .await;
        let page = get(probe.metrics, "/metrics").await;
        for series in ["unknown_devices", "resource_slices_read"] {
            let number = u8::from(series == "unknown_devices");
            let line = format!("pointsman_probe_{series}{{Hostname=\"node-1\"}} {number}\n");
            assert!(page.contains(&line), "{line}{page}");
        }
    }
}
