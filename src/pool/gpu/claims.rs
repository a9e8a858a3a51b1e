//! Which source counts for a GPU, where several tell of it.
//!
//! An agent counts before an exporter, and of two of a kind the one that came first, until it is silent. Two agents that tell of
//! one GPU are a conflict for as long as both are heard, unless they are one agent at two addresses.

use std::collections::HashMap;
use std::sync::Arc;

use super::{SourceId, SourceKind};

/// Who tells of which GPU.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// By UUID, in the order in which they came; the first counts. Never empty.
    of: HashMap<Arc<str>, Vec<SourceId>>,
    /// By UUID, the agents that claim what another one has. Never empty.
    disputed: HashMap<Arc<str>, Vec<SourceId>>,
}

/// How a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing<'a> {
    pub(super) silent: bool,
    /// Which life of the agent it is.
    pub(super) life: &'a str,
}

// === impl Claims ===

impl Claims {
    /// The source that counts for a GPU.
    pub(super) fn keeper(&self, uuid: &str) -> Option<&SourceId> {
        self.of.get(uuid).and_then(|claims| claims.first())
    }

    /// All GPUs, with all that tell of them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Arc<str>, &[SourceId])> {
        self.of
            .iter()
            .map(|(uuid, claims)| (uuid, claims.as_slice()))
    }

    /// How many GPUs agents claim that others have.
    pub(super) fn disputed(&self) -> usize {
        self.disputed.len()
    }

    /// `id` tells of a GPU from now on; `of` says how sources are. The agent that has it, if that is a new conflict.
    pub(super) fn add<'a>(
        &mut self,
        uuid: &Arc<str>,
        id: &SourceId,
        of: impl Fn(&SourceId) -> Standing<'a>,
    ) -> Option<SourceId> {
        let claims = self.of.entry(Arc::clone(uuid)).or_default();
        let takes_over = claims.first().is_some_and(|k| outranks(id, k, &of));
        let at = if takes_over { 0 } else { claims.len() };
        claims.insert(at, id.clone());
        self.dispute(uuid, of)
    }

    /// `id` tells of it no more.
    pub(super) fn remove<'a>(
        &mut self,
        uuid: &Arc<str>,
        id: &SourceId,
        of: impl Fn(&SourceId) -> Standing<'a>,
    ) {
        if let Some(claims) = self.of.get_mut(uuid) {
            claims.retain(|claim| claim != id);
            if claims.is_empty() {
                self.of.remove(uuid);
            }
        }
        self.dispute(uuid, of);
    }

    /// `id` is silent: another that is heard counts, if there is one. Whether there is.
    pub(super) fn give_up<'a>(
        &mut self,
        uuid: &Arc<str>,
        id: &SourceId,
        of: impl Fn(&SourceId) -> Standing<'a>,
    ) -> bool {
        let keeps = self.of.get_mut(uuid).filter(|claims| claims[0] == *id);
        let next = keeps.and_then(|claims| {
            let next = claims.iter().position(|claim| !of(claim).silent)?;
            claims.swap(0, next);
            Some(next)
        });
        self.dispute(uuid, of);
        next.is_some()
    }

    /// `id` is heard again: it counts where a lower kind took over, or one that is silent has it. Else the agent that has it, if
    /// that is a new conflict.
    pub(super) fn regain<'a>(
        &mut self,
        uuid: &Arc<str>,
        id: &SourceId,
        of: impl Fn(&SourceId) -> Standing<'a>,
    ) -> Option<SourceId> {
        if let Some(claims) = self.of.get_mut(uuid)
            && outranks(id, &claims[0], &of)
            && let Some(own) = claims.iter().position(|claim| claim == id)
        {
            claims.swap(0, own);
        }
        self.dispute(uuid, of)
    }

    /// Works out anew who disputes a GPU. The agent that has it, if somebody began to.
    fn dispute<'a>(
        &mut self,
        uuid: &Arc<str>,
        of: impl Fn(&SourceId) -> Standing<'a>,
    ) -> Option<SourceId> {
        let before = self.disputed.remove(uuid).unwrap_or_default();
        let is_heard = |claim: &&SourceId| claim.kind == SourceKind::Agent && !of(claim).silent;
        let claims = self.of.get(uuid)?;
        let keeper = claims.first().filter(is_heard)?;
        let others = claims.iter().filter(is_heard);
        let others = others.filter(|claim| of(claim).life != of(keeper).life);
        let others: Vec<SourceId> = others.cloned().collect();
        if others.is_empty() {
            return None;
        }
        let began = others.iter().any(|claim| !before.contains(claim));
        self.disputed.insert(Arc::clone(uuid), others);
        began.then(|| keeper.clone())
    }
}

/// Whether `id` counts before `keeper`, which counted up to now.
fn outranks<'a>(id: &SourceId, keeper: &SourceId, of: &impl Fn(&SourceId) -> Standing<'a>) -> bool {
    id.kind < keeper.kind || of(keeper).silent
}
