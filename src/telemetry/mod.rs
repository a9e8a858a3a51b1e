//! What the picker tells of itself: logs ([`logs`]), metrics ([`metrics`]), why it decided what ([`decisions`]), what its
//! parts hold ([`state`]), the pages that show it ([`admin`]) and who may read them ([`access`]), and captures for simulations ([`record`]).

pub mod access;
pub mod admin;
pub mod decisions;
pub mod inflight;
pub mod logs;
pub mod metrics;
mod process;
pub mod record;
pub mod state;
