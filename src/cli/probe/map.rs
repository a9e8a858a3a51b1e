//! `--gpu-map`: who has which GPU, in a file.
//!
//! ```yaml
//! gpus:
//! - uuid: GPU-5c7f…         # or MIG-…, as nvidia-smi -L has it; or nvidia0
//!   namespace: default      # the default
//!   pod: sim-0              # an endpoint's name
//!   container: server       # need not be there
//!   podUid: 0b52ee2e-…      # where it is known: tells whose processes are foreign
//!   commands: [vllm]        # the same, where there are no pods: other commands are foreign
//! devices:                  # what ResourceSlices call GPUs, where their names do not tell
//! - {driver: gpu.nvidia.com, device: gpu-0-mig-19-0-1, uuid: MIG-…}
//! ```
//!
//! YAML or JSON, 1 MiB at most; all but `uuid`, `pod`, `driver` and `device` may be left out. A GPU that is there twice has
//! two owners. A bad file fails the start; on a later edit the last good version stays.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use gpu_probes::agent::OwnerMap;
use gpu_probes::devices::{self, DeviceNames, Named as Known};
use gpu_probes::owners::{Holder, Holding};
use gpu_probes::telemetry::Owner;
use serde::Deserialize;

use crate::config::file::{self, Follower, Pace};
use crate::config::read_yaml;

const PACE: Pace = Pace {
    quiet: Duration::from_millis(50),
    longest: Duration::from_millis(500),
    poll: Duration::from_secs(5),
};
/// Entries of a list: far more than a node has.
const MOST: usize = 4096;

/// Why a map cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}")]
pub(super) struct MapError {
    path: PathBuf,
    reason: String,
}

#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    gpus: Option<Vec<Entry>>,
    #[serde(default)]
    devices: Vec<Named>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    uuid: String,
    #[serde(default = "default_namespace")]
    namespace: String,
    pod: String,
    #[serde(default)]
    container: String,
    #[serde(default)]
    pod_uid: String,
    #[serde(default)]
    commands: Vec<String>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    driver: String,
    device: String,
    uuid: String,
}

fn default_namespace() -> String {
    "default".to_owned()
}

/// UUIDs by driver and device.
type Names = HashMap<(String, String), String>;

/// A map that was read.
#[derive(Debug)]
pub(super) struct GpuMap {
    path: PathBuf,
    holdings: Option<Vec<Holding>>,
    names: Arc<ArcSwap<Names>>,
}

/// Knows no names.
pub(super) fn nobody() -> DeviceNames {
    Arc::new(|_| None)
}

fn load(path: &Path) -> Result<(Option<Vec<Holding>>, Names), MapError> {
    let failed = |reason: String| MapError {
        path: path.to_owned(),
        reason,
    };
    let text = file::read(path).map_err(failed)?;
    parse(&text).map_err(failed)
}

fn parse(text: &str) -> Result<(Option<Vec<Holding>>, Names), String> {
    // So it is for a moment while somebody writes it, and nobody's GPUs should be forgotten for that.
    if text.trim().is_empty() {
        return Err("it is empty; write `gpus: []` if all GPUs are free".to_owned());
    }
    let Document { gpus, devices } = read_yaml(text).map_err(|problem| problem.to_string())?;
    for (list, count) in [
        ("gpus", gpus.as_ref().map_or(0, Vec::len)),
        ("devices", devices.len()),
    ] {
        if count > MOST {
            return Err(format!("{list}: there are {count}; keep to {MOST}"));
        }
    }
    let gpus = gpus.map(|gpus| {
        let gpus = gpus.into_iter().enumerate();
        gpus.map(|(index, entry)| entry.holding(index)).collect()
    });
    let names = devices.into_iter().map(|named| {
        let Named {
            driver,
            device,
            uuid,
        } = named;
        ((driver, device), uuid)
    });
    Ok((gpus.transpose()?, names.collect()))
}

// === impl Entry ===

impl Entry {
    fn holding(self, index: usize) -> Result<Holding, String> {
        let uuid = &self.uuid;
        let share = devices::parse(uuid).ok_or_else(|| {
            format!("gpus[{index}].uuid: `{uuid}` is not that of a GPU; nvidia-smi -L lists them")
        })?;
        if self.pod.is_empty() {
            return Err(format!(
                "gpus[{index}].pod: it is empty; give the owner's name"
            ));
        }
        Ok(Holding {
            device: share.device,
            holder: Holder {
                owner: Owner {
                    namespace: self.namespace,
                    pod: self.pod,
                    container: self.container,
                    replica: share.replica,
                },
                pod_uids: Some(self.pod_uid)
                    .filter(|uid| !uid.is_empty())
                    .into_iter()
                    .collect(),
                commands: self.commands,
            },
        })
    }
}

// === impl GpuMap ===

impl GpuMap {
    /// Reads the file at `path`.
    pub(super) fn open(path: &Path) -> Result<Self, MapError> {
        let (holdings, names) = load(path)?;
        Ok(Self {
            path: path.to_owned(),
            holdings,
            names: Arc::new(ArcSwap::from_pointee(names)),
        })
    }

    /// Knows the `devices` of the file, as it is at the time.
    pub(super) fn names(&self) -> DeviceNames {
        let names = Arc::clone(&self.names);
        Arc::new(move |claimed| {
            let key = (claimed.driver.clone(), claimed.device.clone());
            names.load().get(&key).cloned().map(Known::Uuid)
        })
    }

    /// Gives `owners` what was read, and again whenever the file changes.
    pub(super) fn follow(self, owners: OwnerMap) {
        owners.set(self.holdings.clone());
        let mut follower = Follower::of_file(&self.path, PACE);
        tokio::spawn(async move {
            let mut last = self.holdings;
            let mut last_error = String::new();
            loop {
                follower.changed().await;
                match load(&self.path) {
                    Ok((holdings, names)) => {
                        last_error.clear();
                        if last != holdings || **self.names.load() != names {
                            tracing::info!("The map of GPUs changed.");
                            self.names.store(Arc::new(names));
                            owners.set(holdings.clone());
                            last = holdings;
                        }
                    }
                    Err(error) => {
                        let error = error.to_string();
                        if error != last_error {
                            tracing::error!(%error, "The map of GPUs cannot be used; the last good version stays.");
                            last_error = error;
                        }
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use gpu_probes::devices::{Claimed, Device};

    use super::*;

    #[test]
    fn a_map_is_read() {
        let (gpus, names) = parse(
            "gpus:\n\
             - {uuid: GPU-a, namespace: prod, pod: sim-0, container: server, podUid: u, commands: [vllm]}\n\
             - {uuid: MIG-1::2, pod: sim-1}\n\
             devices:\n\
             - {driver: gpu.nvidia.com, device: gpu-9, uuid: GPU-b}\n",
        )
        .unwrap();
        let gpus = gpus.unwrap();
        assert_eq!(gpus[0].device, Device::Uuid("GPU-a".into()));
        assert_eq!(gpus[0].holder.owner.namespace, "prod");
        assert_eq!(gpus[0].holder.pod_uids, ["u"]);
        assert_eq!(gpus[0].holder.commands, ["vllm"]);
        let owner = &gpus[1].holder.owner;
        assert_eq!(
            (owner.namespace.as_str(), owner.replica),
            ("default", Some(2))
        );
        assert!(gpus[1].holder.pod_uids.is_empty());
        assert_eq!(names.len(), 1);
        // Without the list, nothing is said of owners; an empty one says that all are free.
        assert_eq!(parse("devices: []").unwrap().0, None);
        assert_eq!(parse("gpus: []").unwrap().0, Some(vec![]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, words) in [
            (
                "gpus: [{uuid: 0, pod: a}]",
                "gpus[0].uuid: `0` is not that of a GPU",
            ),
            ("gpus: [{uuid: GPU-a, pod: ''}]", "gpus[0].pod: it is empty"),
            ("gpus: [{uuid: GPU-a}]", "pod"),
            ("gpus: [{uuid: GPU-a, pods: a}]", "pods"),
            ("gpu: []", "gpu"),
            ("\n", "it is empty; write `gpus: []`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_known_as_the_file_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map.yaml");
        std::fs::write(&path, "devices: [{driver: d, device: gpu-9, uuid: GPU-b}]").unwrap();
        let map = GpuMap::open(&path).unwrap();
        let claimed = |driver: &str| Claimed {
            driver: driver.into(),
            pool: "node".into(),
            device: "gpu-9".into(),
        };
        let names = map.names();
        assert_eq!(names(&claimed("d")), Some(Known::Uuid("GPU-b".into())));
        assert_eq!(names(&claimed("e")), None);
    }
}
