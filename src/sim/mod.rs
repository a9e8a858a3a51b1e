//! Model servers without GPUs: the HTTP side of vLLM over an engine that only keeps time.
//!
//! [`step`] models an engine and its GPUs in virtual time; `engine` lets it run in real time, or one of given times, for
//! requests that wait. `text` makes tokens of what is asked; `openai`, `responses`, `embeddings` and `anthropic` put tokens
//! into the APIs' shapes, `page` prints the metrics as an engine does, `events` tells of the prefix cache, `boards` are the
//! GPUs, `server` listens. [`kube`] stands in for a Kubernetes API server.

mod admin;
mod anthropic;
mod boards;
pub mod cluster;
mod embeddings;
mod engine;
mod events;
mod fields;
mod front;
pub mod kube;
mod openai;
mod page;
mod reply;
pub mod report;
mod responses;
mod server;
mod sleep;
pub mod step;
#[cfg(test)]
mod tests;
mod text;
pub mod workload;

pub use boards::{Boards, Division, Layout, Seat, follow};
pub use engine::{EngineConfig, EngineKind, Pace, Times};
pub use events::{KvEvents, KvEventsError};
pub use server::{Server, ServerConfig};
pub use step::MigProfile;
