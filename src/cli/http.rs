//! HTTP as subcommands need it that ask another process: pooled connections, whole bodies.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A page that is not there by then is not there.
const PAGE_DEADLINE: Duration = Duration::from_secs(2);
/// Characters of an answer that is none.
const SHOWN: usize = 500;

#[derive(Clone, Debug)]
pub(super) struct Http(Client<HttpConnector, Full<Bytes>>);

// === impl Http ===

impl Http {
    pub(super) fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    pub(super) async fn post(
        &self,
        uri: &str,
        body: String,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let request = http::Request::post(uri)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        Ok(self.0.request(request).await?)
    }

    /// The text at `path`; an error unless the status is 200.
    pub(super) async fn page(&self, server: impl Display, path: &str) -> anyhow::Result<String> {
        let uri = format!("http://{server}{path}");
        let request = http::Request::get(&uri).body(Full::default())?;
        let page = async {
            let response = self.0.request(request).await?;
            let status = response.status();
            let body = response.into_body().collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            if status != http::StatusCode::OK {
                let why: String = body.trim().chars().take(SHOWN).collect();
                bail!("{uri}: status {status}: {why}");
            }
            Ok(body)
        };
        tokio::time::timeout(PAGE_DEADLINE, page)
            .await
            .with_context(|| format!("{uri}: no answer in time"))?
    }
}

/// The sum of all series of `family` on a metrics page that carry all of `labels`, written `name="value"`.
pub(super) fn sum(page: &str, family: &str, labels: &[&str]) -> f64 {
    page.lines()
        .filter_map(|line| line.strip_prefix(family))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter(|rest| labels.iter().all(|label| rest.contains(label)))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    #[test]
    fn sums() {
        let page = "# TYPE a counter\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"2\",y=\"2\"} 4.5\na_totals 9\n";
        assert_eq!(super::sum(page, "a_total", &["x=\"1\""]), 3.0);
        assert_eq!(super::sum(page, "a_total", &["y=\"2\""]), 7.5);
        assert_eq!(super::sum(page, "a_totals", &[]), 9.0);
    }
}
