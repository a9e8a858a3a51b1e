//! Engines that die, stand still and come back, through a real Envoy: where requests go meanwhile.

use std::time::{Duration, Instant};

use pointsman::cli::demo::bootstrap::Profile;

use super::PROFILES;
use crate::support::ground::{Ground, LITTLE};
use crate::support::sims::Sims;
use crate::support::{machine, until};

const SERVERS: usize = 4;
/// Long enough for several requests to be under way everywhere.
const ENGINE: [&str; 2] = ["--ttft=20ms", "--itl=10ms"];

async fn ground(profile: Profile) -> Ground {
    let sims = Sims::start(SERVERS, &ENGINE).await;
    Ground::start(profile, sims, ["", ""], &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_engine_whose_gauges_read_zero_attracts_nothing_and_comes_back() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let ground = ground(profile).await;
        ground.sims.engine(0, r#""die""#).await;
        until("it to be ejected", async || {
            (ground.ejected("failures").await == 1.0).then_some(())
        })
        .await;
        let share = ground.share("sim-0").await;
        assert!(share <= LITTLE, "{profile:?}: {share} of the requests");
        ground.sims.engine(0, r#""restart""#).await;
        ground.is_back("sim-0").await;
        assert_eq!(ground.ejected("failures").await, 0.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_stands_still_is_ejected_and_comes_back() {
    let _machine = machine::shared().await;
    for profile in PROFILES {
        let ground = ground(profile).await;
        let began = Instant::now();
        ground.sims.engine(0, r#""hang""#).await;
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
        ground.sims.engine(0, r#""restart""#).await;
        ground.is_back("sim-0").await;
        assert_eq!(ground.ejected("wedged").await, 0.0);
    }
}
