//! TLS of the ext_proc port and of the metrics port, seen by clients that verify.

use std::net::SocketAddr;
use std::path::Path;

use rustls::SupportedProtocolVersion;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::certificates::{Ca, ca, certificate, install};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::tls::Client;
use crate::support::{machine, until};

const NAME: &str = "picker.example.com";
static OLD: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static NEW: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn trusting(ca: &Ca) -> Client<'_> {
    Client {
        name: NAME,
        trusts: Some(ca),
        ..Client::default()
    }
}

/// Whether the server talks HTTP/2 to this client: with TLS 1.3 a refusal comes after the handshake.
async fn is_served(client: &Client<'_>, address: SocketAddr) -> bool {
    let Some(mut stream) = client.connect(address, b"h2").await else {
        return false;
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut answer = [0; 9];
    stream.write_all(preface).await.is_ok()
        && stream.flush().await.is_ok()
        && stream.read_exact(&mut answer).await.is_ok()
}

/// A picker whose certificate `ca` signed, with more `flags`.
async fn picker(sims: &Sims, ca: &Ca, folder: &Path, flags: &[&str]) -> Picker {
    install(ca, NAME, folder);
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
    assert!(is_served(&trusting(&old), picker.grpc).await);
    assert!(!is_served(&trusting(&new), picker.grpc).await);

    std::fs::write(folder.path().join("tls.crt"), "no certificate").unwrap();
    until("the bad certificate to be seen", async || {
        let log = picker.process.printed();
        log.contains("the old ones stay").then_some(())
    })
    .await;
    assert!(is_served(&trusting(&old), picker.grpc).await);

    install(&new, NAME, folder.path());
    until("the new certificate", async || {
        is_served(&trusting(&new), picker.grpc).await.then_some(())
    })
    .await;
    assert!(!is_served(&trusting(&old), picker.grpc).await);
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
                identity: identity.clone(),
                versions: Some(versions),
                ..trusting(&servers)
            };
            let got = is_served(&client, picker.grpc).await;
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
            versions: Some(versions),
            ..trusting(&servers)
        };
        let old = client(OLD);
        let new = client(NEW);
        assert_eq!(is_served(&old, picker.grpc).await, served, "{flags:?}");
        assert!(is_served(&new, picker.grpc).await, "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_port_has_certificates_and_readers_of_its_own() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let (servers, readers, strangers) = (ca(), ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    install(&servers, NAME, folder.path());
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
            identity,
            ..trusting(&servers)
        };
        assert_eq!(client.reads_metrics(picker.metrics).await, served);
    }
    // Renewed ones are taken over.
    let new = ca();
    install(&new, NAME, folder.path());
    let client = Client {
        identity: Some(certificate(&readers, "prometheus")),
        ..trusting(&new)
    };
    until("the new certificate", async || {
        client.reads_metrics(picker.metrics).await.then_some(())
    })
    .await;
}
