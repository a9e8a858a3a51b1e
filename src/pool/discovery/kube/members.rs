//! The pool's own task: the InferencePool says which pods, the pods say which endpoints.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::Client;
use kube::ResourceExt as _;
use kube::runtime::watcher::{Config, Event};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Target;
use super::api::{self, Custom, PoolSpec};
use super::counts::Counts;
use super::events::{Events, follow};
use super::mirror::Mirror;
use super::pods::{self, View};
use super::roster::Roster;
use crate::pool::Pool;

/// How long changes of pods are collected before requests see them.
const BATCH: Duration = Duration::from_millis(20);
/// Ports of a pool.
const MOST_PORTS: usize = 8;

/// What is known of the pool itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// It was looked for, and is there.
    pub(super) exists: bool,
    /// Its pods were listed: it can serve.
    pub(super) synced: bool,
}

/// Which pods, and their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    selector: String,
    ports: Vec<u16>,
}

/// Fills a pool from Kubernetes.
pub(super) struct Members {
    pub(super) pool: Arc<Pool>,
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) counts: Counts,
    /// How long a watch lasts, in seconds.
    pub(super) watch: u32,
    pub(super) standing: watch::Sender<Standing>,
}

/// Pods of one selector.
struct Watched {
    wanted: Wanted,
    pods: Events<View>,
}

// === impl Members ===

impl Members {
    /// For good.
    pub(super) async fn follow(self, target: Target) {
        let mut roster = Roster::default();
        let mut watched = None;
        let mut pools = None;
        match &target {
            Target::Pool { group, name } => {
                let config = Config::default().fields(&format!("metadata.name={name}"));
                let config = config.timeout(self.watch);
                let resource = api::pools(group);
                let what = ("inferencepools", config);
                let (client, counts) = (&self.client, &self.counts);
                let view = |pool: Custom| (pool.name_any(), wanted_of(pool));
                pools = Some(follow(
                    client,
                    &self.namespace,
                    &resource,
                    what,
                    counts,
                    view,
                ));
            }
            Target::Pods { selector, ports } => {
                let wanted = Wanted {
                    selector: selector.clone(),
                    ports: ports.clone(),
                };
                self.watch(&mut watched, &mut roster, wanted);
            }
        }
        let mut known = Mirror::default();
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                event = next(pools.as_mut()) => {
                    known.take(event);
                    if let (true, Target::Pool { name, .. }) = (known.synced(), &target) {
                        self.obey(known.get(name), &mut watched, &mut roster);
                    }
                }
                event = next(watched.as_mut().map(|watched| &mut watched.pods)) => roster.take(event),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    // Meanwhile it may be other pods that are asked for, and these are not known yet.
                    if roster.is_behind() {
                        roster.flush(&self.pool);
                    }
                }
            }
            let synced = watched.is_some() && roster.synced();
            if synced && !self.standing.borrow().synced {
                roster.flush(&self.pool);
                let endpoints = self.pool.snapshot().len();
                tracing::info!(endpoints, "The pods of the pool are known.");
                self.standing.send_modify(|standing| standing.synced = true);
            }
            if roster.is_behind() && due.is_none() {
                due = Some(Instant::now() + BATCH);
            }
        }
    }

    /// `pool` is the InferencePool as it is now.
    fn obey(
        &self,
        pool: Option<&Result<Wanted, String>>,
        watched: &mut Option<Watched>,
        roster: &mut Roster,
    ) {
        let standing = |standing, holds: bool| {
            self.counts
                .objects("inferencepools", standing, holds.into());
        };
        standing("accepted", matches!(pool, Some(Ok(_))));
        standing("invalid", matches!(pool, Some(Err(_))));
        self.standing.send_if_modified(|standing| {
            std::mem::replace(&mut standing.exists, pool.is_some()) != pool.is_some()
        });
        match pool {
            Some(Ok(wanted)) => self.watch(watched, roster, wanted.clone()),
            Some(Err(error)) => {
                tracing::error!(
                    error,
                    "The InferencePool cannot be used; what it was last stays."
                );
            }
            None => {
                if watched.take().is_some() {
                    tracing::warn!("The InferencePool is gone, and its endpoints with it.");
                } else {
                    tracing::warn!("The InferencePool does not exist yet.");
                }
                *roster = Roster::default();
                self.pool.replace(Vec::new());
                self.standing
                    .send_modify(|standing| standing.synced = false);
            }
        }
    }

    fn watch(&self, watched: &mut Option<Watched>, roster: &mut Roster, wanted: Wanted) {
        match watched {
            Some(now) if now.wanted == wanted => return,
            Some(now) if now.wanted.selector == wanted.selector => {
                roster.set_ports(wanted.ports.clone());
                now.wanted = wanted;
                return;
            }
            Some(_) => {
                roster.set_ports(wanted.ports.clone());
                roster.begin_again();
            }
            None => *roster = Roster::new(wanted.ports.clone()),
        }
        tracing::info!(selector = wanted.selector, ports = ?wanted.ports, "Looking for pods.");
        let config = Config::default().labels(&wanted.selector);
        let config = config.timeout(self.watch);
        let what = ("pods", config);
        let (client, counts) = (&self.client, &self.counts);
        let pods = follow(
            client,
            &self.namespace,
            &api::pods(),
            what,
            counts,
            pods::view,
        );
        *watched = Some(Watched { wanted, pods });
    }
}

/// The next event, if there is anything to follow.
pub(super) async fn next<V>(events: Option<&mut Events<V>>) -> Event<(String, V)> {
    let next = match events {
        Some(events) => events.next().await,
        None => None,
    };
    match next {
        Some(event) => event,
        None => pending().await,
    }
}

/// What a pool asks for; the error names the field.
fn wanted_of(mut pool: Custom) -> Result<Wanted, String> {
    let spec: PoolSpec = api::spec(&mut pool)?;
    let labels = spec.selector.match_labels;
    if labels.is_empty() {
        return Err(
            "spec.selector.matchLabels: it is empty; name the labels of the pods".to_owned(),
        );
    }
    let mut ports: Vec<u16> = Vec::new();
    for (n, port) in spec.target_ports.iter().enumerate() {
        if port.number == 0 {
            return Err(format!(
                "spec.targetPorts[{n}].number: 0 is not from 1 to 65535"
            ));
        }
        if ports.contains(&port.number) {
            return Err(format!(
                "spec.targetPorts[{n}].number: {} is there twice",
                port.number
            ));
        }
        ports.push(port.number);
    }
    if !(1..=MOST_PORTS).contains(&ports.len()) {
        let count = ports.len();
        return Err(format!(
            "spec.targetPorts: there are {count}; give 1 to {MOST_PORTS}"
        ));
    }
    Ok(Wanted {
        selector: selector(&labels),
        ports,
    })
}

fn selector(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn wanted(spec: Value) -> Result<Wanted, String> {
        wanted_of(serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).unwrap())
    }

    #[test]
    fn a_pool_says_which_pods() {
        let got = wanted(json!({
            "selector": {"matchLabels": {"app": "vllm", "tier": ""}},
            "targetPorts": [{"number": 8000}, {"number": 8001}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        }));
        let expected = Wanted {
            selector: "app=vllm,tier=".to_owned(),
            ports: vec![8000, 8001],
        };
        assert_eq!(got, Ok(expected));
    }

    #[test]
    fn a_pool_that_cannot_be_used_says_why() {
        let labels = json!({"matchLabels": {"a": "b"}});
        let ports = |ports: Value| json!({"selector": labels, "targetPorts": ports});
        for (spec, expected) in [
            (
                ports(json!([])),
                "spec.targetPorts: there are 0; give 1 to 8",
            ),
            (
                ports(json!([{"number": 0}])),
                "spec.targetPorts[0].number: 0",
            ),
            (
                ports(json!([{"number": 1}, {"number": 1}])),
                "spec.targetPorts[1].number: 1 is there twice",
            ),
            (
                ports(json!([{"number": 70000}])),
                "spec.targetPorts[0].number: invalid value",
            ),
            (
                json!({"selector": labels}),
                "spec: missing field `targetPorts`",
            ),
            (
                json!({"selector": {"matchLabels": {}}, "targetPorts": []}),
                "spec.selector.matchLabels: it is empty",
            ),
            (
                json!({"selector": {"app": "v1alpha2"}, "targetPorts": []}),
                "spec.selector: missing field `matchLabels`",
            ),
            (Value::Null, "spec"),
        ] {
            let error = wanted(spec).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
