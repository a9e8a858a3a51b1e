//! A kubelet that gives out what the test wants, behind a real socket.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use gpu_probes::podresources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use gpu_probes::podresources::{
    ClaimResource, ContainerDevices, ContainerResources, DynamicResource, ListPodResourcesRequest,
    ListPodResourcesResponse, PodResources,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

#[derive(Clone, Default)]
pub(super) struct Kubelet {
    pods: Arc<Mutex<Vec<PodResources>>>,
    asked: Arc<Mutex<usize>>,
}

#[tonic::async_trait]
impl PodResourcesLister for Kubelet {
    async fn list(
        &self,
        _request: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        *self.asked.lock().unwrap() += 1;
        let pod_resources = self.pods.lock().unwrap().clone();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }
}

impl Kubelet {
    pub(super) fn of(pods: Vec<PodResources>) -> Self {
        let kubelet = Self::default();
        kubelet.give(pods);
        kubelet
    }

    pub(super) fn give(&self, pods: Vec<PodResources>) {
        *self.pods.lock().unwrap() = pods;
    }

    pub(super) fn asked(&self) -> usize {
        *self.asked.lock().unwrap()
    }

    /// Answers at `socket` until that is ended.
    pub(super) fn serve(&self, socket: &Path) -> Serving {
        // As the kubelet does when it starts.
        let _ = std::fs::remove_file(socket);
        let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(PodResourcesListerServer::new(self.clone()));
        // Its end cuts the connections, as that of a process.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Serving {
            runtime: Some(runtime),
            socket: socket.to_owned(),
        }
    }
}

pub(super) struct Serving {
    runtime: Option<tokio::runtime::Runtime>,
    socket: PathBuf,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// A pod in `default` whose container `server` was given `ids` of `resource`.
pub(super) fn plugged(pod: &str, resource: &str, ids: &[&str]) -> PodResources {
    let devices = ContainerDevices {
        resource_name: resource.into(),
        device_ids: ids.iter().map(|&id| id.to_owned()).collect(),
    };
    of_container(
        ContainerResources {
            name: "server".into(),
            devices: vec![devices],
            ..ContainerResources::default()
        },
        pod,
    )
}

/// The same of a claim on `device` of `driver`.
pub(super) fn claimed(pod: &str, driver: &str, device: &str) -> PodResources {
    let claim = DynamicResource {
        claim_name: "gpu".into(),
        claim_namespace: "default".into(),
        claim_resources: vec![ClaimResource {
            driver_name: driver.into(),
            pool_name: "node-1".into(),
            device_name: device.into(),
        }],
    };
    of_container(
        ContainerResources {
            name: "server".into(),
            dynamic_resources: vec![claim],
            ..ContainerResources::default()
        },
        pod,
    )
}

fn of_container(container: ContainerResources, pod: &str) -> PodResources {
    PodResources {
        name: pod.into(),
        namespace: "default".into(),
        containers: vec![container],
    }
}
