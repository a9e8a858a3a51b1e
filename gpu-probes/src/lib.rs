//! What a node knows of its GPUs. Knows nothing of the picker.
//!
//! - [`telemetry`]: what is known of a GPU, and how it travels: generated from `proto/pointsman/gpu/v1/telemetry.proto`.
//! - [`probe`]: where readings come from.
//! - [`nvml`]: GPUs as NVIDIA's library on the node tells of them.
//! - [`devices`]: what device plugins and drivers call GPUs.
//! - [`kubelet`], [`owners`], [`processes`]: who has been given a GPU, and who is on it.
//! - [`agent`]: reads, joins, and serves what it knows.
//! - [`dcgm`]: GPUs as a dcgm-exporter tells of them.
//! - [`architecture`]: which generation a GPU is of, from its name.
//! - [`xid`]: what NVIDIA's error numbers mean for whoever sends requests to the GPU.

pub mod agent;
pub mod architecture;
pub mod dcgm;
pub mod devices;
pub mod kubelet;
pub mod nvml;
pub mod owners;
pub mod probe;
pub mod processes;
pub mod xid;

/// The kubelet's PodResources.
pub mod podresources {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("v1");
}

/// What is known of a GPU, and how it travels: the messages, the service and its client.
pub mod telemetry {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("pointsman.gpu.v1");
}
