//! TLS of the agent's stream and of its page, seen by clients that verify; and what stays in clear text.

use std::io::Error;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::support::certificates::{Ca, ca, certificate, install};
use crate::support::tls::{Client, Identity};

const NAME: &str = "probe.example.com";

fn trusting(ca: &Ca) -> Client<'_> {
    Client {
        name: NAME,
        trusts: Some(ca),
        ..Client::default()
    }
}

/// How many GPUs a watcher hears of that trusts `roots` and is `identity`; none = it hears nothing.
async fn heard(probe: &Probe, roots: Option<&Ca>, identity: Option<Identity>) -> Option<usize> {
    let client = Client {
        name: NAME,
        trusts: roots,
        identity,
        ..Client::default()
    };
    let stream = client.connect(probe.grpc, b"h2").await?;
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| Error::other("there was one")) }
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
        install(servers, NAME, folder);
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
    install(&others, NAME, probe.folder.path());
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
        let got = heard(&probe, Some(&servers), identity.clone()).await;
        assert_eq!(got, told, "{:?}", identity.map(|(cert, _)| cert));
    }
}

/// An agent whose page has a certificate that `servers` signed; its stream is in clear text.
async fn with_page(servers: &Ca, flags: &[&str]) -> Probe {
    Probe::start_with(Some(&node()), |folder, command| {
        install(servers, NAME, folder);
        command
            .arg("--pod-resources-socket=")
            .arg(format!("--metrics-cert-dir={}", folder.display()))
            .args(flags);
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_trusts_its_ca_reads_the_page_and_the_stream_stays_in_clear_text() {
    let _machine = machine::shared().await;
    let (servers, others) = (ca(), ca());
    let probe = with_page(&servers, &[]).await;
    assert!(trusting(&servers).reads_metrics(probe.metrics).await);
    assert!(!trusting(&others).reads_metrics(probe.metrics).await);
    let uri = format!("http://{}/metrics", probe.metrics);
    assert!(http().get(uri.parse().unwrap()).await.is_err());
    assert!(in_clear_text(&probe).await.is_some());

    // Another certificate is taken while it runs.
    install(&others, NAME, probe.folder.path());
    until("the new certificate", async || {
        let read = trusting(&others).reads_metrics(probe.metrics).await;
        read.then_some(())
    })
    .await;
    assert!(!trusting(&servers).reads_metrics(probe.metrics).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_client_ca_only_its_readers_see_the_page() {
    let _machine = machine::shared().await;
    let (servers, readers, strangers) = (ca(), ca(), ca());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("readers.pem");
    std::fs::write(&file, readers.pem()).unwrap();
    let client_ca = format!("--metrics-client-ca-file={}", file.display());
    let probe = with_page(&servers, &[&client_ca]).await;
    for (identity, served) in [
        (Some(certificate(&readers, "prometheus")), true),
        (Some(certificate(&strangers, "prometheus")), false),
        (None, false),
    ] {
        let client = Client {
            identity,
            ..trusting(&servers)
        };
        assert_eq!(client.reads_metrics(probe.metrics).await, served);
    }
}
