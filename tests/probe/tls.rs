//! TLS of the agent's stream, seen by watchers that verify; and what stays in clear text.

use std::io::Error;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::support::certificates::{Ca, ca, certificate};

const NAME: &str = "probe.example.com";

/// Certificate and key, both as PEM.
type Identity = (String, String);

/// How many GPUs a watcher hears of that trusts `roots` and is `identity`; none = it hears nothing.
async fn heard(probe: &Probe, roots: Option<&Ca>, identity: Option<&Identity>) -> Option<usize> {
    let mut store = RootCertStore::empty();
    if let Some(ca) = roots {
        store.add(ca.der().clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(store);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![cert], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (tls, address) = (TlsConnector::from(Arc::new(config)), probe.grpc);
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(NAME).map_err(Error::other)?;
            Ok::<_, Error>(TokioIo::new(tls.connect(name, stream).await?))
        }
    });
    let endpoint = Endpoint::from_static("http://probe.example.com");
    let channel = endpoint.connect_with_connector(connector).await.ok()?;
    first(channel).await
}

/// The GPUs of the first report.
async fn first(channel: Channel) -> Option<usize> {
    let mut client = GpuTelemetryClient::new(channel);
    let mut stream = client.watch(WatchRequest {}).await.ok()?.into_inner();
    let report = stream.message().await.ok()??;
    Some(changes(report.content?).len())
}

async fn in_clear_text(probe: &Probe) -> Option<usize> {
    let endpoint = Endpoint::from_shared(format!("http://{}", probe.grpc)).unwrap();
    first(endpoint.connect().await.ok()?).await
}

/// An agent with a certificate that `servers` signed, and with more `flags`; it has read both GPUs.
async fn secured(servers: &Ca, flags: &[&str]) -> Probe {
    let probe = Probe::start_with(Some(&node()), |folder, command| {
        let (cert, key) = certificate(servers, NAME);
        std::fs::write(folder.join("tls.crt"), cert).unwrap();
        std::fs::write(folder.join("tls.key"), key).unwrap();
        command
            .arg("--pod-resources-socket=")
            .arg("--secure-serving")
            .arg(format!("--cert-path={}", folder.display()))
            .args(flags);
    })
    .await;
    until("both GPUs on the page", async || {
        let page = get(probe.metrics, "/metrics").await;
        let gpus = gpu_probes::dcgm::parse(&page).gpus.len();
        (gpus == 2).then_some(())
    })
    .await;
    probe
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_trusts_its_ca_hears_the_agent_and_its_page_stays_in_clear_text() {
    let _machine = machine::shared().await;
    let (servers, others) = (ca(), ca());
    let probe = secured(&servers, &[]).await;
    for (roots, told) in [
        (Some(&servers), Some(2)),
        (Some(&others), None),
        (None, None),
    ] {
        assert_eq!(heard(&probe, roots, None).await, told);
    }
    assert_eq!(in_clear_text(&probe).await, None);

    // Another certificate is taken while it runs.
    let (cert, key) = certificate(&others, NAME);
    std::fs::write(probe.folder.path().join("tls.key"), key).unwrap();
    std::fs::write(probe.folder.path().join("tls.crt"), cert).unwrap();
    until("the new certificate", async || {
        heard(&probe, Some(&others), None).await
    })
    .await;
    assert_eq!(heard(&probe, Some(&servers), None).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_ca_only_its_pickers_hear_the_agent() {
    let _machine = machine::shared().await;
    let (servers, pickers, strangers) = (ca(), ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pickers.pem");
    std::fs::write(&file, pickers.pem()).unwrap();
    let client_ca = format!("--client-ca-file={}", file.display());
    let flags = [&*client_ca, "--client-allowed-sans=picker.example.com"];
    let probe = secured(&servers, &flags).await;
    for (identity, told) in [
        (Some(certificate(&pickers, "picker.example.com")), Some(2)),
        (Some(certificate(&pickers, "mallory.example.com")), None),
        (Some(certificate(&strangers, "picker.example.com")), None),
        (None, None),
    ] {
        let got = heard(&probe, Some(&servers), identity.as_ref()).await;
        assert_eq!(got, told, "{:?}", identity.map(|(cert, _)| cert));
    }
}
