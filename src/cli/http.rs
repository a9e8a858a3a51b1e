//! HTTP as subcommands need it that ask another process: pooled connections, whole bodies.

use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio_util::task::AbortOnDropHandle;

use crate::pool::gpu::agents::AgentAt;
use crate::pool::gpu::agents::tls::AgentTls;

/// A page that is not there by then is not there.
const PAGE_DEADLINE: Duration = Duration::from_secs(2);
/// Characters of an answer that is none.
const SHOWN: usize = 500;

#[derive(Clone, Debug)]
pub(super) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    /// How pages are asked for; `None` = in clear text.
    tls: Option<Arc<AgentTls>>,
    /// Shown where pages are asked for.
    authorization: Option<HeaderValue>,
}

// === impl Http ===

impl Http {
    pub(super) fn new() -> Self {
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            tls: None,
            authorization: None,
        }
    }

    /// Asks for pages by TLS, each over a connection of its own.
    pub(super) fn with_tls(self, tls: AgentTls) -> Self {
        Self {
            tls: Some(Arc::new(tls)),
            ..self
        }
    }

    /// Shows the bearer token in `file`.
    pub(super) fn with_token_of(self, file: &Path) -> anyhow::Result<Self> {
        let name = file.display();
        let token = std::fs::read_to_string(file).with_context(|| format!("reading {name}"))?;
        let value = format!("Bearer {}", token.trim());
        let value = HeaderValue::try_from(value).with_context(|| format!("{name}: no token"))?;
        Ok(Self {
            authorization: Some(value),
            ..self
        })
    }

    pub(super) async fn post(
        &self,
        uri: &str,
        headers: &[(&'static str, String)],
        body: String,
    ) -> anyhow::Result<http::Response<Incoming>> {
        let mut request = http::Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        Ok(self.client.request(request).await?)
    }

    /// The text at `path`; an error unless the status is 200.
    pub(super) async fn page(&self, server: impl Display, path: &str) -> anyhow::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri = format!("{scheme}://{server}{path}");
        let mut request = http::Request::get(&uri).body(Full::default())?;
        if let Some(value) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(http::header::AUTHORIZATION, value.clone());
        }
        let page = async {
            let (status, body) = match &self.tls {
                None => whole(self.client.request(request).await?).await?,
                Some(tls) => over(tls, &server.to_string(), request).await?,
            };
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

async fn whole(
    response: http::Response<Incoming>,
) -> Result<(http::StatusCode, Bytes), hyper::Error> {
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// What `server` answers to `request` by TLS.
async fn over(
    tls: &Arc<AgentTls>,
    server: &str,
    mut request: http::Request<Full<Bytes>>,
) -> anyhow::Result<(http::StatusCode, Bytes)> {
    let uri = request.uri().clone();
    let stream = Arc::clone(tls)
        .connect(uri, AgentAt::of(server).name)
        .await?;
    let (mut sender, connection) = http1::handshake(stream).await?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map(Uri::from).unwrap_or_default();
    let host = HeaderValue::try_from(server)?;
    request.headers_mut().insert(http::header::HOST, host);
    match sender.send_request(request).await {
        Ok(response) => Ok(whole(response).await?),
        // It was closed before: why, the connection knows.
        Err(error) if error.is_canceled() => match connection.await? {
            Err(cause) => Err(cause.into()),
            Ok(()) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
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
