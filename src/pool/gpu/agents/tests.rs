use super::super::testing::{change, endpoint, event, gpu, heartbeat, snapshot};
use super::*;
use crate::pool::Pool;
use gpu_probes::telemetry::gpu_telemetry_server::{GpuTelemetry, GpuTelemetryServer};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

/// Says one list of reports to each that connects, numbered as given, the last list again and again; then it is silent, or
/// ends.
struct Script {
    says: Mutex<VecDeque<Vec<(u64, Report)>>>,
    ends: bool,
}

type Said = Pin<Box<dyn Stream<Item = Result<Report, Status>> + Send>>;

#[tonic::async_trait]
impl GpuTelemetry for Script {
    type WatchStream = Said;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Said>, Status> {
        let mut says = self.says.lock().unwrap();
        let now = match says.len() {
            0 => return Err(Status::unavailable("no more")),
            1 => says[0].clone(),
            _ => says.pop_front().unwrap(),
        };
        let reports = now
            .into_iter()
            .map(|(sequence, report)| Ok(Report { sequence, ..report }));
        let said = tokio_stream::iter(reports.collect::<Vec<_>>());
        Ok(Response::new(match self.ends {
            true => Box::pin(said),
            false => Box::pin(said.chain(tokio_stream::pending())),
        }))
    }
}

async fn serve(says: Vec<Vec<(u64, Report)>>, ends: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Script {
        says: Mutex::new(says.into()),
        ends,
    };
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let serving = tonic::transport::Server::builder()
        .add_service(GpuTelemetryServer::new(script))
        .serve_with_incoming(incoming);
    tokio::spawn(serving);
    address
}

fn at(address: SocketAddr) -> AgentAt {
    AgentAt::of(&address.to_string())
}

/// GPUs of a pool of one endpoint, `p`.
fn gpus() -> Arc<Gpus> {
    let pool = Pool::default();
    pool.replace(vec![endpoint("p", None, &[])]);
    Arc::new(Gpus::new(Arc::new(pool)))
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The XIDs that are known of all GPUs.
fn xids(gpus: &Gpus) -> Vec<u64> {
    gpus.look(|inner| {
        let all = inner.all();
        let events = all.iter().flat_map(|shown| &shown.known.events);
        events.map(|(_, event)| event.value).collect()
    })
}

#[tokio::test]
async fn an_agent_is_followed_over_reconnects_and_forgotten_when_it_is_not_wanted() {
    let told = |number| {
        vec![
            (1, snapshot("n", "x", vec![gpu("GPU-1", &["p"], 1)], vec![])),
            (2, heartbeat("n", "x")),
            (
                3,
                change(
                    "n",
                    "x",
                    vec![],
                    &[],
                    vec![event(number, "GPU-1", number, 0)],
                ),
            ),
        ]
    };
    let address = serve(vec![told(1), told(2), told(3)], true).await;
    let gpus = gpus();
    let mut agents = Agents::new(Arc::clone(&gpus), None);
    agents.set([at(address), at(address)]);
    until("three streams", || xids(&gpus) == [1, 2, 3]).await;
    agents.set([]);
    assert!(xids(&gpus).is_empty());
    assert_eq!(gpus.look(|inner| inner.sources.len()), 0);
}

#[tokio::test]
async fn a_stream_that_says_something_out_of_turn_begins_anew() {
    let first = |gpu_of: &str| (1, snapshot("n", "x", vec![gpu(gpu_of, &["p"], 1)], vec![]));
    let late = (
        3,
        change("n", "x", vec![], &[], vec![event(1, "GPU-1", 79, 0)]),
    );
    let address = serve(
        vec![
            vec![(1, heartbeat("n", "x"))],
            vec![(7, snapshot("n", "x", vec![gpu("GPU-0", &[], 1)], vec![]))],
            vec![first("GPU-1"), late],
            vec![first("GPU-2")],
        ],
        false,
    )
    .await;
    let gpus = gpus();
    let mut agents = Agents::new(Arc::clone(&gpus), None);
    agents.set([at(address)]);
    let known = || {
        gpus.look(|inner| {
            let all = inner.all();
            all.iter()
                .map(|shown| shown.known.gpu.uuid.clone())
                .collect::<Vec<_>>()
        })
    };
    let mut seen = Vec::new();
    until("the fourth stream", || {
        let now = known();
        if seen.last() != Some(&now) {
            seen.push(now.clone());
        }
        now == ["GPU-2"]
    })
    .await;
    // Nothing of the first two was taken, nor what came after the gap.
    assert!(!seen.contains(&vec!["GPU-0".to_owned()]), "{seen:?}");
    assert!(xids(&gpus).is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_says_nothing_is_connected_to_again() {
    let quiet = vec![(1, snapshot("n", "x", vec![gpu("GPU-1", &[], 1)], vec![]))];
    let other = vec![(1, snapshot("n", "x", vec![gpu("GPU-2", &[], 1)], vec![]))];
    let address = serve(vec![quiet, other], false).await;
    let (gpus, mut reports) = (gpus(), 0);
    let at = at(address);
    gpus.add(&id(&at), SILENT_MS);
    let Err(error) = stream(&gpus, &at, None, &mut reports).await;
    assert!(matches!(error, StreamError::Silent), "{error}");
    assert_eq!(reports, 1);
}

#[test]
fn pauses_grow_up_to_a_bound() {
    let of = |failures, jitter| pause(failures, jitter).as_millis();
    assert_eq!(
        [of(1, 1.0), of(2, 1.0), of(5, 0.5), of(9, 1.0)],
        [100, 200, 800, 5_000]
    );
    assert_eq!(of(u32::MAX, 1.5), 7_500);
}

#[test]
fn addresses() {
    for good in [
        "10.0.0.7:9401",
        "gpu-node-3:1",
        "[fd00::1]:9401",
        "a.b.svc:65535",
    ] {
        check_address(good).unwrap();
    }
    for bad in [
        "",
        "10.0.0.7",
        ":9401",
        "a:0",
        "a:b",
        "a:65536",
        "http://a:1",
        "u@a:1",
        "a:1/x",
    ] {
        let error = check_address(bad).unwrap_err();
        assert!(error.contains("is not host:port"), "{bad}: {error}");
    }
}

#[tokio::test]
async fn names_are_resolved_and_unknown_ones_harm_nobody() {
    let says = vec![vec![(
        1,
        snapshot("n", "x", vec![gpu("GPU-1", &[], 1)], vec![]),
    )]];
    let address = serve(says, false).await;
    let gpus = gpus();
    let agents = Agents::new(Arc::clone(&gpus), None);
    let (found, others) = watch::channel(Vec::new());
    let names = [
        "no-such-host.invalid:1".to_owned(),
        format!("localhost:{}", address.port()),
    ];
    let following = tokio::spawn(follow_all(agents, names.into(), others));
    until("the agent", || gpus.look(|inner| inner.all().len() == 1)).await;
    // Others are found meanwhile, and are gone again.
    let says = vec![vec![(
        1,
        snapshot("m", "y", vec![gpu("GPU-2", &[], 1)], vec![]),
    )]];
    found.send_replace(vec![at(serve(says, false).await)]);
    until("the other", || gpus.look(|inner| inner.all().len() == 2)).await;
    found.send_replace(Vec::new());
    until("it to be forgotten", || {
        gpus.look(|inner| inner.sources.len()) == 1
    })
    .await;
    following.abort();
}
