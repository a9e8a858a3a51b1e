//! How long after a fault a server still gets requests: measured, not promised. `benches/gpu-reaction.sh` runs it.

use std::time::{SystemTime, UNIX_EPOCH};

use pointsman::cli::demo::bootstrap::Profile;
use serde_json::Value;

use super::Node;
use crate::support::{machine, until};

/// Another number of rounds than this.
const ROUNDS_VARIABLE: &str = "ROUNDS";
const ROUNDS: usize = 5;

/// Milliseconds since 1970, as decisions have them.
fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as u64
}

impl Node {
    /// Waits until the picker's page says that it is out, for whatever cause is heard first.
    async fn until_out(&self, name: &str) {
        until(&format!("{name} to be out"), async || {
            (self.causes(name, None).await > 0.0).then_some(())
        })
        .await;
    }

    /// When the server of that number was last chosen, trials of what is out aside.
    async fn last_pick(&self, server: usize) -> u64 {
        let page = self.ground.picker.page("/debug/decisions?limit=1000").await;
        let page: Value = serde_json::from_str(&page).unwrap();
        let address = self.ground.sims.addresses[server].to_string();
        let mut decisions = page["decisions"].as_array().unwrap().iter();
        let last = decisions.find(|decision| {
            let chosen = decision["destinations"][0] == *address;
            chosen && decision["profiles"][0]["reason"] == "picker"
        });
        last.expect("a pick that is remembered")["timeMs"]
            .as_u64()
            .unwrap()
    }
}

fn print(what: &str, mut took: Vec<u64>) {
    took.sort_unstable();
    let (least, median, most) = (took[0], took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: {least} / {median} / {most} ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures the machine too"]
async fn from_a_fault_to_the_last_new_pick() {
    let _machine = machine::alone().await;
    let rounds = std::env::var(ROUNDS_VARIABLE).map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let node = Node::start(Profile::FullDuplex, 4, &[]).await;
    let sims = &node.ground.sims;
    let [mut lost, mut lost_picks, mut hung, mut hung_picks] = [const { Vec::new() }; 4];
    for _ in 0..rounds {
        let hung_at = now();
        sims.engine(0, r#""hang""#).await;
        node.until_stands("sim-0", "wedged").await;
        hung.push(now() - hung_at);
        let lost_at = now();
        sims.gpu(1, r#"{"xid":79}"#).await;
        node.until_out("sim-1").await;
        lost.push(now() - lost_at);
        node.ground.answers(50).await;
        hung_picks.push(node.last_pick(0).await.saturating_sub(hung_at));
        lost_picks.push(node.last_pick(1).await.saturating_sub(lost_at));
        sims.gpu(1, r#"{"clear":true}"#).await;
        for (server, name) in ["sim-0", "sim-1"].into_iter().enumerate() {
            sims.engine(server, r#""restart""#).await;
            node.ground.is_back(name).await;
            node.until_well(name).await;
        }
    }
    println!("min / median / max of {rounds}");
    print("XID 79, until it is seen to be out", lost);
    print("XID 79, until the last new pick", lost_picks);
    print("hang, until it is seen to be out", hung);
    print("hang, until the last new pick", hung_picks);
}
