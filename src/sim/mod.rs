//! Model servers without GPUs: the HTTP side of vLLM over an engine that only keeps time.
//!
//! [`step`] models an engine and its GPUs in virtual time; `engine` lets it run in real time, or one of given times, for
//! requests that wait. `openai`, `responses`, `embeddings` and `anthropic` put tokens into the APIs' shapes, `page` prints
//! the metrics as vLLM does, `server` listens. [`kube`] stands in for a Kubernetes API server.

mod admin;
mod anthropic;
pub mod cluster;
mod embeddings;
mod engine;
mod fields;
mod front;
pub mod kube;
mod openai;
mod page;
mod reply;
pub mod report;
mod responses;
mod server;
pub mod step;
#[cfg(test)]
mod tests;
pub mod workload;

pub use engine::{EngineConfig, Pace, Times};
pub use server::{Server, ServerConfig};
