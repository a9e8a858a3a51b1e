//! Which pods have which GPUs: the kubelet's PodResources, over its socket.
//!
//! The kubelet tells no pod's UID. Its log directories do, `<namespace>_<pod>_<uid>`: only their names are read.
//!
//! Kubelets before 1.34 also list pods that have ended and were not deleted, so two pods may seem to have one GPU. Which of
//! them lives cannot be told from here, so both are told: the one that has ended serves nothing, and so is no endpoint.

use std::collections::HashMap;
use std::error::Error as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::devices::{self, Claimed, Device, NVIDIA_DRA, Share};
use crate::owners::{Holder, Holding};
use crate::podresources::pod_resources_lister_client::PodResourcesListerClient;
use crate::podresources::{ContainerResources, ListPodResourcesRequest, PodResources};
use crate::telemetry::Owner;

/// Resources of device plugins whose devices may be GPUs.
const NVIDIA: &str = "nvidia.com/";
/// What the kubelet itself allows its clients.
const LARGEST_ANSWER: usize = 16 << 20;
const DEADLINE: Duration = Duration::from_secs(3);
/// Devices that are kept of one answer. A node has 16 GPUs, of at most 7 instances, shared by few.
const MOST: usize = 4096;

/// Why the kubelet's answer is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KubeletError {
    /// No such socket, or nobody behind it.
    #[error(
        "the kubelet's socket {0} is not there: is its hostPath mounted, and is this a Kubernetes node?"
    )]
    NoSocket(PathBuf),
    /// It may not be opened.
    #[error("the kubelet's socket {0} may not be opened: that takes user 0")]
    NoPermission(PathBuf),
    /// It answers, but not with what was asked for.
    #[error("the kubelet: {0}")]
    Failed(String),
}

/// A client of the kubelet.
#[derive(Debug)]
pub struct Kubelet {
    socket: PathBuf,
    client: PodResourcesListerClient<Channel>,
    options: KubeletOptions,
}

/// What is asked of the kubelet.
#[derive(Clone, Debug)]
pub struct KubeletOptions {
    /// Names of resources, besides those that begin with `nvidia.com/`, whose devices are GPUs; and of drivers for dynamic
    /// resource allocation besides `gpu.nvidia.com`.
    pub resources: Vec<String>,
    /// Where the kubelet keeps the pods' logs.
    pub pod_logs: PathBuf,
    /// Between two questions, while no GPU's processes change.
    pub every: Duration,
}

// === impl Kubelet ===

impl Kubelet {
    pub(crate) fn every(&self) -> Duration {
        self.options.every
    }

    /// Connects when first asked, and again when a connection is lost. Must be called within a runtime.
    pub fn new(socket: &Path, options: KubeletOptions) -> Result<Self, KubeletError> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
            .map_err(|error| KubeletError::Failed(error.to_string()))?;
        let channel = endpoint
            .connect_timeout(DEADLINE)
            .timeout(DEADLINE)
            .connect_lazy();
        Ok(Self {
            socket: socket.to_owned(),
            client: PodResourcesListerClient::new(channel)
                .max_decoding_message_size(LARGEST_ANSWER),
            options,
        })
    }

    /// Who has which GPUs now.
    pub(crate) async fn holdings(&mut self) -> Result<Vec<Holding>, KubeletError> {
        let answer = self.client.list(ListPodResourcesRequest {}).await;
        let pods = answer
            .map_err(|status| self.explain(&status))?
            .into_inner()
            .pod_resources;
        let mut holdings = Vec::new();
        for pod in &pods {
            for container in &pod.containers {
                self.given(pod, container, &mut holdings);
            }
        }
        if holdings.len() > MOST {
            tracing::warn!(
                devices = holdings.len(),
                "The kubelet lists more devices than are kept."
            );
            holdings.truncate(MOST);
        }
        if !holdings.is_empty() {
            let uids = pod_uids(&self.options.pod_logs);
            for Holding { holder, .. } in &mut holdings {
                let pod = (holder.owner.namespace.clone(), holder.owner.pod.clone());
                holder.pod_uids = uids.get(&pod).cloned().unwrap_or_default();
            }
        }
        Ok(holdings)
    }

    /// Adds what `container` has been given.
    fn given(&self, pod: &PodResources, container: &ContainerResources, to: &mut Vec<Holding>) {
        let resources = &self.options.resources;
        let is_gpu = |name: &String| name.starts_with(NVIDIA) || resources.contains(name);
        let plugged = container
            .devices
            .iter()
            .filter(|given| is_gpu(&given.resource_name));
        // Other devices of NVIDIA's are named otherwise.
        let plugged =
            plugged.flat_map(|given| given.device_ids.iter().filter_map(|id| devices::parse(id)));
        let claims = container.dynamic_resources.iter();
        let claimed = claims.flat_map(|claim| &claim.claim_resources);
        let claimed = claimed.filter(|given| {
            given.driver_name == NVIDIA_DRA || resources.contains(&given.driver_name)
        });
        let claimed = claimed.map(|given| Share {
            device: Device::Claimed(Claimed {
                driver: given.driver_name.clone(),
                pool: given.pool_name.clone(),
                device: given.device_name.clone(),
            }),
            replica: None,
        });
        to.extend(
            plugged
                .chain(claimed)
                .map(|Share { device, replica }| Holding {
                    device,
                    holder: Holder {
                        owner: Owner {
                            namespace: pod.namespace.clone(),
                            pod: pod.name.clone(),
                            container: container.name.clone(),
                            replica,
                        },
                        ..Holder::default()
                    },
                }),
        );
    }

    fn explain(&self, status: &tonic::Status) -> KubeletError {
        let mut cause = status.source();
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                match error.kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                        return KubeletError::NoSocket(self.socket.clone());
                    }
                    ErrorKind::PermissionDenied => {
                        return KubeletError::NoPermission(self.socket.clone());
                    }
                    _ => {}
                }
            }
            cause = error.source();
        }
        let code = status.code();
        KubeletError::Failed(format!("{code}: {}", status.message()))
    }
}

/// UIDs by namespace and name. Where the directory cannot be read there are none: processes are then nobody's known.
fn pod_uids(logs: &Path) -> HashMap<(String, String), Vec<String>> {
    let mut uids: HashMap<_, Vec<String>> = HashMap::new();
    let entries = std::fs::read_dir(logs).into_iter().flatten().flatten();
    for entry in entries.take(MOST) {
        let name = entry.file_name();
        let mut parts = name.to_str().unwrap_or_default().split('_');
        if let (Some(namespace), Some(pod), Some(uid), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            let pod = (namespace.to_owned(), pod.to_owned());
            uids.entry(pod).or_default().push(uid.to_owned());
        }
    }
    uids
}
