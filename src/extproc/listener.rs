//! Accepted connections, plain or TLS, as one stream for tonic.
//!
//! An accept or a handshake that fails is one connection lost, never the listener. Handshakes run beside each
//! other, within a bound and a deadline, so that a client which sends nothing holds up nobody.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::authority::Authorities;
use super::tls::Tls;

/// Handshakes under way at once.
const HANDSHAKES: usize = 256;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// After an accept error that lasts (no file descriptors left), do not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    authorities: Authorities,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Binds `address`; if it is the IPv6 wildcard and there is no IPv6 here, the IPv4 one.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let bound = std::net::TcpListener::bind(address).or_else(|error| {
        let wildcard6 = address.is_ipv6() && address.ip().is_unspecified();
        if wildcard6 && error.kind() != io::ErrorKind::AddrInUse {
            std::net::TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port()))
        } else {
            Err(error)
        }
    })?;
    bound.set_nonblocking(true)?;
    Ok(bound)
}

/// Gives a bound socket to the runtime that runs this.
pub(super) fn adopt(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    TcpListener::from_std(socket)
}

// === impl Incoming ===

impl Incoming {
    /// Clear-text connections.
    pub fn plain(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
        }
    }

    /// TLS connections.
    pub fn tls(listener: TcpListener, tls: Arc<Tls>) -> Self {
        Self {
            listener,
            tls: Some(tls),
        }
    }

    /// The connections. The accepting task ends when the stream is dropped.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send + 'static {
        let (sender, mut receiver) = mpsc::channel(HANDSHAKES);
        tokio::spawn(self.accept(sender));
        futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|c| c.map(Ok)))
    }

    async fn accept(self, connections: mpsc::Sender<Connection>) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                biased;
                () = connections.closed() => return,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "Accepting a connection failed.");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "TCP_NODELAY was refused.");
            }
            let Some(tls) = &self.tls else {
                if connections
                    .send(Connection::new(Transport::Plain(stream)))
                    .await
                    .is_err()
                {
                    return;
                }
                continue;
            };
            // So many at once are not clients of ours: waiting for them would keep out those that are.
            let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
                tracing::warn!("Too many TLS handshakes are under way; a connection was closed.");
                continue;
            };
            let handshake = tls.acceptor().accept(stream);
            let connections = connections.clone();
            tokio::spawn(async move {
                let _permit = permit;
                match tokio::time::timeout(HANDSHAKE_DEADLINE, handshake).await {
                    Ok(Ok(stream)) => {
                        // A closed channel means that the server stopped: so does this connection.
                        let stream = Connection::new(Transport::Tls(Box::new(stream)));
                        let _ = connections.send(stream).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%error, "A TLS handshake failed."),
                    Err(_) => tracing::debug!("A TLS handshake did not end in time."),
                }
            });
        }
    }
}

// === impl Connection ===

impl Connection {
    fn new(transport: Transport) -> Self {
        Self {
            transport,
            authorities: Authorities::default(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self {
            transport,
            authorities,
        } = self.get_mut();
        match transport {
            Transport::Plain(stream) => authorities.poll_read(stream, cx, buf),
            Transport::Tls(stream) => authorities.poll_read(stream, cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
