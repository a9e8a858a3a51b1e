//! GPUs as a dcgm-exporter tells of them: its Prometheus page, in all its spellings.
//!
//! A page is read whole by [`parse`]; what only two pages together tell (an XID, a throttle counter that rose) is found by
//! a [`Tracker`]. By default the exporter looks at the GPUs every 30 s and gives neither throttle reasons nor ECC: what is
//! not on the page is absent.
//!
//! Under MIG it repeats the board's values (clocks, power, temperature, errors) for each instance under the board's UUID
//! and lists no board. Here the board is listed and has them; an instance has what is its own (memory, shares of time)
//! and is called `MIG-<board>/<GPU instance>`, as DCGM does not tell its UUID.

mod line;
mod metric;
mod page;
mod tracker;

pub use page::{MOST_GPUS, MOST_OWNERS, Page, parse};
pub use tracker::Tracker;

#[cfg(test)]
mod tests;
