//! A cluster in virtual time: engines, a router in front of them, and what lies between.
//!
//! It is a discrete-event simulation. Requests come from a [`Source`]; a [`Router`] says where each goes; engines of
//! [`super::step`] serve them. Between these lie delays: the router decides on what it has scraped ([`Wires::scrape_every`]
//! ago at most), a request and what comes back of it take [`Wires::network`] each way, more or less, and the server in front of
//! an engine reads the prompt before the engine gets it. Faults come by a timetable. Everything follows from the seed.
//!
//! The picker that serves is one of the routers ([`Ours`]): the same choice, the same plugins, the same cells.

mod baselines;
mod events;
mod faults;
mod network;
mod ours;
mod router;
mod run;
mod setting;
mod sights;
#[cfg(test)]
mod tests;
mod walk;

pub use baselines::{Baseline, NAMES as BASELINES};
pub use faults::{Fault, FaultKind};
pub use ours::{Ours, Sense};
pub use router::{Asked, Chain, Page, Refused, Router};
pub use run::run;
pub use setting::{Arrival, Cluster, Fate, Outcome, Source, Wires};
pub use sights::GpuReading;
pub use walk::Walk;
