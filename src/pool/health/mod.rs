//! Whether requests may go to an endpoint, and how many: from what is served, from its engine, from its GPUs.

use super::gpu::EndpointGpus;
use super::slab::Slot;

/// The GPUs of the endpoint of `slot` changed, or something happened to them. Called at once.
pub fn observe_gpus(slot: &Slot, gpus: &EndpointGpus, now_ms: u64) {
    let _ = (slot, gpus, now_ms);
}
