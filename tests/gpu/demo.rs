//! `pointsman demo --gpus`, as its user sees it.

use crate::support::demo::{command, last_row, watched};
use crate::support::machine;

/// The shares of the acts, in per cent, of the last line that begins with `name`; none = no traffic.
fn shares(printed: &str, name: &str) -> [Option<f64>; 4] {
    let mut words = last_row(printed, name);
    words.retain(|word| word != "%");
    let last: [String; 4] = words.split_off(words.len() - 4).try_into().unwrap();
    last.map(|word| word.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_shows_the_fault_its_cause_and_who_has_the_traffic() {
    let _machine = machine::shared().await;
    let mut command = command(&["--gpus", "--for=48s"]).await;
    command.env(fake_state::LIBRARY_VARIABLE, fake_state::library().unwrap());
    let printed = watched(&mut command).await;
    assert!(!printed.contains("It ended early"), "{printed}");
    let (_, summary) = printed.split_once("at worst").unwrap();
    let worst = |name: &str| summary.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(worst("sim-3").contains("ejected (gpu-"), "{printed}");
    assert!(
        worst("sim-2").contains("derated (gpu-throttled)"),
        "{printed}"
    );
    let [before, fault, _, after] = shares(&printed, "sim-3").map(Option::unwrap);
    assert!(fault < 5.0 && before > 10.0 && after > 5.0, "{printed}");
    let [before, fault, _, _] = shares(&printed, "sim-2").map(Option::unwrap);
    assert!(fault < before && fault > 1.0, "{printed}");
}

#[tokio::test]
async fn what_it_cannot_show_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    // As after `cargo build` alone: the program without the library beside it.
    let alone = folder.path().join("pointsman");
    std::fs::copy(env!("CARGO_BIN_EXE_pointsman"), &alone).unwrap();
    for (flag, words) in [
        ("--for=10s", "--for: with --gpus give it 40 s"),
        ("--servers=2", "must be 3 at least"),
        ("--servers=4", "cargo build --locked -p fake-nvml"),
    ] {
        let mut command = tokio::process::Command::new(&alone);
        command
            .args(["demo", "--gpus", flag])
            .env("ENVOY_BIN", "/bin/true")
            .env("TMPDIR", folder.path())
            .env_remove(fake_state::LIBRARY_VARIABLE);
        let output = command.output().await.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains(words) && !output.status.success(), "{said}");
    }
}
