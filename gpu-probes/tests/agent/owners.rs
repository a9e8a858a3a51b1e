//! Who has which GPU, and who is on it.

use gpu_probes::devices::Device;
use gpu_probes::owners::{Holder, Holding};
use gpu_probes::telemetry::{Process, Snapshot};

use super::kubelet::{Kubelet, claimed, plugged};
use super::*;

const OFTEN: Duration = Duration::from_secs(1);
/// Longer than a test waits: whoever is asked is asked for another reason.
const NEVER: Duration = Duration::from_secs(3600);
const UID: &str = "0b52ee2e-6b0c-4d46-a1c5-1f2c0d9f7a10";
const OTHER: &str = "7c1d9a52-1111-4d46-a1c5-1f2c0d9f7a10";

fn owners(snapshot: &Snapshot, uuid: &str) -> Vec<(String, Option<u32>)> {
    let gpu = snapshot.gpus.iter().find(|gpu| gpu.uuid == uuid).unwrap();
    let owners = gpu.owners.iter();
    owners
        .map(|owner| (owner.pod.clone(), owner.replica))
        .collect()
}

/// Why the owners of `uuid` are not known.
fn why(snapshot: &Snapshot, uuid: &str) -> Option<String> {
    let gpu = snapshot.gpus.iter().find(|gpu| gpu.uuid == uuid)?;
    let mut missing = gpu.missing.iter();
    let owners = missing.find(|missing| missing.field == "owners")?;
    Some(owners.why.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_of_a_device_finds_its_gpu() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kubelet.sock");
    let kubelet = Kubelet::of(vec![
        plugged("whole", "nvidia.com/gpu", &["GPU-a"]),
        plugged("shared-0", "nvidia.com/gpu.shared", &["GPU-b::0"]),
        plugged("shared-1", "nvidia.com/gpu.shared", &["GPU-b::1"]),
        plugged("gke", "nvidia.com/gpu", &["nvidia2", "nvidia3/gi4/vgpu0"]),
        plugged("mig", "nvidia.com/mig-1g.10gb", &["MIG-1", "MIG-GPU-d/2/0"]),
        plugged("extra", "example.com/shared-gpu", &["GPU-a"]),
        plugged("network", "nvidia.com/hostdev", &["0000:3b:00.0"]),
        plugged("fpga", "example.com/fpga", &["GPU-c"]),
        claimed("dra", "gpu.nvidia.com", "gpu-4"),
        claimed("told", "gpu.nvidia.com", "known"),
        claimed("domain", "compute-domain.nvidia.com", "gpu-4"),
    ]);
    let _serving = kubelet.serve(&socket);
    let mut board = gpu("GPU-d", 3);
    board.mig_enabled = true;
    let script = Script::of(vec![
        gpu("GPU-a", 0),
        gpu("GPU-b", 1),
        gpu("GPU-c", 2),
        board,
        instance("MIG-1", "GPU-d", 1),
        instance("MIG-2", "GPU-d", 2),
        instance("MIG-4", "GPU-d", 4),
        gpu("GPU-e", 4),
        gpu("GPU-f", 5),
    ]);
    let agent = start(&script, Some((&socket, ask(dir.path(), OFTEN))), dir.path());
    let seen = until(&agent, "owners", |seen| {
        seen.gpus.len() == 9 && !seen.gpus[0].owners.is_empty()
    })
    .await;
    let named =
        |pods: &[&str]| -> Vec<_> { pods.iter().map(|&pod| (pod.to_owned(), None)).collect() };
    assert_eq!(owners(&seen, "GPU-a"), named(&["extra", "whole"]));
    assert_eq!(
        owners(&seen, "GPU-b"),
        [
            ("shared-0".to_owned(), Some(0)),
            ("shared-1".to_owned(), Some(1)),
            ("told".to_owned(), None),
        ]
    );
    assert_eq!(owners(&seen, "GPU-c"), named(&["gke"]));
    assert_eq!(owners(&seen, "GPU-d"), []);
    assert_eq!(owners(&seen, "MIG-1"), named(&["mig"]));
    assert_eq!(owners(&seen, "MIG-2"), named(&["mig"]));
    assert_eq!(owners(&seen, "MIG-4"), [("gke".to_owned(), Some(0))]);
    assert_eq!(owners(&seen, "GPU-e"), named(&["dra"]));
    // Free, and known to be.
    assert_eq!(owners(&seen, "GPU-f"), []);
    assert_eq!(why(&seen, "GPU-f"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_kubelet_is_away_its_last_answer_stands_and_is_called_old() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("kubelet.sock");
    let script = Script::of(vec![gpu("GPU-a", 0)]);
    let agent = start(&script, Some((&socket, ask(dir.path(), OFTEN))), dir.path());
    // Unknown, which is not none.
    let unknown = |seen: &Snapshot| {
        why(seen, "GPU-a").is_some_and(|why| why.contains("kubelet.sock is not there"))
    };
    until(&agent, "no socket", unknown).await;

    let kubelet = Kubelet::of(vec![plugged("one", "nvidia.com/gpu", &["GPU-a"])]);
    let serving = kubelet.serve(&socket);
    let has = |pod: &'static str| {
        move |seen: &Snapshot| {
            owners(seen, "GPU-a") == [(pod.to_owned(), None)] && why(seen, "GPU-a").is_none()
        }
    };
    until(&agent, "the kubelet came", has("one")).await;

    drop(serving);
    let seen = until(&agent, "the kubelet went", |seen| {
        why(seen, "GPU-a").is_some()
    })
    .await;
    assert_eq!(owners(&seen, "GPU-a"), [("one".to_owned(), None)]);

    kubelet.give(vec![plugged("two", "nvidia.com/gpu", &["GPU-a"])]);
    let _serving = kubelet.serve(&socket);
    until(&agent, "the kubelet is back", has("two")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_in_another_pod_is_foreign_and_has_the_kubelet_asked_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, logs, proc) = (
        dir.path().join("kubelet.sock"),
        dir.path().join("pods"),
        dir.path().join("proc"),
    );
    std::fs::create_dir_all(logs.join(format!("default_one_{UID}"))).unwrap();
    std::fs::create_dir_all(logs.join("not-a-pod")).unwrap();
    for (pid, uid, name) in [(10, UID, "vllm"), (11, OTHER, "miner")] {
        let dir = proc.join(pid.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        let cgroup = format!("0::/kubepods/pod{uid}/c1\n");
        std::fs::write(dir.join("cgroup"), cgroup).unwrap();
        std::fs::write(dir.join("comm"), name).unwrap();
    }
    let kubelet = Kubelet::of(vec![plugged("one", "nvidia.com/gpu", &["GPU-a"])]);
    let _serving = kubelet.serve(&socket);
    let process = |pid| Process {
        pid,
        memory: Some(1 << 30),
        ..Process::default()
    };
    let mut one = gpu("GPU-a", 0);
    one.processes = vec![process(10)];
    let script = Script::of(vec![one]);
    let agent = start(&script, Some((&socket, ask(&logs, NEVER))), &proc);
    let foreign = |seen: &Snapshot| -> Vec<_> {
        let processes = seen.gpus.first().map(|gpu| gpu.processes.iter());
        let processes = processes.into_iter().flatten();
        processes
            .map(|p| (p.pid, p.name.clone(), p.foreign))
            .collect()
    };
    let own = (10, "vllm".to_owned(), Some(false));
    until(&agent, "its own", |seen| foreign(seen) == [own.clone()]).await;
    let before = kubelet.asked();
    script.edit(|said| said.gpus[0].processes.extend([process(11), process(12)]));
    let theirs = (11, "miner".to_owned(), Some(true));
    // Of this one nothing can be seen.
    let unseen = (12, String::new(), None);
    let all = [own, theirs, unseen];
    let seen = until(&agent, "another's", |seen| foreign(seen) == all).await;
    assert_eq!(seen.gpus[0].processes[1].pod_uid, OTHER);
    let missing = &seen.gpus[0].missing;
    assert!(
        missing
            .iter()
            .any(|m| m.field == "processes.pod_uid" && m.why.contains("12/cgroup"))
    );
    let asked = async {
        while kubelet.asked() == before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kubernetes_a_map_tells_and_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::of(vec![gpu("GPU-a", 0), gpu("GPU-b", 1)]);
    let agent = start(&script, None, dir.path());
    let holding = |uuid: &str, pod: &str| Holding {
        device: Device::Uuid(uuid.into()),
        holder: Holder {
            owner: owner(pod, None),
            ..Holder::default()
        },
    };
    let seen = until(&agent, "GPUs", |seen| seen.gpus.len() == 2).await;
    assert_eq!(why(&seen, "GPU-a").as_deref(), Some("nobody was asked"));
    agent.owners().set(Some(vec![
        holding("GPU-a", "sim-0"),
        holding("GPU-z", "sim-9"),
    ]));
    let seen = agent.snapshot();
    assert_eq!(owners(&seen, "GPU-a"), [("sim-0".to_owned(), None)]);
    assert_eq!(owners(&seen, "GPU-b"), []);
    assert_eq!(why(&seen, "GPU-b"), None);
    agent.owners().set(Some(vec![holding("GPU-b", "sim-0")]));
    let seen = agent.snapshot();
    assert_eq!(owners(&seen, "GPU-a"), []);
    assert_eq!(owners(&seen, "GPU-b"), [("sim-0".to_owned(), None)]);
}
