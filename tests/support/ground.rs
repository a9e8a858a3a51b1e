//! Servers, a picker and a real Envoy under steady traffic: who gets it, and who answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use pointsman::cli::demo::bootstrap::Profile;
use pointsman::config::DEFAULT;
use tokio::task::JoinHandle;

use super::envoy::{Envoy, without_retries};
use super::picker::Picker;
use super::sims::Sims;
use super::until;
use crate::vectors::page::Page;

/// The share of traffic that an engine may get that is dead: to find out, and then whether it is still.
pub(crate) const LITTLE: f64 = 0.02;
const TOKENS: u32 = 20;
/// Who answered a request that got no answer.
const NOBODY: &str = "nobody";

/// Servers under the default profile and steady traffic, which no retry hides anything of.
pub(crate) struct Ground {
    pub(crate) sims: Sims,
    pub(crate) picker: Picker,
    got: Arc<Mutex<BTreeMap<String, usize>>>,
    sending: JoinHandle<()>,
}

// === impl Ground ===

impl Ground {
    /// `plugins` and `data_layer`: more lines for these places of the default configuration.
    pub(crate) async fn start(
        profile: Profile,
        sims: Sims,
        [plugins, data_layer]: [&str; 2],
        picker_flags: &[&str],
    ) -> Self {
        let path = serde_json::json!(sims.endpoints_file.to_string_lossy());
        let discovery = format!("- {{type: file-discovery, parameters: {{path: {path}}}}}\n");
        let plugins = format!("plugins:\n{discovery}{plugins}");
        let config = DEFAULT.replacen("plugins:\n", &plugins, 1);
        let config =
            format!("{config}dataLayer:\n  discovery: {{pluginRef: file-discovery}}\n{data_layer}");
        let flags = [
            &["--secure-serving=true", "--health-checking"],
            picker_flags,
        ]
        .concat();
        let picker = Picker::start(&config, &flags).await;
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

    pub(crate) async fn page(&self) -> Page {
        Page(self.picker.page("/metrics").await)
    }

    /// How many endpoints are out for `cause`.
    pub(crate) async fn ejected(&self, cause: &str) -> f64 {
        let cause = ("cause".to_owned(), cause.to_owned());
        let labels = [(&cause.0, &cause.1)];
        self.page().await.sum("endpoints_ejected", labels)
    }

    /// Requests that were sent to the server called `name`, and to all.
    pub(crate) async fn picks(&self, name: &str) -> (f64, f64) {
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

    /// Requests that nobody answered, or not to the end.
    pub(crate) fn lost(&self) -> usize {
        self.got.lock().get(NOBODY).copied().unwrap_or(0)
    }

    /// Waits for so many answers more.
    pub(crate) async fn answers(&self, more: usize) {
        let goal = self.answered() + more;
        until("answers", async || (self.answered() >= goal).then_some(())).await;
    }

    /// The share of the next requests that go to `name`.
    pub(crate) async fn share(&self, name: &str) -> f64 {
        let before = self.picks(name).await;
        self.answers(300).await;
        let after = self.picks(name).await;
        (after.0 - before.0) / (after.1 - before.1)
    }

    /// Waits until `name` answers again.
    pub(crate) async fn is_back(&self, name: &str) {
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
            let who = answer.server().filter(|_| whole).unwrap_or(NOBODY);
            *got.lock().entry(who.to_owned()).or_default() += 1;
        });
        while requests.try_join_next().is_some() {}
    }
}
