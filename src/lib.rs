//! Pointsman: an endpoint picker for inference gateways.
//!
//! The rooms, in the order in which a request meets them:
//!
//! - [`cli`]: one file a subcommand; reads flags, wires the rooms together, runs them.
//! - [`config`]: `EndpointPickerConfig`: read, default, validate; files that are followed as they change.
//! - [`extproc`]: Envoy's protocol: streams, replies, TLS, health. Knows no policy.
//! - [`picker`]: one request from start to end: parse, pick, reply, observe the response.
//! - [`admission`]: who may go now: requests of low priority are shed when the pool is full.
//! - [`dialect`]: one file an API dialect: what is in a request and in its response.
//! - [`scheduling`]: filters, scorers, pickers, profiles: candidates in, decision out.
//! - [`prefix`]: what each endpoint has in its KV cache: chains of block hashes, the approximate index, trust.
//! - [`pool`]: the endpoints: snapshot, in-flight ledger, breaker, discovery, metric scraping.
//! - [`telemetry`]: logs, metrics and decision records of the picker itself.
//! - [`sim`]: model servers without GPUs.
//! - [`proto`]: the wire contracts, generated from `proto/`.

pub mod admission;
pub mod cli;
pub mod config;
pub mod dialect;
pub mod extproc;
pub mod picker;
pub mod pool;
pub mod prefix;
pub mod proto;
pub mod scheduling;
pub mod sim;
pub mod telemetry;
