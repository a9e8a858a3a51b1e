//! TLS to agents, and to whoever else is asked for what is known of GPUs. Its files are read when it is set up, which finds mistakes in them, and again for connections that are made
//! later: CAs and certificates are renewed under a process that runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::super::tls::client_config;
use crate::config::params::TlsParams;

/// The files are read at most once in so long, however many connect.
const REREAD: Duration = Duration::from_secs(1);
/// What gRPC is over, and what pages are.
const GRPC: &[u8] = b"h2";
const PAGES: &[u8] = b"http/1.1";

/// How agents are reached by TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentTlsOptions {
    /// A PEM file of the CAs that sign for agents; `None` = the system's.
    pub ca: Option<PathBuf>,
    /// Take any certificate.
    pub insecure: bool,
    /// The name that agents' certificates carry; `None` = that, or the address, which the agent is known by.
    pub server_name: Option<String>,
    /// A directory with the `tls.crt` and `tls.key` that agents are shown; `None` = they are shown none.
    pub cert_dir: Option<PathBuf>,
}

/// TLS to agents, as its files were when they were last read.
#[derive(Debug)]
pub struct AgentTls {
    params: TlsParams,
    protocol: &'static [u8],
    server_name: Option<ServerName<'static>>,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    at: Instant,
    config: Arc<ClientConfig>,
    /// What was wrong with the files when they were last read, as it was logged.
    told: String,
}

// === impl AgentTls ===

impl AgentTls {
    /// Reads the files.
    ///
    /// # Errors
    ///
    /// A file that is not what it should be, or a name that is none.
    pub fn new(options: &AgentTlsOptions) -> Result<Self, String> {
        Self::speaking(GRPC, options)
    }

    /// The same for a server of pages, by HTTP/1.1.
    ///
    /// # Errors
    ///
    /// As [`AgentTls::new`].
    pub fn of_pages(options: &AgentTlsOptions) -> Result<Self, String> {
        Self::speaking(PAGES, options)
    }

    fn speaking(protocol: &'static [u8], options: &AgentTlsOptions) -> Result<Self, String> {
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let own = options.cert_dir.as_ref().map(|dir| {
            let files = ["tls.crt", "tls.key"].map(|file| text(dir.join(file)));
            files.into()
        });
        let params = TlsParams {
            insecure_skip_verify: options.insecure,
            ca_cert_path: options.ca.clone().map(text),
            client: own,
        };
        let server_name = options
            .server_name
            .as_deref()
            .map(server_name)
            .transpose()?;
        let config = read(&params, protocol)?;
        Ok(Self {
            params,
            protocol,
            server_name,
            read: Mutex::new(Read {
                at: Instant::now(),
                config,
                told: String::new(),
            }),
        })
    }

    /// As the files are now; those that cannot be used are as good as the ones before.
    async fn config(&self) -> Arc<ClientConfig> {
        let mut last = self.read.lock().await;
        if last.at.elapsed() < REREAD {
            return Arc::clone(&last.config);
        }
        last.at = Instant::now();
        let (params, protocol) = (self.params.clone(), self.protocol);
        // They are on a disk, and the system's CAs are many.
        let read = tokio::task::spawn_blocking(move || read(&params, protocol)).await;
        match read.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(config) => (last.config, last.told) = (config, String::new()),
            Err(error) if error == last.told => {}
            Err(error) => {
                tracing::error!(%error, "The certificates for GPU agents cannot be read; the old ones stay.");
                last.told = error;
            }
        }
        Arc::clone(&last.config)
    }

    /// Connects to `uri`, where somebody is who is known as `name`.
    pub(crate) async fn connect(
        self: Arc<Self>,
        uri: Uri,
        name: Arc<str>,
    ) -> std::io::Result<TokioIo<TlsStream<TcpStream>>> {
        let invalid = |what: String| std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
        let (host, port) = uri.host().zip(uri.port_u16()).ok_or_else(|| {
            let what = format!("{uri} is not host:port");
            invalid(what)
        })?;
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => server_name(&name).map_err(invalid)?,
        };
        let stream = TcpStream::connect((bare(host), port)).await?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(self.config().await);
        Ok(TokioIo::new(connector.connect(name, stream).await?))
    }
}

/// An IPv6 address without its brackets; anything else as it is.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn server_name(host: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(bare(host).to_owned());
    name.map_err(|_| format!("`{host}` is neither a DNS name nor an address"))
}

fn read(params: &TlsParams, protocol: &[u8]) -> Result<Arc<ClientConfig>, String> {
    let made = client_config(params, protocol);
    made.map(|(config, _)| Arc::new(config))
        .map_err(|(_, message)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_are_told_when_it_is_set_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "nothing").unwrap();
        let options = AgentTlsOptions::default;
        for (options, expected) in [
            (
                AgentTlsOptions {
                    ca: Some(path.clone()),
                    ..options()
                },
                "ca.pem: holds no certificate",
            ),
            (
                AgentTlsOptions {
                    ca: Some("/no/ca.pem".into()),
                    ..options()
                },
                "/no/ca.pem: No such file",
            ),
            (
                AgentTlsOptions {
                    insecure: true,
                    cert_dir: Some(folder.path().to_owned()),
                    ..options()
                },
                "tls.crt: No such file",
            ),
            (
                AgentTlsOptions {
                    insecure: true,
                    server_name: Some("a b".to_owned()),
                    ..options()
                },
                "`a b` is neither a DNS name nor an address",
            ),
        ] {
            let error = AgentTls::new(&options).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn names_of_agents() {
        for (address, expected) in [
            ("10.0.0.7:9401", "10.0.0.7"),
            ("[fd00::1]:9401", "fd00::1"),
            ("probe.gpu.svc:9401", "probe.gpu.svc"),
        ] {
            let name = server_name(&super::super::AgentAt::of(address).name).unwrap();
            assert_eq!(name.to_str(), expected);
        }
    }
}
