//! What the picker tells of itself: logs ([`logs`]), metrics ([`metrics`]), why it decided what ([`decisions`]), what its
//! parts hold ([`state`]) and the pages that show it ([`admin`]).

pub mod admin;
pub mod decisions;
pub mod inflight;
pub mod logs;
pub mod metrics;
mod process;
pub mod state;
