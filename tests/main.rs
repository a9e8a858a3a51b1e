//! Black-box tests: real processes, real sockets, a real Envoy.
//!
//! One binary, one module a room: [`wire`] holds our protos against Envoy's, [`vectors`] holds any picker against the
//! protocol, [`envoy`] runs both profiles through a real Envoy, [`chaos`] kills and stops the picker under load.

mod chaos;
mod envoy;
mod support;
