//! The NVML source, all of it through the fake library. Each test has a copy of the library and a state file of its own.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

mod abi;
mod driver;
mod events;
mod mig;
mod signals;
mod support;
mod symbols;
