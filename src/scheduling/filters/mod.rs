//! Filters, one file each.

pub(super) mod header_based_testing;
pub(super) mod topology_affinity;
