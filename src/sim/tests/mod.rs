//! A server as its clients see it.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::step::EngineSpec;
use super::{
    Boards, Division, EngineConfig, EngineKind, Layout, Pace, Server, ServerConfig, Times,
};
use crate::dialect::{ResponseScanner, Usage};

mod caching;
mod sleep;

struct Sim {
    address: SocketAddr,
    client: Client<HttpConnector, Full<bytes::Bytes>>,
}

impl Sim {
    /// With two adapters loaded of the three that fit.
    async fn start() -> Self {
        let times = Times {
            ttft: Duration::from_millis(1),
            prefill_rate: 1e9,
            itl: Duration::from_millis(1),
        };
        Self::of(Pace::Fixed(times)).await
    }

    async fn of(pace: Pace) -> Self {
        Self::with(EngineKind::Vllm, pace).await
    }

    async fn with(kind: EngineKind, pace: Pace) -> Self {
        let config = ServerConfig {
            name: "sim-0".to_owned(),
            model: "base".to_owned(),
            adapters: vec!["a".to_owned(), "b".to_owned()],
            max_cpu_loras: 3,
            sleep_mode: true,
            engine: EngineConfig {
                kind,
                pace,
                speed: 1.0,
                max_num_seqs: 4,
                kv_blocks: 10,
                block_size: 16,
                max_model_len: u64::MAX,
                max_loras: 1,
                lora_load: Duration::from_millis(1),
                tokens: 3,
            },
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seat = match &config.engine.pace {
            Pace::Steps(spec) => {
                let layout = Layout {
                    gpu: spec.gpu.clone(),
                    servers: 1,
                    tp: spec.tp as usize,
                    division: Division::Turns(NonZeroUsize::MIN),
                };
                Some(Boards::new(layout).unwrap().seat(0))
            }
            Pace::Fixed(_) => None,
        };
        let server = Arc::new(Server::new(config, address, seat).unwrap());
        tokio::spawn(server.serve(listener, std::future::pending()));
        Self {
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn send(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::from(body.to_owned()))
            .unwrap();
        let response = self.client.request(request).await.unwrap();
        assert_eq!(response.headers()["x-inference-pod"], "sim-0");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.send("POST", path, body).await;
        (status, serde_json::from_str(&body).unwrap_or(body.into()))
    }
}

#[tokio::test]
async fn anthropics_errors_have_its_envelope() {
    let sim = Sim::start().await;
    let long = "x".repeat(1000);
    let fit = r#""model":"base","max_tokens":1"#;
    for (body, status, kind, words) in [
        ("{".to_owned(), 400, "invalid_request_error", "EOF"),
        (
            "{}".to_owned(),
            400,
            "invalid_request_error",
            "model: Field required",
        ),
        (
            format!("{{{fit}}}"),
            400,
            "invalid_request_error",
            "messages: Field required",
        ),
        (
            r#"{"model":"base","messages":[]}"#.to_owned(),
            400,
            "invalid_request_error",
            "max_tokens: Field required",
        ),
        (
            r#"{"model":"c","max_tokens":1,"messages":[]}"#.to_owned(),
            404,
            "not_found_error",
            "The model `c` does not exist.",
        ),
        (
            format!(r#"{{{fit},"messages":["{long}"]}}"#),
            400,
            "invalid_request_error",
            "maximum context length is 160 tokens",
        ),
    ] {
        let (found, answer) = sim.post("/v1/messages", &body).await;
        assert_eq!(found, status, "{body}");
        assert_eq!(
            (&answer["type"], &answer["error"]["type"]),
            (&json!("error"), &json!(kind))
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    let counted = sim.post(
        "/v1/messages/count_tokens",
        r#"{"model":"a","messages":["12345678"]}"#,
    );
    assert_eq!(counted.await, (200, json!({"input_tokens": 11})));
    let (status, answer) = sim
        .post("/v1/messages/count_tokens", r#"{"model":"a"}"#)
        .await;
    assert_eq!((status, &answer["type"]), (400, &json!("error")));
    sim.post("/admin/fault", r#"{"status":529}"#).await;
    let (status, answer) = sim.post("/v1/messages", "{}").await;
    assert_eq!(
        (status, &answer["error"]["type"]),
        (529, &json!("overloaded_error"))
    );
    let (status, answer) = sim.post("/v1/completions", "{}").await;
    assert_eq!((status, &answer["error"]["code"]), (529, &json!(529)));
}

#[tokio::test]
async fn openais_requests_are_read_as_python_reads_them() {
    let sim = Sim::start().await;
    let body = r#"{"model":"c","max_tokens":1,"stream":true,"prompt":"1234567","model":"a","max_tokens":2,"stream":null}"#;
    let (status, answer) = sim.post("/v1/completions", body).await;
    assert_eq!((status, &answer["model"]), (200, &json!("a")));
    assert_eq!(answer["usage"]["completion_tokens"], 2);
    for (body, status, kind, words) in [
        ("[]", 400, "BadRequestError", "invalid type"),
        (
            r#"{"stream":1,"prompt":""}"#,
            400,
            "BadRequestError",
            "stream: ",
        ),
        (
            r#"{"model":"base"}"#,
            400,
            "BadRequestError",
            "messages or prompt is missing",
        ),
        (
            r#"{"model":"c","prompt":""}"#,
            404,
            "NotFoundError",
            "does not exist",
        ),
        (
            r#"{"max_tokens":200,"prompt":""}"#,
            400,
            "BadRequestError",
            "(200 > 160 - 1)",
        ),
    ] {
        let (found, answer) = sim.post("/v1/completions", body).await;
        assert_eq!(
            (found, &answer["error"]["type"]),
            (status, &json!(kind)),
            "{body}"
        );
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{message}");
    }
    let (_, models) = sim.send("GET", "/v1/models", "").await;
    let models: Value = serde_json::from_str(&models).unwrap();
    assert_eq!(models["data"][0]["max_model_len"], 160);
    assert_eq!(models["data"][2]["id"], "b");
}

#[tokio::test]
async fn every_apis_usage_is_found() {
    let sim = Sim::start().await;
    for (path, body, input, output) in [
        ("/v1/chat/completions", r#"{"messages":["12"]}"#, 10, 3),
        ("/v1/completions", r#"{"prompt":"1234"}"#, 1, 3),
        (
            "/v1/responses",
            r#"{"input":"1234","max_output_tokens":5}"#,
            10,
            5,
        ),
        (
            "/v1/messages",
            r#"{"model":"base","messages":["12"],"max_tokens":4}"#,
            10,
            4,
        ),
    ] {
        let stream = format!(
            r#"{},"stream":true,"stream_options":{{"include_usage":true}}}}"#,
            &body[..body.len() - 1]
        );
        for (sse, body) in [(false, body), (true, &stream)] {
            let (status, answer) = sim.send("POST", path, body).await;
            let mut scanner = ResponseScanner::new(sse);
            scanner.feed(answer.as_bytes());
            assert!(status == 200 && scanner.first_token(), "{answer}");
            let usage = scanner.usage().unwrap();
            assert_eq!(
                (usage.input, usage.output),
                (Some(input), Some(output)),
                "{answer}"
            );
        }
    }
    let (_, answer) = sim
        .send("POST", "/v1/embeddings", r#"{"input":["1","2"]}"#)
        .await;
    let mut scanner = ResponseScanner::new(false);
    scanner.feed(answer.as_bytes());
    let usage = Usage {
        input: Some(2),
        ..Usage::default()
    };
    assert_eq!(scanner.usage(), Some(usage));
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn every_engines_page_is_where_it_has_it() {
    for (kind, path, gauge) in [
        (EngineKind::Vllm, "/metrics", "vllm:num_requests_running{"),
        (EngineKind::Sglang, "/metrics", "sglang:num_running_reqs{"),
        (
            EngineKind::Trtllm,
            "/prometheus/metrics",
            "trtllm_num_requests_running{",
        ),
    ] {
        let spec = EngineSpec::new("H100", "llama3-8b", 1);
        let sim = Sim::with(kind, Pace::Steps(spec)).await;
        let (status, page) = sim.send("GET", path, "").await;
        assert!(status == 200 && page.contains(gauge), "{page}");
        // Faults are the same everywhere.
        sim.post("/admin/fault", r#"{"metrics":"missing"}"#).await;
        assert_eq!(sim.send("GET", path, "").await.0, 503);
        if kind == EngineKind::Trtllm {
            let (_, iterations) = sim.send("GET", "/metrics", "").await;
            let iterations: Value = serde_json::from_str(&iterations).unwrap();
            assert_eq!(iterations[0]["kvCacheStats"]["tokensPerBlock"], 16);
        }
    }
}

#[tokio::test]
async fn adapters_are_loaded_as_vllm_loads_them() {
    let sim = Sim::start().await;
    for (path, body, status, words) in [
        (
            "load",
            r#"{"lora_name":"a"}"#,
            400,
            "has already been loaded",
        ),
        (
            "load",
            r#"{"lora_name":"a","load_inplace":true}"#,
            200,
            "added",
        ),
        ("load", r#"{"lora_name":"c"}"#, 200, "added"),
        ("load", r#"{"lora_name":"d"}"#, 400, "No room"),
        ("unload", r#"{"lora_name":"b"}"#, 200, "removed"),
        ("unload", r#"{"lora_name":"b"}"#, 404, "cannot be found"),
        ("load", r#"{"lora_name":"d"}"#, 200, "added"),
    ] {
        let (found, answer) = sim
            .send("POST", &format!("/v1/{path}_lora_adapter"), body)
            .await;
        assert!(
            found == status && answer.contains(words),
            "{body}: {answer}"
        );
    }
}

#[tokio::test]
async fn requests_are_counted_when_their_answer_has_ended() {
    let sim = Sim::start().await;
    let body = r#"{"prompt":"1","stream":true}"#;
    sim.send("POST", "/v1/completions", body).await;
    sim.send("GET", "/nowhere/1", "").await;
    sim.send("BREW", "/nowhere", "").await;
    sim.send("GET", "/health", "").await;
    sim.send("POST", "/admin/echo", "").await;
    let (_, page) = sim.send("GET", "/metrics", "").await;
    let found: Vec<_> = page
        .lines()
        .filter(|line| {
            line.starts_with("http_requests_total")
                || line.starts_with("http_request_size_bytes_sum")
        })
        .collect();
    assert_eq!(
        found,
        [
            r#"http_requests_total{handler="/v1/completions",method="POST",status="2xx"} 1.0"#,
            r#"http_requests_total{handler="none",method="GET",status="4xx"} 1.0"#,
            r#"http_request_size_bytes_sum{handler="/v1/completions"} 28.0"#,
            r#"http_request_size_bytes_sum{handler="none"} 0.0"#,
        ]
    );
    // To the last of three tokens, not to the headers.
    let sum = page
        .lines()
        .find_map(|line| line.strip_prefix("http_request_duration_highr_seconds_sum "));
    let seconds: f64 = sum.unwrap().parse().unwrap();
    assert!(seconds >= 0.003, "{seconds}");
}

#[tokio::test]
async fn engines_and_pages_fail_as_they_are_told() {
    let sim = Sim::of(Pace::Steps(EngineSpec::new("H100", "llama3-8b", 1))).await;
    let gpu = async || {
        let (status, gpu) = sim.send("GET", "/admin/gpu", "").await;
        assert_eq!(status, 200);
        serde_json::from_str::<Value>(&gpu).unwrap()
    };
    let healthy = gpu().await;
    assert_eq!(
        (&healthy["name"], &healthy["count"]),
        (&json!("H100"), &json!(1))
    );
    assert_eq!(healthy["power"], 70.0);
    let slow = sim.post("/admin/engine", r#"{"slow":{"compute":2}}"#).await;
    assert_eq!(slow.0, 204);
    assert_eq!(gpu().await["sm_clock"], 990.0);
    let wrong = sim.post("/admin/engine", r#"{"slow":{"compute":0}}"#).await;
    assert_eq!(wrong.0, 400);

    for (fault, status, words) in [
        (r#"{"metrics":"garbage"}"#, 200, "} many"),
        (r#"{"metrics":"missing"}"#, 503, "a fault was set"),
        (r#"{"metrics_delay_ms":1}"#, 200, "num_requests_running"),
        (r#"{"metrics":"frozen"}"#, 200, "num_requests_running"),
        ("{}", 200, "num_requests_running"),
    ] {
        assert_eq!(sim.post("/admin/fault", fault).await.0, 204);
        let (found, page) = sim.send("GET", "/metrics", "").await;
        assert!(found == status && page.contains(words), "{fault}: {page}");
    }

    for (incident, health, status) in [("die", 503, 500), ("restart", 200, 200)] {
        let body = format!("\"{incident}\"");
        assert_eq!(sim.post("/admin/engine", &body).await.0, 204);
        assert_eq!(sim.send("GET", "/health", "").await.0, health);
        let (found, _) = sim.post("/v1/completions", r#"{"prompt":"1"}"#).await;
        assert_eq!(found, status);
    }
    assert_eq!(gpu().await["memory_used"], healthy["memory_used"]);

    assert_eq!(sim.post("/admin/gpu", r#"{"xid":79}"#).await.0, 204);
    let (status, error) = sim.post("/admin/engine", r#""restart""#).await;
    let message = error["error"]["message"].as_str().unwrap();
    assert!(status == 409 && message.contains("lost"), "{error}");
    assert_eq!(sim.post("/admin/gpu", r#"{"clear":true}"#).await.0, 204);
    assert_eq!(sim.post("/admin/engine", r#""restart""#).await.0, 204);
    let (status, error) = sim.send("POST", "/admin/gpu", r#"{"heat":1}"#).await;
    assert!(status == 422 && error.contains("expected one of `clear`"));
    let (status, error) = sim.send("POST", "/admin/gpu", "{}").await;
    assert!(status == 400 && error.contains("is needed"), "{error}");
    let fixed = Sim::start().await;
    assert_eq!(fixed.send("GET", "/admin/gpu", "").await.0, 404);
}

#[tokio::test]
async fn an_answer_breaks_off_when_the_engine_dies() {
    let times = Times {
        ttft: Duration::from_millis(1),
        prefill_rate: 1e9,
        itl: Duration::from_secs(3600),
    };
    let sim = Sim::of(Pace::Fixed(times)).await;
    let request = http::Request::post(format!("http://{}/v1/completions", sim.address))
        .body(Full::from(r#"{"prompt":"1","stream":true}"#))
        .unwrap();
    let mut body = sim.client.request(request).await.unwrap().into_body();
    assert!(body.frame().await.unwrap().is_ok());
    sim.post("/admin/engine", r#""die""#).await;
    assert!(body.frame().await.unwrap().is_err());
}
