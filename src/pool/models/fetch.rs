//! One page over a connection of its own: polls are too rare to keep one.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;

use super::super::failure::{Fault, PollError};
use super::super::{Member, tls};
use super::ModelsConfig;

/// A thousand models take a third of it.
pub(super) const LARGEST_PAGE: usize = 1 << 20;

pub(super) async fn page(member: &Member, config: &ModelsConfig) -> Result<Bytes, PollError> {
    tokio::time::timeout(config.timeout, fetch(member, config))
        .await
        .unwrap_or(Err(PollError::Late))
}

async fn fetch(member: &Member, config: &ModelsConfig) -> Result<Bytes, PollError> {
    let port = config.port.unwrap_or(member.endpoint.port);
    let address = (member.endpoint.address, port);
    let stream = tls::connect(address, config.tls.as_ref()).await?;
    let (mut sender, connection) = http1::handshake(stream).await?;
    let request = http::Request::get(&config.path)
        .header(http::header::HOST, &*member.address)
        .header(http::header::ACCEPT, "application/json")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(PollError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST_PAGE).collect();
        Ok(body.await.map_err(unread)?.to_bytes())
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
fn unread(error: Box<dyn std::error::Error + Send + Sync>) -> PollError {
    if error.is::<LengthLimitError>() {
        return PollError::TooLarge(LARGEST_PAGE);
    }
    match error.downcast::<hyper::Error>() {
        Ok(error) => PollError::Http(*error),
        Err(error) => PollError::Page(Fault::Closed, error.to_string()),
    }
}
