//! What each endpoint has in its KV cache.

pub mod chain;
mod chunks;
mod heads;
mod index;
mod recency;
#[doc(hidden)]
pub mod reference;
mod run;
#[cfg(test)]
mod tests;
pub mod trust;
mod writer;

pub use chain::{Blocks, ChainHasher, Scope};
pub use index::{DEFAULT_CAPACITY, MAX_ENDPOINTS, PrefixIndex, Size};
pub use trust::{Outcome, Totals, Trust};
