//! All GPUs at once.

use pointsman::cli::demo::bootstrap::Profile;

use super::Node;
use crate::support::{machine, until};

const SERVERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_xids_leaves_half_of_the_pool_and_rings_the_alarm() {
    let _machine = machine::shared().await;
    let node = Node::start(Profile::DecisionOnly, SERVERS, &[]).await;
    let ground = &node.ground;
    let lost = ground.lost();
    for server in 0..SERVERS {
        // Fatal by its number; the engines work on.
        ground.sims.gpu(server, r#"{"xid":62}"#).await;
    }
    until("all to be taken for broken", async || {
        let all = ground.ejected("gpu-fatal").await == SERVERS as f64;
        let alarm = ground.page().await.total("ejection_limit_exceeded") == 1.0;
        (all && alarm).then_some(())
    })
    .await;
    ground.answers(50).await;
    let mut before = Vec::new();
    for server in 0..SERVERS {
        before.push(ground.picks(&format!("sim-{server}")).await.0);
    }
    ground.answers(300).await;
    let mut serving = 0;
    for (server, before) in before.iter().enumerate() {
        let (now, _) = ground.picks(&format!("sim-{server}")).await;
        serving += usize::from(now > *before);
    }
    assert!(serving >= SERVERS / 2, "{serving} servers got requests");
    assert_eq!(ground.lost(), lost);
    let page = ground.page().await;
    assert!(page.total("ejection_limit_decisions_total") > 0.0);
    let alarm = "More endpoints are out than may be kept out";
    assert!(ground.picker.process.printed().contains(alarm));
    // The driver asks for no reset of any of them: it was a false alarm.
    for server in 0..SERVERS {
        node.until_well(&format!("sim-{server}")).await;
    }
    let page = ground.page().await;
    assert_eq!(page.total("ejection_limit_exceeded"), 0.0);
}
