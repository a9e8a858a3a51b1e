//! What a node knows of its GPUs. Knows nothing of the picker.
//!
//! - [`telemetry`]: what is known of a GPU, and how it travels: generated from `proto/pointsman/gpu/v1/telemetry.proto`.
//! - [`probe`]: where readings come from.
//! - [`nvml`]: GPUs as NVIDIA's library on the node tells of them.
//! - [`dcgm`]: GPUs as a dcgm-exporter tells of them.
//! - [`architecture`]: which generation a GPU is of, from its name.
//! - [`xid`]: what NVIDIA's error numbers mean for whoever sends requests to the GPU.

pub mod architecture;
pub mod dcgm;
pub mod nvml;
pub mod probe;
pub mod xid;

/// What is known of a GPU, and how it travels: the messages, the service and its client.
pub mod telemetry {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("pointsman.gpu.v1");
}
