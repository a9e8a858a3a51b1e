//! Model servers without GPUs: the HTTP side of vLLM over an engine that only keeps time.
//!
//! [`engine`] decides when a token comes and what the gauges read; it is a queue in front of a number of running
//! slots, nothing more. [`openai`] and [`anthropic`] put tokens into the APIs' shapes, [`page`] prints the metrics as
//! vLLM does, [`server`] listens.

mod admin;
mod anthropic;
pub mod engine;
mod histogram;
mod openai;
mod page;
mod reply;
pub mod server;

pub use engine::EngineConfig;
pub use server::{Server, ServerConfig};
