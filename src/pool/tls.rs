//! How model servers are reached by what polls them: TCP, or TLS over it. [`client_config`] is for others too that are clients.
//!
//! A server is verified by the address that it is reached at: endpoints have no names that a certificate could carry, and no
//! name is told to the server. The files are read once, when the source is set up; that is also when a mistake in them is
//! found.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use xxhash_rust::xxh3::Xxh3;

use super::failure::PollError;
use crate::config::params::{Parameters, TlsParams};
use crate::config::{Problem, file};

/// TLS as a client. Two are equal if they are set up alike, from files that say the same.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    verifies: bool,
    made_of: u128,
}

/// Takes any certificate, but still wants the server to have its key.
#[derive(Debug)]
pub struct AnyCertificate(Arc<CryptoProvider>);

/// What of the set-up of TLS is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsField {
    /// That there is to be TLS.
    Set,
    /// The CAs.
    Ca,
    /// The client's certificate.
    Certificate,
    /// The key of that.
    Key,
}

/// What bytes go over. Boxed, so that connections without TLS do not take the room of those with it.
pub(super) type Stream = TokioIo<Either<TcpStream, Box<TlsStream<TcpStream>>>>;

/// Connects to a server.
pub(super) async fn connect(
    address: (IpAddr, u16),
    tls: Option<&ClientTls>,
) -> Result<Stream, PollError> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(PollError::Connect)?;
    stream.set_nodelay(true).map_err(PollError::Connect)?;
    let Some(tls) = tls else {
        return Ok(TokioIo::new(Either::Left(stream)));
    };
    let connecting = tls.connector.connect(address.0.into(), stream);
    let stream = Box::pin(connecting).await.map_err(PollError::Tls)?;
    Ok(TokioIo::new(Either::Right(Box::new(stream))))
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text(path)?.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{path}: no certificate: {error}"))?;
    match certificates.is_empty() {
        true => Err(format!("{path}: holds no certificate in PEM form")),
        false => Ok(certificates),
    }
}

fn key(path: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text(path)?.as_bytes())
        .map_err(|error| format!("{path}: no private key: {error}"))
}

fn text(path: &str) -> Result<String, String> {
    file::read(Path::new(path)).map_err(|error| format!("{path}: {error}"))
}

/// TLS as `params` say, for the protocol `alpn`; and a hash of what is in the files, as they are now.
///
/// # Errors
///
/// A file that is not what it should be, and what names it.
pub(super) fn client_config(
    params: &TlsParams,
    alpn: &[u8],
) -> Result<(ClientConfig, u128), (TlsField, String)> {
    let of = |field: TlsField| move |message: String| (field, message);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| (TlsField::Set, error.to_string()))?;
    let mut made_of = Xxh3::new();
    let builder = if params.insecure_skip_verify {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::new(provider)))
    } else {
        let (roots, of_roots) = roots(params.ca_cert_path.as_deref()).map_err(of(TlsField::Ca))?;
        made_of.update(&of_roots.to_le_bytes());
        builder.with_root_certificates(roots)
    };
    let mut config = match &params.client {
        None => builder.with_no_client_auth(),
        Some((cert_path, key_path)) => {
            let chain = certificates(cert_path).map_err(of(TlsField::Certificate))?;
            let key = key(key_path).map_err(of(TlsField::Key))?;
            chain.iter().for_each(|cert| made_of.update(cert));
            made_of.update(key.secret_der());
            let config = builder.with_client_auth_cert(chain, key);
            config.map_err(|error| {
                let message = format!("{key_path} does not go with {cert_path}: {error}");
                (TlsField::Key, message)
            })?
        }
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok((config, made_of.digest128()))
}

/// Those of the file, or the system's.
fn roots(ca: Option<&str>) -> Result<(RootCertStore, u128), String> {
    let certificates = match ca {
        Some(path) => certificates(path)?,
        None => rustls_native_certs::load_native_certs().certs,
    };
    let (mut roots, mut made_of) = (RootCertStore::empty(), Xxh3::new());
    for certificate in certificates {
        made_of.update(&certificate);
        match (roots.add(certificate), ca) {
            (Err(error), Some(path)) => return Err(format!("{path}: {error}")),
            // Systems have some that nobody can use.
            (Err(_), None) | (Ok(()), _) => {}
        }
    }
    if roots.is_empty() {
        return Err(
            "is not given, and this system has no CAs: name a file of those that sign for the servers"
                .to_owned(),
        );
    }
    Ok((roots, made_of.digest128()))
}

// === impl ClientTls ===

impl ClientTls {
    /// TLS as the source says whose parameters are `at`.
    ///
    /// # Errors
    ///
    /// A file that is not what it should be, by the field that names it.
    pub fn of(params: &TlsParams, at: &Parameters) -> Result<Self, Problem> {
        let made = client_config(params, b"http/1.1");
        let (config, made_of) = made.map_err(|(field, message)| {
            let field = match field {
                TlsField::Set => "scheme",
                TlsField::Ca => "caCertPath",
                TlsField::Certificate => "clientCertPath",
                TlsField::Key => "clientKeyPath",
            };
            at.field_problem(field, &message)
        })?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            verifies: !params.insecure_skip_verify,
            made_of,
        })
    }

    /// Whether servers have to prove who they are.
    pub fn verifies(&self) -> bool {
        self.verifies
    }
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        (self.verifies, self.made_of) == (other.verifies, other.made_of)
    }
}

impl Eq for ClientTls {}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls")
            .field("verifies", &self.verifies)
            .finish_non_exhaustive()
    }
}

// === impl AnyCertificate ===

impl AnyCertificate {
    /// Signatures are checked with what `provider` has.
    pub fn new(provider: Arc<CryptoProvider>) -> Self {
        Self(provider)
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
