//! The picker is killed, stopped and asked to end while requests flow.
//!
//! Each test has the machine for itself. What is asserted is that requests are answered, not how fast, except where a
//! time is the promise: a hung picker is passed over within three seconds, by timers of one and a half.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use pointsman::cli::demo::bootstrap::Profile;
use rustix::process::Signal;

use crate::envoy::{Chain, SCORERS};
use crate::support::envoy::Envoy;
use crate::support::picker::{self, Picker};
use crate::support::sims::Sims;
use crate::support::{machine, until};

const PROFILES: [Profile; 2] = [Profile::DecisionOnly, Profile::FullDuplex];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_picker_cuts_no_stream_in_the_decision_only_profile() {
    let _machine = machine::alone().await;
    let flags = ["--ttft=1ms", "--itl=40ms", "--max-num-seqs=200"];
    let mut chain = Chain::start(Profile::DecisionOnly, 3, &flags, &[]).await;
    let envoy = Arc::new(chain.envoy);
    let streams: Vec<_> = (0..200)
        .map(|_| {
            let envoy = Arc::clone(&envoy);
            tokio::spawn(async move { envoy.chat(100, true, &[]).await })
        })
        .collect();
    until("all streams to run", async || {
        let mut running = 0.0;
        for &address in &chain.sims.addresses {
            running += gauge(address, "vllm:num_requests_running{").await;
        }
        (running == 200.0).then_some(())
    })
    .await;
    chain.picker.process.signal(Signal::KILL).unwrap();
    chain.picker.process.ended().await.unwrap();
    for stream in streams {
        let answer = stream.await.unwrap();
        let tokens = answer.text().matches(" word").count();
        assert!(answer.is_whole_stream() && tokens == 100, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ending_the_picker_fails_no_request() {
    let _machine = machine::alone().await;
    for profile in PROFILES {
        let flags = ["--ttft=1ms", "--itl=10ms", "--max-num-seqs=200"];
        let mut chain = Chain::start(profile, 3, &flags, &["--drain-timeout=20s"]).await;
        let load = Load::start(chain.envoy);
        load.answers(50).await;
        chain.picker.process.signal(Signal::TERM).unwrap();
        let status = chain.picker.process.ended().await.unwrap();
        assert!(
            status.success(),
            "{status}: {}",
            chain.picker.process.printed()
        );
        // And without a picker, too.
        load.answers(50).await;
        assert_eq!(load.stop().await, Vec::<String>::new(), "{profile:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_behind_a_second_picker_fails_no_request() {
    let _machine = machine::alone().await;
    let sims = Sims::start(3, &["--ttft=1ms", "--itl=10ms"]).await;
    let config = picker::config(&sims.endpoints_file, &SCORERS);
    let flags = [
        "--secure-serving=true",
        "--health-checking",
        "--drain-timeout=20s",
    ];
    let mut first = Picker::start(&config, &flags).await;
    let second = Picker::start(&config, &flags).await;
    let pickers = [first.grpc, second.grpc];
    for profile in PROFILES {
        let envoy = Envoy::start(profile, &pickers, &sims.addresses, |_| {}).await;
        let load = Load::start(envoy);
        load.answers(50).await;
        first.process.signal(Signal::TERM).unwrap();
        first.process.ended().await.unwrap();
        first = Picker::start_at(pickers[0], &config, &flags).await;
        load.answers(100).await;
        assert_eq!(load.stop().await, Vec::<String>::new(), "{profile:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_picker_is_passed_over_and_asked_again_when_it_is_back() {
    let _machine = machine::alone().await;
    for profile in PROFILES {
        let flags = ["--ttft=1ms", "--prefill-rate=1e9"];
        let chain = Chain::start(profile, 2, &flags, &[]).await;
        let mut picker = chain.picker;
        picker.process.signal(Signal::KILL).unwrap();
        picker.process.ended().await.unwrap();
        let served = async |method: Method, path: &str, body: bytes::Bytes| {
            let answer = chain.envoy.send(method, path, &[], body).await;
            answer.status == StatusCode::OK
        };
        let large = format!(
            r#"{{"model":"meta-llama/Llama-3.1-8B-Instruct","messages":[{{"role":"user","content":"{}"}}],"max_tokens":1}}"#,
            "x".repeat(1 << 20)
        );
        let chat = "/v1/chat/completions";
        let small = crate::support::envoy::chat_body(1, false);
        until("requests to be served without a picker", async || {
            served(Method::POST, chat, small.clone())
                .await
                .then_some(())
        })
        .await;
        for _ in 0..10 {
            assert!(served(Method::POST, chat, small.clone()).await);
            assert!(served(Method::POST, chat, large.clone().into()).await);
            assert!(served(Method::GET, "/v1/models", Default::default()).await);
        }
        let config = std::fs::read_to_string(picker.folder.path().join("picker.yaml")).unwrap();
        let flags = ["--secure-serving=true", "--health-checking"];
        let picker = Picker::start_at(picker.grpc, &config, &flags).await;
        until("the picker to be asked again", async || {
            assert!(served(Method::POST, chat, small.clone()).await);
            let page = picker.page("/metrics").await;
            page.contains("llm_d_epp_request_total{").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_picker_is_passed_over_within_three_seconds() {
    let _machine = machine::alone().await;
    for profile in PROFILES {
        let chain = Chain::start(profile, 2, &["--ttft=1ms", "--itl=1ms"], &[]).await;
        assert_eq!(chain.envoy.chat(1, false, &[]).await.status, StatusCode::OK);
        chain.picker.process.signal(Signal::STOP).unwrap();
        let hung = Instant::now();
        until("requests to be served without the picker", async || {
            let request = chain.envoy.chat(1, false, &[]);
            let answer = tokio::time::timeout(Duration::from_millis(200), request).await;
            answer
                .is_ok_and(|answer| answer.status == StatusCode::OK)
                .then_some(())
        })
        .await;
        let after = hung.elapsed();
        println!("{profile:?}: served again after {after:?}");
        assert!(after < Duration::from_secs(3), "{profile:?}: {after:?}");
        for _ in 0..10 {
            assert_eq!(chain.envoy.chat(1, false, &[]).await.status, StatusCode::OK);
        }
        chain.picker.process.signal(Signal::CONT).unwrap();
        let before = picks(&chain.picker).await;
        until("the picker to be asked again", async || {
            let answer = chain.envoy.chat(1, false, &[]).await;
            assert_eq!(answer.status, StatusCode::OK);
            (picks(&chain.picker).await > before).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_plugin_is_answered_for() {
    let _machine = machine::alone().await;
    for profile in PROFILES {
        let sims = Sims::start(2, &[]).await;
        let config = picker::config(&sims.endpoints_file, &[("blocking-testing-scorer", 1)])
            .replace(
                "- type: blocking-testing-scorer\n",
                "- type: blocking-testing-scorer\n  parameters: {sleepMs: 3600000}\n",
            );
        let flags = [
            "--secure-serving=true",
            "--health-checking",
            "--allow-experimental-plugins",
            "--pick-timeout=300ms",
        ];
        let picker = Picker::start(&config, &flags).await;
        let envoy = Envoy::start(profile, &[picker.grpc], &sims.addresses, |_| {}).await;
        // More than there are workers: the ones that are stuck must not take the others with them.
        for _ in 0..8 {
            let answer = envoy.chat(1, false, &[]).await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
            assert!(answer.text().contains("choosing an endpoint"), "{answer:?}");
        }
    }
}

async fn picks(picker: &Picker) -> f64 {
    gauge(picker.metrics, "llm_d_epp_scheduler_attempts_total{").await
}

/// The sum of all series that begin with `name`.
pub(crate) async fn gauge(server: std::net::SocketAddr, name: &str) -> f64 {
    let page = crate::support::get(server, "/metrics").await;
    page.lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// Fifty requests a second, half of them streamed.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    sending: tokio::task::JoinHandle<Vec<String>>,
}

impl Load {
    pub(crate) fn start(envoy: Envoy) -> Self {
        let envoy = Arc::new(envoy);
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&answered));
        let sending = tokio::spawn(async move {
            let mut ticker = tokio::time::interval(Duration::from_millis(20));
            let mut requests = tokio::task::JoinSet::new();
            let mut stream = false;
            while !stopped.load(Ordering::Relaxed) {
                ticker.tick().await;
                stream = !stream;
                let (envoy, count) = (Arc::clone(&envoy), Arc::clone(&count));
                requests.spawn(async move {
                    let answer = envoy.chat(20, stream, &[]).await;
                    count.fetch_add(1, Ordering::Relaxed);
                    let whole = answer.body.is_ok() && (!stream || answer.is_whole_stream());
                    (!whole || answer.status != StatusCode::OK).then(|| format!("{answer:?}"))
                });
            }
            let ended = requests.join_all().await;
            ended.into_iter().flatten().collect()
        });
        Self {
            stop,
            answered,
            sending,
        }
    }

    /// Waits for so many answers more.
    pub(crate) async fn answers(&self, more: u64) {
        let goal = self.answered.load(Ordering::Relaxed) + more;
        until("answers", async || {
            (self.answered.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// The answers that were not as they should be.
    pub(crate) async fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.sending.await.unwrap()
    }
}
