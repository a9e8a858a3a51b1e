//! Who has been given which GPU, and which processes on it are somebody else's.
//!
//! What is known comes from the kubelet, from a map, or both: an entry of the map counts in place of all that the kubelet
//! says of the same GPU.
//!
//! A process is foreign if it belongs to none of the GPU's owners. A pod's UID is seen in the process's control group and,
//! for the owners, in the names of the kubelet's log directories (PodResources does not tell it); where the map names
//! commands, they decide. What cannot be decided stays open; so does a process that came after the kubelet was last asked.

use std::time::Instant;

use crate::devices::{Device, DeviceNames};
use crate::processes::Seat;
use crate::telemetry::{Gpu, Missing, Owner};

/// A device that was given to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// What was given.
    pub device: Device,
    /// To whom.
    pub holder: Holder,
}

/// Who a GPU was given to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// As it is told.
    pub owner: Owner,
    /// UIDs that the pod may have: several where one of its name was there before; none = not known.
    pub pod_uids: Vec<String>,
    /// Names of commands that are its; none = not known.
    pub commands: Vec<String>,
}

/// All that is known of who has what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    /// The kubelet's last answer.
    pub kubelet: Option<Vec<Holding>>,
    /// When it was asked for that.
    pub asked: Option<Instant>,
    /// Why that is not the current state, or not there.
    pub kubelet_problem: Option<String>,
    pub map: Option<Vec<Holding>>,
}

/// The owners of one GPU.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held<'a> {
    pub holders: Vec<&'a Holder>,
    /// Why there may be others, or why nothing is known.
    pub problem: Option<String>,
    /// As of when; none = of now.
    pub asked: Option<Instant>,
}

// === impl Owners ===

impl Owners {
    pub(crate) fn is_known(&self) -> bool {
        self.kubelet.is_some() || self.map.is_some()
    }

    fn all(&self) -> impl Iterator<Item = &Holding> {
        self.map.iter().chain(&self.kubelet).flatten()
    }

    /// The owners of each of `gpus`.
    pub(crate) fn of<'a>(&'a self, gpus: &[Gpu], names: &DeviceNames) -> Vec<Held<'a>> {
        let mut held: Vec<Held<'_>> = vec![Held::default(); gpus.len()];
        let mut lost = None;
        let place = |holding: &Holding| {
            let found = holding.device.find(gpus, names)?;
            gpus.iter().position(|gpu| gpu.uuid == found.uuid)
        };
        for holding in self.map.iter().flatten() {
            if let Some(at) = place(holding) {
                held[at].holders.push(&holding.holder);
            }
        }
        let mapped: Vec<bool> = held.iter().map(|held| !held.holders.is_empty()).collect();
        for holding in self.kubelet.iter().flatten() {
            match place(holding) {
                Some(at) if mapped[at] => {}
                Some(at) => held[at].holders.push(&holding.holder),
                None => lost = Some(holding),
            }
        }
        let lost = lost.map(|holding| {
            let Owner { namespace, pod, .. } = &holding.holder.owner;
            let device = &holding.device;
            format!("{namespace}/{pod} was given {device}, and which GPU that is is not known")
        });
        for (held, mapped) in held.iter_mut().zip(mapped) {
            held.holders.sort_by_key(|holder| key(&holder.owner));
            if mapped {
                continue;
            }
            held.asked = self.asked;
            held.problem = match (&self.kubelet_problem, &lost) {
                (Some(problem), _) => Some(problem.clone()),
                // It may be this one.
                (None, Some(lost)) if held.holders.is_empty() => Some(lost.clone()),
                (None, _) if !self.is_known() => Some("nobody was asked".to_owned()),
                (None, _) => None,
            };
        }
        held
    }

    /// Devices that were given to somebody and are none of `gpus`.
    pub(crate) fn unknown_devices(&self, gpus: &[Gpu], names: &DeviceNames) -> usize {
        self.all()
            .filter(|holding| holding.device.find(gpus, names).is_none())
            .count()
    }
}

fn key(owner: &Owner) -> (String, String, String, Option<u32>) {
    let Owner {
        namespace,
        pod,
        container,
        replica,
    } = owner.clone();
    (namespace, pod, container, replica)
}

// === impl Held ===

impl Held<'_> {
    pub(crate) fn missing(&self) -> Option<Missing> {
        self.problem.as_ref().map(|why| Missing {
            field: "owners".to_owned(),
            why: why.clone(),
        })
    }

    /// Whether a process is none of the owners'. `None` = not known.
    pub(crate) fn is_foreign(&self, seat: &Seat, name: &str) -> Option<bool> {
        if self.holders.is_empty() {
            // Free, if that is known.
            return self.problem.is_none().then_some(true);
        }
        let mut open = false;
        for holder in &self.holders {
            match holder.has(seat, name) {
                Some(true) => return Some(false),
                Some(false) => {}
                None => open = true,
            }
        }
        (!open).then_some(true)
    }
}

// === impl Holder ===

impl Holder {
    /// Whether a process is this one's.
    fn has(&self, seat: &Seat, name: &str) -> Option<bool> {
        if !self.commands.is_empty() {
            return (!name.is_empty()).then(|| self.commands.iter().any(|known| known == name));
        }
        match seat {
            Seat::Pod(uid) if !self.pod_uids.is_empty() => Some(self.pod_uids.contains(uid)),
            // A pod's processes are in its control group.
            Seat::NoPod if !self.pod_uids.is_empty() => Some(false),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn gpu(uuid: &str) -> Gpu {
        Gpu {
            uuid: uuid.into(),
            ..Gpu::default()
        }
    }

    fn holding(uuid: &str, pod: &str) -> Holding {
        Holding {
            device: Device::Uuid(uuid.into()),
            holder: Holder {
                owner: Owner {
                    namespace: "default".into(),
                    pod: pod.into(),
                    ..Owner::default()
                },
                ..Holder::default()
            },
        }
    }

    fn pods(owners: &Owners, gpus: &[Gpu]) -> Vec<(Vec<String>, Option<String>)> {
        let names: DeviceNames = Arc::new(|_| None);
        let held = owners.of(gpus, &names);
        let pods = |held: &Held<'_>| {
            let holders = held.holders.iter();
            holders.map(|holder| holder.owner.pod.clone()).collect()
        };
        held.iter()
            .map(|held| (pods(held), held.problem.clone()))
            .collect()
    }

    #[test]
    fn the_map_counts_in_place_of_the_kubelet_for_the_gpus_it_names() {
        let gpus = [gpu("GPU-a"), gpu("GPU-b"), gpu("GPU-c")];
        let owners = Owners {
            kubelet: Some(vec![
                holding("GPU-b", "two"),
                holding("GPU-b", "one"),
                holding("GPU-a", "hidden"),
            ]),
            map: Some(vec![holding("GPU-a", "mapped"), holding("GPU-z", "gone")]),
            ..Owners::default()
        };
        let expected = [vec!["mapped"], vec!["one", "two"], vec![]];
        for ((pods, problem), expected) in pods(&owners, &gpus).iter().zip(expected) {
            assert_eq!(*pods, expected);
            assert_eq!(*problem, None);
        }
    }

    #[test]
    fn unknown_is_not_free() {
        let gpus = [gpu("GPU-a"), gpu("GPU-b")];
        let nobody = Owners::default();
        let why = pods(&nobody, &gpus)[0].1.clone();
        assert_eq!(why.as_deref(), Some("nobody was asked"));
        let away = Owners {
            kubelet: Some(vec![holding("GPU-a", "one")]),
            kubelet_problem: Some("away".into()),
            ..Owners::default()
        };
        // The last answer stands, and is called old.
        assert_eq!(
            pods(&away, &gpus)[0],
            (vec!["one".into()], Some("away".into()))
        );
        let lost = Owners {
            kubelet: Some(vec![holding("GPU-a", "one"), holding("GPU-z", "two")]),
            ..Owners::default()
        };
        let found = pods(&lost, &gpus);
        assert_eq!(found[0].1, None);
        let why = found[1].1.clone().unwrap();
        assert!(why.starts_with("default/two was given GPU-z"), "{why}");
        let names: DeviceNames = Arc::new(|_| None);
        assert_eq!(lost.unknown_devices(&gpus, &names), 1);
    }

    #[test]
    fn a_process_is_foreign_only_where_both_sides_are_known() {
        let holder = |uids: &[&str], commands: &[&str]| Holder {
            owner: Owner::default(),
            pod_uids: uids.iter().map(|&uid| uid.to_owned()).collect(),
            commands: commands.iter().map(|&name| name.to_owned()).collect(),
        };
        let (known, old, unknown) = (
            holder(&["u1", "u2"], &[]),
            holder(&["u3"], &[]),
            holder(&[], &[]),
        );
        let named = holder(&[], &["vllm"]);
        let pod = |uid: &str| Seat::Pod(uid.to_owned());
        let unseen = Seat::Unseen(String::new());
        for (holders, seat, name, foreign) in [
            (vec![&known, &old], pod("u2"), "", Some(false)),
            (vec![&known, &old], pod("u9"), "", Some(true)),
            (vec![&known, &old], Seat::NoPod, "", Some(true)),
            (vec![&known], unseen.clone(), "python3", None),
            (vec![&known, &unknown], pod("u2"), "", Some(false)),
            (vec![&known, &unknown], pod("u9"), "", None),
            (vec![&unknown], Seat::NoPod, "", None),
            (vec![&named], unseen.clone(), "vllm", Some(false)),
            (vec![&named], Seat::NoPod, "miner", Some(true)),
            (vec![&named], unseen.clone(), "", None),
            (vec![], unseen.clone(), "", Some(true)),
        ] {
            let held = Held {
                holders: holders.clone(),
                ..Held::default()
            };
            assert_eq!(
                held.is_foreign(&seat, name),
                foreign,
                "{holders:?} {seat:?}"
            );
        }
        let unknown = Held {
            problem: Some("away".into()),
            ..Held::default()
        };
        assert_eq!(unknown.is_foreign(&Seat::NoPod, ""), None);
    }
}
