//! What it costs to follow a large pool in Kubernetes while its pods change: CPU time of a whole `pointsman serve`, which has
//! nothing else to do: it scrapes once an hour. The API server, the double of `sim::kube`, is in this process.
//!
//! `cargo run --release --example pool-churn -- 5000 50 20`: pods, changes a second, seconds. It runs the `pointsman` beside it.

#![allow(
    clippy::unwrap_used,
    reason = "a bench that cannot go on says where it stopped"
)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pointsman::cli::children::free_address;
use pointsman::sim::kube::ApiServer;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const NAMESPACE: &str = "models";
/// Of the clock that `/proc` tells CPU time by, a second.
const TICKS: f64 = 100.0;

#[tokio::main]
async fn main() {
    let numbers = std::env::args().skip(1).map(|text| text.parse().unwrap());
    let numbers: Vec<u64> = numbers.collect();
    let [pods, rate, seconds] = numbers[..] else {
        panic!("say: pods, changes a second, seconds");
    };
    let api = ApiServer::new(Duration::from_secs(1));
    api.put(json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": "pool", "namespace": NAMESPACE},
        "spec": {"selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}]},
    }));
    for n in 0..pods {
        api.put(pod(n, true));
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(api.clone().serve(listener, std::future::pending()));
    let folder = std::env::temp_dir().join(format!("pool-churn-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let kubeconfig = folder.join("kubeconfig");
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
    });
    std::fs::write(&kubeconfig, text.to_string()).unwrap();
    let metrics = free_address().unwrap();
    let mut picker = picker(&kubeconfig, metrics);
    while !page(metrics).contains(&format!("ready_endpoints{{name=\"pool\"}} {pods}\n")) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let start = cpu(&picker);
    println!("{pods} pods: {start:.2} s of CPU until they are known");
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (what, rate) in [("at rest", 0), ("under way", rate)] {
        let begun = cpu(&picker);
        for n in 0..rate.max(1) * seconds {
            tokio::time::sleep(Duration::from_micros(1_000_000 / rate.max(1))).await;
            if rate > 0 {
                api.put(pod((n / 2 * 37) % pods, n % 2 == 1));
            }
        }
        let share = (cpu(&picker) - begun) / seconds as f64 * 100.0;
        println!("{what}, {rate} changes a second: {share:.2} % of a core");
    }
    picker.kill().unwrap();
    picker.wait().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

/// The program that was built along with this one.
fn picker(kubeconfig: &Path, metrics: SocketAddr) -> Child {
    let program = std::env::current_exe().unwrap();
    let program = program.ancestors().nth(2).unwrap().join("pointsman");
    let port = |flag: &str| format!("--{flag}={}", free_address().unwrap().port());
    Command::new(program)
        .args(["serve", "--bind-address=127.0.0.1", "--pool-name=pool"])
        .args(["--refresh-metrics-interval=1h", "--secure-serving=false"])
        .arg(format!("--metrics-port={}", metrics.port()))
        .args(["grpc-port", "grpc-health-port"].map(port))
        .env("KUBECONFIG", kubeconfig)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Its metrics; nothing, while it does not answer.
fn page(metrics: SocketAddr) -> String {
    let mut page = String::new();
    if let Ok(mut connection) = TcpStream::connect(metrics) {
        let asked = connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n");
        let _ = asked.and_then(|()| connection.read_to_string(&mut page));
    }
    page
}

/// Seconds of CPU time that it has used.
fn cpu(picker: &Child) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", picker.id())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS
}

/// Of the size that a pod of a model server has: some 8 KB.
fn pod(n: u64, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    let filler: Vec<Value> = (0..40)
        .map(|v| json!({"name": format!("VARIABLE_{v}"), "value": "/some/path/to/what/it/is/about", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}))
        .collect();
    let labels: serde_json::Map<String, Value> = (0..8)
        .map(|l| {
            (
                format!("example.com/label-{l}"),
                json!(format!("value-{l}")),
            )
        })
        .collect();
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("vllm-{n}"), "namespace": NAMESPACE, "labels": labels},
        "spec": {"nodeName": format!("node-{}", n / 8), "containers": [{"name": "vllm", "image": "vllm", "env": filler}]},
        "status": {
            "podIP": format!("10.{}.{}.{}", n / 62_500, n / 250 % 250, n % 250 + 1),
            "conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": status}],
        },
    });
    pod["metadata"]["labels"]["app"] = json!("vllm");
    pod
}
