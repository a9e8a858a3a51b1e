//! `session-affinity-filter` (alpha): keeps the one endpoint that the request's session was at, if it is a candidate, else
//! all.
//!
//! Parameters and strategies: [`super::super::session`]. Source: the llm-d picker. Use it where a session must come
//! back to what is kept for it on its endpoint; to prefer that endpoint only, use the scorer of the same name.

use super::super::session::Sessions;
use super::super::{Context, Filter, Follow, Reason};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct SessionAffinity(pub(in crate::scheduling) Sessions);

impl Filter for SessionAffinity {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        if let Some(pinned) = self.0.pinned(cx, candidates) {
            candidates.clear();
            candidates.push(pinned);
        }
    }

    fn reason(&self) -> Option<Reason> {
        Some(Reason::Session)
    }

    fn follow(&self) -> Option<&dyn Follow> {
        Some(&self.0)
    }
}
