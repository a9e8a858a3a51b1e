//! Model servers whose pages are not what they should be: traffic continues, and a gauge names each endpoint and the cause.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::ask::ask;
use crate::support::picker::Picker;
use crate::support::{free_address, machine, until};

/// What a server does when it is asked.
#[derive(Clone)]
enum Does {
    Answer(String),
    Nothing,
    Close,
}

/// A server, and what it does from now on.
struct Server {
    address: SocketAddr,
    does: Arc<Mutex<Does>>,
}

fn page(body: &str) -> Does {
    let length = body.len();
    Does::Answer(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

async fn serve(mut stream: TcpStream, does: Arc<Mutex<Does>>) -> std::io::Result<()> {
    let mut request = [0; 4096];
    while stream.read(&mut request).await? > 0 {
        let now = does.lock().unwrap().clone();
        match now {
            Does::Answer(answer) => stream.write_all(answer.as_bytes()).await?,
            Does::Nothing => {}
            Does::Close => break,
        }
    }
    Ok(())
}

impl Server {
    async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
        };
        let does = Arc::clone(&server.does);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, Arc::clone(&does)));
            }
        });
        server
    }
}

/// Writes the endpoints, each named as the cause for which its page fails.
fn write(file: &Path, endpoints: &[(&str, SocketAddr)]) {
    let entries: String = endpoints
        .iter()
        .map(|(name, at)| {
            format!(
                "- {{name: {name}, address: {}, port: {}}}\n",
                at.ip(),
                at.port()
            )
        })
        .collect();
    let next = file.with_extension("next");
    std::fs::write(&next, format!("endpoints:\n{entries}")).unwrap();
    std::fs::rename(next, file).unwrap();
}

/// The gauge as `endpoint source cause`, in order.
async fn failing(picker: &Picker) -> Vec<String> {
    let page = picker.page("/metrics").await;
    let lines = page.lines().filter_map(|line| {
        let labels = line.strip_prefix("llm_d_epp_endpoint_scrape_failed{")?;
        let labels = labels.strip_suffix("} 1").unwrap();
        let values: Vec<_> = labels.split('"').skip(1).step_by(2).collect();
        Some(values[1..].join(" "))
    });
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

/// Waits until the gauge is `expected`; meanwhile every request has to be sent somewhere.
async fn becomes(picker: &Picker, what: &str, mut expected: Vec<String>) {
    expected.sort();
    until(what, async || {
        ask(picker.grpc, &[]).await.unwrap();
        (failing(picker).await == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_page_stops_traffic_and_a_gauge_says_what_is_wrong_with_it() {
    let _machine = machine::shared().await;
    let metrics = "vllm:num_requests_waiting 1\n";
    let cases = [
        ("timeout", Does::Nothing),
        ("empty", page("")),
        ("too-large", page(&metrics.repeat(350_000))),
        ("malformed", page("<html>It works!</html>\n")),
        ("missing", page("# HELP x y\nvllm:requests_waiting 1\n")),
        (
            "status",
            Does::Answer("HTTP/1.1 503 no\r\ncontent-length: 0\r\n\r\n".to_owned()),
        ),
        ("closed", Does::Close),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("endpoints.yaml");
    let (mut servers, mut endpoints) = (Vec::new(), Vec::new());
    for (name, does) in cases {
        let server = Server::start(does).await;
        endpoints.push((name, server.address));
        servers.push(server);
    }
    // Nobody listens there.
    endpoints.push(("connect", free_address().unwrap()));
    write(&file, &endpoints);
    let config = format!(
        "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: file-discovery
  parameters: {{path: {}, watchFile: true}}
- {{type: queue-scorer}}
dataLayer: {{discovery: {{pluginRef: file-discovery}}}}
",
        file.display()
    );
    let picker = Picker::start(&config, &[]).await;
    let all = endpoints
        .iter()
        .map(|(name, _)| format!("{name} metrics-data-source {name}"));
    becomes(&picker, "each cause", all.collect()).await;
    // Of nobody the load is known, and nobody is left out for it.
    for _ in 0..50 {
        ask(picker.grpc, &[]).await.unwrap();
    }
    let log = picker.process.printed();
    for (name, _) in &endpoints {
        let told = format!("cause=\"{name}\"");
        assert!(log.contains(&told), "{told} is not in\n{log}");
    }

    // One leaves, the others are set right.
    endpoints.pop();
    write(&file, &endpoints);
    let left = endpoints
        .iter()
        .map(|(name, _)| format!("{name} metrics-data-source {name}"));
    becomes(&picker, "one to leave", left.collect()).await;
    for server in &servers {
        *server.does.lock().unwrap() = page(metrics);
    }
    becomes(&picker, "all to be well", Vec::new()).await;
}
