//! Which source counts for a GPU, where several tell of it.
//!
//! An agent counts before an exporter, and of two of a kind the one that came first, until it is silent. Two agents that tell of
//! one GPU are a conflict, unless they are one agent at two addresses.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::{SourceId, SourceKind};

/// Who tells of which GPU.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// By UUID, in the order in which they came; the first counts. Never empty.
    of: HashMap<Arc<str>, Vec<SourceId>>,
    /// Agents that claim what another has, as long as they do.
    disputed: HashSet<(Arc<str>, SourceId)>,
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
        let Some(keeper) = claims.first().cloned() else {
            claims.push(id.clone());
            return None;
        };
        let (own, keeps) = (of(id), of(&keeper));
        let takes_over = id.kind < keeper.kind || keeps.silent;
        let at = if takes_over { 0 } else { claims.len() };
        claims.insert(at, id.clone());
        let disputes = (id.kind, keeper.kind) == (SourceKind::Agent, SourceKind::Agent)
            && !takes_over
            && own.life != keeps.life;
        let new = disputes && self.disputed.insert((Arc::clone(uuid), id.clone()));
        new.then_some(keeper)
    }

    /// `id` tells of it no more.
    pub(super) fn remove(&mut self, uuid: &Arc<str>, id: &SourceId) {
        self.disputed.remove(&(Arc::clone(uuid), id.clone()));
        if let Some(claims) = self.of.get_mut(uuid) {
            claims.retain(|claim| claim != id);
            if claims.is_empty() {
                self.of.remove(uuid);
            }
        }
    }

    /// `id` is silent: another that is `heard` counts, if there is one. Whether there is.
    pub(super) fn give_up(
        &mut self,
        uuid: &Arc<str>,
        id: &SourceId,
        heard: impl Fn(&SourceId) -> bool,
    ) -> bool {
        let Some(claims) = self.of.get_mut(uuid).filter(|claims| claims[0] == *id) else {
            return false;
        };
        let Some(next) = claims.iter().position(heard) else {
            return false;
        };
        claims.swap(0, next);
        self.disputed.remove(&(Arc::clone(uuid), claims[0].clone()));
        true
    }

    /// `id` is heard again: it counts where a lower kind took over. Whether one did.
    pub(super) fn regain(&mut self, uuid: &Arc<str>, id: &SourceId) -> bool {
        let Some(claims) = self
            .of
            .get_mut(uuid)
            .filter(|claims| claims[0].kind > id.kind)
        else {
            return false;
        };
        let own = claims.iter().position(|claim| claim == id);
        own.inspect(|&own| claims.swap(0, own)).is_some()
    }
}
