//! Conditions of objectives and rewrites: `Accepted`, `ResolvedRefs`.
//!
//! They are written by server-side apply, so that conditions of others stay, and only where they are not what they should be: two
//! replicas that both write say the same. Without the right to write them they are left alone; logs and metrics tell it all
//! the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Error};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::api::{self, Custom, Kind};
use super::counts::Counts;
use super::policy::{Standing, Verdict};

/// Who we are to the API server: what we write is ours by this name.
const MANAGER: &str = "pointsman";
/// Between two requests.
const PACE: Duration = Duration::from_millis(20);
/// Before what failed is tried again, and what was asked is asked again.
const RETRY: Duration = Duration::from_secs(30);
/// Before writing is tried again without the right to.
const FORBIDDEN: Duration = Duration::from_secs(600);
/// Requests that the API server may fail before the rest is left for later.
const MOST_FAILURES: usize = 3;
/// Characters of a condition's message, as every definition of conditions has it.
const LONGEST_MESSAGE: usize = 32_768;

/// What is to be told of all objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    /// Whether the pool exists.
    pub(super) pool_exists: bool,
    /// Where objectives and rewrites are served.
    pub(super) groups: HashMap<Kind, &'static str>,
    pub(super) verdicts: Arc<[Verdict]>,
}

/// Writes conditions, while it may.
pub(super) struct Writer {
    client: Client,
    namespace: String,
    pool_group: String,
    counts: Counts,
    /// By uid, the last write about each object that is not as it should be yet.
    tried: HashMap<String, Tried>,
    /// Pools that exist, or may not be asked for: until when what is for them is left to their pickers.
    others: HashMap<String, Instant>,
    forbidden_until: HashMap<Kind, Instant>,
    /// The uid of the object at which the API server failed too often: the others come before it.
    stuck: Option<String>,
}

/// A write of conditions.
struct Tried {
    before: Vec<Condition>,
    wanted: [Condition; 2],
    /// Until when it is not worth another try: it was refused. `None`: it was written, and is not heard of yet.
    refused_until: Option<Instant>,
}

// === impl Tried ===

impl Tried {
    /// Whether the same write need not be tried again, now.
    fn is_enough(&self, verdict: &Verdict, wanted: &[Condition; 2]) -> bool {
        let same = (&self.before, &self.wanted) == (&verdict.conditions, wanted);
        same && self
            .refused_until
            .is_none_or(|until| Instant::now() < until)
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(
        client: Client,
        namespace: String,
        pool_group: String,
        counts: Counts,
    ) -> Self {
        Self {
            client,
            namespace,
            pool_group,
            counts,
            tried: HashMap::new(),
            others: HashMap::new(),
            forbidden_until: HashMap::new(),
            stuck: None,
        }
    }

    /// Follows `reports` for as long as there are any, and writes while `leading`.
    pub(super) async fn follow(
        mut self,
        mut reports: watch::Receiver<Report>,
        mut leading: watch::Receiver<bool>,
    ) {
        let mut again = Instant::now() + RETRY;
        loop {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
                changed = leading.changed() => if changed.is_err() { return },
                () = sleep_until(again) => {}
            }
            let report = reports.borrow_and_update().clone();
            if *leading.borrow_and_update() {
                self.write(&report).await;
            }
            again = Instant::now() + RETRY;
        }
    }

    async fn write(&mut self, report: &Report) {
        let mut failures = 0;
        // Asked for in this pass; a picker that has come since must not be contradicted for longer.
        let mut missing = HashSet::new();
        let verdicts = &report.verdicts;
        let current: HashSet<_> = verdicts.iter().map(|v| &v.uid).collect();
        self.tried.retain(|uid, _| current.contains(uid));
        self.others.retain(|_, until| Instant::now() < *until);
        let stuck = self.stuck.take();
        let stuck = stuck.and_then(|uid| verdicts.iter().position(|v| v.uid == uid));
        let (last, first) = verdicts.split_at(stuck.map_or(0, |at| at + 1));
        for verdict in first.iter().chain(last) {
            let forbidden = self.forbidden_until.get(&verdict.kind);
            let Some(group) = report.groups.get(&verdict.kind) else {
                continue;
            };
            if forbidden.is_some_and(|&until| Instant::now() < until) {
                continue;
            }
            let other = verdict.standing.other_pool();
            if other
                .is_some_and(|o| o.group != self.pool_group || self.others.contains_key(&o.name))
            {
                continue;
            }
            let wanted = wanted(verdict, report.pool_exists);
            if wanted.iter().all(|condition| is_there(condition, verdict)) {
                self.tried.remove(&verdict.uid);
                continue;
            }
            let tried = self.tried.get(&verdict.uid);
            if tried.is_some_and(|tried| tried.is_enough(verdict, &wanted)) {
                continue;
            }
            let written = match other {
                Some(other) if !missing.contains(&*other.name) => {
                    match self.is_missing(&other.name).await {
                        Ok(true) => {
                            missing.insert(&*other.name);
                            self.apply(verdict, group, &wanted).await
                        }
                        Ok(false) => continue,
                        Err(error) => Err(error),
                    }
                }
                _ => self.apply(verdict, group, &wanted).await,
            };
            match written {
                Ok(_) => {
                    self.remember(verdict, wanted, None);
                    self.counts.status_written("written");
                }
                Err(Error::Api(status)) if status.code == 403 => {
                    let until = Instant::now() + FORBIDDEN;
                    if self.forbidden_until.insert(verdict.kind, until).is_none() {
                        let resource = verdict.kind.plural();
                        tracing::warn!(
                            "The status of {resource} cannot be written: allow `patch` of `{resource}/status` to see there what becomes of them. Metrics and logs tell it too."
                        );
                    }
                    self.counts.status_written("forbidden");
                }
                // It went, or became another one.
                Err(Error::Api(status)) if [404, 409].contains(&status.code) => {
                    self.counts.status_written("gone");
                }
                // It is about this object: others may fare better.
                Err(Error::Api(status)) if is_refusal(status.code) => {
                    let (resource, name) = (verdict.kind.plural(), &verdict.name);
                    tracing::debug!(%status, "The status of {resource}/{name} is refused.");
                    let until = Instant::now() + RETRY;
                    self.remember(verdict, wanted, Some(until));
                    self.counts.status_written("failed");
                }
                Err(error) => {
                    tracing::debug!(%error, object = verdict.name, "A status cannot be written.");
                    self.counts.status_written("failed");
                    failures += 1;
                    if failures == MOST_FAILURES {
                        self.stuck = Some(verdict.uid.clone());
                        return;
                    }
                }
            }
            sleep(PACE).await;
        }
    }

    fn remember(
        &mut self,
        verdict: &Verdict,
        wanted: [Condition; 2],
        refused_until: Option<Instant>,
    ) {
        let tried = Tried {
            before: verdict.conditions.clone(),
            wanted,
            refused_until,
        };
        self.tried.insert(verdict.uid.clone(), tried);
    }

    /// Whether there is no such pool. If there is, its own picker speaks for it.
    async fn is_missing(&mut self, name: &str) -> Result<bool, Error> {
        let resource = api::pools(&self.pool_group);
        let pools = Api::<Custom>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let found = pools.get_opt(name).await;
        sleep(PACE).await;
        let missing = match found {
            Ok(found) => found.is_none(),
            Err(Error::Api(status)) if status.code == 403 => false,
            Err(error) => return Err(error),
        };
        if !missing {
            self.others.insert(name.to_owned(), Instant::now() + RETRY);
        }
        Ok(missing)
    }

    async fn apply(
        &self,
        verdict: &Verdict,
        group: &str,
        wanted: &[Condition; 2],
    ) -> Result<Custom, Error> {
        let resource = verdict.kind.resource(group);
        let now = Time(Timestamp::now());
        let conditions = wanted.clone().map(|condition| {
            let before = verdict.conditions.iter();
            let mut before =
                before.filter(|b| (&b.type_, &b.status) == (&condition.type_, &condition.status));
            let since = before
                .next()
                .map(|before| before.last_transition_time.clone());
            Condition {
                last_transition_time: since.unwrap_or_else(|| now.clone()),
                ..condition
            }
        });
        let body = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": verdict.name, "namespace": self.namespace, "uid": verdict.uid},
            "status": {"conditions": conditions},
        });
        let objects = Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
        let params = PatchParams::apply(MANAGER).force();
        objects
            .patch_status(&verdict.name, &params, &Patch::Apply(body))
            .await
    }
}

/// At most as many characters as a message may have.
fn cut(message: &str) -> String {
    match message.char_indices().nth(LONGEST_MESSAGE) {
        None => message.to_owned(),
        Some(_) => message
            .chars()
            .take(LONGEST_MESSAGE - 1)
            .chain(['…'])
            .collect(),
    }
}

/// Whether a status says that there is something about the object, and nothing about who asks or how often.
fn is_refusal(code: u16) -> bool {
    (400..500).contains(&code) && ![401, 403, 429].contains(&code)
}

/// The conditions that an object should have; where it is for another pool, if that does not exist.
fn wanted(verdict: &Verdict, pool_exists: bool) -> [Condition; 2] {
    let unresolved = match &verdict.standing {
        Standing::OtherPool(other) => {
            let name = &other.name;
            let message = format!("There is no InferencePool `{name}` here.");
            Some(("PoolNotFound", message))
        }
        Standing::InvalidKind => Some(("InvalidKind", verdict.message.clone())),
        _ if !pool_exists => Some((
            "PoolNotFound",
            "Its InferencePool does not exist.".to_owned(),
        )),
        _ => None,
    };
    let condition = |r#type: &str, holds, reason: &str, message: &str| Condition {
        last_transition_time: Time(Timestamp::UNIX_EPOCH),
        message: cut(message),
        observed_generation: verdict.generation,
        reason: reason.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        type_: r#type.to_owned(),
    };
    match unresolved {
        Some((reason, message)) => [
            condition("Accepted", false, reason, &message),
            condition("ResolvedRefs", false, reason, &message),
        ],
        None => [
            condition(
                "Accepted",
                verdict.standing.is_in_force(),
                reason(&verdict.standing),
                &verdict.message,
            ),
            condition("ResolvedRefs", true, "ResolvedRefs", "The pool is there."),
        ],
    }
}

fn reason(standing: &Standing) -> &'static str {
    match standing {
        Standing::Accepted => "Accepted",
        Standing::PartiallyInvalid => "PartiallyInvalid",
        Standing::Invalid => "Invalid",
        Standing::Conflicted => "Conflicted",
        Standing::TooMany => "TooMany",
        Standing::InvalidKind => "InvalidKind",
        Standing::OtherPool(_) => "PoolNotFound",
    }
}

fn is_there(wanted: &Condition, verdict: &Verdict) -> bool {
    verdict.conditions.iter().any(|there| {
        let same = Condition {
            last_transition_time: there.last_transition_time.clone(),
            ..wanted.clone()
        };
        *there == same
    })
}
