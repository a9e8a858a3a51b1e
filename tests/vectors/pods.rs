//! Model servers that say of themselves what the case says, on loopback addresses of their own.
//!
//! `GET /metrics` is a page as vLLM prints it. Anything else is a request for inference: it gets the case's response if
//! there is one, else a JSON description of what arrived. Both carry `x-inference-pod`, the pod's number in the case.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response as HttpResponse, StatusCode};
use axum::routing::get;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use xxhash_rust::xxh3::xxh3_64;

use super::bodies;
use super::data::{Case, Pod, Response};

/// Machines with an IPv4 address; a case may use this many.
const HOSTS: u8 = 4;
/// Where pods live when an external picker is tested: 127.0.9.1 to 127.0.9.4, ports 8000 and 8001, and [::1]:8000.
const FIXED: ([u8; 2], u16) = ([0, 9], 8000);
/// Below the ports that outgoing connections get.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// All addresses that pods can have, with a server at each.
#[derive(Debug)]
pub(crate) struct Net {
    block: [u8; 2],
    port: u16,
    stage: Arc<Mutex<Stage>>,
    servers: JoinSet<()>,
}

/// The pods of the case that is on.
#[derive(Debug, Default)]
struct Stage {
    pods: HashMap<SocketAddr, (usize, Pod)>,
    response: Option<(Response, Vec<Bytes>)>,
}

#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    stage: Arc<Mutex<Stage>>,
}

// === impl Net ===

impl Net {
    /// At addresses that nobody else uses.
    pub(crate) async fn start() -> Self {
        for _ in 0..100 {
            let block = [1..=254, 1..=254].map(|range| rand::rng().random_range(range));
            let port = rand::rng().random_range(PORTS);
            if let Ok(net) = Self::start_at(block, port).await {
                return net;
            }
        }
        panic!("no free addresses for model servers on 127.0.0.0/8");
    }

    /// At the addresses that are documented for external pickers.
    pub(crate) async fn start_fixed() -> Self {
        let net = Self::start_at(FIXED.0, FIXED.1).await;
        net.unwrap_or_else(|error| panic!("the model servers' addresses (README.md): {error}"))
    }

    async fn start_at(block: [u8; 2], port: u16) -> std::io::Result<Self> {
        let mut net = Self {
            block,
            port,
            stage: Arc::default(),
            servers: JoinSet::new(),
        };
        for address in net.addresses() {
            let listener = TcpListener::bind(address).await?;
            let server = Server {
                address,
                stage: Arc::clone(&net.stage),
            };
            let router = Router::new()
                .route("/metrics", get(metrics))
                .fallback(inference)
                .with_state(server);
            net.servers
                .spawn(async move { axum::serve(listener, router).await.unwrap() });
        }
        Ok(net)
    }

    /// All addresses that pods can have.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let hosts = (0..HOSTS).map(|host| host_address(self.block, host));
        let ports = [self.port, self.port + 1];
        let ipv4 = hosts.flat_map(|ip| ports.map(|port| SocketAddr::new(ip, port)));
        let ipv6 = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), self.port);
        ipv4.chain([ipv6]).collect()
    }

    /// Puts the pods of `case` on: their addresses, in order.
    pub(crate) fn show(&self, case: &Case) -> Vec<SocketAddr> {
        let mut stage = self.stage.lock();
        stage.pods.clear();
        let addresses = case.pods.iter().enumerate().map(|(number, pod)| {
            let address = self.address(number, pod);
            let before = stage.pods.insert(address, (number, pod.clone()));
            assert!(before.is_none(), "{case}: two pods at one address");
            address
        });
        let addresses = addresses.collect();
        stage.response = case
            .response
            .as_ref()
            .map(|response| (response.clone(), bodies::response_chunks(case, response)));
        addresses
    }

    fn address(&self, number: usize, pod: &Pod) -> SocketAddr {
        let host = u8::try_from(pod.host.unwrap_or(number)).unwrap();
        assert!(host < HOSTS && pod.port < 2, "no such address: {pod:?}");
        let ip = match pod.ipv6 {
            true => Ipv6Addr::LOCALHOST.into(),
            false => host_address(self.block, host),
        };
        SocketAddr::new(ip, self.port + pod.port as u16)
    }
}

fn host_address([a, b]: [u8; 2], host: u8) -> IpAddr {
    Ipv4Addr::new(127, a, b, host + 1).into()
}

// === impl Server ===

impl Server {
    fn pod(&self) -> Option<(usize, Pod)> {
        self.stage.lock().pods.get(&self.address).cloned()
    }
}

// === impl Pod ===

impl Pod {
    /// Its gauges as vLLM prints them.
    fn page(&self) -> String {
        let labels = r#"engine="0",model_name="my-model""#;
        let gauge = |name: &str, value: &dyn std::fmt::Display| {
            format!(
                "# HELP vllm:{name} As vLLM says.\n# TYPE vllm:{name} gauge\nvllm:{name}{{{labels}}} {value}\n"
            )
        };
        let mut page = [
            gauge(
                "num_requests_running",
                &format_args!("{:?}", f64::from(self.running)),
            ),
            gauge(
                "num_requests_waiting",
                &format_args!("{:?}", f64::from(self.queue)),
            ),
            gauge("kv_cache_usage_perc", &self.kv),
        ]
        .concat();
        if let Some(loras) = &self.loras {
            let (running, waiting) = (loras.join(","), self.waiting_loras.join(","));
            page += &format!(
                "# TYPE vllm:lora_requests_info gauge\nvllm:lora_requests_info{{max_lora=\"2\",running_lora_adapters=\"{running}\",waiting_lora_adapters=\"{waiting}\"}} 1.7e+09\n"
            );
        }
        page
    }
}

async fn metrics(State(server): State<Server>) -> Result<String, StatusCode> {
    match server.pod() {
        Some((_, pod)) if !pod.mute => Ok(pod.page()),
        _ => Err(StatusCode::NOT_FOUND),
    }
}

async fn inference(State(server): State<Server>, request: Request<Body>) -> HttpResponse<Body> {
    let (head, body) = request.into_parts();
    let Some((number, _)) = server.pod() else {
        // An address at which the case has no pod.
        return status(StatusCode::GONE, Body::empty());
    };
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return status(StatusCode::BAD_REQUEST, Body::empty());
    };
    let scripted = server.stage.lock().response.clone();
    let mut answer = match scripted {
        Some((response, chunks)) => scripted_response(&response, chunks),
        None => {
            let mut headers: HashMap<&str, Vec<String>> = HashMap::new();
            for (name, value) in &head.headers {
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                headers.entry(name.as_str()).or_default().push(value);
            }
            let arrived = json!({
                "pod": number,
                "method": head.method.as_str(),
                "path": head.uri.path_and_query().map(ToString::to_string),
                "headers": headers,
                "body_bytes": body.len(),
                "body_xxh3": format!("{:016x}", xxh3_64(&body)),
            });
            let mut answer = status(StatusCode::OK, Body::from(arrived.to_string()));
            let json = "application/json".parse().unwrap();
            answer.headers_mut().insert("content-type", json);
            answer
        }
    };
    let number = number.to_string().parse().unwrap();
    answer.headers_mut().insert("x-inference-pod", number);
    answer
}

fn scripted_response(response: &Response, chunks: Vec<Bytes>) -> HttpResponse<Body> {
    let headers = |given: &std::collections::BTreeMap<String, String>| -> HeaderMap {
        let parsed = given.iter().map(|(name, value)| {
            let name: axum::http::HeaderName = name.parse().unwrap();
            (name, value.parse::<axum::http::HeaderValue>().unwrap())
        });
        parsed.collect()
    };
    let mut frames: Vec<_> = chunks.into_iter().map(Frame::data).collect();
    if !response.trailers.is_empty() {
        frames.push(Frame::trailers(headers(&response.trailers)));
    }
    let frames = frames.into_iter().map(Ok::<_, Infallible>);
    let body = StreamBody::new(futures_util::stream::iter(frames));
    let code = StatusCode::from_u16(response.status).unwrap();
    let mut answer = status(code, Body::new(body));
    answer.headers_mut().extend(headers(&response.headers));
    answer
}

fn status(code: StatusCode, body: Body) -> HttpResponse<Body> {
    let mut answer = HttpResponse::new(body);
    *answer.status_mut() = code;
    answer
}
