//! Black-box tests: real processes, real sockets, a real Envoy.
//!
//! One binary, one module a room: [`wire`] holds our protos against Envoy's, [`vectors`] holds any picker against the
//! protocol, [`envoy`] runs both profiles through a real Envoy, [`serving`] looks at the process around the picker,
//! [`kubernetes`] gives it a pool in a cluster, [`chaos`] kills and stops it under load, [`probe`] is the node agent over the
//! fake NVML library, [`gpu`] is all of it: GPUs that fail under servers, the agent, the picker, a real Envoy.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where it stopped"
)]

mod chaos;
mod envoy;
mod gpu;
mod kubernetes;
mod probe;
mod serving;
mod support;
mod vectors;
mod wire;
