//! Follows the agents of nodes: a gRPC stream each, for as long as the agent is wanted.
//!
//! An agent that cannot be reached, says nothing for [`SILENT_MS`] or says something out of turn is connected to again, after
//! a while that doubles with each failure, give or take a half. What it told stays and ages meanwhile. A stream begins with
//! a snapshot, and its reports are numbered: one that is missing means that something is not known, so the stream is begun
//! anew.
//!
//! Agents are reached in clear text, or by TLS ([`tls`]): then an agent is verified by the name that it was looked up by, or
//! by its address where it has none, unless one name is given for all.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gpu_probes::telemetry::gpu_telemetry_client::GpuTelemetryClient;
use gpu_probes::telemetry::{Report, WatchRequest, report::Content};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::super::clock_ms;
use super::{Gpus, SILENT_MS, SourceId, SourceKind};

mod failure;
pub mod tls;

pub use failure::{FailedStreams, StreamError, StreamFault};
use tls::AgentTls;

/// Agents that are followed: more than any cluster has nodes.
pub const MOST_AGENTS: usize = 8_192;
/// Without a report for so long, a stream has ended.
const SILENCE: Duration = Duration::from_millis(SILENT_MS);
/// Between two look-ups of names.
const RESOLVE: Duration = Duration::from_secs(5);
/// For a connection.
const CONNECT: Duration = Duration::from_secs(2);
/// Before the second try, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Bytes of a report: a snapshot of as many GPUs as a node has, with their processes, takes a tenth.
const LARGEST_REPORT: usize = 4 << 20;

/// Where an agent is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AgentAt {
    /// `host:port`, to connect to.
    pub address: Arc<str>,
    /// Whose certificate it has: a DNS name, or an address without a port.
    pub name: Arc<str>,
}

/// All agents that are followed.
#[derive(Debug)]
pub struct Agents {
    gpus: Arc<Gpus>,
    /// How they are reached; `None` = in clear text.
    tls: Option<Arc<AgentTls>>,
    /// By where they are; with what is followed there.
    of: BTreeMap<Arc<str>, (AgentAt, AbortOnDropHandle<()>)>,
}

/// Whether `address` is `host:port`, as the address of an agent must be.
///
/// # Errors
///
/// What it should be.
pub fn check_address(address: &str) -> Result<(), String> {
    let authority = address.parse::<http::uri::Authority>().ok();
    let whole = authority.filter(|a| a.port_u16().is_some_and(|port| port > 0));
    match whole {
        Some(authority) if !authority.host().is_empty() && !address.contains('@') => Ok(()),
        _ => Err(format!(
            "`{address}` is not host:port; write for instance 10.0.0.7:9401"
        )),
    }
}

// === impl Agents ===

impl Agents {
    /// None is followed yet. They will be reached by `tls`, if it is given.
    pub fn new(gpus: Arc<Gpus>, tls: Option<Arc<AgentTls>>) -> Self {
        Self {
            gpus,
            tls,
            of: BTreeMap::new(),
        }
    }

    /// From now on those of `wanted` are followed, the first [`MOST_AGENTS`] of them, and no others. What others told is
    /// forgotten. Of two at one address the first counts.
    pub fn set(&mut self, wanted: impl IntoIterator<Item = AgentAt>) {
        let mut before = std::mem::take(&mut self.of);
        for at in wanted.into_iter().take(MOST_AGENTS) {
            let Entry::Vacant(place) = self.of.entry(Arc::clone(&at.address)) else {
                continue;
            };
            let known = before.remove(&at.address);
            let known = known.filter(|(known, _)| known.name == at.name || self.tls.is_none());
            let following = known.map(|(_, following)| following).unwrap_or_else(|| {
                self.gpus.add(&id(&at), SILENT_MS);
                let (gpus, tls) = (Arc::clone(&self.gpus), self.tls.clone());
                AbortOnDropHandle::new(tokio::spawn(follow(gpus, at.clone(), tls)))
            });
            place.insert((at, following));
        }
        for (at, following) in before.into_values() {
            following.abort();
            self.gpus.remove(&id(&at));
        }
    }
}

/// Has `agents` follow those at `addresses`, and those that are found, for good. A name may stand for many (a headless
/// Service): all that the DNS has for it now are followed. One that it has nothing for stands for what it stood for before.
pub async fn follow_all(
    mut agents: Agents,
    addresses: Vec<String>,
    mut others: watch::Receiver<Vec<AgentAt>>,
) {
    let mut found: BTreeMap<&str, Vec<AgentAt>> = BTreeMap::new();
    loop {
        // One that takes its time holds up no other.
        let all = join_all(addresses.iter().map(|address| resolve(address))).await;
        for (address, now) in addresses.iter().zip(all) {
            if let Some(now) = now {
                found.insert(address, now);
            }
        }
        let next = tokio::time::Instant::now() + RESOLVE;
        loop {
            let others_now = others.borrow_and_update().clone();
            agents.set(found.values().flatten().cloned().chain(others_now));
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                Ok(()) = others.changed() => {}
            }
        }
    }
}

/// All that `address` stands for; `None`: that is not known.
async fn resolve(address: &str) -> Option<Vec<AgentAt>> {
    let given = AgentAt::of(address);
    if address.parse::<SocketAddr>().is_ok() {
        return Some(vec![given]);
    }
    let found = tokio::time::timeout(RESOLVE, tokio::net::lookup_host(address)).await;
    let at = |one: SocketAddr| AgentAt {
        address: one.to_string().into(),
        name: Arc::clone(&given.name),
    };
    match found.ok()? {
        Ok(all) => Some(all.map(at).collect()),
        Err(error) => {
            tracing::debug!(agent = %address, %error, "Its name cannot be resolved.");
            None
        }
    }
}

fn id(at: &AgentAt) -> SourceId {
    SourceId {
        kind: SourceKind::Agent,
        address: Arc::clone(&at.address),
    }
}

/// Follows the agent for good.
async fn follow(gpus: Arc<Gpus>, at: AgentAt, tls: Option<Arc<AgentTls>>) {
    let (mut failures, mut told) = (0, String::new());
    loop {
        let mut reports = 0;
        let Err(error) = stream(&gpus, &at, tls.as_ref(), &mut reports).await;
        gpus.failed_streams.count(error.cause());
        if reports > 0 {
            (failures, told) = (0, String::new());
        }
        let error = error.to_string();
        if error != told {
            tracing::warn!(agent = %at.address, %error, "The GPU agent is not heard.");
            told = error;
        }
        failures += 1;
        tokio::time::sleep(pause(failures, rand::random_range(0.5..1.5))).await;
    }
}

/// Before the next try, after so many in a row that failed.
fn pause(failures: u32, jitter: f64) -> Duration {
    let pause = PAUSE * (1 << (failures - 1).min(16));
    pause.min(LONGEST_PAUSE).mul_f64(jitter)
}

/// What the agent `at` tells now: a snapshot.
///
/// # Errors
///
/// It cannot be reached, or tells something else.
pub async fn ask(at: &AgentAt, tls: Option<&Arc<AgentTls>>) -> Result<Report, StreamError> {
    let report = next(&mut open(at, tls).await?).await?;
    check(&report, 0)?;
    Ok(report)
}

async fn open(at: &AgentAt, tls: Option<&Arc<AgentTls>>) -> Result<Streaming<Report>, StreamError> {
    let address = &at.address;
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|_| StreamError::Address(address.to_string()))?;
    let endpoint = endpoint.connect_timeout(CONNECT);
    let channel = match tls {
        None => endpoint.connect().await,
        Some(tls) => {
            let (tls, name) = (Arc::clone(tls), Arc::clone(&at.name));
            let connect = move |uri| Arc::clone(&tls).connect(uri, Arc::clone(&name));
            endpoint
                .connect_with_connector(tower::service_fn(connect))
                .await
        }
    };
    let channel = channel.map_err(StreamError::Connect)?;
    let mut client = GpuTelemetryClient::new(channel).max_decoding_message_size(LARGEST_REPORT);
    let watching = tokio::time::timeout(SILENCE, client.watch(WatchRequest {}));
    let watching = watching.await.map_err(|_| StreamError::Silent)?;
    Ok(watching?.into_inner())
}

async fn next(inbound: &mut Streaming<Report>) -> Result<Report, StreamError> {
    let report = tokio::time::timeout(SILENCE, inbound.message());
    let report = report.await.map_err(|_| StreamError::Silent)??;
    report.ok_or(StreamError::Ended)
}

/// Takes in what one stream says; how many `reports` that were.
async fn stream(
    gpus: &Gpus,
    at: &AgentAt,
    tls: Option<&Arc<AgentTls>>,
    reports: &mut u64,
) -> Result<std::convert::Infallible, StreamError> {
    let id = id(at);
    let mut inbound = open(at, tls).await?;
    loop {
        let report = next(&mut inbound).await?;
        check(&report, *reports)?;
        *reports += 1;
        if *reports == 1 {
            tracing::info!(agent = %id.address, node = %report.node, "A GPU agent is heard.");
        }
        gpus.report(&id, report, Vec::new(), clock_ms());
    }
}

/// Whether `report` may come after `before` others.
fn check(report: &Report, before: u64) -> Result<(), StreamError> {
    let expected = before + 1;
    if report.sequence != expected {
        return Err(StreamError::Gap {
            expected,
            got: report.sequence,
        });
    }
    match report.content {
        Some(Content::Snapshot(_)) => Ok(()),
        _ if before > 0 => Ok(()),
        _ => Err(StreamError::NoSnapshot),
    }
}

// === impl AgentAt ===

impl AgentAt {
    /// `host:port`, as it was given.
    pub fn of(address: &str) -> Self {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        Self {
            address: address.into(),
            name: host.into(),
        }
    }
}

#[cfg(test)]
mod tests;
