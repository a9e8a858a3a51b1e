//! The metrics port of `serve` and of `probe`: clear text or TLS.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;

use axum::Router;
use axum::serve::Listener;
use futures_util::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::extproc::listener::{Connection, Incoming};
use crate::extproc::tls::{Tls, TlsOptions};

/// Serves `pages` at `socket` until `stop`; with TLS if there are options for it, and then certificates are read again as they
/// change.
pub(super) fn spawn(
    socket: std::net::TcpListener,
    tls: Option<TlsOptions>,
    pages: Router,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(socket)?;
    match tls {
        None => serve(listener, pages, stop),
        Some(options) => {
            let tls = Tls::new(TlsOptions {
                http1: true,
                ..options
            })?;
            tls.watch();
            let accepted = Accepted {
                address: listener.local_addr()?,
                connections: Box::pin(Incoming::tls(listener, tls).into_stream()),
            };
            serve(accepted, pages, stop);
        }
    }
    Ok(())
}

fn serve<L: Listener<Addr: fmt::Debug>>(listener: L, pages: Router, stop: CancellationToken) {
    let serving = axum::serve(listener, pages).with_graceful_shutdown(stop.cancelled_owned());
    tokio::spawn(async move { serving.await });
}

/// Connections after their handshakes.
struct Accepted {
    address: SocketAddr,
    connections: Pin<Box<dyn Stream<Item = std::io::Result<Connection>> + Send>>,
}

// === impl Accepted ===

impl Listener for Accepted {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.next().await {
            Some(Ok(connection)) => (connection, self.address),
            // There are no more.
            Some(Err(_)) | None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}
