use super::super::testing::endpoint;
use super::*;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

const PAGE: &str = r#"# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-a",Hostname="n",pod="p",namespace="ns"} 40
DCGM_FI_DEV_GPU_UTIL{gpu="1",UUID="GPU-b",Hostname="n",pod="p",namespace="ns"} 90
DCGM_FI_DEV_GPU_UTIL{gpu="2",UUID="GPU-c",Hostname="n",pod="q",namespace="ns"} 10
DCGM_FI_DEV_GPU_UTIL{gpu="3",UUID="GPU-d",Hostname="n",pod="p",namespace="other"} 100
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",pod="p",namespace="ns"} 70000
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-a",pod="p",namespace="ns"} 11000
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-b",pod="p",namespace="ns"} 70000
DCGM_FI_DEV_FB_FREE{gpu="1",UUID="GPU-b",pod="p",namespace="ns"} 11000
"#;

fn utilizations(page: &str, names: &[&str]) -> Vec<Option<f32>> {
    let gpus = parse(page).gpus;
    let of = |name: &&str| utilization(&gpus, &endpoint(name, None, &[]), false);
    names.iter().map(of).collect()
}

#[test]
fn the_busiest_gpu_of_a_pod_counts() {
    assert_eq!(
        utilizations(PAGE, &["p", "p-rank-1", "q", "r"]),
        [Some(0.9), Some(0.9), Some(0.1), None]
    );
    // What has no pod may be anybody's, as in the reference.
    let sidecar = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-e\"} 70\n";
    assert_eq!(
        utilizations(&format!("{PAGE}{sidecar}"), &["q", "r"]),
        [Some(0.7); 2]
    );
    // On the page of a node it may be that of another pool: unless it is named, or the node is all the endpoint's.
    let gpus = parse(&format!("{PAGE}{sidecar}")).gpus;
    for (of, expected) in [
        (endpoint("q", None, &[]), Some(0.1)),
        (endpoint("r", None, &[]), None),
        (endpoint("r", Some("n"), &["GPU-e"]), Some(0.7)),
        (endpoint("r", Some("n"), &["GPU-f"]), None),
        (endpoint("r", Some("n"), &[]), Some(0.7)),
    ] {
        assert_eq!(utilization(&gpus, &of, true), expected, "{of:?}");
    }
    let nothing = "DCGM_FI_DEV_GPU_UTIL{gpu=\"0\",UUID=\"GPU-e\"} 9223372036854775794\n";
    assert_eq!(utilizations(nothing, &["p"]), [None]);
}

#[test]
fn where_the_exporter_is() {
    let pool = Pool::default();
    let mut known = endpoint("d", Some("gpu-node-4"), &[]);
    known.hardware.node_address = Some([10, 0, 0, 4].into());
    let snapshot = pool.replace(vec![
        endpoint("a", None, &[]),
        endpoint("b", Some("10.0.0.9"), &[]),
        endpoint("c", Some("gpu-node-3"), &[]),
        known,
    ]);
    let ids = |of_node| {
        let places = snapshot
            .members()
            .iter()
            .map(|member| place(member, of_node));
        places
            .map(|place| place.map(|p| p.id(9400).address.to_string()))
            .collect::<Vec<_>>()
    };
    let own = Some("127.0.0.1:9400".to_owned());
    assert_eq!(ids(false), vec![own; 4]);
    let expected = [
        None,
        Some("10.0.0.9:9400".to_owned()),
        Some("gpu-node-3:9400".to_owned()),
        // Where its address is known, no name is looked up.
        Some("10.0.0.4:9400".to_owned()),
    ];
    assert_eq!(ids(true), expected);
}

/// Answers each request with the n-th body, the last one again and again; an empty one closes.
async fn exporter(bodies: Vec<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for n in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let body = &bodies[n.min(bodies.len() - 1)];
            if !body.is_empty() {
                let length = body.len();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all((head + body).as_bytes()).await;
            }
        }
    });
    port
}

#[tokio::test]
async fn pages_are_read_garbage_is_not_and_what_was_read_goes_with_the_source() {
    let garbage = [
        "<html>".to_owned(),
        String::new(),
        "a 1\n".to_owned(),
        "\u{0}\u{fffd}".repeat(3_000_000),
    ];
    let port = exporter(garbage.into_iter().chain([PAGE.to_owned()]).collect()).await;
    let pool = Arc::new(Pool::default());
    let snapshot = pool.replace(vec![endpoint("p", None, &[]), endpoint("q", None, &[])]);
    let gpus = Arc::new(Gpus::new(Arc::clone(&pool)));
    let (stats, stop) = (Arc::new(PollStats::default()), CancellationToken::new());
    let config = DcgmConfig {
        interval: Duration::from_millis(10),
        silence: Duration::ZERO,
        timeout: Duration::from_secs(5),
        path: "/metrics".to_owned(),
        port,
        of_node: false,
        tls: None,
    };
    let (of, shown) = (Arc::clone(&pool), Arc::clone(&gpus));
    let task = spawn(of, shown, config, Arc::clone(&stats), stop.clone());
    let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(30);
    while count(&stats.ok) < 3 {
        assert!(Instant::now() < deadline, "{stats:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One exporter for both endpoints: each page was asked for once.
    assert_eq!([count(&stats.failed), count(&stats.unread)], [2, 2]);
    gpus.tick(clock_ms());
    let known = |position: u32| {
        let (s, i) = snapshot.cell(position);
        let cells = &s.gpu_cells;
        let memory = cells
            .memory(i, clock_ms(), u64::MAX)
            .map(|memory| memory.held >> 20);
        (cells.utilization(i, clock_ms(), u64::MAX), memory)
    };
    assert_eq!(known(0), (Some(0.9), Some(140_000)));
    assert_eq!(known(1), (Some(0.1), None));
    assert_eq!(snapshot.member(0).faults().of(SourceType::Dcgm), None);
    stop.cancel();
    task.await.unwrap();
    gpus.tick(clock_ms());
    assert_eq!([known(0), known(1)], [(None, None); 2]);
}
