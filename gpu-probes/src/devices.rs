//! What device plugins and drivers call the GPUs that they give out, and which GPU is meant.
//!
//! | Name | From |
//! |---|---|
//! | `GPU-…`, `MIG-…` | NVIDIA's device plugin |
//! | `GPU-…::3` | the same, shared in time or by MPS: the fourth share |
//! | `MIG-GPU-…/7/0` | the same, with drivers before 470: board, GPU instance, compute instance |
//! | `nvidia0`, `nvidia0/gi3`, `nvidia0/vgpu1`, `nvidia0/gi3/vgpu0` | GKE's device plugin: `/dev/nvidia0`, its instance, its share |
//! | `gpu-0`, `gpu-0-mig-1g10gb-19-0`, `gpu-0-mig-19-0-1` | NVIDIA's driver for dynamic resource allocation |

use std::sync::Arc;

use crate::telemetry::Gpu;

/// NVIDIA's driver for dynamic resource allocation.
pub(crate) const NVIDIA_DRA: &str = "gpu.nvidia.com";
/// Names longer than this are nobody's.
const LONGEST: usize = 256;

/// A GPU as whoever gives it out calls it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU or a MIG instance.
    Uuid(String),
    /// A MIG instance by its place.
    Instance {
        /// The board's UUID.
        board: String,
        /// On the board.
        gpu_instance: u32,
        /// In the GPU instance.
        compute_instance: u32,
    },
    /// `/dev/nvidia<minor>`, or a GPU instance of it.
    Minor {
        /// The N of /dev/nvidiaN.
        minor: u32,
        /// On the board.
        gpu_instance: Option<u32>,
    },
    /// What a driver for dynamic resource allocation gave out.
    Claimed(Claimed),
}

/// A device of a ResourceSlice.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claimed {
    /// As `gpu.nvidia.com`.
    pub driver: String,
    /// Of GPUs, the node.
    pub pool: String,
    /// As `gpu-0`.
    pub device: String,
}

/// A device, or a share of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which device.
    pub device: Device,
    /// Which share of it, where it is shared.
    pub replica: Option<u32>,
}

/// What is known of a device of a ResourceSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// The UUID of the GPU, or of the MIG instance.
    Uuid(String),
    /// A MIG instance that is made when it is claimed: only its board and size are known before.
    Instance {
        /// The board's UUID.
        board: String,
        /// As `1g.10gb`.
        profile: String,
    },
}

/// Knows what devices of ResourceSlices are: whoever can read those, or was told. `None` = not known. It is asked while the
/// agent's state is locked, so it must answer at once.
pub type DeviceNames = Arc<dyn Fn(&Claimed) -> Option<Named> + Send + Sync>;

/// Reads a device plugin's `id`; `None` if it is not one of a GPU.
pub fn parse(id: &str) -> Option<Share> {
    if id.len() > LONGEST {
        return None;
    }
    if let Some(gke) = id.strip_prefix("nvidia") {
        return gke_share(gke);
    }
    let (id, replica) = match id.rsplit_once("::") {
        Some((id, replica)) => (id, Some(replica.parse().ok()?)),
        None => (id, None),
    };
    let device = match id.strip_prefix("MIG-") {
        Some(place) if place.starts_with("GPU-") => {
            let mut parts = place.split('/');
            let board = uuid(parts.next()?, "GPU-")?;
            let gpu_instance = parts.next()?.parse().ok()?;
            let compute_instance = parts.next()?.parse().ok()?;
            if parts.next().is_some() {
                return None;
            }
            Device::Instance {
                board,
                gpu_instance,
                compute_instance,
            }
        }
        Some(_) => Device::Uuid(uuid(id, "MIG-")?),
        None => Device::Uuid(uuid(id, "GPU-")?),
    };
    Some(Share { device, replica })
}

/// What comes after `nvidia`.
fn gke_share(text: &str) -> Option<Share> {
    let mut parts = text.split('/');
    let minor = parts.next()?.parse().ok()?;
    let (mut gpu_instance, mut replica) = (None, None);
    for part in parts {
        if let Some(share) = part.strip_prefix("vgpu") {
            replica = Some(share.parse().ok()?);
        } else {
            gpu_instance = Some(part.strip_prefix("gi")?.parse().ok()?);
        }
    }
    let device = Device::Minor {
        minor,
        gpu_instance,
    };
    Some(Share { device, replica })
}

fn uuid(text: &str, prefix: &str) -> Option<String> {
    let rest = text.strip_prefix(prefix)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (!rest.is_empty() && rest.chars().all(fits)).then(|| text.to_owned())
}

fn is_board(gpu: &&Gpu) -> bool {
    gpu.parent.is_empty()
}

/// By the N of /dev/nvidiaN, which is the index where the N is not known: they differ on few machines.
fn board(gpus: &[Gpu], minor: u32) -> Option<&Gpu> {
    let mut boards = gpus.iter().filter(is_board);
    boards.find(|gpu| gpu.minor.unwrap_or(gpu.index) == minor)
}

fn instances<'a, 'b>(
    gpus: &'a [Gpu],
    board: &'b str,
) -> impl Iterator<Item = &'a Gpu> + use<'a, 'b> {
    gpus.iter().filter(move |gpu| gpu.parent == board)
}

/// `1g.10gb+me` as device names have it: without what they may not contain.
fn plain(profile: &str) -> String {
    let kept = profile.chars().filter(char::is_ascii_alphanumeric);
    kept.collect::<String>().to_ascii_lowercase()
}

/// Where there are several, it is none of them that is known.
fn the_only<'a>(mut fitting: impl Iterator<Item = &'a Gpu>) -> Option<&'a Gpu> {
    let first = fitting.next();
    first.filter(|_| fitting.next().is_none())
}

// === impl Device ===

impl Device {
    /// Which of `gpus` it is.
    pub fn find<'a>(&self, gpus: &'a [Gpu], names: &DeviceNames) -> Option<&'a Gpu> {
        match self {
            Self::Uuid(uuid) => gpus.iter().find(|gpu| gpu.uuid == *uuid),
            Self::Instance {
                board,
                gpu_instance,
                compute_instance,
            } => instances(gpus, board).find(|gpu| {
                gpu.gpu_instance == Some(*gpu_instance)
                    && gpu.compute_instance == Some(*compute_instance)
            }),
            Self::Minor {
                minor,
                gpu_instance,
            } => {
                let board = board(gpus, *minor)?;
                match gpu_instance {
                    None => Some(board),
                    Some(_) => {
                        // GKE gives out whole GPU instances.
                        let mut instances = instances(gpus, &board.uuid);
                        instances.find(|gpu| gpu.gpu_instance == *gpu_instance)
                    }
                }
            }
            Self::Claimed(claimed) => match names(claimed) {
                Some(Named::Uuid(uuid)) => gpus.iter().find(|gpu| gpu.uuid == uuid),
                Some(Named::Instance { board, profile }) => {
                    the_only(instances(gpus, &board).filter(|gpu| gpu.mig_profile == profile))
                }
                None => claimed.find(gpus),
            },
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uuid(uuid) => f.write_str(uuid),
            Self::Instance {
                board,
                gpu_instance,
                compute_instance,
            } => write!(f, "MIG-{board}/{gpu_instance}/{compute_instance}"),
            Self::Minor {
                minor,
                gpu_instance: None,
            } => write!(f, "nvidia{minor}"),
            Self::Minor {
                minor,
                gpu_instance: Some(instance),
            } => write!(f, "nvidia{minor}/gi{instance}"),
            Self::Claimed(Claimed { driver, device, .. }) => write!(f, "{driver}/{device}"),
        }
    }
}

// === impl Claimed ===

impl Claimed {
    /// By the name alone. Of an instance it tells the place on the board, which NVML does not: it is found where it is the
    /// only one of its size there.
    fn find<'a>(&self, gpus: &'a [Gpu]) -> Option<&'a Gpu> {
        if self.driver != NVIDIA_DRA {
            return None;
        }
        let mut parts = self.device.strip_prefix("gpu-")?.split('-');
        let board = board(gpus, parts.next()?.parse().ok()?)?;
        match (parts.next(), parts.next()) {
            (None, _) => Some(board),
            (Some("mig"), Some(profile)) => {
                // A number is the profile's, in the older form; the newer one begins with its name.
                let any = profile.chars().all(|c| c.is_ascii_digit());
                the_only(
                    instances(gpus, &board.uuid)
                        .filter(|gpu| any || plain(&gpu.mig_profile) == profile),
                )
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpu(uuid: &str, index: u32, minor: Option<u32>) -> Gpu {
        Gpu {
            uuid: uuid.into(),
            index,
            minor,
            ..Gpu::default()
        }
    }

    fn instance(uuid: &str, parent: &str, gi: u32, profile: &str) -> Gpu {
        Gpu {
            uuid: uuid.into(),
            parent: parent.into(),
            gpu_instance: Some(gi),
            compute_instance: Some(0),
            mig_profile: profile.into(),
            ..Gpu::default()
        }
    }

    /// Index and minor number crossed.
    fn node() -> Vec<Gpu> {
        vec![
            gpu("GPU-a", 0, Some(1)),
            gpu("GPU-b", 1, Some(0)),
            instance("MIG-1", "GPU-b", 3, "1g.10gb"),
            instance("MIG-2", "GPU-b", 5, "3g.40gb"),
            instance("MIG-3", "GPU-b", 6, "3g.40gb"),
        ]
    }

    fn nobody() -> DeviceNames {
        Arc::new(|_| None)
    }

    fn found(id: &str) -> Option<(String, Option<u32>)> {
        let share = parse(id)?;
        let node = node();
        let gpu = share.device.find(&node, &nobody())?;
        Some((gpu.uuid.clone(), share.replica))
    }

    #[test]
    fn every_form_of_a_name_finds_its_gpu() {
        for (id, uuid, replica) in [
            ("GPU-a", "GPU-a", None),
            ("GPU-a::0", "GPU-a", Some(0)),
            ("GPU-b::11", "GPU-b", Some(11)),
            ("MIG-1", "MIG-1", None),
            ("MIG-1::2", "MIG-1", Some(2)),
            ("MIG-GPU-b/5/0", "MIG-2", None),
            ("MIG-GPU-b/5/0::1", "MIG-2", Some(1)),
            ("nvidia0", "GPU-b", None),
            ("nvidia1", "GPU-a", None),
            ("nvidia0/gi3", "MIG-1", None),
            ("nvidia1/vgpu1", "GPU-a", Some(1)),
            ("nvidia0/gi5/vgpu0", "MIG-2", Some(0)),
        ] {
            assert_eq!(found(id), Some((uuid.to_owned(), replica)), "{id}");
        }
    }

    #[test]
    fn what_is_no_name_of_a_gpu_is_nobodys() {
        for id in [
            "",
            "GPU-",
            "0000:3b:00.0",
            "GPU-a::x",
            "GPU-a::",
            "MIG-GPU-b/5",
            "MIG-GPU-b/5/0/0",
            "MIG-GPU-b/x/0",
            "nvidia",
            "nvidiactl",
            "nvidia0/x",
            "nvidia0/gi",
            "GPU-a\"} 1",
            &format!("GPU-{}", "a".repeat(300)),
        ] {
            assert_eq!(parse(id), None, "{id}");
        }
        assert_eq!(found("nvidia7"), None);
        assert_eq!(found("GPU-elsewhere"), None);
        assert_eq!(found("nvidia0/gi9"), None);
    }

    #[test]
    fn claims_are_found_by_name_where_it_tells_and_by_who_knows() {
        let node = node();
        let claimed = |driver: &str, device: &str| {
            Device::Claimed(Claimed {
                driver: driver.into(),
                pool: "node".into(),
                device: device.into(),
            })
        };
        let found = |device: &Device, names: &DeviceNames| {
            device.find(&node, names).map(|gpu| gpu.uuid.clone())
        };
        for (device, uuid) in [
            ("gpu-0", Some("GPU-b")),
            ("gpu-1", Some("GPU-a")),
            ("gpu-0-mig-1g10gb-19-0", Some("MIG-1")),
            // Two of that size; one name is the place alone.
            ("gpu-0-mig-3g40gb-9-4", None),
            ("gpu-0-mig-9-4-4", None),
            ("gpu-1-mig-19-0-1", None),
            ("gpu-x", None),
            ("gpu-0-vfio", None),
        ] {
            let device = claimed("gpu.nvidia.com", device);
            assert_eq!(found(&device, &nobody()).as_deref(), uuid, "{device}");
        }
        let other = claimed("gpu.example.com", "gpu-0");
        assert_eq!(found(&other, &nobody()), None);
        let told: DeviceNames = Arc::new(|claimed| {
            let instance = |profile: &str| Named::Instance {
                board: "GPU-b".into(),
                profile: profile.into(),
            };
            match claimed.device.as_str() {
                "gpu-0-mig-3g40gb-9-4" => Some(Named::Uuid("MIG-3".into())),
                "one" => Some(instance("1g.10gb")),
                "which" => Some(instance("3g.40gb")),
                "gpu-1" => Some(Named::Uuid("GPU-gone".into())),
                _ => None,
            }
        });
        for (device, uuid) in [
            ("gpu-0-mig-3g40gb-9-4", Some("MIG-3")),
            ("one", Some("MIG-1")),
            ("which", None),
            // What is known counts, not what the name says.
            ("gpu-1", None),
            ("gpu-0", Some("GPU-b")),
        ] {
            let device = claimed("gpu.nvidia.com", device);
            assert_eq!(found(&device, &told).as_deref(), uuid, "{device}");
        }
    }
}
