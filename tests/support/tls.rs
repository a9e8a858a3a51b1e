//! A client that verifies whom it talks to, and may say who it is.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::Ca;

/// Certificate and key, both as PEM.
pub(crate) type Identity = (String, String);

/// How a client is set up.
#[derive(Default)]
pub(crate) struct Client<'a> {
    /// The name that the server must have.
    pub(crate) name: &'static str,
    pub(crate) trusts: Option<&'a Ca>,
    pub(crate) identity: Option<Identity>,
    /// Of TLS; `None` = all.
    pub(crate) versions: Option<&'static [&'static SupportedProtocolVersion]>,
}

// === impl Client ===

impl Client<'_> {
    fn config(&self, protocol: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        if let Some(ca) = self.trusts {
            roots.add(ca.der().clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions.unwrap_or(rustls::ALL_VERSIONS))
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    }

    /// `None`: the handshake failed.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        protocol: &[u8],
    ) -> Option<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(self.name).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config(protocol)));
        connector.connect(name, stream).await.ok()
    }

    /// Whether it is given the metrics, over HTTP/1.1.
    pub(crate) async fn reads_metrics(&self, address: SocketAddr) -> bool {
        let Some(mut stream) = self.connect(address, b"http/1.1").await else {
            return false;
        };
        let request = b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let mut answer = Vec::new();
        stream.write_all(request).await.is_ok()
            && stream.flush().await.is_ok()
            && stream.read_to_end(&mut answer).await.is_ok()
            && answer.starts_with(b"HTTP/1.1 200 ")
    }
}
