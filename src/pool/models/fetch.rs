//! One page over a connection of its own: polls are too rare to keep one.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::super::Member;
use super::ModelsConfig;

/// A thousand models take a third of it.
pub(super) const LARGEST_PAGE: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("connecting: {0}")]
    Connect(#[from] std::io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("status {0}")]
    Status(http::StatusCode),
    /// Too large, or cut off.
    #[error("the page: {0}")]
    Page(Box<dyn std::error::Error + Send + Sync>),
    #[error("no answer in time")]
    Late,
}

pub(super) async fn page(member: &Member, config: &ModelsConfig) -> Result<Bytes, FetchError> {
    tokio::time::timeout(config.timeout, fetch(member, config))
        .await
        .unwrap_or(Err(FetchError::Late))
}

async fn fetch(member: &Member, config: &ModelsConfig) -> Result<Bytes, FetchError> {
    let port = config.port.unwrap_or(member.endpoint.port);
    let stream = TcpStream::connect((member.endpoint.address, port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(&config.path)
        .header(http::header::HOST, &*member.address)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST_PAGE).collect();
        Ok(body.await.map_err(FetchError::Page)?.to_bytes())
    };
    let mut answer = std::pin::pin!(answer);
    // Driven here, so that the connection ends with the poll, however that ends.
    tokio::select! {
        answer = &mut answer => answer,
        // The server may close once it has answered: what it sent can still be read.
        _ = connection => answer.await,
    }
}
