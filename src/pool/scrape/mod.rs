//! Asks every endpoint for its metrics page, many times a second.
//!
//! One task an endpoint, for as long as the endpoint is in the pool, with one kept-alive connection, both driven by the
//! same task. One ticker for all wakes them, spread over the interval so that the work is even. A wake-up that
//! finds the last scrape still under way is lost: a slow endpoint delays nobody and is never asked twice at once.
//! A server may close the connection after any page; the next scrape makes a new one.
//! A scrape that fails leaves the numbers as they are; they age, and whoever reads them knows how old they are.
//! A page without a single number that matters is counted apart from pages that could not be fetched: it is the wrong
//! page. While the last scrape of an endpoint failed, a gauge names the endpoint and the cause ([`super::failure`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::engines::EngineSpec;
use super::failure::SourceType;
use super::per_member::PerMember;
use super::polls::PollStats;
use super::tls::ClientTls;
use super::{Member, Pool};

mod member;
pub(super) mod verdict;

/// The ticker's steps in one interval.
const PHASES: u32 = 10;
/// Where engines have their page, most of them.
pub const DEFAULT_PATH: &str = "/metrics";
/// The label that says which engine an endpoint runs, before it was renamed.
const LEGACY_ENGINE_LABEL: &str = "inference.networking.k8s.io/engine-type";

/// How to scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrapeConfig {
    /// Between two scrapes of an endpoint.
    pub interval: Duration,
    /// For a scrape, connecting included.
    pub timeout: Duration,
    /// Path of the page; `None` = the engine's own, or else [`DEFAULT_PATH`].
    pub path: Option<String>,
    /// Port of the page; `None` = the endpoint's own.
    pub port: Option<u16>,
    /// TLS; `None` = without.
    pub tls: Option<ClientTls>,
    /// The label that says which engine an endpoint runs.
    pub engine_label: String,
    /// The engine of endpoints without that label, or with one that is not known.
    pub default_engine: String,
    /// The engines; of two with one name the later counts.
    pub engines: Vec<EngineSpec>,
}

struct Scraper {
    pool: Arc<Pool>,
    config: Arc<ScrapeConfig>,
    stats: Arc<PollStats>,
    tasks: PerMember<Task>,
}

/// The scraping of one endpoint; ends with the drop.
struct Task {
    wake: Arc<Notify>,
    scraping: AbortOnDropHandle<()>,
}

/// Scrapes the endpoints of `pool`, whoever they are, until `stop`; then none of them counts as failing.
pub fn spawn(
    pool: Arc<Pool>,
    config: ScrapeConfig,
    stats: Arc<PollStats>,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let mut scraper = Scraper {
        pool,
        config: Arc::new(config),
        stats,
        tasks: PerMember::default(),
    };
    tokio::spawn(async move {
        stop.run_until_cancelled(scraper.run()).await;
        scraper.end().await;
    })
}

// === impl ScrapeConfig ===

impl ScrapeConfig {
    /// The engine that `member` is taken to run; `None` if none is known for it.
    pub fn engine(&self, member: &Member) -> Option<&EngineSpec> {
        let labels = &member.endpoint.labels;
        let label = labels
            .get(&self.engine_label)
            .or_else(|| labels.get(LEGACY_ENGINE_LABEL));
        let named = |name: &str| self.engines.iter().rev().find(|e| e.name == name);
        label
            .and_then(|name| named(name))
            .or_else(|| named(&self.default_engine))
    }

    /// For how long a scrape is believed: for as long as is `wanted`, unless that is less than two intervals. Then it is
    /// two of them and one timeout, so that one page that is late or lost makes nothing unknown.
    pub fn staleness(&self, wanted: Duration) -> Duration {
        match 2 * self.interval {
            two if two > wanted => self.turnover(),
            _ => wanted,
        }
    }

    /// How long a scrape may take to be followed by the next one: two intervals, of which one page is late or lost, and
    /// one timeout.
    pub fn turnover(&self) -> Duration {
        2 * self.interval + self.timeout
    }

    /// What the user says counts more than what we know of the engine.
    fn path<'a>(&'a self, engine: &'a EngineSpec) -> &'a str {
        let path = self.path.as_deref().or(engine.path.as_deref());
        path.unwrap_or(DEFAULT_PATH)
    }
}

// === impl Scraper ===

impl Scraper {
    /// What failed fails no more: it is not asked.
    async fn end(mut self) {
        for (member, task) in self.tasks.drain() {
            task.scraping.abort();
            // It was aborted; what matters is that it writes no more.
            let _ = task.scraping.await;
            member.faults().ended(SourceType::Metrics);
        }
    }

    async fn run(&mut self) {
        let mut ticker = tokio::time::interval(self.config.interval / PHASES);
        ticker.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut phase = 0;
        loop {
            ticker.tick().await;
            let (config, stats) = (&self.config, &self.stats);
            self.tasks
                .follow(&self.pool, |member| start(member, config, stats));
            phase = (phase + 1) % PHASES;
            for (member, task) in self.tasks.iter() {
                if member.slot.number() % PHASES == phase {
                    task.wake.notify_one();
                }
            }
        }
    }
}

fn start(member: &Arc<Member>, config: &Arc<ScrapeConfig>, stats: &Arc<PollStats>) -> Task {
    let wake = Arc::new(Notify::new());
    // At once, not at its phase: until then the endpoint's load is not known.
    wake.notify_one();
    let scraping = member::scrape(
        Arc::clone(member),
        Arc::clone(&wake),
        Arc::clone(config),
        Arc::clone(stats),
    );
    Task {
        wake,
        scraping: AbortOnDropHandle::new(tokio::spawn(scraping)),
    }
}

#[cfg(test)]
mod fault_tests;

#[cfg(test)]
pub(super) mod tests {
    use super::super::engines::known;
    use super::super::snapshot::tests::endpoint;
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    pub(in super::super) fn config() -> ScrapeConfig {
        ScrapeConfig {
            interval: Duration::from_millis(10),
            timeout: Duration::from_millis(200),
            path: None,
            port: None,
            tls: None,
            engine_label: "llm-d.ai/engine-type".into(),
            default_engine: "vllm".into(),
            engines: known(),
        }
    }

    /// Answers the n-th request with the n-th answer, the last one again and again; an empty answer closes, and with
    /// `once` so does any other.
    pub(super) async fn server(answers: Vec<String>, once: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let mut n = 0;
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = &answers[n.min(answers.len() - 1)];
                    n += 1;
                    let written = stream.write_all(answer.as_bytes()).await;
                    if answer.is_empty() || written.is_err() || once {
                        break;
                    }
                }
            }
        });
        address
    }

    pub(super) fn page_of(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    async fn waiting_becomes(answers: Vec<String>, expected: f32) {
        let address = server(answers, false).await;
        let pool = Arc::new(Pool::default());
        let snapshot = pool.replace(vec![endpoint("a", &address)]);
        let stop = CancellationToken::new();
        let task = spawn(Arc::clone(&pool), config(), Arc::default(), stop.clone());
        let (s, i) = snapshot.cell(0);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while f32::from_bits(s.waiting[i].load(Ordering::Relaxed)) != expected {
            assert!(tokio::time::Instant::now() < deadline, "never {expected}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        task.await.unwrap();
    }

    #[tokio::test]
    async fn pages_are_read_over_one_connection() {
        waiting_becomes(
            vec![
                page_of("vllm:num_requests_waiting 1\n"),
                page_of("vllm:num_requests_waiting 2\n"),
            ],
            2.0,
        )
        .await;
    }

    #[tokio::test]
    async fn what_goes_wrong_is_tried_again() {
        let error = "HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".to_owned();
        let garbage = "hello\r\n\r\n".to_owned();
        let slow = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nvllm".to_owned();
        for wrong in [error, garbage, slow, String::new(), page_of("<html>")] {
            waiting_becomes(vec![wrong, page_of("vllm:num_requests_waiting 3\n")], 3.0).await;
        }
    }

    /// Scrapes one server until `enough`; returns how many scrapes succeeded and failed.
    async fn scraped(answers: Vec<String>, once: bool, enough: fn(u64, u64) -> bool) -> (u64, u64) {
        let address = server(answers, once).await;
        let pool = Arc::new(Pool::default());
        pool.replace(vec![endpoint("a", &address)]);
        let stats = Arc::new(PollStats::default());
        let stop = CancellationToken::new();
        let task = spawn(pool, config(), Arc::clone(&stats), stop.clone());
        let counts = || {
            let count = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
            (count(&stats.ok), count(&stats.failed))
        };
        while !enough(counts().0, counts().1) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        task.await.unwrap();
        counts()
    }

    #[tokio::test]
    async fn a_server_that_closes_after_each_page_is_no_failure() {
        let body = "vllm:num_requests_waiting 4\n";
        let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
        for page in [
            page_of(body),
            format!("{head}content-length: {}\r\n\r\n{body}", body.len()),
            // The end of the connection is the end of the page.
            format!("{head}\r\n{body}"),
        ] {
            let (ok, failed) = scraped(vec![page], true, |ok, failed| ok + failed > 5).await;
            assert!(ok > 5 && failed == 0, "{ok} {failed}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_dies_under_the_next_request_is_replaced_at_once() {
        let page = page_of("vllm:num_requests_waiting 4\n");
        // Page, no answer, page, no answer, …
        let answers = (0..100).map(|n| {
            if n % 2 == 0 {
                page.clone()
            } else {
                String::new()
            }
        });
        let (ok, failed) = scraped(answers.collect(), false, |ok, failed| ok + failed > 5).await;
        assert!(ok > 5 && failed == 0, "{ok} {failed}");
    }

    #[tokio::test]
    async fn a_page_that_tells_nothing_is_a_failure() {
        let page = page_of("<html>\nvllm:cache_config_info{block_size=\"16\"} 1\n");
        let address = server(vec![page], false).await;
        let pool = Arc::new(Pool::default());
        pool.replace(vec![endpoint("a", &address)]);
        let stats = Arc::new(PollStats::default());
        let task = spawn(pool, config(), Arc::clone(&stats), CancellationToken::new());
        while stats.unread.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        task.abort();
        let fetched = [&stats.ok, &stats.failed].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(fetched, [0, 0]);
    }

    #[test]
    fn rare_scrapes_are_believed_for_longer() {
        let of = |interval, wanted| {
            let mut config = config();
            config.interval = Duration::from_millis(interval);
            let wanted = Duration::from_millis(wanted);
            config.staleness(wanted).as_millis()
        };
        assert_eq!(of(50, 2_000), 2_000);
        assert_eq!(of(50, 100), 100);
        assert_eq!(of(1_500, 2_000), 3_200);
        assert_eq!(of(5_000, 2_000), 10_200);
    }

    #[test]
    fn the_users_path_counts_more_than_the_engines() {
        let engines = known();
        let engine = |name: &str| engines.iter().find(|e| e.name == name).unwrap();
        let mut config = config();
        assert_eq!(config.path(engine("vllm")), "/metrics");
        assert_eq!(config.path(engine("trtllm-serve")), "/prometheus/metrics");
        config.path = Some("/metrics".to_owned());
        assert_eq!(config.path(engine("trtllm-serve")), "/metrics");
    }

    #[tokio::test]
    async fn endpoints_that_come_later_are_scraped() {
        let address = server(vec![page_of("vllm:num_requests_waiting 4\n")], false).await;
        let pool = Arc::new(Pool::default());
        let stats = Arc::new(PollStats::default());
        let task = spawn(
            Arc::clone(&pool),
            config(),
            Arc::clone(&stats),
            CancellationToken::new(),
        );
        pool.replace(vec![endpoint("a", &address)]);
        while stats.ok.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        pool.replace(Vec::new());
        task.abort();
    }
}
