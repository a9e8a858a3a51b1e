//! Asks every endpoint now and then what it serves: `GET /v1/models`.
//!
//! One task an endpoint, for as long as the endpoint is in the pool. It asks soon after the endpoint came (spread over
//! [`FIRST_WITHIN`], so that a pool that starts is not asked in one instant), then every interval, give or take a tenth.
//! An endpoint that does not answer is asked again after a second, then two, four, …, and no later than an interval. What
//! was read stays until the next list replaces it; whoever shows it tells its age. No request ever waits for any of it.
//!
//! A listing says what a server would serve, not what it has in its memory: adapters in it become known as adapters
//! ([`super::residents`]), and nothing else follows from it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::failure::{PollError, SourceType};
use super::fetch::{self, Wanted};
use super::per_member::PerMember;
use super::polls::PollStats;
use super::tls::ClientTls;
use super::{Member, Pool, clock_ms};

mod list;

pub use list::{MOST_MODELS, Model, ModelList};

/// Within which endpoints that come together are asked first.
const FIRST_WITHIN: Duration = Duration::from_secs(1);
/// How often is looked whether endpoints came or went.
const FOLLOW: Duration = Duration::from_millis(500);
/// Before an endpoint that did not answer is asked again; doubled each time.
const RETRY: Duration = Duration::from_secs(1);

/// Bytes of a list: a thousand models take a third of it.
const LARGEST_PAGE: usize = 1 << 20;

/// How to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelsConfig {
    /// Between two polls of an endpoint.
    pub interval: Duration,
    /// For a poll, connecting included.
    pub timeout: Duration,
    /// Path of the list.
    pub path: String,
    /// Port of the list; `None` = the endpoint's own.
    pub port: Option<u16>,
    /// TLS; `None` = without.
    pub tls: Option<ClientTls>,
}

/// Asks the endpoints of `pool`, whoever they are, until `stop`; then it takes back what it had put there.
pub fn spawn(
    pool: Arc<Pool>,
    config: ModelsConfig,
    stats: Arc<PollStats>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let config = Arc::new(config);
    tokio::spawn(async move {
        let mut tasks = PerMember::default();
        let follow = async {
            loop {
                tasks.follow(&pool, |member| {
                    let polling = poll(Arc::clone(member), Arc::clone(&config), Arc::clone(&stats));
                    AbortOnDropHandle::new(tokio::spawn(polling))
                });
                tokio::time::sleep(FOLLOW).await;
            }
        };
        stop.run_until_cancelled(follow).await;
        for (member, task) in tasks.drain() {
            task.abort();
            // It was aborted; what matters is that it writes no more.
            let _ = task.await;
            member.slot.list_models(None);
            member.faults().ended(SourceType::Models);
        }
    })
}

async fn poll(member: Arc<Member>, config: Arc<ModelsConfig>, stats: Arc<PollStats>) {
    let endpoint = &member.endpoint.id;
    tokio::time::sleep(FIRST_WITHIN * (member.slot.number() % 64) / 64).await;
    let mut failures = 0;
    loop {
        let page = fetch::page(wanted(&member, &config)).await;
        let listed = page.and_then(|page| {
            ModelList::parse(&page, clock_ms())
                .map_err(|(fault, text)| PollError::Page(fault, text))
        });
        match listed {
            Ok(list) => {
                PollStats::add(&stats.ok);
                member.slot.list_models(Some(list));
                if std::mem::take(&mut failures) > 0 {
                    member.faults().ended(SourceType::Models);
                    tracing::info!(%endpoint, "Models can be read again.");
                }
            }
            Err(error) => {
                PollStats::add(match error.is_of_the_page() {
                    true => &stats.unread,
                    false => &stats.failed,
                });
                let fault = error.fault();
                if member.faults().failed(SourceType::Models, fault) {
                    tracing::warn!(%endpoint, address = %member.address, cause = fault.name(), %error, "Models cannot be read.");
                }
                failures += 1;
            }
        }
        tokio::time::sleep(pause(
            config.interval,
            failures,
            rand::random_range(0.9..1.1),
        ))
        .await;
    }
}

fn wanted<'a>(member: &'a Member, config: &'a ModelsConfig) -> Wanted<'a> {
    let port = config.port.unwrap_or(member.endpoint.port);
    Wanted {
        address: (member.endpoint.address, port),
        host: &member.address,
        path: &config.path,
        accept: "application/json",
        tls: config.tls.as_ref(),
        timeout: config.timeout,
        largest: LARGEST_PAGE,
    }
}

/// Until the next poll, after so many failures in a row.
fn pause(interval: Duration, failures: u32, jitter: f64) -> Duration {
    let pause = match failures {
        0 => interval,
        n => interval.min(RETRY * (1 << (n - 1).min(16))),
    };
    pause.mul_f64(jitter)
}

#[cfg(test)]
mod tests;
