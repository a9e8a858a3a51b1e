//! TLS of the ext_proc port and of the metrics port, seen by clients that verify.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::certificates::{Ca, ca, certificate};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{machine, pointsman, until};

static OLD: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static NEW: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// Puts a server certificate where the picker looks for it.
fn install(ca: &Ca, folder: &Path) {
    let (cert, key) = certificate(ca, "picker.example.com");
    std::fs::write(folder.join("tls.key"), key).unwrap();
    std::fs::write(folder.join("tls.crt"), cert).unwrap();
}

/// How a client is set up.
#[derive(Default)]
struct Client<'a> {
    trusts: Option<&'a Ca>,
    identity: Option<(String, String)>,
    versions: Option<&'static [&'static SupportedProtocolVersion]>,
}

impl Client<'_> {
    async fn connect(&self, address: SocketAddr, protocol: &[u8]) -> Option<TlsStream<TcpStream>> {
        use rustls::pki_types::pem::PemObject as _;
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
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("picker.example.com").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, stream).await.ok()
    }

    /// Whether the server talks HTTP/2 to this client: with TLS 1.3 a refusal comes after the handshake.
    async fn is_served(&self, address: SocketAddr) -> bool {
        let Some(mut stream) = self.connect(address, b"h2").await else {
            return false;
        };
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let mut answer = [0; 9];
        stream.write_all(preface).await.is_ok()
            && stream.flush().await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
    }

    /// Whether it is given the metrics, over HTTP/1.1.
    async fn reads_metrics(&self, address: SocketAddr) -> bool {
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

/// A picker whose certificate `ca` signed, with more `flags`.
async fn picker(sims: &Sims, ca: &Ca, folder: &Path, flags: &[&str]) -> Picker {
    install(ca, folder);
    let config = picker::config(&sims.endpoints_file, &[("queue-scorer", 1)]);
    let cert_path = format!("--cert-path={}", folder.display());
    let mut all = vec!["--secure-serving=true", cert_path.as_str()];
    all.extend(flags);
    Picker::start(&config, &all).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_reloaded_and_bad_ones_are_not() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let (old, new) = (ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    let picker = picker(&sims, &old, folder.path(), &["--enable-cert-reload"]).await;
    let trusting = |ca| Client {
        trusts: Some(ca),
        ..Client::default()
    };
    assert!(trusting(&old).is_served(picker.grpc).await);
    assert!(!trusting(&new).is_served(picker.grpc).await);

    std::fs::write(folder.path().join("tls.crt"), "no certificate").unwrap();
    until("the bad certificate to be seen", async || {
        let log = picker.process.printed();
        log.contains("the old ones stay").then_some(())
    })
    .await;
    assert!(trusting(&old).is_served(picker.grpc).await);

    install(&new, folder.path());
    until("the new certificate", async || {
        trusting(&new).is_served(picker.grpc).await.then_some(())
    })
    .await;
    assert!(!trusting(&old).is_served(picker.grpc).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_ca_only_its_clients_with_an_allowed_name_are_served() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let (servers, clients, strangers) = (ca(), ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    let client_ca = folder.path().join("clients.pem");
    std::fs::write(&client_ca, clients.pem()).unwrap();
    let client_ca = format!("--client-ca-file={}", client_ca.display());
    let names = "--client-allowed-sans=gateway.example.com,other.example.com";
    let picker = picker(&sims, &servers, folder.path(), &[&client_ca, names]).await;
    for (identity, served) in [
        (Some(certificate(&clients, "gateway.example.com")), true),
        (Some(certificate(&clients, "other.example.com")), true),
        (Some(certificate(&clients, "mallory.example.com")), false),
        (Some(certificate(&strangers, "gateway.example.com")), false),
        (None, false),
    ] {
        for versions in [OLD, NEW] {
            let client = Client {
                trusts: Some(&servers),
                identity: identity.clone(),
                versions: Some(versions),
            };
            let got = client.is_served(picker.grpc).await;
            assert_eq!(
                got,
                served,
                "{versions:?}, {:?}",
                identity.as_ref().map(|i| &i.0)
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_version_is_obeyed() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let servers = ca();
    let folder = tempfile::tempdir().unwrap();
    for (flags, served) in [
        (&[][..], true),
        (&["--tls-min-version=VersionTLS13"][..], false),
    ] {
        let picker = picker(&sims, &servers, folder.path(), flags).await;
        let client = |versions| Client {
            trusts: Some(&servers),
            versions: Some(versions),
            ..Client::default()
        };
        let old = client(OLD);
        let new = client(NEW);
        assert_eq!(old.is_served(picker.grpc).await, served, "{flags:?}");
        assert!(new.is_served(picker.grpc).await, "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_port_has_certificates_and_readers_of_its_own() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let (servers, readers, strangers) = (ca(), ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    install(&servers, folder.path());
    let reader_ca = folder.path().join("readers.pem");
    std::fs::write(&reader_ca, readers.pem()).unwrap();
    let flags = [
        format!("--metrics-cert-dir={}", folder.path().display()),
        format!("--metrics-client-ca-file={}", reader_ca.display()),
    ];
    let config = picker::config(&sims.endpoints_file, &[("queue-scorer", 1)]);
    let picker = Picker::start(&config, &flags.each_ref().map(String::as_str)).await;
    for (identity, served) in [
        (Some(certificate(&readers, "prometheus")), true),
        (Some(certificate(&strangers, "prometheus")), false),
        (None, false),
    ] {
        let client = Client {
            trusts: Some(&servers),
            identity,
            ..Client::default()
        };
        assert_eq!(client.reads_metrics(picker.metrics).await, served);
    }
    // Renewed ones are taken over.
    let new = ca();
    install(&new, folder.path());
    let client = Client {
        trusts: Some(&new),
        identity: Some(certificate(&readers, "prometheus")),
        ..Client::default()
    };
    until("the new certificate", async || {
        client.reads_metrics(picker.metrics).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gpus_are_shown_of_a_picker_whose_metrics_port_has_tls() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let (servers, readers, strangers) = (ca(), ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    install(&servers, folder.path());
    for (name, ca) in [("reader", &readers), ("stranger", &strangers)] {
        std::fs::create_dir(at(name)).unwrap();
        install(ca, &at(name));
        std::fs::write(at(&format!("{name}s.pem")), ca.pem()).unwrap();
    }
    std::fs::write(at("servers.pem"), servers.pem()).unwrap();
    let flag = |flag: &str, name: &str| format!("{flag}={}", at(name).display());
    let flags = [
        flag("--metrics-cert-dir", ""),
        flag("--metrics-client-ca-file", "readers.pem"),
    ];
    let config = picker::config(&sims.endpoints_file, &[("queue-scorer", 1)]);
    let picker = Picker::start(&config, &flags.each_ref().map(String::as_str)).await;
    let (plain, tls) = (
        picker.metrics.to_string(),
        format!("https://{}", picker.metrics),
    );
    let ca = |name| flag("--gpu-agents-ca-file", name);
    let own = |name| flag("--gpu-agents-cert-path", name);
    let named = || "--gpu-agents-server-name=picker.example.com".to_owned();
    let any = || "--gpu-agents-insecure-skip-verify".to_owned();
    for (address, flags, expected) in [
        (
            &tls,
            vec![ca("servers.pem"), named(), own("reader")],
            Ok(()),
        ),
        (&tls, vec![any(), own("reader")], Ok(())),
        (
            &tls,
            vec![ca("strangers.pem"), named(), own("reader")],
            Err("see --gpu-agents-ca-file"),
        ),
        // Its certificate is for a name, not for the address.
        (
            &tls,
            vec![ca("servers.pem"), own("reader")],
            Err("--gpu-agents-server-name"),
        ),
        (
            &tls,
            vec![ca("servers.pem"), named(), own("stranger")],
            Err("--gpu-agents-cert-path"),
        ),
        (&plain, vec![], Err("write --picker https://")),
        (&plain, vec![any()], Err("or --picker https://")),
    ] {
        let mut command = pointsman();
        command.arg("gpus").arg(format!("--picker={address}"));
        let output = command.args(&flags).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let expected_text = expected.err().unwrap_or("No GPUs are known.");
        assert!(said.contains(expected_text), "{address} {flags:?}: {said}");
        assert_eq!(output.status.success(), expected.is_ok(), "{said}");
    }
}
