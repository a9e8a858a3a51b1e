//! Engines that die, stand still and come back, through a real Envoy: where requests go meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;
use pointsman::cli::demo::bootstrap::Profile;
use pointsman::config::DEFAULT;
use tokio::task::JoinHandle;

use super::PROFILES;
use crate::support::envoy::{Envoy, without_retries};
use crate::support::picker::Picker;
use crate::support::sims::Sims;
use crate::support::{http, machine, until};
use crate::vectors::page::Page;

const SERVERS: usize = 4;
/// Long enough for several requests to be under way everywhere.
const ENGINE: [&str; 2] = ["--ttft=20ms", "--itl=10ms"];
const TOKENS: u32 = 20;
/// The share of traffic that an engine may get that is dead: to find out, and then whether it is still.
const LITTLE: f64 = 0.02;

/// Servers under the default profile and steady traffic, which no retry hides anything of.
struct Ground {
    sims: Sims,
    picker: Picker,
    got: Arc<Mutex<BTreeMap<String, usize>>>,
    sending: JoinHandle<()>,
}

// === impl Ground ===

impl Ground {
    async fn start(profile: Profile) -> Self {
        let sims = Sims::start(SERVERS, &ENGINE).await;
        let path = serde_json::json!(sims.endpoints_file.to_string_lossy());
        let discovery =
            format!("plugins:\n- {{type: file-discovery, parameters: {{path: {path}}}}}\n");
        let config = DEFAULT.replacen("plugins:\n", &discovery, 1);
        let config = format!("{config}dataLayer: {{discovery: {{pluginRef: file-discovery}}}}\n");
        let picker = Picker::start(&config, &["--secure-serving=true", "--health-checking"]).await;
        let addresses = &sims.addresses;
        let envoy = Envoy::start(profile, &[picker.grpc], addresses, without_retries).await;
        let got = Arc::new(Mutex::new(BTreeMap::new()));
        let sending = tokio::spawn(send(Arc::new(envoy), Arc::clone(&got)));
        let ground = Self {
            sims,
            picker,
            got,
            sending,
        };
        ground.answers(100).await;
        ground
    }

    async fn page(&self) -> Page {
        Page(self.picker.page("/metrics").await)
    }

    /// How many endpoints are out for `cause`.
    async fn ejected(&self, cause: &str) -> f64 {
        let cause = ("cause".to_owned(), cause.to_owned());
        let labels = [(&cause.0, &cause.1)];
        self.page().await.sum("endpoints_ejected", labels)
    }

    /// Requests that were sent to the server called `name`, and to all.
    async fn picks(&self, name: &str) -> (f64, f64) {
        let page = self.page().await;
        let label = ("endpoint_name".to_owned(), name.to_owned());
        let one = page.sum("scheduler_attempts_total", [(&label.0, &label.1)]);
        (one, page.total("scheduler_attempts_total"))
    }

    fn answered(&self) -> usize {
        let got = self.got.lock();
        let answered = got.iter().filter(|(name, _)| name.starts_with("sim-"));
        answered.map(|(_, count)| count).sum()
    }

    /// Waits for so many answers more.
    async fn answers(&self, more: usize) {
        let goal = self.answered() + more;
        until("answers", async || (self.answered() >= goal).then_some(())).await;
    }

    /// The share of the next requests that go to `name`.
    async fn share(&self, name: &str) -> f64 {
        let before = self.picks(name).await;
        self.answers(300).await;
        let after = self.picks(name).await;
        (after.0 - before.0) / (after.1 - before.1)
    }

    /// Waits until `name` answers again.
    async fn is_back(&self, name: &str) {
        let count = || self.got.lock().get(name).copied().unwrap_or(0);
        let before = count();
        until("it to answer again", async || {
            (count() >= before + 20).then_some(())
        })
        .await;
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.sending.abort();
    }
}

/// Fifty requests a second, half of them streamed; who answered each, or that nobody did.
async fn send(envoy: Arc<Envoy>, got: Arc<Mutex<BTreeMap<String, usize>>>) {
    let mut ticker = tokio::time::interval(Duration::from_millis(20));
    // Ended with this task.
    let mut requests = tokio::task::JoinSet::new();
    let mut stream = false;
    loop {
        ticker.tick().await;
        stream = !stream;
        let (envoy, got) = (Arc::clone(&envoy), Arc::clone(&got));
        requests.spawn(async move {
            let answer = envoy.chat(TOKENS, stream, &[]).await;
            let whole = answer.status == StatusCode::OK && answer.body.is_ok();
            let who = answer.server().filter(|_| whole).unwrap_or("nobody");
            *got.lock().entry(who.to_owned()).or_default() += 1;
        });
        while requests.try_join_next().is_some() {}
    }
}

/// Lets something happen to the engine of `server`.
async fn engine(server: SocketAddr, incident: &'static str) {
    let request = http::Request::post(format!("http://{server}/admin/engine"))
        .header("content-type", "application/json")
        .body(Bytes::from_static(incident.as_bytes()).into())
        .unwrap();
    let status = http().request(request).await.unwrap().status();
    assert_eq!(status, StatusCode::NO_CONTENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_engine_whose_gauges_read_zero_attracts_nothing_and_comes_back() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let ground = Ground::start(profile).await;
        let dead = ground.sims.addresses[0];
        engine(dead, r#""die""#).await;
        until("it to be ejected", async || {
            (ground.ejected("failures").await == 1.0).then_some(())
        })
        .await;
        let share = ground.share("sim-0").await;
        assert!(share <= LITTLE, "{profile:?}: {share} of the requests");
        engine(dead, r#""restart""#).await;
        ground.is_back("sim-0").await;
        assert_eq!(ground.ejected("failures").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stands_still_is_ejected_and_comes_back() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let ground = Ground::start(profile).await;
        let hung = ground.sims.addresses[0];
        let began = Instant::now();
        engine(hung, r#""hang""#).await;
        until("it to be ejected", async || {
            (ground.ejected("wedged").await == 1.0).then_some(())
        })
        .await;
        let took = began.elapsed();
        println!("{profile:?}: ejected after {took:?}");
        // What is promised are five seconds; the machine has its share.
        assert!(took < Duration::from_secs(10), "{profile:?}: {took:?}");
        let share = ground.share("sim-0").await;
        assert!(share <= LITTLE, "{profile:?}: {share} of the requests");
        let found = ground.picker.page("/debug/decisions?limit=1").await;
        assert!(found.contains(r#""causes":["wedged"]"#), "{found}");
        engine(hung, r#""restart""#).await;
        ground.is_back("sim-0").await;
        assert_eq!(ground.ejected("wedged").await, 0.0);
    }
}
