//! No herd, no pile: requests that come at once are spread, and those that belong together stay together.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use pointsman::config::DEFAULT;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::support::ask::{Exchange, channel};
use crate::support::picker::Picker;
use crate::support::sims::Sims;
use crate::support::{http, machine, until};
use crate::vectors::bodies;
use crate::vectors::page::Page;

pub(super) const CHAT: &str = "/v1/chat/completions";
const MODEL: &str = "meta-llama/Llama-3.1-8B-Instruct";
const SERVERS: usize = 8;
const REQUESTS: usize = 200;
/// No request of a test ends by itself.
const SLOW: [&str; 1] = ["--ttft=1h"];
pub(super) const QUICK: [&str; 3] = ["--ttft=1ms", "--prefill-rate=1e9", "--itl=1ms"];
/// A slow machine is no fault of the picker's.
const PATIENT: [&str; 2] = ["--parse-timeout=60s", "--pick-timeout=60s"];
/// Requests that may be in flight at the busiest server, as a multiple of the mean.
const MOST: f64 = 1.5;

/// The llm-d picker's own default.
pub(super) const REFERENCE: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
";

/// The scheduler of llm-d's well-lit path "optimized baseline".
const BASELINE: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: no-hit-lru-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: no-hit-lru-scorer, weight: 2}
";

/// A picker over simulated servers.
pub(super) struct Yard {
    pub(super) sims: Sims,
    pub(super) picker: Picker,
    rng: SmallRng,
}

// === impl Yard ===

impl Yard {
    /// With `config`, which says nothing of endpoints, and waits until the picker knows the servers' load.
    pub(super) async fn start(config: &str, servers: usize, sim_flags: &[&str]) -> Self {
        let sims = Sims::start(servers, sim_flags).await;
        let path = serde_json::json!(sims.endpoints_file.to_string_lossy());
        let discovery =
            format!("plugins:\n- {{type: file-discovery, parameters: {{path: {path}}}}}\n");
        let config = config.replacen("plugins:\n", &discovery, 1);
        let config = format!("{config}dataLayer: {{discovery: {{pluginRef: file-discovery}}}}\n");
        let picker = Picker::start(&config, &PATIENT).await;
        until("the servers' load", async || {
            let page = picker.page("/metrics").await;
            let known = page.matches("llm_d_epp_per_endpoint_queue_size{").count();
            (known == servers).then_some(())
        })
        .await;
        Self {
            sims,
            picker,
            rng: SmallRng::seed_from_u64(bodies::seed()),
        }
    }

    /// So many random letters.
    pub(super) fn text(&mut self, letters: usize) -> String {
        let letter = |_| char::from(self.rng.random_range(b'a'..=b'z'));
        (0..letters).map(letter).collect()
    }

    pub(super) fn channel(&self) -> Channel {
        channel(self.picker.grpc)
    }

    /// Requests for all `prompts` at once, each passed on to where it should go; none ends. Where each should.
    async fn herd(&self, prompts: Vec<String>) -> Vec<String> {
        let channels: Vec<_> = (0..4).map(|_| self.channel()).collect();
        let channels = channels.iter().cycle().cloned();
        let asked: Vec<_> = channels
            .zip(prompts)
            .map(|(channel, prompt)| {
                tokio::spawn(async move {
                    let body = chat(&[&prompt]);
                    let mut exchange = Exchange::post(&channel, CHAT, &[], body.clone()).await;
                    let destination = exchange.destination().await.unwrap();
                    let served = tokio::spawn(try_served(destination.clone(), body));
                    (destination, exchange, served.abort_handle())
                })
            })
            .collect();
        let mut under_way = Vec::new();
        for asked in asked {
            under_way.push(asked.await.unwrap());
        }
        under_way.iter().for_each(|(_, _, served)| served.abort());
        under_way
            .into_iter()
            .map(|(destination, ..)| destination)
            .collect()
    }

    /// Somebody else's requests at all servers but one, which the scrapes show to be the best: until the next ones.
    async fn all_but_one_have_one(&mut self) -> JoinSet<()> {
        let mut others = JoinSet::new();
        let text = self.text(4_000);
        let addresses = self.sims.addresses.iter().skip(1);
        for address in addresses {
            let asked = try_served(address.to_string(), chat(&[&text]));
            others.spawn(async { drop(asked.await) });
        }
        until("the picker to know of them", async || {
            let page = Page(self.picker.page("/metrics").await);
            let mean = (SERVERS - 1) as f64 / SERVERS as f64;
            (page.total("average_running_requests") == mean).then_some(())
        })
        .await;
        others
    }

    /// Where a conversation of these messages goes, served to its end there.
    async fn turn(&self, messages: &[&str]) -> String {
        let body = chat(messages);
        let mut exchange = Exchange::post(&self.channel(), CHAT, &[], body.clone()).await;
        let destination = exchange.destination().await.unwrap();
        let answer = served(destination.clone(), body).await;
        assert!(answer.contains("usage"), "{answer}");
        // Simulated servers have no prefix cache, and say so. That is another test's matter.
        exchange.answer("{}".to_owned()).await;
        destination
    }
}

/// A chat completion request; a conversation's messages are the user's and the assistant's in turns.
pub(super) fn chat(messages: &[&str]) -> String {
    let roles = ["user", "assistant"].into_iter().cycle();
    let messages = roles
        .zip(messages)
        .map(|(role, content)| serde_json::json!({"role": role, "content": content}));
    let messages: Vec<_> = messages.collect();
    serde_json::json!({"model": MODEL, "messages": messages, "max_tokens": 1}).to_string()
}

/// The server's answer.
async fn served(address: String, body: String) -> String {
    try_served(address, body).await.unwrap()
}

/// The server's answer, if it gives one before it ends.
async fn try_served(
    address: String,
    body: String,
) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let request = http::Request::post(format!("http://{address}{CHAT}"))
        .header("content-type", "application/json")
        .body(Full::from(Bytes::from(body)))?;
    let body = http().request(request).await?.into_body();
    let body = body.collect().await?.to_bytes();
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// How many times the mean the busiest server got.
fn spread(destinations: &[String]) -> f64 {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for destination in destinations {
        *counts.entry(destination).or_default() += 1;
    }
    let most = counts.values().max().copied().unwrap_or_default();
    (most * SERVERS) as f64 / destinations.len() as f64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_come_at_once_are_spread_over_idle_servers() {
    let _machine = machine::shared().await;
    for config in [DEFAULT, BASELINE] {
        let mut yard = Yard::start(config, SERVERS, &SLOW).await;
        let _others = yard.all_but_one_have_one().await;
        let prompts = (0..REQUESTS).map(|_| yard.text(4_000)).collect();
        let spread = spread(&yard.herd(prompts).await);
        assert!(spread <= MOST, "{spread} times the mean: {config}");
    }
}

/// A prefix attracts as much as it saves: by default, what is asked by all is cached by all before long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_prompt_that_all_have_is_spread_as_well() {
    let _machine = machine::shared().await;
    let mut yard = Yard::start(DEFAULT, SERVERS, &SLOW).await;
    let prompts = vec![yard.text(4_000); REQUESTS];
    let spread = spread(&yard.herd(prompts).await);
    assert!(spread <= MOST, "{spread} times the mean");
}

/// Not what anyone wants, but what the reference's weights say: a prefix that matches (3) outweighs the longest queue (2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_reference_s_weights_one_prompt_stays_with_one_server() {
    let _machine = machine::shared().await;
    for config in [REFERENCE, BASELINE] {
        let mut yard = Yard::start(config, SERVERS, &SLOW).await;
        let prompts = vec![yard.text(4_000); REQUESTS];
        // The first few, decided beside each other, may go to several.
        let spread = spread(&yard.herd(prompts).await);
        assert!(spread > MOST, "{spread} times the mean: {config}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unrelated_prompts_one_after_the_other_fill_all_caches() {
    let _machine = machine::shared().await;
    for (config, most) in [(DEFAULT, 80), (BASELINE, 40)] {
        let mut yard = Yard::start(config, 3, &QUICK).await;
        let mut got: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..20 {
            let mut round = BTreeSet::new();
            for _ in 0..6 {
                let prompt = yard.text(1_000);
                let server = yard.turn(&[&prompt]).await;
                round.insert(server.clone());
                *got.entry(server).or_default() += 1;
            }
            // The default decides between equals by lot, so one round in 243 may well fill one server alone.
            assert!(config == DEFAULT || round.len() == 3, "{round:?}");
        }
        let all = got.values().all(|&got| got <= most);
        assert!(all && got.len() == 3, "{got:?}: {config}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_stays_where_it_began() {
    let _machine = machine::shared().await;
    for config in [DEFAULT, BASELINE] {
        let mut yard = Yard::start(config, 3, &QUICK).await;
        for _ in 0..10 {
            let [first, second] = [2_000, 200].map(|letters| yard.text(letters));
            let began = yard.turn(&[&first]).await;
            let went_on = yard.turn(&[&first, "Yes.", &second]).await;
            assert_eq!(went_on, began, "{config}");
        }
    }
}
