//! The scraping of one endpoint, for as long as it is in the pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use tokio::sync::Notify;

use super::super::engines::EngineSpec;
use super::super::failure::{PollError, SourceType};
use super::super::polls::PollStats;
use super::super::scan::PageScanner;
use super::super::slab::Scrape;
use super::super::{Member, clock_ms, tls};
use super::ScrapeConfig;
use super::verdict::Head;

/// A larger page is not a metrics page.
const LARGEST_PAGE: usize = 8 << 20;
/// How often a failing endpoint is tried at most.
const BACKOFF: Duration = Duration::from_millis(250);

/// Scrapes `member` whenever it is woken.
pub(super) async fn scrape(
    member: Arc<Member>,
    wake: Arc<Notify>,
    config: Arc<ScrapeConfig>,
    stats: Arc<PollStats>,
) {
    let Some(engine) = config.engine(&member) else {
        tracing::warn!(endpoint = %member.endpoint.id, "No engine is known for this endpoint: its load stays unknown.");
        return;
    };
    loop {
        wake.notified().await;
        let scraped = connection(&member, &wake, &config, engine, &stats).await;
        let Err(error) = scraped else {
            continue;
        };
        PollStats::add(match error.is_of_the_page() {
            true => &stats.unread,
            false => &stats.failed,
        });
        let fault = error.fault();
        if member.faults().failed(SourceType::Metrics, fault) {
            tracing::warn!(endpoint = %member.endpoint.id, address = %member.address, cause = fault.name(), %error, "Metrics cannot be scraped.");
        }
        tokio::time::sleep(BACKOFF.max(config.interval)).await;
    }
}

/// Scrapes over one connection, at once and whenever it is woken, until something goes wrong. `Ok`: the server has
/// closed it after it served, which is no fault; the next scrape needs another.
async fn connection(
    member: &Member,
    wake: &Notify,
    config: &ScrapeConfig,
    engine: &EngineSpec,
    stats: &PollStats,
) -> Result<(), PollError> {
    let port = config.port.unwrap_or(member.endpoint.port);
    let address = (member.endpoint.address, port);
    let connected = async {
        let stream = tls::connect(address, config.tls.as_ref()).await?;
        Ok::<_, PollError>(http1::handshake::<_, Empty<Bytes>>(stream).await?)
    };
    let (mut sender, connection) = tokio::time::timeout(config.timeout, connected)
        .await
        .unwrap_or(Err(PollError::Late))?;
    let request = http::Request::get(config.path(engine))
        .header(http::header::HOST, &*member.address)
        .header(http::header::ACCEPT, "text/plain")
        .body(Empty::<Bytes>::new())?;
    // Driving the connection here saves a task and two wake-ups a scrape. Once complete, it is never polled again.
    let mut connection = std::pin::pin!(connection.map(drop).fuse());
    let mut served = false;
    loop {
        let begun = member.slot.scrape_begins();
        let page = page(&mut sender, request.clone(), engine);
        let mut page = std::pin::pin!(tokio::time::timeout(config.timeout, page));
        let page = tokio::select! {
            page = &mut page => page,
            // The server may close once it has answered: what it sent can still be read.
            () = &mut connection => page.await,
        };
        match page.unwrap_or(Err(PollError::Late)) {
            Ok(scrape) => member.slot.record(&scrape, begun, clock_ms()),
            // It closed the connection when we were about to use it again: ask over a new one, now.
            Err(PollError::NoAnswer(_)) if served => {
                wake.notify_one();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        served = true;
        PollStats::add(&stats.ok);
        if member.faults().ended(SourceType::Metrics) {
            tracing::info!(endpoint = %member.endpoint.id, "Metrics can be scraped again.");
        }
        if connection.is_terminated() {
            return Ok(());
        }
        tokio::select! {
            () = &mut connection => return Ok(()),
            () = wake.notified() => {}
        }
    }
}

async fn page(
    sender: &mut http1::SendRequest<Empty<Bytes>>,
    request: http::Request<Empty<Bytes>>,
    engine: &EngineSpec,
) -> Result<Scrape, PollError> {
    sender.ready().await.map_err(PollError::NoAnswer)?;
    let response = sender.send_request(request).await;
    let response = response.map_err(PollError::NoAnswer)?;
    if !response.status().is_success() {
        return Err(PollError::Status(response.status()));
    }
    let mut scanner = PageScanner::new(engine);
    let mut head = Head::new();
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            if length > LARGEST_PAGE {
                return Err(PollError::TooLarge(LARGEST_PAGE));
            }
            head.feed(&data);
            scanner.feed(&data);
        }
    }
    let scrape = scanner.finish();
    let nothing = [scrape.waiting, scrape.running, scrape.kv_usage] == [None; 3];
    if nothing && scrape.attributes.is_empty() {
        let (fault, text) = head.verdict();
        return Err(PollError::Page(fault, text.to_owned()));
    }
    Ok(scrape)
}
