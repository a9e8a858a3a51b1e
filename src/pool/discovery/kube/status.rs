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

use super::api::{self, Custom, Kind, PoolRef};
use super::counts::Counts;
use super::policy::{Standing, Verdict};

/// Who we are to the API server: what we write is ours by this name.
const MANAGER: &str = "pointsman";
/// Between two writes.
const PACE: Duration = Duration::from_millis(20);
/// Before what failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
/// Before writing is tried again without the right to.
const FORBIDDEN: Duration = Duration::from_secs(600);
/// Writes that may fail before the rest is left for later.
const MOST_FAILURES: usize = 3;

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
    /// What was written of objects that are not seen with it yet: their conditions before, and those written.
    written: HashMap<String, (Vec<Condition>, [Condition; 2])>,
    /// Objects of other pools that exist: theirs to write.
    others: HashSet<(String, Option<i64>)>,
    forbidden_until: HashMap<Kind, Instant>,
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
            written: HashMap::new(),
            others: HashSet::new(),
            forbidden_until: HashMap::new(),
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
        let verdicts = report.verdicts.iter();
        let current: HashMap<_, _> = verdicts.map(|v| (&v.uid, v.generation)).collect();
        self.others
            .retain(|(uid, generation)| current.get(uid) == Some(generation));
        self.written.retain(|uid, _| current.contains_key(uid));
        for verdict in &*report.verdicts {
            let forbidden = self.forbidden_until.get(&verdict.kind);
            let Some(group) = report.groups.get(&verdict.kind) else {
                continue;
            };
            if failures == MOST_FAILURES || forbidden.is_some_and(|&until| Instant::now() < until) {
                continue;
            }
            let Some(wanted) = self.wanted(verdict, report.pool_exists).await else {
                continue;
            };
            if wanted.iter().all(|condition| is_there(condition, verdict)) {
                self.written.remove(&verdict.uid);
                continue;
            }
            // It was written, and is not heard of yet.
            let written = self.written.get(&verdict.uid);
            if written
                .is_some_and(|(before, after)| (before, after) == (&verdict.conditions, &wanted))
            {
                continue;
            }
            match self.apply(verdict, group, &wanted).await {
                Ok(_) => {
                    let before = verdict.conditions.clone();
                    self.written.insert(verdict.uid.clone(), (before, wanted));
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
                Err(error) => {
                    tracing::debug!(%error, object = verdict.name, "A status cannot be written.");
                    self.counts.status_written("failed");
                    failures += 1;
                }
            }
            sleep(PACE).await;
        }
    }

    /// `None`: it is not ours to say.
    async fn wanted(&mut self, verdict: &Verdict, pool_exists: bool) -> Option<[Condition; 2]> {
        let no_pool = |name: &str| format!("There is no InferencePool `{name}` here.");
        let unresolved = match &verdict.standing {
            Standing::OtherPool(other) => {
                if !self.is_missing(verdict, other).await {
                    return None;
                }
                Some(("PoolNotFound", no_pool(&other.name)))
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
            message: message.to_owned(),
            observed_generation: verdict.generation,
            reason: reason.to_owned(),
            status: if holds { "True" } else { "False" }.to_owned(),
            type_: r#type.to_owned(),
        };
        Some(match unresolved {
            Some((reason, message)) => [
                condition("Accepted", false, reason, &message),
                condition("ResolvedRefs", false, reason, &message),
            ],
            None => [
                condition(
                    "Accepted",
                    verdict.standing == Standing::Accepted,
                    reason(&verdict.standing),
                    &verdict.message,
                ),
                condition("ResolvedRefs", true, "ResolvedRefs", "The pool is there."),
            ],
        })
    }

    /// Whether the pool that it is for does not exist. If it does, its own picker speaks for it.
    async fn is_missing(&mut self, verdict: &Verdict, other: &PoolRef) -> bool {
        let key = (verdict.uid.clone(), verdict.generation);
        if other.group != self.pool_group || self.others.contains(&key) {
            return false;
        }
        let resource = api::pools(&self.pool_group);
        let pools = Api::<Custom>::namespaced_with(self.client.clone(), &self.namespace, &resource);
        match pools.get_opt(&other.name).await {
            Ok(None) => true,
            Ok(Some(_)) => {
                self.others.insert(key);
                false
            }
            Err(_) => false,
        }
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
