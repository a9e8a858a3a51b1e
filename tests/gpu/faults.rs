//! One GPU of several has something: its server gets nothing, or less, and is back when it is over.

use pointsman::cli::demo::bootstrap::Profile;
use serde_json::Value;

use super::Node;
use crate::support::ground::LITTLE;
use crate::support::{machine, until};

const SERVERS: usize = 4;
/// Speeds and scores as low as this come of the clock: a quarter of it leaves 0.3, until what is served says better. By what is
/// served alone they would stay well above: decoding takes twice as long, and prompts are short.
const OF_CLOCK: f64 = 0.45;

impl Node {
    /// Waits until a decision went by the clock of the server called `name`: its speed was low, its score for that too, and
    /// another was chosen.
    async fn until_held_against(&self, name: &str) {
        let held = |endpoint: &Value| {
            let speed = endpoint["speed"].as_f64();
            let terms = endpoint["terms"].as_array().unwrap();
            let term = terms.iter().find(|term| term["scorer"] == "speed-scorer");
            let score = term.and_then(|term| term["score"].as_f64());
            let low = |value: Option<f64>| value.is_some_and(|value| value < OF_CLOCK);
            let is_it = endpoint["name"].as_str().is_some_and(|n| n.ends_with(name));
            is_it && endpoint["rank"].is_null() && low(speed) && low(score)
        };
        until(&format!("the clock of {name} to count"), async || {
            let page = self.ground.picker.page("/debug/decisions?limit=500").await;
            let page: Value = serde_json::from_str(&page).unwrap();
            let decisions = page["decisions"].as_array().unwrap().iter();
            let endpoints = |decision: &Value| decision["profiles"][0]["endpoints"].clone();
            let mut all = decisions.map(endpoints);
            let found = all.any(|all| all.as_array().unwrap().iter().any(held));
            found.then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gpu_that_fell_off_the_bus_gets_nothing_and_comes_back() {
    let _machine = machine::shared().await;
    let node = Node::start(Profile::FullDuplex, SERVERS, &[]).await;
    let ground = &node.ground;
    ground.sims.gpu(0, r#"{"xid":79}"#).await;
    node.until_stands("sim-0", "gpu-lost").await;
    // What was decided before is out by then.
    ground.answers(50).await;
    let (before, _) = ground.picks("sim-0").await;
    ground.answers(200).await;
    let (after, _) = ground.picks("sim-0").await;
    assert_eq!(before, after, "new picks of a GPU that is lost");
    let line = node.line("sim-0").await;
    assert!(line.contains("lost") && line.contains("gpu-lost"), "{line}");
    let decisions = ground.picker.page("/debug/decisions?limit=500").await;
    assert!(decisions.contains(r#""causes":["gpu-"#), "{decisions}");
    assert!(ground.ejected("gpu-lost").await == 1.0);

    ground.sims.gpu(0, r#"{"clear":true}"#).await;
    ground.sims.engine(0, r#""restart""#).await;
    ground.is_back("sim-0").await;
    node.until_well("sim-0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_that_hang_are_out_by_what_the_driver_says_or_by_what_they_do_not_do() {
    let _machine = machine::shared().await;
    let node = Node::start(Profile::DecisionOnly, SERVERS, &[]).await;
    let ground = &node.ground;
    // Nothing is told of this one, and its gauges stand still.
    ground.sims.engine(0, r#""hang""#).await;
    node.until_stands("sim-0", "wedged").await;
    let line = node.line("sim-0").await;
    assert!(line.contains("ejected (wedged"), "{line}");
    let share = ground.share("sim-0").await;
    assert!(share <= LITTLE, "{share} of the requests");
    ground.sims.engine(0, r#""restart""#).await;
    ground.is_back("sim-0").await;
    node.until_well("sim-0").await;

    ground.sims.gpu(1, r#"{"xid":119}"#).await;
    node.until_stands("sim-1", "gpu-recovery").await;
    ground.answers(50).await;
    let (before, _) = ground.picks("sim-1").await;
    ground.answers(100).await;
    assert_eq!(before, ground.picks("sim-1").await.0);
    let line = node.line("sim-1").await;
    assert!(line.contains("gpu-recovery"), "{line}");
    ground.sims.gpu(1, r#"{"clear":true}"#).await;
    ground.sims.engine(1, r#""restart""#).await;
    ground.is_back("sim-1").await;
    node.until_well("sim-1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heat_takes_some_and_the_power_cap_nothing() {
    let _machine = machine::shared().await;
    let node = Node::start(Profile::DecisionOnly, SERVERS, &[]).await;
    let ground = &node.ground;
    let reasons = async |wanted: &str| {
        until(&format!("the reason {wanted}"), async || {
            let gpus = node.gpus().await;
            let of = |gpu: &Value| gpu["clock_reasons"].to_string().contains(wanted);
            gpus.as_array().unwrap().iter().any(of).then_some(())
        })
        .await;
    };
    ground.sims.gpu(0, r#"{"power_cap":350}"#).await;
    reasons("sw-power-cap").await;
    ground.answers(100).await;
    assert_eq!(node.causes("sim-0", None).await, 0.0);

    ground
        .sims
        .gpu(0, r#"{"thermal":{"compute":4,"memory":2}}"#)
        .await;
    node.until_stands("sim-0", "gpu-throttled").await;
    node.until_held_against("sim-0").await;
    let line = node.line("sim-0").await;
    assert!(line.contains("derated (gpu-throttled"), "{line}");
    let share = ground.share("sim-0").await;
    let fair = 1.0 / SERVERS as f64;
    assert!(share > 0.0 && share < fair, "{share} of the requests");

    ground.sims.gpu(0, r#"{"clear":true}"#).await;
    node.until_well("sim-0").await;
    assert_eq!(ground.lost(), 0);
}
