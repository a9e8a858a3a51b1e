//! Filters, one file each.

pub(super) mod concurrency_detector;
pub(super) mod endpoint_attribute;
pub(super) mod gpu_health;
pub(super) mod gpu_memory;
pub(super) mod header_based_testing;
pub(super) mod label_selector;
pub(super) mod prefix_cache_affinity;
pub(super) mod roles;
pub(super) mod session_affinity;
pub(super) mod slo_headroom_tier;
pub(super) mod topology_affinity;
pub(super) mod utilization;
pub(super) mod utilization_detector;
