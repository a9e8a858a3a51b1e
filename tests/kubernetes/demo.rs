//! `pointsman demo --kubernetes`, as its user sees it.

use std::path::Path;

use pointsman::cli::demo::apiserver;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::demo::{command, last_row, prints, start};
use crate::support::{Program, machine};

/// Starts it with these flags.
async fn demo(flags: &[&str]) -> (Program, TempDir) {
    start(&mut command(&[&["--kubernetes"], flags].concat()).await)
}

/// Whether the demo's API server is a real one, which refuses what a schema does not allow before a picker sees it.
fn is_real() -> bool {
    apiserver::assets().unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_come_and_go_and_every_object_is_told() {
    let _machine = machine::alone().await;
    let (mut demo, _folder) = demo(&["--for=12s", "--rate=16"]).await;
    let ended = demo.ended().await.unwrap();
    let printed = demo.printed();
    assert!(ended.success(), "{printed}");
    for name in ["llama-0", "llama-1", "llama-2", "llama-3"] {
        let row = last_row(&printed, name);
        assert!(row[5].parse::<u64>().unwrap() > 0, "{row:?}\n{printed}");
    }
    assert_eq!(last_row(&printed, "llama-3")[2], "ready", "{printed}");
    for (object, told) in [
        ("objective/batch", "True"),
        ("objective/lost", "False, PoolNotFound"),
        ("rewrite/chat", "True"),
        ("rewrite/same", "False, Conflicted"),
        (
            "rewrite/without-targets",
            if is_real() {
                "refused InferenceModelRewrite.llm-d.ai \"without-targets\" is invalid"
            } else {
                "False, Invalid"
            },
        ),
    ] {
        let row = last_row(&printed, object).join(" ");
        assert!(row.contains(&format!("{object} {told}")), "{printed}");
    }
    let refused = "inferencemodelrewrites/without-targets refused: ";
    assert_eq!(printed.contains(refused), is_real(), "{printed}");
    let which = if is_real() {
        "The API server is a real one, kube-apiserver v"
    } else {
        "the API server is a double"
    };
    for line in [
        which,
        "pods/llama-0 deleted",
        "rewritten: chat → meta-llama/Llama-3.1-8B-Instruct",
        "Every answer came from the pod that the picker chose.",
    ] {
        assert!(printed.contains(line), "{line}\n{printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_is_what_its_users_files_say() {
    let _machine = machine::alone().await;
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/demo");
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| std::fs::copy(ours.join(name), folder.path().join(name)).unwrap();
    copy("pool.yaml");
    copy("llama-0.yaml");
    let flag = format!("--manifests={}", folder.path().display());
    let (mut demo, _logs) = demo(&[&flag, "--rate=8"]).await;
    prints(&mut demo, "llama-0    127.").await;
    copy("llama-1.yaml");
    prints(&mut demo, "pod llama-1 is ready").await;
    std::fs::remove_file(folder.path().join("llama-0.yaml")).unwrap();
    prints(&mut demo, "pod llama-0 is gone").await;
    // What runs is not changed: another takes its place.
    let path = folder.path().join("llama-1.yaml");
    let pod = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, pod.replace("--ttft=40ms", "--ttft=50ms")).unwrap();
    let changed = "pods/llama-1 changed: it ends, and another begins";
    for what in [changed, "pod llama-1 is gone", "pods/llama-1 created"] {
        prints(&mut demo, what).await;
    }
    // What cannot be used is told, and what was there last stays.
    let pool = std::fs::read_to_string(folder.path().join("pool.yaml")).unwrap();
    let bad = pool.replace("{number: 18000}", "");
    std::fs::write(folder.path().join("pool.yaml"), bad).unwrap();
    let told = if is_real() {
        "inferencepools/llama refused: InferencePool.inference.networking.k8s.io \"llama\" is invalid: spec.targetPorts"
    } else {
        "pool                       invalid"
    };
    prints(&mut demo, told).await;
    std::fs::write(folder.path().join("more.yaml"), "kind: Deployment").unwrap();
    prints(
        &mut demo,
        "kind `Deployment`: the demo has Pod, InferencePool",
    )
    .await;
    demo.signal(Signal::INT).unwrap();
    assert!(demo.ended().await.unwrap().success(), "{}", demo.printed());
    let printed = demo.printed();
    assert!(last_row(&printed, "llama-1")[5].parse::<u64>().unwrap() > 0);
}
