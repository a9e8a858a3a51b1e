//! Whose a process is: its pod, from its control group, and its name. Both need the host's PID namespace.

use std::io::Read as _;
use std::path::Path;

/// A file under /proc that is longer than this is none that we know.
const LONGEST: u64 = 64 << 10;

/// Where a process belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seat {
    /// Its control group cannot be read: the reason.
    Unseen(String),
    /// In no pod: a process of the host, or of a container that Kubernetes does not know.
    NoPod,
    /// In the pod of this UID.
    Pod(String),
}

/// Where the process `pid` belongs, by `<proc>/<pid>/cgroup`.
pub fn seat(proc: &Path, pid: u32) -> Seat {
    let path = proc.join(pid.to_string()).join("cgroup");
    match read(&path) {
        Ok(text) => pod_uid(&text).map_or(Seat::NoPod, Seat::Pod),
        Err(error) => Seat::Unseen(format!("{}: {error}", path.display())),
    }
}

/// The command name of `pid`; empty if it is not seen.
pub fn name(proc: &Path, pid: u32) -> String {
    let name = read(&proc.join(pid.to_string()).join("comm"));
    name.unwrap_or_default().trim_end().to_owned()
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(LONGEST)
        .read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Lines are `<hierarchy>:<controllers>:<path>`. With the cgroupfs driver a pod's directory is `pod<uid>`, with systemd's
/// `kubepods-burstable-pod<uid with _ for ->.slice`.
fn pod_uid(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).find_map(|part| {
        let slice = part.strip_suffix(".slice");
        let uid = match (part.strip_prefix("pod"), slice) {
            (Some(uid), None) => uid,
            (_, Some(slice)) => slice.rsplit_once("-pod")?.1,
            (None, None) => return None,
        };
        // A UUID, or the hash of a static pod's manifest.
        let fits = |c: char| c.is_ascii_hexdigit() || c == '-' || c == '_';
        let is_uid = (32..=36).contains(&uid.len()) && uid.chars().all(fits);
        is_uid.then(|| uid.replace('_', "-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0b52ee2e-6b0c-4d46-a1c5-1f2c0d9f7a10";
    const UNDERSCORED: &str = "0b52ee2e_6b0c_4d46_a1c5_1f2c0d9f7a10";
    const STATIC: &str = "f2b1c0de5a4b3c2d1e0f9a8b7c6d5e4f";

    #[test]
    fn pods_are_found_in_every_form_of_a_control_group() {
        for (cgroup, uid) in [
            // v1, cgroupfs.
            (
                format!(
                    "12:memory:/kubepods/burstable/pod{UID}/7d1e\n1:name=systemd:/kubepods/burstable/pod{UID}/7d1e\n"
                ),
                Some(UID),
            ),
            // v1, systemd; another controller first.
            (
                format!(
                    "3:rdma:/\n2:cpu,cpuacct:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{UNDERSCORED}.slice/docker-7d1e.scope\n"
                ),
                Some(UID),
            ),
            // v2, systemd.
            (
                format!(
                    "0::/kubepods.slice/kubepods-pod{UNDERSCORED}.slice/cri-containerd-7d1e.scope\n"
                ),
                Some(UID),
            ),
            // v2, cgroupfs, seen from another cgroup namespace.
            (format!("0::/../../pod{UID}/7d1e\n"), Some(UID)),
            // kind, a static pod.
            (
                format!(
                    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable-pod{STATIC}.slice/cri-containerd-1.scope\n"
                ),
                Some(STATIC),
            ),
            (
                "0::/user.slice/user-1000.slice/session-3.scope\n".to_owned(),
                None,
            ),
            (
                "0::/machine.slice/libpod-7d1e7d1e7d1e7d1e7d1e7d1e7d1e7d1e.scope\n".to_owned(),
                None,
            ),
            ("0::/podman.slice\n".to_owned(), None),
            ("garbage".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(pod_uid(&cgroup).as_deref(), uid, "{cgroup}");
        }
    }

    #[test]
    fn a_process_that_is_not_seen_is_not_one_without_a_pod() {
        let proc = tempfile::tempdir().unwrap();
        assert!(
            matches!(seat(proc.path(), 7), Seat::Unseen(why) if why.contains("7/cgroup: No such file"))
        );
        assert_eq!(name(proc.path(), 7), "");
        std::fs::create_dir(proc.path().join("7")).unwrap();
        std::fs::write(proc.path().join("7/cgroup"), "0::/init.scope\n").unwrap();
        std::fs::write(proc.path().join("7/comm"), "vllm\n").unwrap();
        assert_eq!(seat(proc.path(), 7), Seat::NoPod);
        assert_eq!(name(proc.path(), 7), "vllm");
    }
}
