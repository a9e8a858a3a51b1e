//! What follows from who an endpoint is, worked out once for a snapshot and not for every request.
//!
//! Labels are strings in a tree; a profile that looked at them for every candidate of every request would spend more on
//! that than on all scores. They change only with the topology.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::pool::{Endpoint, Snapshot};

/// A value for each endpoint of the snapshot that was last asked for. Snapshots must be of one pool.
#[derive(Debug)]
pub(super) struct PerEndpoint<T> {
    cached: ArcSwapOption<(u64, Vec<T>)>,
}

// === impl PerEndpoint ===

impl<T> Default for PerEndpoint<T> {
    fn default() -> Self {
        Self {
            cached: ArcSwapOption::empty(),
        }
    }
}

impl<T> PerEndpoint<T> {
    /// The values by position, made by `make` where they are not known.
    pub(super) fn of(
        &self,
        snapshot: &Snapshot,
        make: impl Fn(&Endpoint) -> T,
    ) -> Arc<(u64, Vec<T>)> {
        if let Some(cached) = self.cached.load_full()
            && cached.0 == snapshot.version
        {
            return cached;
        }
        let members = snapshot.members().iter();
        let values = members.map(|member| make(&member.endpoint)).collect();
        let made = Arc::new((snapshot.version, values));
        self.cached.store(Some(Arc::clone(&made)));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{EndpointId, Pool};
    use std::cell::Cell;

    #[test]
    fn values_are_made_once_for_a_snapshot() {
        let pool = Pool::default();
        let endpoint = |name: &str| Endpoint {
            id: EndpointId {
                namespace: "default".into(),
                name: name.into(),
            },
            address: [10, 0, 0, 1].into(),
            port: 80,
            hardware: Default::default(),
            labels: Default::default(),
        };
        let cache = PerEndpoint::default();
        let made = Cell::new(0);
        let names = |snapshot: &Snapshot| {
            let all = cache.of(snapshot, |endpoint| {
                made.set(made.get() + 1);
                endpoint.id.name.clone()
            });
            all.1.clone()
        };
        let snapshot = pool.replace(vec![endpoint("a")]);
        assert_eq!(names(&snapshot), ["a"]);
        assert_eq!(names(&snapshot), ["a"]);
        assert_eq!(made.get(), 1);
        let snapshot = pool.replace(vec![endpoint("a"), endpoint("b")]);
        assert_eq!(names(&snapshot), ["a", "b"]);
        assert_eq!(made.get(), 3);
    }
}
