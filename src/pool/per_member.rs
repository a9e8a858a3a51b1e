//! Something for each endpoint, for as long as it is in the pool.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Member, Pool};

/// A `T` for each member of a pool, as of the last [`PerMember::follow`].
#[derive(Debug)]
pub(super) struct PerMember<T> {
    of: HashMap<u32, (Arc<Member>, T)>,
    version: u64,
}

// === impl PerMember ===

impl<T> PerMember<T> {
    /// Makes one with `new` for each member that came, and drops those of members that went.
    pub(super) fn follow(&mut self, pool: &Pool, mut new: impl FnMut(&Arc<Member>) -> T) {
        let snapshot = pool.snapshot();
        if snapshot.version == self.version {
            return;
        }
        self.version = snapshot.version;
        let mut before = std::mem::take(&mut self.of);
        for member in snapshot.members() {
            let number = member.slot.number();
            let kept = match before.remove(&number) {
                Some((known, kept)) if Arc::ptr_eq(&known, member) => kept,
                _ => new(member),
            };
            self.of.insert(number, (Arc::clone(member), kept));
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Arc<Member>, T)> {
        self.of.values()
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Arc<Member>, T)> + '_ {
        self.of.drain().map(|(_, kept)| kept)
    }
}

impl<T> Default for PerMember<T> {
    fn default() -> Self {
        Self {
            of: HashMap::new(),
            version: 0,
        }
    }
}
