//! Filters, one file each.

pub(super) mod header_based_testing;
