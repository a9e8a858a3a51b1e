//! `--resource-slices`: which GPUs the devices of claims are, by the ResourceSlices that the node's drivers publish.
//!
//! The API server is asked from the first claim on that has to be told, and never where there are none. Until it has
//! answered, and wherever it does not, the names of the devices are all there is to go by.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use gpu_probes::agent::OwnerMap;
use gpu_probes::devices::{Claimed, DeviceNames, Named};
use kube::Client;
use kube::api::Api;
use kube::core::{GroupVersionKind, Object};
use kube::discovery::ApiResource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::watcher::{Config, Error, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Notify;

const GROUP: &str = "resource.k8s.io";
/// The newest that is served counts.
const VERSIONS: [&str; 3] = ["v1", "v1beta2", "v1beta1"];
const PLURAL: &str = "resourceslices";
/// Devices that are kept: more than a node has, MIG instances that could be made counted in.
const MOST: usize = 4096;
/// Between two looks at what is served.
const LOOK: Duration = Duration::from_secs(30);

/// Read in two steps: a list must not fail for one that says nonsense.
type Slice = Object<Option<Value>, Value>;
type Names = HashMap<Claimed, Named>;

/// What the slices of a node tell.
#[derive(Debug, Default)]
pub(super) struct Slices {
    names: ArcSwap<Names>,
    /// All slices of the node were read, and are served.
    read: AtomicBool,
    wanted: Notify,
}

#[derive(Deserialize)]
struct Spec {
    driver: String,
    pool: Pool,
    #[serde(default)]
    devices: Vec<Device>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pool {
    name: String,
    #[serde(default)]
    generation: i64,
}

#[derive(Deserialize)]
struct Device {
    name: String,
    #[serde(default)]
    attributes: BTreeMap<String, Attribute>,
    /// Where v1beta1 has them.
    basic: Option<Basic>,
}

#[derive(Deserialize)]
struct Basic {
    #[serde(default)]
    attributes: BTreeMap<String, Attribute>,
}

/// Others than strings are of no use here.
#[derive(Deserialize)]
struct Attribute {
    string: Option<String>,
}

// === impl Slices ===

impl Slices {
    /// `known`, and what it does not know from the slices.
    pub(super) fn names(self: &Arc<Self>, known: DeviceNames) -> DeviceNames {
        let slices = Arc::clone(self);
        Arc::new(move |claimed| {
            known(claimed).or_else(|| {
                slices.wanted.notify_one();
                slices.names.load().get(claimed).cloned()
            })
        })
    }

    /// Follows the slices of `node` from the first question on.
    pub(super) async fn follow(self: Arc<Self>, node: String, owners: OwnerMap) {
        self.wanted.notified().await;
        let client = match Client::try_default().await {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(
                    %error,
                    "--resource-slices: no Kubernetes API server to ask; claims are taken by their devices' names. It takes a \
                     service account (automountServiceAccountToken) or KUBECONFIG."
                );
                return;
            }
        };
        let mut told = String::new();
        loop {
            let why = match served(&client).await {
                Ok(Some(version)) => {
                    self.watch(&client, version, &node, &owners, &mut told)
                        .await
                }
                Ok(None) => format!("the API server serves no {PLURAL} of {GROUP}"),
                Err(error) => error.to_string(),
            };
            self.read.store(false, Relaxed);
            tell(why, &mut told);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns why it is to be looked anew what is served.
    async fn watch(
        &self,
        client: &Client,
        version: &str,
        node: &str,
        owners: &OwnerMap,
        told: &mut String,
    ) -> String {
        let kind = GroupVersionKind::gvk(GROUP, version, "ResourceSlice");
        let resource = ApiResource::from_gvk_with_plural(&kind, PLURAL);
        let api = Api::<Slice>::all_with(client.clone(), &resource);
        let of_node = Config::default().fields(&format!("spec.nodeName={node}"));
        let writer = Writer::new(resource);
        let slices = writer.as_reader();
        let events = reflector(writer, watcher(api, of_node).default_backoff());
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => {
                    let names = names(&slices.state());
                    told.clear();
                    if !self.read.swap(true, Relaxed) {
                        tracing::info!(version, devices = names.len(), "Following {PLURAL}.");
                    }
                    if **self.names.load() != names {
                        self.names.store(Arc::new(names));
                        owners.renamed();
                    }
                }
                // This version is served no longer.
                Err(error) if is_gone(&error) => return error.to_string(),
                // It is tried again, and what was read stands.
                Err(error) => tell(error.to_string(), told),
            }
        }
        format!("the watch of {PLURAL} ended")
    }

    /// For the metrics page.
    pub(super) fn page(&self, node: &str) -> String {
        const NAME: &str = "pointsman_probe_resource_slices_read";
        let read = u8::from(self.read.load(Relaxed));
        format!(
            "# HELP {NAME} Whether the node's ResourceSlices were read; nobody asks for them before there is a claim\n\
             # TYPE {NAME} gauge\n{NAME}{{Hostname={node:?}}} {read}\n"
        )
    }
}

/// Each fault once.
fn tell(why: String, told: &mut String) {
    if *told != why {
        tracing::warn!(
            error = why,
            "{PLURAL} cannot be followed; claims are taken by what was read, or by their devices' names."
        );
        *told = why;
    }
}

/// The version to ask for, if slices are served.
async fn served(client: &Client) -> Result<Option<&'static str>, kube::Error> {
    for version in VERSIONS {
        let group = format!("{GROUP}/{version}");
        match client.list_api_group_resources(&group).await {
            Ok(list) if list.resources.iter().any(|r| r.name == PLURAL) => {
                return Ok(Some(version));
            }
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn is_gone(error: &Error) -> bool {
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

/// Of each pool the newest generation counts: older slices may stand beside it for a while.
fn names(slices: &[Arc<Slice>]) -> Names {
    let specs = slices.iter().filter_map(|slice| {
        let spec = slice.spec.as_ref()?;
        let read = Spec::deserialize(spec);
        let name = slice.metadata.name.as_deref().unwrap_or_default();
        read.inspect_err(|error| tracing::warn!(%error, "{PLURAL}/{name} cannot be read."))
            .ok()
    });
    let mut pools: HashMap<(String, String), (i64, Vec<Device>)> = HashMap::new();
    for Spec {
        driver,
        pool,
        devices,
    } in specs
    {
        let (newest, known) = pools.entry((driver, pool.name)).or_default();
        if pool.generation > *newest {
            (*newest, *known) = (pool.generation, devices);
        } else if pool.generation == *newest {
            known.extend(devices);
        }
    }
    let mut names = Names::new();
    for ((driver, pool), (_, devices)) in pools {
        for device in devices {
            let Some(named) = device.named(&driver) else {
                continue;
            };
            if names.len() == MOST {
                tracing::warn!(
                    most = MOST,
                    "The node's {PLURAL} have more devices than are kept."
                );
                return names;
            }
            let claimed = Claimed {
                driver: driver.clone(),
                pool: pool.clone(),
                device: device.name,
            };
            names.insert(claimed, named);
        }
    }
    names
}

// === impl Device ===

impl Device {
    fn named(&self, driver: &str) -> Option<Named> {
        let attribute = |name: &str| {
            let basic = self.basic.as_ref().map(|basic| &basic.attributes);
            let mut all = basic.into_iter().chain([&self.attributes]);
            // A name without a domain is in the driver's.
            let found = all.find_map(|all| {
                all.get(name)
                    .or_else(|| all.get(&format!("{driver}/{name}")))
            });
            found.and_then(|attribute| attribute.string.clone())
        };
        if let Some(uuid) = attribute("uuid") {
            return Some(Named::Uuid(uuid));
        }
        (attribute("type")? == "mig").then_some(())?;
        Some(Named::Instance {
            board: attribute("parentUUID")?,
            profile: attribute("profile")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(pool: &str, generation: i64, devices: Value) -> Arc<Slice> {
        let spec = json!({
            "driver": "gpu.nvidia.com", "nodeName": "node-1",
            "pool": {"name": pool, "generation": generation, "resourceSliceCount": 1},
            "devices": devices,
        });
        let slice = json!({
            "apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice",
            "metadata": {"name": pool}, "spec": spec,
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn named(slices: &[Arc<Slice>], pool: &str, device: &str) -> Option<Named> {
        let claimed = Claimed {
            driver: "gpu.nvidia.com".into(),
            pool: pool.into(),
            device: device.into(),
        };
        names(slices).remove(&claimed)
    }

    #[test]
    fn devices_are_known_by_their_uuid_in_every_version() {
        let slices = [slice(
            "node-1",
            1,
            json!([
                {"name": "gpu-0", "attributes": {"uuid": {"string": "GPU-a"}, "type": {"string": "gpu"}, "numa": {"int": 0}}},
                {"name": "gpu-1", "basic": {"attributes": {"uuid": {"string": "GPU-b"}}}},
                {"name": "gpu-2", "attributes": {"gpu.nvidia.com/uuid": {"string": "GPU-c"}}},
                {"name": "mig", "attributes": {"type": {"string": "mig"}, "parentUUID": {"string": "GPU-b"}, "uuid": {"string": "MIG-1"}}},
                {"name": "made", "attributes": {"type": {"string": "mig"}, "parentUUID": {"string": "GPU-b"}, "profile": {"string": "1g.10gb"}}},
                {"name": "nameless", "attributes": {"type": {"string": "gpu"}}},
                {"name": "odd", "attributes": {"uuid": {"int": 7}}},
            ]),
        )];
        let uuid = |uuid: &str| Some(Named::Uuid(uuid.into()));
        for (device, expected) in [
            ("gpu-0", uuid("GPU-a")),
            ("gpu-1", uuid("GPU-b")),
            ("gpu-2", uuid("GPU-c")),
            ("mig", uuid("MIG-1")),
            (
                "made",
                Some(Named::Instance {
                    board: "GPU-b".into(),
                    profile: "1g.10gb".into(),
                }),
            ),
            ("nameless", None),
            ("odd", None),
        ] {
            assert_eq!(named(&slices, "node-1", device), expected, "{device}");
        }
        assert_eq!(named(&slices, "node-2", "gpu-0"), None);
    }

    #[test]
    fn of_a_pool_the_newest_generation_counts_and_nonsense_is_passed_over() {
        let gpu = |uuid: &str| json!([{"name": uuid, "attributes": {"uuid": {"string": uuid}}}]);
        let slices = [
            slice("node-1", 2, gpu("GPU-b")),
            slice("node-1", 1, gpu("GPU-a")),
            slice("node-1", 2, gpu("GPU-c")),
            slice("other", 1, gpu("GPU-d")),
            slice("broken", 1, json!("none")),
        ];
        for (pool, device, known) in [
            ("node-1", "GPU-a", false),
            ("node-1", "GPU-b", true),
            ("node-1", "GPU-c", true),
            ("other", "GPU-d", true),
        ] {
            assert_eq!(named(&slices, pool, device).is_some(), known, "{device}");
        }
    }

    #[test]
    fn too_many_are_cut() {
        let devices: Vec<Value> = (0..MOST + 9)
            .map(|n| json!({"name": format!("gpu-{n}"), "attributes": {"uuid": {"string": "GPU-a"}}}))
            .collect();
        assert_eq!(names(&[slice("node-1", 1, devices.into())]).len(), MOST);
    }
}
