//! Something for each endpoint, for as long as it is in the pool.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::{Member, Pool};

/// A `T` for each member of a pool, as of the last [`PerMember::follow`].
#[derive(Debug)]
pub(super) struct PerMember<T> {
    of: HashMap<u32, Kept<T>>,
    version: u64,
}

#[derive(Debug)]
struct Kept<T> {
    of: (Arc<Member>, T),
    /// The last snapshot that it was in.
    version: u64,
}

// === impl PerMember ===

impl<T> PerMember<T> {
    /// Makes one with `new` for each member that came, and drops those of members that went. The others stay as they are.
    pub(super) fn follow(&mut self, pool: &Pool, mut new: impl FnMut(&Arc<Member>) -> T) {
        let snapshot = pool.snapshot();
        let version = snapshot.version;
        if version == self.version {
            return;
        }
        self.version = version;
        for member in snapshot.members() {
            match self.of.entry(member.slot.number()) {
                Entry::Occupied(mut known) if Arc::ptr_eq(&known.get().of.0, member) => {
                    known.get_mut().version = version;
                }
                // A number may be another's by now.
                other => {
                    let of = (Arc::clone(member), new(member));
                    other.insert_entry(Kept { of, version });
                }
            }
        }
        // Where nobody went, nobody is looked for.
        if self.of.len() > snapshot.len() {
            self.of.retain(|_, kept| kept.version == version);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Arc<Member>, T)> {
        self.of.values().map(|kept| &kept.of)
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = (Arc<Member>, T)> + '_ {
        self.of.drain().map(|(_, kept)| kept.of)
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

#[cfg(test)]
mod tests {
    use super::super::snapshot::tests::endpoint;
    use super::*;

    #[test]
    fn what_stays_is_kept_and_what_came_is_made() {
        let pool = Pool::default();
        let mut kept = PerMember::default();
        let mut made = 0;
        let mut follow = |names: &[&str]| {
            let all = names.iter().zip(1..);
            pool.replace(
                all.map(|(n, i)| endpoint(n, &format!("10.0.0.{i}:80")))
                    .collect(),
            );
            kept.follow(&pool, |_| {
                made += 1;
                made
            });
            let mut now: Vec<(String, i32)> = kept
                .iter()
                .map(|(member, number)| (member.endpoint.id.name.clone(), *number))
                .collect();
            now.sort();
            now
        };
        let named = |all: &[(&str, i32)]| -> Vec<(String, i32)> {
            all.iter()
                .map(|&(n, number)| (n.to_owned(), number))
                .collect()
        };
        assert_eq!(
            follow(&["a", "b", "c"]),
            named(&[("a", 1), ("b", 2), ("c", 3)])
        );
        // One went and another came: there are as many as before.
        assert_eq!(
            follow(&["a", "b", "d"]),
            named(&[("a", 1), ("b", 2), ("d", 4)])
        );
        assert_eq!(follow(&["a"]), named(&[("a", 1)]));
        // The same name at another address is another.
        assert_eq!(follow(&["x", "a"]), named(&[("a", 6), ("x", 5)]));
        assert!(follow(&[]).is_empty());
    }
}
