//! gRPC health: the service names that gateways and probes use, from start to drain.

use pointsman::proto::health::health_check_response::ServingStatus;
use pointsman::proto::health::health_client::HealthClient;
use pointsman::proto::health::{HealthCheckRequest, HealthListRequest};
use rustix::process::Signal;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::ask::{Exchange, channel};
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{machine, until};

const READINESS: [&str; 4] = [
    "",
    "readiness",
    "inference-extension",
    "envoy.service.ext_proc.v3.ExternalProcessor",
];

async fn status(client: &mut HealthClient<Channel>, service: &str) -> Option<ServingStatus> {
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    Some(client.check(request).await.ok()?.into_inner().status())
}

async fn client(address: std::net::SocketAddr) -> HealthClient<Channel> {
    HealthClient::connect(format!("http://{address}"))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_ends_with_the_request_to_stop_and_liveness_with_the_process() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let config = picker::config(&sims.endpoints_file, &[("queue-scorer", 1)]);
    let flags = ["--health-checking", "--drain-timeout=30s"];
    let mut picker = Picker::start(&config, &flags).await;
    // The port of its own, and, as it was asked for, the port of ext_proc.
    for address in [picker.health, picker.grpc] {
        let mut client = client(address).await;
        for service in READINESS.into_iter().chain(["liveness"]) {
            let got = status(&mut client, service).await;
            assert_eq!(got, Some(ServingStatus::Serving), "{service} at {address}");
        }
        let listed = client.list(HealthListRequest {}).await.unwrap();
        let listed = listed.into_inner().statuses;
        assert!(
            READINESS.iter().all(|&name| listed.contains_key(name)),
            "{listed:?}"
        );
        let watched = client.watch(HealthCheckRequest::default()).await;
        assert_eq!(watched.unwrap_err().code(), Code::Unimplemented);
    }
    let client = tokio::sync::Mutex::new(client(picker.health).await);
    picker.process.signal(Signal::TERM).unwrap();
    until("readiness to end", async || {
        let got = status(&mut *client.lock().await, "readiness").await;
        (got == Some(ServingStatus::NotServing)).then_some(())
    })
    .await;
    let mut client = client.into_inner();
    for service in READINESS {
        let got = status(&mut client, service).await;
        assert_eq!(got, Some(ServingStatus::NotServing), "{service}");
    }
    assert_eq!(
        status(&mut client, "liveness").await,
        Some(ServingStatus::Serving)
    );
    // Load balancers get to see it, and requests are still taken meanwhile.
    assert!(tokio::net::TcpStream::connect(picker.grpc).await.is_ok());
    assert!(picker.process.ended().await.unwrap().success());
}

/// Whoever keeps his connection and never stops asking would keep it from ending, and be cut in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_asking_is_sent_elsewhere_and_what_he_began_is_finished() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let config = picker::config(&sims.endpoints_file, &[("queue-scorer", 1)]);
    let mut picker = Picker::start(&config, &["--drain-timeout=10m"]).await;
    let channel = channel(picker.grpc);
    let request = [(":method", "POST"), (":path", "/v1/completions")];
    let mut begun = Exchange::begin(&channel, &request, false).await;
    picker.process.signal(Signal::TERM).unwrap();
    until("new requests to be turned away", async || {
        let another = Exchange::try_begin(&channel, &request, false).await;
        another.err()
    })
    .await;
    picker.process.check().unwrap();
    begun.body(r#"{"model":"m","prompt":"p"}"#, true);
    assert_eq!(begun.destination().await, Ok(sims.addresses[0].to_string()));
    begun.answer("{}".to_owned()).await;
    assert!(picker.process.ended().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_not_on_the_ext_proc_port_unless_asked_for() {
    let _machine = machine::shared().await;
    let sims = Sims::start(1, &[]).await;
    let config = picker::config(&sims.endpoints_file, &[("queue-scorer", 1)]);
    let picker = Picker::start(&config, &[]).await;
    let mut client = client(picker.grpc).await;
    let answer = client.check(HealthCheckRequest::default()).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
}
