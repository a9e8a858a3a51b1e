//! Deciders, one file each: does a stage of this request get an endpoint of its own?

pub(super) mod always;
pub(super) mod multimodal;
pub(super) mod prefix_based;
