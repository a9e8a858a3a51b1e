//! `session-affinity-scorer` (alpha): prefers the endpoint that the request's session was at.
//!
//! Formula: that endpoint 1, all others 0. Parameters and strategies: [`super::super::session`]. Source: the llm-d picker.
//! Use it where coming back is worth something, such as a warm cache; where it is a must, use the filter of the same
//! name. Not both: each keeps its own sessions.

use super::super::session::Sessions;
use super::super::{Context, Follow, Scorer};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct SessionAffinity(pub(in crate::scheduling) Sessions);

impl Scorer for SessionAffinity {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let pinned = self.0.pinned(cx, candidates);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            *out = f32::from(u8::from(pinned == Some(candidate)));
        }
    }

    fn follow(&self) -> Option<&dyn Follow> {
        Some(&self.0)
    }
}
