//! TLS of a port: self-signed or from files, reloaded while serving; client certificates if asked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio_rustls::TlsAcceptor;

use crate::config::file::{Follower, Pace};

/// A directory of certificates changes in several steps.
const PACE: Pace = Pace {
    quiet: Duration::from_millis(250),
    longest: Duration::from_secs(2),
    poll: Duration::from_secs(60),
};

/// What the TLS side is to be.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// A directory with `tls.crt` and `tls.key`; none = self-signed.
    pub cert_dir: Option<PathBuf>,
    /// The oldest version to speak.
    pub min_version: MinVersion,
    /// Names of the TLS 1.2 cipher suites to offer, as rustls or IANA write them; empty = all. Those of TLS 1.3 are always
    /// offered, as Go does.
    pub cipher_suites: Vec<String>,
    /// A PEM file with the CAs that client certificates must come from; none = clients need no certificate.
    pub client_ca: Option<PathBuf>,
    /// DNS names or URIs, one of which a client certificate must carry; empty = any.
    pub client_sans: Vec<String>,
    /// HTTP/1.1 is spoken in it, not HTTP/2.
    pub http1: bool,
}

/// TLS versions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    #[default]
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
}

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing or not what it should be.
    #[error("{path}: {reason}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A cipher suite that this build does not know.
    #[error("--tls-cipher-suites: {0:?} is not known; known are {1}")]
    CipherSuite(String, String),
    /// rustls refuses the combination.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The self-signed certificate.
    #[error("self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

/// The configuration that new connections are accepted with.
#[derive(Debug)]
pub struct Tls {
    options: TlsOptions,
    current: ArcSwap<ServerConfig>,
}

/// A client certificate verifier that also looks at the names in the certificate.
#[derive(Debug)]
struct SanVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    allowed: Vec<String>,
}

// === impl Tls ===

impl Tls {
    /// Reads the files, or makes a certificate.
    pub fn new(options: TlsOptions) -> Result<Arc<Self>, TlsError> {
        let config = build(&options)?;
        Ok(Arc::new(Self {
            options,
            current: ArcSwap::from_pointee(config),
        }))
    }

    /// HTTP/1.1 is spoken in it.
    pub(super) fn is_http1(&self) -> bool {
        self.options.http1
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again. If they are not usable, what was loaded before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(Arc::new(build(&self.options)?));
        Ok(())
    }

    /// Reloads whenever the certificate directory changes, for as long as the process lives.
    pub fn watch(self: &Arc<Self>) {
        let Some(dir) = &self.options.cert_dir else {
            return;
        };
        let mut follower = Follower::of_directory(dir, PACE);
        let tls = Arc::clone(self);
        tokio::spawn(async move {
            loop {
                follower.changed().await;
                match tls.reload() {
                    Ok(()) => tracing::debug!("Certificates were read."),
                    Err(error) => {
                        tracing::error!(%error, "Certificates cannot be read; the old ones stay.");
                    }
                }
            }
        });
    }
}

fn build(options: &TlsOptions) -> Result<ServerConfig, TlsError> {
    let (certs, key) = match &options.cert_dir {
        Some(dir) => from_files(dir)?,
        None => self_signed()?,
    };
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if !options.cipher_suites.is_empty() {
        provider.cipher_suites = cipher_suites(&options.cipher_suites, &provider.cipher_suites)?;
    }
    let provider = Arc::new(provider);
    let versions: &[&SupportedProtocolVersion] = match options.min_version {
        MinVersion::Tls12 => rustls::ALL_VERSIONS,
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for cert in certs_of(path)? {
                roots.add(cert)?;
            }
            let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| TlsError::File {
                    path: path.clone(),
                    reason: error.to_string(),
                })?;
            builder.with_client_cert_verifier(Arc::new(SanVerifier {
                chain,
                allowed: options.client_sans.clone(),
            }))
        }
    };
    let mut config = builder.with_single_cert(certs, key)?;
    let protocol: &[u8] = if options.http1 { b"http/1.1" } else { b"h2" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(config)
}

fn from_files(
    dir: &Path,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let certs = certs_of(&dir.join("tls.crt"))?;
    let path = dir.join("tls.key");
    let key = PrivateKeyDer::from_pem_file(&path).map_err(|error| TlsError::File {
        path,
        reason: format!("no private key: {error}"),
    })?;
    Ok((certs, key))
}

fn certs_of(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |reason: String| TlsError::File {
        path: path.to_owned(),
        reason,
    };
    let certs: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(|error| file(format!("no certificate: {error}")))?
        .collect::<Result<_, _>>()
        .map_err(|error| file(format!("no certificate: {error}")))?;
    if certs.is_empty() {
        return Err(file("holds no certificate in PEM form".to_owned()));
    }
    Ok(certs)
}

/// Nobody verifies it: it is there so that the link is encrypted before anyone has set up certificates.
fn self_signed() -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?;
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "Pointsman");
    let key = rcgen::KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|reason| TlsError::Rustls(rustls::Error::General(reason.to_owned())))?;
    Ok((vec![cert.der().clone()], key))
}

/// Those of `known` that are for TLS 1.3, or named.
fn cipher_suites(
    names: &[String],
    known: &[rustls::SupportedCipherSuite],
) -> Result<Vec<rustls::SupportedCipherSuite>, TlsError> {
    // rustls writes TLS13_AES_…, IANA (and Go) TLS_AES_….
    let iana = |suite: &rustls::SupportedCipherSuite| {
        format!("{:?}", suite.suite()).replace("TLS13_", "TLS_")
    };
    for wanted in names {
        if !known
            .iter()
            .any(|suite| iana(suite) == wanted.replace("TLS13_", "TLS_"))
        {
            let list: Vec<String> = known.iter().map(iana).collect();
            return Err(TlsError::CipherSuite(wanted.clone(), list.join(", ")));
        }
    }
    Ok(known
        .iter()
        .filter(|suite| suite.tls13().is_some() || names.contains(&iana(suite)))
        .copied()
        .collect())
}

// === impl SanVerifier ===

impl SanVerifier {
    fn named(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.allowed.is_empty() {
            return Ok(());
        }
        let refused = rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName);
        let cert = webpki::EndEntityCert::try_from(end_entity).map_err(|_| refused.clone())?;
        let carries = |name: &str| self.allowed.iter().any(|allowed| allowed == name);
        if cert.valid_dns_names().any(carries) || cert.valid_uri_names().any(carries) {
            return Ok(());
        }
        Err(refused)
    }
}

impl ClientCertVerifier for SanVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        self.named(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
