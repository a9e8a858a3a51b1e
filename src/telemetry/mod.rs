//! What the picker tells of itself: logs ([`logs`]), metrics ([`metrics`]) and the pages that show them ([`admin`]).

pub mod admin;
pub mod inflight;
pub mod logs;
pub mod metrics;
