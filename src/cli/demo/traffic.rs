//! A stream of requests at a set rate, and what came of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::super::http::Http;

/// Requests under way at a time: past it, none is sent.
const MOST_UNDER_WAY: usize = 2_000;
/// An answer that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(60);
/// An answer's header with the endpoints that the picker chose.
pub(super) const PICKED: &str = "x-demo-picked";
/// An answer's header with the address that it came from.
pub(super) const REACHED: &str = "x-demo-reached";
/// What becomes of what is shed.
const SHED: &str = "status 429";
const WORDS: &str = "The quick brown fox jumps over the lazy dog. ";

/// What came back so far.
#[derive(Clone, Debug)]
pub(super) struct Results {
    pub(super) sent: u64,
    pub(super) complete: u64,
    /// Answers that were not 200 or were cut, by what was wrong.
    pub(super) failed: BTreeMap<String, u64>,
    /// Requests of an objective that may be shed, turned away because the pool was full.
    pub(super) shed: u64,
    /// Complete answers of a server that the picker did not choose, where Envoy tells ([`PICKED`], [`REACHED`]).
    pub(super) astray: u64,
    /// Complete answers by the server that gave them.
    pub(super) by_server: BTreeMap<String, u64>,
    /// Milliseconds to the first byte of the body.
    pub(super) first_byte: Histogram<u64>,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) http: Http,
    pub(super) uri: String,
    pub(super) model: String,
    /// Headers beside the usual ones.
    pub(super) headers: Vec<(&'static str, String)>,
    /// Whether its requests are the first to be shed.
    pub(super) sheddable: bool,
}

/// Sends `rate` requests a second until `stop`, and returns when the last has been answered.
pub(super) async fn send(
    target: Target,
    rate: f64,
    results: Arc<Mutex<Results>>,
    stop: CancellationToken,
) {
    let mut ticker = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = stop.cancelled() => break,
        }
        while requests.try_join_next().is_some() {}
        if requests.len() < MOST_UNDER_WAY {
            results.lock().sent += 1;
            requests.spawn(one(target.clone(), Arc::clone(&results)));
        }
    }
    while requests.join_next().await.is_some() {}
}

/// One request of a random size.
async fn one(target: Target, results: Arc<Mutex<Results>>) {
    let (words, tokens) = {
        let mut rng = rand::rng();
        (rng.random_range(1..60), rng.random_range(16..=96))
    };
    let body = serde_json::json!({
        "model": target.model,
        "messages": [{"role": "user", "content": WORDS.repeat(words)}],
        "max_tokens": tokens,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let answer = tokio::time::timeout(DEADLINE, answer(&target, body.to_string())).await;
    let answer = answer.unwrap_or_else(|_| Err("no end in 60 s".to_owned()));
    let mut results = results.lock();
    match answer {
        Ok((server, first_byte, astray)) => {
            results.complete += 1;
            results.astray += u64::from(astray);
            *results.by_server.entry(server).or_default() += 1;
            let millis = u64::try_from(first_byte.as_millis()).unwrap_or(u64::MAX);
            results.first_byte.saturating_record(millis);
        }
        Err(what) if target.sheddable && what == SHED => results.shed += 1,
        Err(what) => *results.failed.entry(what).or_default() += 1,
    }
}

/// The server that answered, the time to its first byte, and whether the picker chose another.
async fn answer(target: &Target, body: String) -> Result<(String, Duration, bool), String> {
    let begun = Instant::now();
    let response = target
        .http
        .post(&target.uri, &target.headers, body)
        .await
        .map_err(|error| format!("{error:#}"))?;
    let status = response.status();
    if !status.is_success() {
        return Err(format!("status {}", status.as_u16()));
    }
    let header = |name: &str| response.headers().get(name)?.to_str().ok();
    let server = header("x-inference-pod").unwrap_or("?").to_owned();
    let astray = match (header(PICKED), header(REACHED)) {
        (Some(picked), Some(reached)) => !picked.split(',').any(|picked| picked == reached),
        _ => false,
    };
    let mut body = response.into_body();
    let mut first_byte = None;
    let mut end = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("cut: {error}"))?;
        if let Some(data) = frame.data_ref() {
            first_byte.get_or_insert_with(|| begun.elapsed());
            end.drain(..end.len().saturating_sub(16));
            end.extend_from_slice(&data[data.len().saturating_sub(16)..]);
        }
    }
    if !end.ends_with(b"data: [DONE]\n\n") {
        return Err("cut before [DONE]".to_owned());
    }
    Ok((server, first_byte.unwrap_or_default(), astray))
}

// === impl Results ===

impl Results {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            sent: 0,
            complete: 0,
            failed: BTreeMap::new(),
            shed: 0,
            astray: 0,
            by_server: BTreeMap::new(),
            first_byte: Histogram::new_with_bounds(1, 600_000, 3)?,
        })
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// What came of all of them, as a line.
    pub(super) fn told(&self, seconds: f64) -> String {
        let shed = match self.shed {
            0 => String::new(),
            shed => format!(", {shed} turned away while the pool was full"),
        };
        format!(
            "In {seconds:.1} s: {} requests sent, {} answered in full{shed}, {} failed. First byte after {} ms (median), {} ms (99 %).",
            self.sent,
            self.complete,
            self.failures(),
            self.first_byte.value_at_quantile(0.5),
            self.first_byte.value_at_quantile(0.99),
        )
    }
}
