//! The step model: a vLLM-V1-like engine in virtual time, as pure code. No clock, no I/O, no threads.
//!
//! [`Engine`] schedules as vLLM does (token budget, chunked prefill, first come first served, preemption of the last),
//! `blocks` is its prefix cache, `cost` says how long a step takes on the hardware of `tables`, `gpu` what NVML would
//! show of it. Model, constants and their validation: reference/gpu-and-simulation.md §2.2.
//!
//! Time is `f64` seconds from an origin that the caller chooses. Step times are closed formulas of reals, and a jump over
//! a thousand steps must not collect a thousand roundings to ns. It is deterministic all the same: only additions,
//! multiplications, divisions and square roots, which IEEE 754 rounds alike everywhere, in an order that the inputs fix.

mod blocks;
mod changes;
mod cost;
mod engine;
mod flight;
mod gpu;
mod keys;
mod lora;
mod mig;
mod requests;
mod scheduler;
mod spec;
mod tables;
#[cfg(test)]
mod tests;

pub use changes::BlockChange;
pub use engine::{Engine, Gauges};
pub use gpu::GpuState;
pub use keys::{Keys, Origin};
pub use mig::MigProfile;
pub use requests::{Event, Request};
pub use spec::{EngineSpec, Loras, StepError};
pub use tables::{Gpu, Model, Tables};
