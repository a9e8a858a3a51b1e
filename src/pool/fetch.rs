//! One page over a connection of its own, for polls that are too rare to keep one.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;

use super::failure::{Fault, PollError};
use super::tls::{self, ClientTls};

/// Which page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) address: (IpAddr, u16),
    /// What the server is called in the request.
    pub(super) host: &'a str,
    pub(super) path: &'a str,
    pub(super) accept: &'static str,
    pub(super) tls: Option<&'a ClientTls>,
    /// Connecting included.
    pub(super) timeout: Duration,
    /// Bytes.
    pub(super) largest: usize,
}

pub(super) async fn page(wanted: Wanted<'_>) -> Result<Bytes, PollError> {
    tokio::time::timeout(wanted.timeout, fetch(wanted))
        .await
        .unwrap_or(Err(PollError::Late))
}

async fn fetch(wanted: Wanted<'_>) -> Result<Bytes, PollError> {
    let stream = tls::connect(wanted.address, wanted.tls).await?;
    let (mut sender, connection) = http1::handshake(stream).await?;
    let request = http::Request::get(wanted.path)
        .header(http::header::HOST, wanted.host)
        .header(http::header::ACCEPT, wanted.accept)
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let largest = wanted.largest;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(PollError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), largest).collect();
        Ok(body
            .await
            .map_err(|error| unread(error, largest))?
            .to_bytes())
    };
    let mut answer = std::pin::pin!(answer);
    // Driven here, so that the connection ends with the poll, however that ends.
    tokio::select! {
        answer = &mut answer => answer,
        // The server may close once it has answered: what it sent can still be read.
        _ = connection => answer.await,
    }
}

/// Why a body could not be read whole.
fn unread(error: Box<dyn std::error::Error + Send + Sync>, largest: usize) -> PollError {
    if error.is::<LengthLimitError>() {
        return PollError::TooLarge(largest);
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => PollError::Http(*error),
        Err(error) => PollError::Page(Fault::Closed, error.to_string()),
    }
}
