//! The pods that are watched, as endpoints; what changed of them goes into the pool a handful at a time.

use std::collections::HashMap;

use kube::runtime::watcher::Event;

use super::mirror::Mirror;
use super::pods::View;
use crate::pool::{Change, Endpoint, EndpointId, Pool};

/// Pods, and what the pool has yet to hear of them.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pods: Mirror<View>,
    ports: Vec<u16>,
    /// The endpoints of each pod, as the pool has them or is about to.
    endpoints: HashMap<String, Vec<Endpoint>>,
    /// By endpoint, so that what comes and goes at once is never seen.
    pending: HashMap<EndpointId, Change>,
}

// === impl Roster ===

impl Roster {
    /// For pods that serve `ports`.
    pub(super) fn new(ports: Vec<u16>) -> Self {
        Self {
            ports,
            ..Self::default()
        }
    }

    pub(super) fn take(&mut self, event: Event<(String, View)>) {
        for pod in self.pods.take(event) {
            self.refresh(pod);
        }
    }

    /// The pool's ports are others now.
    pub(super) fn set_ports(&mut self, ports: Vec<u16>) {
        self.ports = ports;
        let pods: Vec<String> = self.pods.iter().map(|(name, _)| name.clone()).collect();
        pods.into_iter().for_each(|pod| self.refresh(pod));
    }

    /// Other pods are watched from now on. Those known so far stay until the others are known.
    pub(super) fn begin_again(&mut self) {
        self.pods.begin_again();
    }

    fn refresh(&mut self, pod: String) {
        let server = self.pods.get(&pod).and_then(Option::as_ref);
        let wanted: Vec<Endpoint> = server
            .map(|server| server.endpoints(&self.ports).collect())
            .unwrap_or_default();
        let had = match wanted.is_empty() {
            true => self.endpoints.remove(&pod),
            false => self.endpoints.insert(pod, wanted.clone()),
        };
        let gone = had.into_iter().flatten();
        let gone = gone.filter(|had| !wanted.iter().any(|endpoint| endpoint.id == had.id));
        for endpoint in gone {
            let change = Change::Remove(endpoint.id.clone());
            self.pending.insert(endpoint.id, change);
        }
        for endpoint in wanted {
            let id = endpoint.id.clone();
            self.pending.insert(id, Change::Put(endpoint));
        }
    }

    /// Whether the pods were listed whole.
    pub(super) fn synced(&self) -> bool {
        self.pods.synced()
    }

    /// Whether the pool has something to hear.
    pub(super) fn is_behind(&self) -> bool {
        self.synced() && !self.pending.is_empty()
    }

    /// Tells `pool` what changed.
    pub(super) fn flush(&mut self, pool: &Pool) {
        pool.update(self.pending.drain().map(|(_, change)| change));
    }
}

#[cfg(test)]
mod tests {
    use super::super::pods;
    use super::*;
    use serde_json::json;

    fn pod(name: &str, ready: bool) -> (String, View) {
        let number = name.trim_start_matches("p");
        let ready = if ready { "True" } else { "False" };
        let pod = json!({
            "metadata": {"name": name, "namespace": "n"},
            "spec": {},
            "status": {"podIP": format!("10.0.0.{number}"), "conditions": [{"type": "Ready", "status": ready}]},
        });
        pods::view(serde_json::from_value(pod).unwrap())
    }

    fn names(pool: &Pool) -> Vec<String> {
        let snapshot = pool.snapshot();
        let mut names: Vec<String> = snapshot
            .members()
            .iter()
            .map(|m| m.endpoint.id.name.clone())
            .collect();
        names.sort();
        names
    }

    fn listed(roster: &mut Roster, pods: &[&str]) {
        roster.take(Event::Init);
        pods.iter()
            .for_each(|name| roster.take(Event::InitApply(pod(name, true))));
        roster.take(Event::InitDone);
    }

    #[test]
    fn pods_and_ports_come_and_go() {
        let pool = Pool::default();
        let mut roster = Roster::new(vec![8000]);
        roster.take(Event::Init);
        roster.take(Event::InitApply(pod("p1", true)));
        assert!(!roster.is_behind(), "half a list is no pool");
        roster.take(Event::InitApply(pod("p2", false)));
        roster.take(Event::InitDone);
        roster.flush(&pool);
        assert_eq!(names(&pool), ["p1-rank-0"]);

        roster.set_ports(vec![8000, 8001]);
        roster.take(Event::Apply(pod("p2", true)));
        roster.take(Event::Delete(pod("p1", true)));
        roster.flush(&pool);
        assert_eq!(names(&pool), ["p2-rank-0", "p2-rank-1"]);
        let version = pool.snapshot().version;

        // Gone and back before the pool hears of it.
        roster.take(Event::Apply(pod("p2", false)));
        roster.take(Event::Apply(pod("p2", true)));
        roster.flush(&pool);
        assert_eq!(pool.snapshot().version, version);
    }

    #[test]
    fn other_pods_take_over_at_once() {
        let pool = Pool::default();
        let mut roster = Roster::new(vec![8000]);
        listed(&mut roster, &["p1", "p2"]);
        roster.flush(&pool);
        roster.begin_again();
        roster.take(Event::Init);
        roster.take(Event::InitApply(pod("p2", true)));
        assert!(!roster.is_behind());
        assert_eq!(names(&pool), ["p1-rank-0", "p2-rank-0"]);
        roster.take(Event::InitApply(pod("p3", true)));
        roster.take(Event::InitDone);
        roster.flush(&pool);
        assert_eq!(names(&pool), ["p2-rank-0", "p3-rank-0"]);
    }
}
