//! The scraping of one endpoint, for as long as it is in the pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::FusedFuture as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::super::engines::EngineSpec;
use super::super::polls::PollStats;
use super::super::scan::PageScanner;
use super::super::slab::Scrape;
use super::super::{Member, clock_ms};
use super::ScrapeConfig;

/// A larger page is not a metrics page.
const LARGEST_PAGE: usize = 8 << 20;
/// How often a failing endpoint is tried at most.
const BACKOFF: Duration = Duration::from_millis(250);

#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error("connecting: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("no answer: {0}")]
    NoAnswer(hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("status {0}")]
    Status(http::StatusCode),
    #[error("the page is larger than {LARGEST_PAGE} bytes")]
    TooLarge,
    #[error("nothing known on the page: is it the right engine, and the right path?")]
    NothingKnown,
    #[error("no answer in time")]
    Late,
}

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
    let mut failing = false;
    loop {
        wake.notified().await;
        let scraped = connection(&member, &wake, &config, engine, &stats, &mut failing).await;
        let Err(error) = scraped else {
            continue;
        };
        PollStats::add(match error {
            ScrapeError::NothingKnown => &stats.unread,
            _ => &stats.failed,
        });
        if !std::mem::replace(&mut failing, true) {
            tracing::warn!(endpoint = %member.endpoint.id, address = %member.address, %error, "Metrics cannot be scraped.");
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
    failing: &mut bool,
) -> Result<(), ScrapeError> {
    let port = config.port.unwrap_or(member.endpoint.port);
    let address = (member.endpoint.address, port);
    let connected = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, ScrapeError>(http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await?)
    };
    let (mut sender, connection) = tokio::time::timeout(config.timeout, connected)
        .await
        .unwrap_or(Err(ScrapeError::Late))?;
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
        match page.unwrap_or(Err(ScrapeError::Late)) {
            Ok(scrape) => member.slot.record(&scrape, begun, clock_ms()),
            // It closed the connection when we were about to use it again: ask over a new one, now.
            Err(ScrapeError::NoAnswer(_)) if served => {
                wake.notify_one();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        served = true;
        PollStats::add(&stats.ok);
        if std::mem::take(failing) {
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
) -> Result<Scrape, ScrapeError> {
    sender.ready().await.map_err(ScrapeError::NoAnswer)?;
    let response = sender.send_request(request).await;
    let response = response.map_err(ScrapeError::NoAnswer)?;
    if !response.status().is_success() {
        return Err(ScrapeError::Status(response.status()));
    }
    let mut scanner = PageScanner::new(engine);
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            if length > LARGEST_PAGE {
                return Err(ScrapeError::TooLarge);
            }
            scanner.feed(&data);
        }
    }
    let scrape = scanner.finish();
    let nothing = [scrape.waiting, scrape.running, scrape.kv_usage] == [None; 3];
    if nothing && scrape.attributes.is_empty() {
        return Err(ScrapeError::NothingKnown);
    }
    Ok(scrape)
}
