//! `header-profile-handler`: runs the profile that the request's header names.
//!
//! `headerName` (`EPP-Profile`), `defaultProfile` (`decode`). A request without the header runs the default, and so does
//! one that names no profile of the file; where there is only one profile, all run that. Source: the llm-d picker, for
//! its coordinator, which asks for each stage of a request on its own. The llm-d picker answers 429 to a name that it
//! does not know, which says that the pool is full.

use super::super::pipeline::Stages;
use super::super::{Decision, ScheduleError};
use super::ProfileHandler;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct Header {
    /// In lower case.
    pub(in crate::scheduling) header: String,
    pub(in crate::scheduling) default: usize,
}

impl ProfileHandler for Header {
    fn handle(&self, stages: &mut Stages<'_>) -> Result<Decision, ScheduleError> {
        let named = stages.cx().request.headers.get(&self.header);
        let profile = match named.map(str::trim).filter(|name| !name.is_empty()) {
            None => self.default,
            Some(name) => stages.profile(name).unwrap_or_else(|| {
                tracing::debug!(
                    header = self.header,
                    "A request names a profile that there is not; it runs the default."
                );
                self.default
            }),
        };
        stages.destination(profile, None)
    }
}
