use super::super::failure::Fault;
use super::super::gauges::PoolGauges;
use super::super::snapshot::tests::endpoint;
use super::tests::{config, page_of, server};
use super::*;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The gauge's lines for one pool.
fn gauges(pool: &Arc<Pool>) -> Vec<String> {
    let mut registry = Registry::default();
    let gauges = PoolGauges::new("p".to_owned(), Arc::clone(pool), Arc::default());
    registry.register_collector(Box::new(gauges));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("endpoint_scrape_failed{"));
    lines.map(str::to_owned).collect()
}

async fn becomes(pool: &Arc<Pool>, what: &str, expected: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = gauges(pool);
        if now == expected {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{what}: {now:?}, not {expected:?}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn line(fault: Fault) -> String {
    let cause = fault.name();
    format!(
        "endpoint_scrape_failed{{name=\"p\",model_server_endpoint=\"a\",source_type=\"metrics-data-source\",cause=\"{cause}\"}} 1"
    )
}

#[tokio::test]
async fn the_gauge_names_the_cause_until_the_page_is_good_again() {
    let head = "HTTP/1.1 200 OK\r\n";
    let large = 9 << 20;
    for (bad, fault) in [
        (
            "HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Fault::Status,
        ),
        (
            "HTTP/1.1 301 there\r\nlocation: /m\r\ncontent-length: 0\r\n\r\n".to_owned(),
            Fault::Status,
        ),
        ("hello\r\n\r\n".to_owned(), Fault::Malformed),
        (
            format!("{head}transfer-encoding: chunked\r\n\r\nxyz\r\n"),
            Fault::Malformed,
        ),
        (page_of("<html>"), Fault::Malformed),
        (
            page_of("vllm:num_requests_waiting lots\n"),
            Fault::Malformed,
        ),
        (page_of(""), Fault::Empty),
        (page_of("# HELP x y\nx 1\n"), Fault::Missing),
        (
            page_of("vllm:waiting_requests{model=\"m\"} 1\n"),
            Fault::Missing,
        ),
        (
            format!("{head}content-length: 99\r\n\r\nvllm"),
            Fault::Timeout,
        ),
        (page_of(&"x 1\n".repeat(large / 4)), Fault::TooLarge),
        (String::new(), Fault::Closed),
    ] {
        let good = page_of("vllm:num_requests_waiting 3\n");
        let answers = [vec![bad.clone(); 2], vec![good]].concat();
        let address = server(answers, false).await;
        let pool = Arc::new(Pool::default());
        pool.replace(vec![endpoint("a", &address)]);
        let stop = CancellationToken::new();
        let mut config = config();
        if fault != Fault::Timeout {
            // To read that much takes a while where nothing is optimised.
            config.timeout = Duration::from_secs(20);
        }
        let task = spawn(Arc::clone(&pool), config, Arc::default(), stop.clone());
        let what: String = bad.chars().take(80).collect();
        becomes(&pool, &what, &[line(fault)]).await;
        becomes(&pool, &what, &[]).await;
        stop.cancel();
        task.await.unwrap();
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_told_from_one_that_is_late() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nvllm".to_owned();
    let address = server(vec![cut], true).await;
    let pool = Arc::new(Pool::default());
    pool.replace(vec![endpoint("a", &address)]);
    let task = spawn(
        Arc::clone(&pool),
        config(),
        Arc::default(),
        CancellationToken::new(),
    );
    becomes(&pool, "cut off", &[line(Fault::Closed)]).await;
    task.abort();
}

#[tokio::test]
async fn the_gauge_goes_with_the_endpoint_and_with_the_source() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let pool = Arc::new(Pool::default());
    let member = endpoint("a", &address);
    pool.replace(vec![member.clone()]);
    let stop = CancellationToken::new();
    let task = spawn(Arc::clone(&pool), config(), Arc::default(), stop.clone());
    let refused = [line(Fault::Connect)];
    becomes(&pool, "nobody listens", &refused).await;
    pool.replace(Vec::new());
    assert_eq!(gauges(&pool), [""; 0]);
    // What has the number next has failed nothing yet.
    pool.replace(vec![member]);
    becomes(&pool, "it is back", &refused).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(gauges(&pool), [""; 0]);
}

#[tokio::test]
async fn an_endpoint_that_is_described_anew_does_not_keep_an_old_failure() {
    // Fails twice, under the one description; then it is good, under the other.
    let bad = page_of("");
    let good = page_of("vllm:num_requests_waiting 3\n");
    let address = server(vec![bad, good], false).await;
    let pool = Arc::new(Pool::default());
    let mut member = endpoint("a", &address);
    pool.replace(vec![member.clone()]);
    let task = spawn(
        Arc::clone(&pool),
        config(),
        Arc::default(),
        CancellationToken::new(),
    );
    becomes(&pool, "empty", &[line(Fault::Empty)]).await;
    member.labels.insert("version".into(), "2".into());
    pool.replace(vec![member]);
    becomes(&pool, "good", &[]).await;
    task.abort();
}
