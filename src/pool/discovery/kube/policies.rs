//! The task of objectives and rewrites: follows them wherever they are served, and has them count.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kube::runtime::watcher::{Config, Event};
use kube::{Client, Error};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::api::{Kind, ObjectiveSpec, POLICY_GROUPS, POLICY_VERSION, RewriteSpec};
use super::counts::Counts;
use super::events::{Events, follow};
use super::members::{self, next};
use super::mirror::Mirror;
use super::policy::{self, OurPool, Policy, Resolved, Standing, Verdict};
use super::status::Report;
use crate::pool::Pool;

/// How long changes are collected before they count.
const BATCH: Duration = Duration::from_millis(50);
/// How often it is looked which groups are served: types may be installed later.
const PROBE: Duration = Duration::from_secs(60);
/// The same, after it could not be found out.
const PROBE_AGAIN: Duration = Duration::from_secs(5);
/// Objects with something wrong or odd that are logged at a time.
const TOLD: usize = 20;

/// Fills the tables of a pool from Kubernetes.
pub(super) struct Policies {
    pub(super) pool: Arc<Pool>,
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) ours: OurPool,
    pub(super) counts: Counts,
    /// How long a watch lasts, in seconds.
    pub(super) watch: u32,
    pub(super) reports: watch::Sender<Report>,
    /// Whether all that is served was read.
    pub(super) synced: watch::Sender<bool>,
}

/// The objects of one type, from the group that serves them.
struct Followed<S> {
    kind: Kind,
    group: Option<&'static str>,
    events: Option<Events<Policy<S>>>,
    objects: Mirror<Policy<S>>,
}

// === impl Policies ===

impl Policies {
    /// For good, or until nobody asks how the pool stands.
    pub(super) async fn follow(self, mut standing: watch::Receiver<members::Standing>) {
        let mut objectives = Followed::<ObjectiveSpec>::new(Kind::Objective);
        let mut rewrites = Followed::<RewriteSpec>::new(Kind::Rewrite);
        let mut told = HashMap::new();
        let mut probe = Instant::now();
        let mut probed = false;
        let mut due: Option<Instant> = None;
        loop {
            let changed = tokio::select! {
                event = next(objectives.events.as_mut()) => objectives.take(event),
                event = next(rewrites.events.as_mut()) => rewrites.take(event),
                changed = standing.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = sleep_until(probe) => {
                    let wait = match self.served().await {
                        Ok(served) => {
                            probed = true;
                            self.serve(&mut objectives, &served);
                            self.serve(&mut rewrites, &served);
                            PROBE
                        }
                        Err(error) => {
                            tracing::debug!(%error, "Which groups are served cannot be found out.");
                            PROBE_AGAIN
                        }
                    };
                    probe = Instant::now() + wait;
                    true
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    let resolved = policy::resolve(&self.ours, &objectives.objects, &rewrites.objects);
                    let groups = [(objectives.kind, objectives.group), (rewrites.kind, rewrites.group)];
                    let groups = groups.into_iter().filter_map(|(kind, group)| Some((kind, group?)));
                    let exists = standing.borrow().exists;
                    self.obey(resolved, groups.collect(), exists, &mut told);
                    let all = probed && objectives.is_synced() && rewrites.is_synced();
                    self.synced.send_if_modified(|synced| std::mem::replace(synced, all) != all);
                    false
                }
            };
            if changed && due.is_none() {
                due = Some(Instant::now() + BATCH);
            }
        }
    }

    /// Which group serves each type: a newer one alone, if there are two.
    async fn served(&self) -> Result<HashMap<Kind, &'static str>, Error> {
        let mut served = HashMap::new();
        for group in POLICY_GROUPS {
            let version = format!("{group}/{POLICY_VERSION}");
            let resources = match self.client.list_api_group_resources(&version).await {
                Ok(list) => list.resources,
                Err(Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error),
            };
            for kind in Kind::ALL {
                if resources
                    .iter()
                    .any(|resource| resource.name == kind.plural())
                {
                    served.entry(kind).or_insert(group);
                }
            }
        }
        Ok(served)
    }

    fn serve<S>(&self, followed: &mut Followed<S>, served: &HashMap<Kind, &'static str>)
    where
        S: DeserializeOwned + PartialEq + Send + 'static,
    {
        let group = served.get(&followed.kind).copied();
        if group == followed.group {
            return;
        }
        let plural = followed.kind.plural();
        followed.group = group;
        followed.events = group.map(|group| {
            tracing::info!("Following {plural} of {group}.");
            let resource = followed.kind.resource(group);
            let what = (plural, Config::default().timeout(self.watch));
            let (client, counts) = (&self.client, &self.counts);
            follow(
                client,
                &self.namespace,
                &resource,
                what,
                counts,
                policy::view,
            )
        });
        match group {
            Some(_) => followed.objects.begin_again(),
            None => followed.objects = Mirror::default(),
        }
    }

    fn obey(
        &self,
        resolved: Resolved,
        groups: HashMap<Kind, &'static str>,
        pool_exists: bool,
        told: &mut HashMap<(Kind, String), String>,
    ) {
        self.pool.objectives.replace(resolved.priorities);
        self.pool.rewrites.replace(resolved.rules);
        self.count(&resolved.verdicts);
        tell(&resolved.verdicts, told);
        self.reports.send_replace(Report {
            pool_exists,
            groups,
            verdicts: resolved.verdicts.into(),
        });
    }

    fn count(&self, verdicts: &[Verdict]) {
        for kind in Kind::ALL {
            for word in Standing::WORDS {
                let alike = verdicts
                    .iter()
                    .filter(|v| (v.kind, v.standing.word()) == (kind, word));
                self.counts.objects(kind.plural(), word, alike.count());
            }
        }
    }
}

/// Logs what is wrong with objects, or odd, once for each fault.
fn tell(verdicts: &[Verdict], told: &mut HashMap<(Kind, String), String>) {
    let mut now = HashMap::new();
    let mut lines = 0;
    for verdict in verdicts {
        if !verdict.noted {
            continue;
        }
        let key = (verdict.kind, verdict.name.clone());
        if told.get(&key) != Some(&verdict.message) && lines < TOLD {
            lines += 1;
            let (resource, standing) = (verdict.kind.plural(), verdict.standing.word());
            let name = &verdict.name;
            match verdict.standing {
                // Theirs may be the namespace too.
                Standing::OtherPool(_) => tracing::info!("{resource}/{name}: {}", verdict.message),
                _ => tracing::warn!(standing, "{resource}/{name}: {}", verdict.message),
            }
        }
        now.insert(key, verdict.message.clone());
    }
    if lines == TOLD {
        tracing::warn!("There may be more objects with something wrong: see their status.");
    }
    *told = now;
}

// === impl Followed ===

impl<S: PartialEq> Followed<S> {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            group: None,
            events: None,
            objects: Mirror::default(),
        }
    }

    fn take(&mut self, event: Event<(String, Policy<S>)>) -> bool {
        let done = matches!(event, Event::InitDone);
        let changed = self.objects.take(event);
        done || !changed.is_empty()
    }

    /// Everything was read, or there is nothing to read.
    fn is_synced(&self) -> bool {
        self.events.is_none() || self.objects.synced()
    }
}
