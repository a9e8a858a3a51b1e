use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::super::failure::{Fault, SourceType};
use super::super::models::{self, ModelsConfig};
use super::super::polls::PollStats;
use super::super::scrape::{self, tests::config};
use super::super::snapshot::tests::endpoint;
use super::super::{Pool, Snapshot};
use super::*;
use crate::config::params::SourceParams as _;
use crate::config::{LoadOptions, load};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // One of the same name with another key would be another matter.
    let name = uuid::Uuid::new_v4().to_string();
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate for `name`, and its key, both as PEM.
fn certificate(ca: &Ca, name: &str) -> [String; 2] {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let cert = params.signed_by(&key, ca).unwrap();
    [cert.pem(), key.serialize_pem()]
}

/// Files of one test.
struct Files(TempDir);

impl Files {
    fn put(&self, name: &str, text: &str) -> String {
        let path: PathBuf = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

/// What a source makes of these `parameters`.
fn tls(parameters: &str) -> Result<ClientTls, String> {
    let text = format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: metrics-data-source\n  parameters:\n    scheme: https\n    {parameters}\n"
    );
    let metrics = load(&text, LoadOptions::default()).unwrap().sources.metrics;
    let metrics = metrics.unwrap();
    let made = ClientTls::of(&metrics.source.tls().unwrap(), &metrics.source_parameters);
    made.map_err(|problem| problem.to_string())
}

/// A model server that does TLS.
struct Server {
    address: String,
    handshakes: Arc<AtomicU64>,
}

impl Server {
    /// With a certificate of `ca` for `name`; it wants clients of `clients` if that is given.
    async fn start(ca: &Ca, name: &str, clients: Option<&Ca>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(ca.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let [cert, key] = certificate(ca, name);
        let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(vec![cert], key).unwrap();
        // It must be told which HTTP.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap().to_string(),
            handshakes: Arc::default(),
        };
        let handshakes = Arc::clone(&server.handshakes);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, handshakes) = (acceptor.clone(), Arc::clone(&handshakes));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    handshakes.fetch_add(1, Ordering::Relaxed);
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                    assert_eq!(stream.get_ref().1.server_name(), None);
                    let mut request = [0; 1024];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                        let body = match request.starts_with(b"GET /v1/models ") {
                            true => r#"{"data":[{"id":"m"}]}"#,
                            false => "vllm:num_requests_waiting 1\n",
                        };
                        let length = body.len();
                        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                        let page = head + body;
                        let answer = stream.write_all(page.as_bytes());
                        if answer.await.is_err() || stream.flush().await.is_err() {
                            break;
                        }
                    }
                });
            }
        });
        server
    }

    /// Polls it with both sources until each has an `enough`-th page or a failure: the failures.
    async fn polled(&self, tls: ClientTls, enough: u64) -> [Option<Fault>; 2] {
        let pool = Arc::new(Pool::default());
        let snapshot: Arc<Snapshot> = pool.replace(vec![endpoint("a", &self.address)]);
        let stop = CancellationToken::new();
        let stats: [Arc<PollStats>; 2] = Default::default();
        let metrics = scrape::ScrapeConfig {
            tls: Some(tls.clone()),
            timeout: Duration::from_secs(20),
            ..config()
        };
        let models = ModelsConfig {
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(20),
            path: "/v1/models".to_owned(),
            port: None,
            tls: Some(tls),
        };
        let metrics = scrape::spawn(
            Arc::clone(&pool),
            metrics,
            Arc::clone(&stats[0]),
            stop.clone(),
        );
        let models = models::spawn(pool, models, Arc::clone(&stats[1]), stop.clone());
        let faults = snapshot.member(0).faults();
        let of = || [SourceType::Metrics, SourceType::Models].map(|source| faults.of(source));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let now = of();
            let done = now.iter().zip(&stats).all(|(fault, stats)| {
                fault.is_some() || stats.ok.load(Ordering::Relaxed) >= enough
            });
            if done {
                stop.cancel();
                metrics.await.unwrap();
                models.await.unwrap();
                assert_eq!(of(), [None; 2], "nothing is polled any more");
                return now;
            }
            assert!(tokio::time::Instant::now() < deadline, "{now:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_server_is_verified_by_its_address_unless_nobody_is() {
    let (ours, other, files) = (ca(), ca(), Files::new());
    let ca = |ca: &Ca| {
        let path = files.put("ca.pem", &ca.pem());
        tls(&format!(
            "insecureSkipVerify: false\n    caCertPath: {path}"
        ))
        .unwrap()
    };
    let refused = [Some(Fault::Tls); 2];
    let server = Server::start(&ours, "127.0.0.1", None).await;
    assert_eq!(server.polled(ca(&ours), 3).await, [None; 2]);
    assert_eq!(server.polled(ca(&other), 3).await, refused);
    let elsewhere = Server::start(&ours, "10.0.0.1", None).await;
    assert_eq!(elsewhere.polled(ca(&ours), 3).await, refused);
    let any = tls("").unwrap();
    assert!(!any.verifies() && ca(&ours).verifies());
    assert_eq!(elsewhere.polled(any.clone(), 3).await, [None; 2]);

    // A refusal says why.
    let port = elsewhere
        .address
        .rsplit(':')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let address = ([127, 0, 0, 1].into(), port);
    let error = connect(address, Some(&ca(&ours))).await.err().unwrap();
    let error = error.to_string();
    assert!(error.contains("certificate not valid for name"), "{error}");
    let error = connect(address, Some(&ca(&other))).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        "TLS: invalid peer certificate: UnknownIssuer"
    );

    // Without TLS there is nothing to talk about.
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let answering = async {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        stream
    };
    let address = ([127, 0, 0, 1].into(), port);
    let (error, _stream) = tokio::join!(connect(address, Some(&any)), answering);
    assert_eq!(error.err().unwrap().fault(), Fault::Tls);
}

#[tokio::test]
async fn a_connection_stays_open_for_many_scrapes() {
    let server = Server::start(&ca(), "127.0.0.1", None).await;
    let pool = Arc::new(Pool::default());
    pool.replace(vec![endpoint("a", &server.address)]);
    let stats = Arc::new(PollStats::default());
    let config = scrape::ScrapeConfig {
        tls: Some(tls("").unwrap()),
        ..config()
    };
    let stop = CancellationToken::new();
    let task = scrape::spawn(pool, config, Arc::clone(&stats), stop.clone());
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while stats.ok.load(Ordering::Relaxed) < 10 {
        assert!(tokio::time::Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    task.await.unwrap();
    assert_eq!(server.handshakes.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_the_one_that_is_configured() {
    let (clients, strangers, files) = (ca(), ca(), Files::new());
    let with = |ca: &Ca| {
        let [cert, key] = certificate(ca, "picker.example.com");
        let (cert, key) = (files.put("tls.crt", &cert), files.put("tls.key", &key));
        tls(&format!("clientCertPath: {cert}\n    clientKeyPath: {key}")).unwrap()
    };
    let server = Server::start(&ca(), "127.0.0.1", Some(&clients)).await;
    assert_eq!(server.polled(with(&clients), 3).await, [None; 2]);
    // With TLS 1.3 the refusal comes where the answer should.
    let refused = [Some(Fault::Tls); 2];
    assert_eq!(server.polled(with(&strangers), 3).await, refused);
    assert_eq!(server.polled(tls("").unwrap(), 3).await, refused);
}

#[test]
fn files_are_read_at_once_and_two_readings_are_equal_if_they_say_the_same() {
    let (ca, files) = (ca(), Files::new());
    let ca_path = files.put("ca.pem", &ca.pem());
    let [cert, key] = certificate(&ca, "picker.example.com");
    let (cert, key) = (files.put("tls.crt", &cert), files.put("tls.key", &key));
    let verified = format!("insecureSkipVerify: false\n    caCertPath: {ca_path}");
    let mutual = format!("clientCertPath: {cert}\n    clientKeyPath: {key}");
    let (first, second) = (tls(&verified).unwrap(), tls(&verified).unwrap());
    assert_eq!(first, second);
    assert_ne!(first, tls("").unwrap());
    assert_ne!(tls("").unwrap(), tls(&mutual).unwrap());
    files.put("ca.pem", &self::ca().pem());
    assert_ne!(first, tls(&verified).unwrap());

    let [_, other] = certificate(&ca, "picker.example.com");
    files.put("tls.key", &other);
    let error = tls(&mutual).unwrap_err();
    let expected = format!("parameters.clientKeyPath: {key} does not go with {cert}: ");
    assert!(error.contains(&expected), "{error}");
    files.put("tls.key", "no key");
    let error = tls(&mutual).unwrap_err();
    let expected = format!(
        "line 8: plugin `metrics-data-source`: parameters.clientKeyPath: {key}: no private key"
    );
    assert!(error.starts_with(&expected), "{error}");
    files.put("tls.crt", "");
    let error = tls(&mutual).unwrap_err();
    assert!(
        error.contains(&format!(
            "parameters.clientCertPath: {cert}: holds no certificate"
        )),
        "{error}"
    );
    files.put(
        "ca.pem",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    );
    let error = tls(&verified).unwrap_err();
    assert!(
        error.contains(&format!(
            "parameters.caCertPath: {ca_path}: no certificate: "
        )),
        "{error}"
    );
}
