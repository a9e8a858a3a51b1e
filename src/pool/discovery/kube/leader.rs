//! Who leads of several replicas, by a Lease: as client-go does it, so that replicas of either kind agree.
//!
//! Clocks of different machines are never compared: a lease has run out when nobody was seen to renew it for as long as it
//! lasts. Every write names the version that it was made from, so of two that want it one gets it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::counts::Counts;

/// How long a lease lasts after it was renewed.
const LASTS: Duration = Duration::from_secs(15);
/// Who cannot renew it for so long does not lead any more.
const DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries to get or renew it.
const RETRY: Duration = Duration::from_secs(2);
/// How often a write is tried in a row where others write too.
const WRITES: usize = 3;

/// One replica that wants to lead.
pub(super) struct Candidate {
    leases: Api<Lease>,
    lease: String,
    /// Its own name, unlike that of any other replica.
    identity: String,
    counts: Counts,
    /// The lease as last seen, and when it was first seen so.
    seen: Option<(LeaseSpec, Instant)>,
    /// When the last write that made it ours was sent.
    renewed: Instant,
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        pool: &str,
        identity: String,
        counts: Counts,
    ) -> Self {
        Self {
            leases: Api::namespaced(client, namespace),
            lease: format!("epp-{namespace}-{pool}.llm-d.ai"),
            identity,
            counts,
            seen: None,
            renewed: Instant::now(),
        }
    }

    /// Says in `leading` whether it leads, until `stop`; then lets others lead at once.
    pub(super) async fn run(mut self, leading: watch::Sender<bool>, stop: CancellationToken) {
        let mut failing = false;
        loop {
            // Who leads hears nothing for no longer than it may lead unheard of.
            let patience = match *leading.borrow() {
                true => DEADLINE.saturating_sub(self.renewed.elapsed()),
                false => DEADLINE,
            };
            let tried = timeout(patience, self.try_to_lead());
            let tried = tokio::select! {
                tried = tried => tried.map_err(|_| "no answer in time".to_owned()),
                () = stop.cancelled() => break,
            };
            match tried.and_then(|tried| tried.map_err(|error| error.to_string())) {
                Ok(leads) => {
                    failing = false;
                    self.tell(&leading, leads);
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(
                            lease = self.lease,
                            error,
                            "The lease cannot be had or renewed."
                        );
                    }
                    if self.renewed.elapsed() >= DEADLINE {
                        self.tell(&leading, false);
                    }
                }
            }
            tokio::select! {
                () = sleep(RETRY.mul_f64(rand::random_range(1.0..1.2))) => {}
                () = stop.cancelled() => break,
            }
        }
        if *leading.borrow() {
            self.tell(&leading, false);
            if let Ok(Err(error)) = timeout(RETRY, self.release()).await {
                tracing::warn!(lease = self.lease, %error, "The lease cannot be released; it runs out.");
            }
        }
    }

    fn tell(&self, leading: &watch::Sender<bool>, leads: bool) {
        let changed = leading.send_if_modified(|now| std::mem::replace(now, leads) != leads);
        if changed {
            tracing::info!(
                lease = self.lease,
                leads,
                "Another leads, or this one does."
            );
            self.counts.leading(leads);
        }
    }

    /// Whoever writes anything into the lease, be it a label, has our write of it fail. So it is read again: whose it is counts.
    async fn try_to_lead(&mut self) -> Result<bool, Error> {
        for _ in 1..WRITES {
            match self.try_once().await {
                Err(Error::Api(status)) if status.code == 409 => {}
                tried => return tried,
            }
        }
        self.try_once().await
    }

    async fn try_once(&mut self) -> Result<bool, Error> {
        let Some(lease) = self.leases.get_opt(&self.lease).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.lease.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            let asked = Instant::now();
            self.leases.create(&PostParams::default(), &lease).await?;
            self.renewed = asked;
            return Ok(true);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != spec) {
            self.seen = Some((spec.clone(), Instant::now()));
        }
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if !holder.is_empty() && holder != self.identity && !self.has_run_out(&spec) {
            return Ok(false);
        }
        let next = Lease {
            spec: Some(self.spec(Some(&spec))),
            ..lease
        };
        // Others may take it as of now, however late the answer comes.
        let asked = Instant::now();
        let params = PostParams::default();
        self.leases.replace(&self.lease, &params, &next).await?;
        self.renewed = asked;
        Ok(true)
    }

    fn has_run_out(&self, spec: &LeaseSpec) -> bool {
        let lasts = spec.lease_duration_seconds.and_then(|s| s.try_into().ok());
        let lasts = lasts.map_or(LASTS, Duration::from_secs);
        self.seen
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() > lasts)
    }

    /// The lease in our hands, after it was as `before`.
    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let transitions = before
            .and_then(|before| before.lease_transitions)
            .unwrap_or_default();
        let ours = before.filter(|b| b.holder_identity.as_deref() == Some(&self.identity));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(LASTS.as_secs() as i32),
            acquire_time: ours.map_or_else(|| Some(now.clone()), |ours| ours.acquire_time.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions + i32::from(before.is_some() && ours.is_none())),
            ..LeaseSpec::default()
        }
    }

    /// Gives it back, so that another need not wait for it to run out.
    async fn release(&mut self) -> Result<(), Error> {
        let lease = self.leases.get(&self.lease).await?;
        let Some(spec) = lease.spec.as_ref() else {
            return Ok(());
        };
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        let next = Lease {
            spec: Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..spec.clone()
            }),
            ..lease
        };
        self.leases
            .replace(&self.lease, &PostParams::default(), &next)
            .await?;
        Ok(())
    }
}
