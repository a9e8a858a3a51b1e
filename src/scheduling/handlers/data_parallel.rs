//! `data-parallel-profile-handler`: picks a data-parallel rank, and sends the request to its pod's first.
//!
//! `primaryPort` (8000): where the first rank's proxy listens. The picked rank's own address goes into the header
//! `x-data-parallel-host-port`, by which that proxy passes the request on. Source: the llm-d picker, where it is deprecated:
//! a gateway that can reach every port needs no proxy in between.

use super::super::pipeline::Stages;
use super::super::{Decision, ScheduleError};
use super::ProfileHandler;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct DataParallel {
    pub(in crate::scheduling) primary_port: u16,
}

impl ProfileHandler for DataParallel {
    fn handle(&self, stages: &mut Stages<'_>) -> Result<Decision, ScheduleError> {
        let mut decision = stages.destination(0, None)?;
        decision.primary_port = Some(self.primary_port);
        Ok(decision)
    }
}
