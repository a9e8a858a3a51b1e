//! Profile handlers, one file each: which profiles run for a request, and what their results come to.

use std::fmt;

use super::pipeline::Stages;
use super::{Decision, ScheduleError};

pub(super) mod data_parallel;
pub(super) mod disagg;
pub(super) mod header;
pub(super) mod single;
#[cfg(test)]
mod tests;

/// Runs profiles for a request.
pub trait ProfileHandler: fmt::Debug + Send + Sync {
    /// Runs them. The decision is that of the profile whose endpoint is the destination.
    fn handle(&self, stages: &mut Stages<'_>) -> Result<Decision, ScheduleError>;
}
