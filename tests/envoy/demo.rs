//! `pointsman demo`, as its user sees it.

use crate::support::demo::{command, last_row, watched};
use crate::support::machine;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_decision_is_served_where_it_was_sent_and_the_slow_server_has_the_least() {
    let _machine = machine::shared().await;
    for profile in ["decision-only", "full-duplex"] {
        let profile = format!("--profile={profile}");
        let printed = watched(&mut command(&[&profile, "--for=6s"]).await).await;
        assert!(printed.contains(", 0 failed."), "{printed}");
        let line = "every request was served by the server that it was sent to.";
        assert!(printed.contains(line), "{printed}");
        let [slow, others @ ..] = ["sim-0", "sim-1", "sim-2", "sim-3"].map(|name| {
            let row = last_row(&printed, name);
            let count = |column: usize| row[column].parse::<u64>().unwrap();
            assert_eq!(count(2), count(3), "{printed}");
            count(2)
        });
        let fewer = others.iter().all(|&picked| slow < picked);
        assert!(slow > 0 && fewer, "{printed}");
    }
}
