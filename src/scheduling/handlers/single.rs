//! `single-profile-handler`: the one profile's result is the decision. Source: the llm-d / GIE picker. The default.

use super::super::pipeline::Stages;
use super::super::{Decision, ScheduleError};
use super::ProfileHandler;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Single;

impl ProfileHandler for Single {
    fn handle(&self, stages: &mut Stages<'_>) -> Result<Decision, ScheduleError> {
        stages.destination(0, None)
    }
}
