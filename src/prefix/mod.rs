//! What each endpoint has in its KV cache.

pub mod chain;

pub use chain::{Blocks, ChainHasher, Scope};
