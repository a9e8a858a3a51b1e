//! Who suffers with whom: MIG instances of one board, servers that share a GPU in time.

use pointsman::cli::demo::bootstrap::Profile;

use super::Node;
use crate::support::machine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_one_mig_instance_is_its_own_and_one_of_the_board_is_all_of_theirs() {
    let _machine = machine::shared().await;
    // Two boards of two.
    let node = Node::start(Profile::DecisionOnly, 4, &["--mig=3g.40gb"]).await;
    let ground = &node.ground;
    ground.sims.gpu(0, r#"{"xid":43}"#).await;
    node.until_stands("sim-0", "gpu-app-fatal").await;
    ground.answers(50).await;
    for other in ["sim-1", "sim-2", "sim-3"] {
        assert_eq!(node.causes(other, None).await, 0.0, "{other}");
    }
    ground.sims.engine(0, r#""restart""#).await;
    ground.is_back("sim-0").await;
    node.until_well("sim-0").await;

    // It names an instance too, and takes the board.
    ground.sims.gpu(2, r#"{"xid":62}"#).await;
    node.until_stands("sim-2", "gpu-fatal").await;
    node.until_stands("sim-3", "gpu-fatal").await;
    for other in ["sim-0", "sim-1"] {
        assert_eq!(node.causes(other, None).await, 0.0, "{other}");
    }
    ground.answers(50).await;
    let [before, after] = [ground.picks("sim-3").await.0, {
        ground.answers(100).await;
        ground.picks("sim-3").await.0
    }];
    assert_eq!(before, after, "new picks of a board that is broken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_take_turns_on_a_gpu_share_its_fate() {
    let _machine = machine::shared().await;
    let node = Node::start(Profile::DecisionOnly, 4, &["--share-gpu=2"]).await;
    let ground = &node.ground;
    ground.sims.gpu(0, r#"{"xid":62}"#).await;
    for shares in ["sim-0", "sim-1"] {
        node.until_stands(shares, "gpu-fatal").await;
        let line = node.line(shares).await;
        assert!(line.contains("gpu-fatal"), "{line}");
    }
    for other in ["sim-2", "sim-3"] {
        assert_eq!(node.causes(other, None).await, 0.0, "{other}");
    }
    for shares in ["sim-0", "sim-1"] {
        node.until_well(shares).await;
    }
}
