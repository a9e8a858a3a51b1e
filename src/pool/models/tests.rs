use super::super::snapshot::tests::endpoint;
use super::*;
use std::sync::atomic::Ordering;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

fn config() -> ModelsConfig {
    ModelsConfig {
        interval: Duration::from_millis(20),
        timeout: Duration::from_millis(200),
        path: "/v1/models".to_owned(),
        port: None,
        tls: None,
    }
}

fn answer(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// Answers the n-th request with the n-th answer, the last one again and again.
async fn server(answers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        for n in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            assert!(request[..read].starts_with(b"GET /v1/models HTTP/1.1\r\n"));
            let answer = answers[n.min(answers.len() - 1)].clone();
            tokio::spawn(async move {
                let _ = stream.write_all(answer.as_bytes()).await;
                // An answer that is not whole stays so: the poll has to give up by itself.
                let _ = stream.read(&mut request).await;
            });
        }
    });
    address
}

/// Polls a server that gives `answers` until `enough` of `[ok, failed, unread]`; what is listed then, and after the end.
async fn polled(answers: Vec<String>, enough: impl Fn([u64; 3]) -> bool) -> Vec<String> {
    let pool = Arc::new(Pool::default());
    let address = server(answers).await;
    let snapshot = pool.replace(vec![endpoint("a", &address)]);
    let (stats, stop) = (Arc::new(PollStats::default()), CancellationToken::new());
    let task = spawn(pool, config(), Arc::clone(&stats), stop.clone());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let counts = [&stats.ok, &stats.failed, &stats.unread];
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        if enough(counts) {
            break;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (s, i) = snapshot.cell(0);
    let list = s.models[i].load_full();
    stop.cancel();
    task.await.unwrap();
    assert!(s.models[i].load().is_none(), "it is not asked any more");
    let models = list.iter().flat_map(|list| &list.models);
    models.map(|model| model.id.to_string()).collect()
}

#[tokio::test]
async fn the_latest_list_counts() {
    let first = answer(r#"{"data":[{"id":"m"}]}"#);
    let then = answer(r#"{"data":[{"id":"m"},{"id":"a","parent":"m"}]}"#);
    let listed = polled(vec![first, then], |[ok, failed, _]| {
        assert_eq!(failed, 0);
        ok > 2
    });
    assert_eq!(listed.await, ["m", "a"]);
}

#[tokio::test]
async fn what_goes_wrong_is_counted_and_leaves_the_last_list() {
    let good = answer(r#"{"data":[{"id":"m"}]}"#);
    for bad in [
        "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{".to_owned(),
        "hello\r\n\r\n".to_owned(),
        answer(&" ".repeat(LARGEST_PAGE + 1)),
    ] {
        let listed = polled(vec![good.clone(), bad], |[ok, failed, unread]| {
            assert!(ok <= 1 && unread == 0);
            failed > 1
        });
        assert_eq!(listed.await, ["m"]);
    }
    let listed = polled(vec![good, answer("<html>")], |[_, failed, unread]| {
        assert_eq!(failed, 0);
        unread > 1
    });
    assert_eq!(listed.await, ["m"]);
}

#[test]
fn failures_are_tried_again_soon_and_then_less_often() {
    let of = |interval, failures, jitter| {
        pause(Duration::from_secs(interval), failures, jitter).as_millis()
    };
    assert_eq!(of(60, 0, 1.0), 60_000);
    assert_eq!(of(60, 0, 0.9), 54_000);
    assert_eq!([1, 2, 3].map(|n| of(60, n, 1.0)), [1000, 2000, 4000]);
    assert_eq!([7, 1000, u32::MAX].map(|n| of(60, n, 1.0)), [60_000; 3]);
    assert_eq!(of(1, 9, 1.1), 1_100);
}
