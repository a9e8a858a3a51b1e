//! Black-box tests of what a node knows of its GPUs. The NVML source runs through the fake library, each test with a copy
//! of it and a state file of its own; [`agent`] holds a whole agent against a source that follows a script, and a kubelet
//! behind a real socket.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

mod abi;
mod agent;
mod driver;
mod events;
mod links;
mod mig;
mod signals;
mod support;
mod symbols;
