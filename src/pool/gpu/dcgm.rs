//! Asks dcgm-exporters for what they tell of GPUs: `GET /metrics` on port 9400.
//!
//! An exporter is asked once for all endpoints that are behind it: beside the engine it is reached at the endpoint's address,
//! as a DaemonSet at the node's. Two things come of a page: the greatest utilisation of each endpoint's GPUs, for
//! `endpoint-attribute-filter` and `-scorer`, as in the llm-d picker; and all that is on it, for [`Gpus`]. What two pages
//! tell together (an XID, a throttle counter that rose) is found here too.
//!
//! An exporter looks at its GPUs every 30 s unless it was told otherwise, and its pages do not say when that was: where it
//! matters, have a node agent.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use gpu_probes::dcgm::{Page, Tracker, parse};
use gpu_probes::telemetry::{Gpu, Report, Snapshot as Told, report::Content};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::super::failure::{Fault, PollError, SourceType};
use super::super::fetch::{self, Wanted};
use super::super::polls::PollStats;
use super::super::scrape::verdict::Head;
use super::super::tls::ClientTls;
use super::super::{Endpoint, Member, Pool, clock_ms};
use super::join::is_pod;
use super::{Gpus, SourceId, SourceKind};

/// How often is looked whether endpoints came or went.
const FOLLOW: Duration = Duration::from_millis(250);
/// Bytes of a page. That of eight GPUs with all fields, each shared by many pods, takes a tenth.
const LARGEST_PAGE: usize = 4 << 20;

/// How to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcgmConfig {
    /// Between two polls of an exporter.
    pub interval: Duration,
    /// Without a page for so long it is silent; if that is less than what an agent has, as long as an agent.
    pub silence: Duration,
    /// For a poll, connecting included.
    pub timeout: Duration,
    /// Path of the page.
    pub path: String,
    /// Port of the page.
    pub port: u16,
    /// It is reached at the address of the endpoint's node, not at the endpoint's own. Where discovery knows no address of the
    /// node, the node's name is one, or the DNS knows it.
    pub of_node: bool,
    /// TLS; `None` = without.
    pub tls: Option<ClientTls>,
}

/// Where an exporter is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Address(IpAddr),
    /// A node by its name, which the DNS knows.
    Name(String),
}

/// Those behind one exporter.
type Members = Arc<ArcSwap<Vec<Arc<Member>>>>;

/// All exporters that are asked.
struct Targets {
    gpus: Arc<Gpus>,
    config: Arc<DcgmConfig>,
    stats: Arc<PollStats>,
    of: BTreeMap<Place, (Members, AbortOnDropHandle<()>)>,
}

/// The asking of one exporter.
struct Poller {
    place: Place,
    id: SourceId,
    members: Members,
    config: Arc<DcgmConfig>,
    gpus: Arc<Gpus>,
    stats: Arc<PollStats>,
    tracker: Tracker,
    /// Events up to now.
    events: u64,
}

/// Asks the exporters of the endpoints of `pool`, whoever they are, until `stop`; then it takes back what it had put there.
pub fn spawn(
    pool: Arc<Pool>,
    gpus: Arc<Gpus>,
    config: DcgmConfig,
    stats: Arc<PollStats>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let mut targets = Targets {
        gpus,
        config: Arc::new(config),
        stats,
        of: BTreeMap::new(),
    };
    tokio::spawn(async move {
        let follow = async {
            let mut seen = 0;
            loop {
                let snapshot = pool.snapshot();
                if snapshot.version != seen {
                    seen = snapshot.version;
                    targets.follow(snapshot.members()).await;
                }
                tokio::time::sleep(FOLLOW).await;
            }
        };
        stop.run_until_cancelled(follow).await;
        targets.follow(&[]).await;
    })
}

/// The exporter of `member`; `None`: its node is not known.
fn place(member: &Member, of_node: bool) -> Option<Place> {
    if !of_node {
        return Some(Place::Address(member.endpoint.address));
    }
    let hardware = &member.endpoint.hardware;
    if let Some(address) = hardware.node_address {
        return Some(Place::Address(address));
    }
    let node = hardware.node.as_ref()?;
    let address = node.parse().map(Place::Address);
    Some(address.unwrap_or_else(|_| Place::Name(node.clone())))
}

/// The greatest utilisation of what is `endpoint`'s on a page: GPUs that its pod was given, and those without an owner. On the
/// page of a node (`of_node`) these may be anybody's: it has to name them, or have the whole node.
fn utilization(gpus: &[Gpu], endpoint: &Endpoint, of_node: bool) -> Option<f32> {
    let Endpoint { id, hardware, .. } = endpoint;
    let is_its = |gpu: &&Gpu| {
        let mut owners = gpu.owners.iter();
        let named = hardware.whole_node || hardware.gpus.contains(&gpu.uuid);
        let nobodys = gpu.owners.is_empty() && (named || !of_node);
        nobodys || owners.any(|owner| is_pod(id, &owner.namespace, &owner.pod))
    };
    let values = gpus.iter().filter(is_its);
    let values = values.filter_map(|gpu| gpu.utilization.as_ref()?.gpu);
    let values = values.filter(|value| (0.0..=1.0).contains(value));
    values.reduce(f64::max).map(|value| value as f32)
}

/// What a page says; an error if it has no GPU.
fn read(bytes: &Bytes) -> Result<Page, PollError> {
    let page = parse(&String::from_utf8_lossy(bytes));
    if !page.gpus.is_empty() {
        return Ok(page);
    }
    let mut head = Head::new();
    head.feed(bytes);
    Err(match head.verdict() {
        (Fault::Missing, _) => {
            let text = "no GPU on the page: is it that of a dcgm-exporter?";
            PollError::Page(Fault::Missing, text.to_owned())
        }
        (fault, text) => PollError::Page(fault, text.to_owned()),
    })
}

// === impl Targets ===

impl Targets {
    /// Asks the exporters of `members`, and no others.
    async fn follow(&mut self, members: &[Arc<Member>]) {
        let mut wanted: BTreeMap<Place, Vec<Arc<Member>>> = BTreeMap::new();
        for member in members {
            match place(member, self.config.of_node) {
                Some(place) => wanted.entry(place).or_default().push(Arc::clone(member)),
                None => {
                    tracing::debug!(endpoint = %member.endpoint.id, "Its node is not known: no exporter is asked for it.");
                }
            }
        }
        for (place, (members, polling)) in std::mem::take(&mut self.of) {
            if let Some(now) = wanted.remove(&place) {
                members.store(Arc::new(now));
                self.of.insert(place, (members, polling));
                continue;
            }
            polling.abort();
            // It was aborted; what matters is that it writes no more.
            let _ = polling.await;
            self.gpus.remove(&place.id(self.config.port));
            for member in members.load().iter() {
                show(member, None);
                member.faults().ended(SourceType::Dcgm);
            }
        }
        for (place, members) in wanted {
            let members = Members::new(ArcSwap::from_pointee(members));
            let poller = Poller {
                id: place.id(self.config.port),
                place: place.clone(),
                members: Arc::clone(&members),
                config: Arc::clone(&self.config),
                gpus: Arc::clone(&self.gpus),
                stats: Arc::clone(&self.stats),
                tracker: Tracker::default(),
                events: 0,
            };
            let silent_ms = self.config.silence.as_millis() as u64;
            self.gpus.add(&poller.id, silent_ms);
            let polling = AbortOnDropHandle::new(tokio::spawn(poller.run()));
            self.of.insert(place, (members, polling));
        }
    }
}

fn show(member: &Member, utilization: Option<f32>) {
    let cells = &member.slot.segment().gpu_cells;
    cells.put_utilization(member.slot.index(), utilization, clock_ms());
}

// === impl Place ===

impl Place {
    fn id(&self, port: u16) -> SourceId {
        let address = match self {
            Self::Address(ip) => SocketAddr::new(*ip, port).to_string(),
            Self::Name(name) => format!("{name}:{port}"),
        };
        SourceId {
            kind: SourceKind::Dcgm,
            address: address.into(),
        }
    }
}

// === impl Poller ===

impl Poller {
    async fn run(mut self) {
        loop {
            match self.page().await.and_then(|bytes| read(&bytes)) {
                Ok(page) => self.take(page),
                Err(error) => self.failed(&error),
            }
            let jitter = rand::random_range(0.9..1.1);
            tokio::time::sleep(self.config.interval.mul_f64(jitter)).await;
        }
    }

    async fn page(&self) -> Result<Bytes, PollError> {
        let (config, host) = (&*self.config, &*self.id.address);
        let address = match &self.place {
            Place::Address(ip) => *ip,
            Place::Name(_) => {
                let found = tokio::time::timeout(config.timeout, tokio::net::lookup_host(host));
                let found = found.await.map_err(|_| PollError::Late)?;
                let first = found.map_err(PollError::Connect)?.next();
                first
                    .ok_or_else(|| PollError::Connect(io::ErrorKind::NotFound.into()))?
                    .ip()
            }
        };
        fetch::page(Wanted {
            address: (address, config.port),
            host,
            path: &config.path,
            accept: "text/plain",
            tls: config.tls.as_ref(),
            timeout: config.timeout,
            largest: LARGEST_PAGE,
        })
        .await
    }

    fn take(&mut self, mut page: Page) {
        PollStats::add(&self.stats.ok);
        let mut events = self.tracker.observe(&mut page);
        for event in &mut events {
            self.events += 1;
            event.number = self.events;
        }
        let members = self.members.load();
        let of_node = self.config.of_node;
        for member in members.iter() {
            let utilization = utilization(&page.gpus, &member.endpoint, of_node);
            show(member, utilization);
            if member.faults().ended(SourceType::Dcgm) {
                tracing::info!(endpoint = %member.endpoint.id, "Its GPUs can be read again.");
            }
        }
        // On a node's page a GPU without an owner may be anybody's.
        let near = match of_node {
            true => Vec::new(),
            false => members.iter().map(|m| m.endpoint.id.clone()).collect(),
        };
        let report = Report {
            node: page.node,
            content: Some(Content::Snapshot(Told {
                gpus: page.gpus,
                events,
                problem: String::new(),
            })),
            ..Report::default()
        };
        self.gpus.report(&self.id, report, near, clock_ms());
    }

    fn failed(&self, error: &PollError) {
        PollStats::add(match error.is_of_the_page() {
            true => &self.stats.unread,
            false => &self.stats.failed,
        });
        let fault = error.fault();
        for member in self.members.load().iter() {
            if member.faults().failed(SourceType::Dcgm, fault) {
                tracing::warn!(endpoint = %member.endpoint.id, exporter = %self.id.address, cause = fault.name(), %error, "Its GPUs cannot be read.");
            }
        }
    }
}

#[cfg(test)]
mod tests;
