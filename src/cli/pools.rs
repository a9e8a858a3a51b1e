//! `--pools-file`: the pools of one process.
//!
//! ```yaml
//! pools:
//! - name: llama                     # an InferencePool
//!   namespace: models               # else that of --pool-namespace, else that of $NAMESPACE
//!   group: inference.networking.k8s.io   # else that of --pool-group
//!   service: llama-epp              # the Service by which gateways reach its picker: <name>-epp if not given
//!   port: 9012                      # an ext_proc port of its own, for gateways that name no Service; need not be given
//!   configFile: /config/llama.yaml  # else what --config-file or --config-text has
//! - name: lab
//!   namespace: models
//!   endpointsFile: /config/lab.yaml # its endpoints, where there is no InferencePool
//! ```
//!
//! YAML or JSON. It is read at the start, and not followed: who changes it starts a new process.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::discovery::of_environment;
use super::options::{ConfigSource, Settings};
use crate::config::{Problem, file, read_yaml};
use crate::pool::discovery::kube::Target;

/// Pools of one process: each has its watches, its tasks and its part of the memory.
pub(super) const MOST_POOLS: usize = 64;
/// Bytes of a name, as of a label in the DNS.
const LONGEST_NAME: usize = 63;

/// One pool, and what is set for it.
#[derive(Clone, Debug)]
pub(super) struct PoolSettings {
    /// How it is told from others; `None`: it is the only one.
    pub(super) address: Option<PoolAddress>,
    pub(super) settings: Arc<Settings>,
}

/// By what a stream is known to be for a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolAddress {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The Service of its picker.
    pub(super) service: String,
    /// The ext_proc port of its own, if it has one.
    pub(super) port: Option<u16>,
}

/// A pool of a file.
#[derive(Debug)]
pub(super) struct Listed {
    pub(super) address: PoolAddress,
    entry: Entry,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    pools: Vec<Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Entry {
    name: String,
    namespace: Option<String>,
    group: Option<String>,
    service: Option<String>,
    port: Option<u16>,
    config_file: Option<PathBuf>,
    endpoints_file: Option<PathBuf>,
}

/// The pools that `settings` come to: those of its pools file, or the one.
pub(super) fn of(settings: Settings) -> anyhow::Result<Vec<PoolSettings>> {
    let Some(path) = &settings.pools_file else {
        return Ok(vec![PoolSettings {
            address: None,
            settings: Arc::new(settings),
        }]);
    };
    read(path, &settings).map_err(|problem| {
        let path = path.display();
        anyhow::anyhow!("--pools-file: {path}: {problem}")
    })
}

fn read(path: &Path, settings: &Settings) -> Result<Vec<PoolSettings>, Problem> {
    let text = file::read(path).map_err(|error| Problem::new(0, error))?;
    let namespace = settings.namespace.clone();
    let namespace = namespace.or_else(|| of_environment("NAMESPACE"));
    settings_of(list(&text, namespace.as_deref())?, settings)
}

/// Whether `text` is that of a pools file, right or wrong.
pub(super) fn is_pools_file(text: &str) -> bool {
    read_yaml::<serde_json::Map<String, serde_json::Value>>(text)
        .is_ok_and(|document| document.contains_key("pools"))
}

/// The pools that `text` lists. `namespace` is that of those that name none.
pub(super) fn list(text: &str, namespace: Option<&str>) -> Result<Vec<Listed>, Problem> {
    let Document { pools } = read_yaml(text)?;
    let bad = |message: String| Err(Problem::new(0, message));
    if !(1..=MOST_POOLS).contains(&pools.len()) {
        let count = pools.len();
        return bad(format!("pools: there are {count}; list 1 to {MOST_POOLS}"));
    }
    let (mut names, mut services) = (HashSet::new(), HashSet::new());
    let mut ports = HashSet::from([0]);
    let mut out = Vec::with_capacity(pools.len());
    for (at, entry) in pools.into_iter().enumerate() {
        let address = entry.address(at, namespace)?;
        let PoolAddress {
            namespace,
            name,
            service,
            port,
        } = &address;
        if !names.insert((namespace.clone(), name.clone())) {
            return bad(format!("pools[{at}]: {namespace}/{name} is there twice"));
        }
        if !services.insert((namespace.clone(), service.clone())) {
            return bad(format!(
                "pools[{at}].service: {service} is another pool's of {namespace} already; a stream's pool is known by it"
            ));
        }
        if let Some(port) = port.filter(|&port| !ports.insert(port)) {
            return bad(format!(
                "pools[{at}].port: {port} cannot be had, or is another pool's; give one that is free"
            ));
        }
        out.push(Listed { address, entry });
    }
    Ok(out)
}

/// `of_all`, as they are for each of `pools`.
fn settings_of(pools: Vec<Listed>, of_all: &Settings) -> Result<Vec<PoolSettings>, Problem> {
    let taken = [of_all.grpc_port, of_all.health_port, of_all.metrics_port];
    let count = pools.len();
    let pools = pools.into_iter().enumerate();
    let pools = pools.map(|(at, Listed { address, entry })| {
        if let Some(port) = address.port.filter(|port| taken.contains(port)) {
            let message = format!("pools[{at}].port: {port} is a port of the process already");
            return Err(Problem::new(0, message));
        }
        let settings = entry.settings(&address, of_all, count);
        Ok(PoolSettings {
            address: Some(address),
            settings: Arc::new(settings),
        })
    });
    pools.collect()
}

/// A name of the DNS, as those of namespaces and Services are: nothing in it needs to be escaped anywhere.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && name.chars().all(inner)
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

// === impl Entry ===

impl Entry {
    fn address(&self, at: usize, namespace: Option<&str>) -> Result<PoolAddress, Problem> {
        let checked = |field: &str, name: &str| match is_name(name) {
            true => Ok(name.to_owned()),
            false => Err(Problem::new(
                0,
                format!(
                    "pools[{at}].{field}: `{name}` is no name; write up to {LONGEST_NAME} of a-z, 0-9, `-` and `.`, a letter or digit at either end"
                ),
            )),
        };
        let name = checked("name", &self.name)?;
        let namespace = match self.namespace.as_deref().or(namespace) {
            Some(namespace) => checked("namespace", namespace)?,
            None if self.endpoints_file.is_some() => "default".to_owned(),
            None => {
                return Err(Problem::new(
                    0,
                    format!(
                        "pools[{at}].namespace is not known; give it, or --pool-namespace, or set NAMESPACE"
                    ),
                ));
            }
        };
        let service = match &self.service {
            Some(service) => checked("service", service)?,
            None => format!("{name}-epp"),
        };
        Ok(PoolAddress {
            namespace,
            name,
            service,
            port: self.port,
        })
    }

    /// `of_all`, as they are for this one of `count` pools.
    fn settings(self, address: &PoolAddress, of_all: &Settings, count: usize) -> Settings {
        let PoolAddress {
            namespace, name, ..
        } = address;
        let mut settings = of_all.clone();
        if let Some(path) = self.config_file {
            settings.config = ConfigSource::File(path);
        }
        settings.kubernetes = match self.endpoints_file {
            Some(_) => None,
            None => Some(Target::Pool {
                group: self.group.unwrap_or_else(|| of_all.pool_group.clone()),
                name: name.clone(),
            }),
        };
        settings.endpoints_file = self.endpoints_file;
        settings.pool_name.clone_from(name);
        settings.namespace = Some(namespace.clone());
        settings.prefix_index_bytes /= count;
        settings.record = of_all.record.as_ref().map(|path| {
            let mut path = path.clone().into_os_string();
            path.push(format!(".{namespace}.{name}"));
            path.into()
        });
        settings
    }
}

// === impl Listed ===

impl Listed {
    /// The file of its configuration, if it has one of its own.
    pub(super) fn config_file(&self) -> Option<&Path> {
        self.entry.config_file.as_deref()
    }

    /// The file of its endpoints, if that is where they are.
    pub(super) fn endpoints_file(&self) -> Option<&Path> {
        self.entry.endpoints_file.as_deref()
    }
}

// === impl PoolAddress ===

impl PoolAddress {
    /// `<namespace>/<name>`.
    pub(super) fn id(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::tests::settings;
    use super::*;

    fn pools(text: &str, namespace: Option<&str>) -> Result<Vec<PoolSettings>, String> {
        let settings = settings(&["--pools-file=p", "--record=r"]);
        let listed = list(text, namespace);
        let pools = listed.and_then(|pools| settings_of(pools, &settings.unwrap()));
        pools.map_err(|problem| problem.to_string())
    }

    #[test]
    fn each_pool_has_settings_of_its_own() {
        let text = "pools:\n- {name: a, configFile: /a.yaml}\n- {name: b, namespace: m, service: s, port: 9012, group: g}\n- {name: c, endpointsFile: /c.yaml}\n";
        let pools = pools(text, Some("n")).unwrap();
        let addresses: Vec<_> = pools
            .iter()
            .map(|pool| {
                let address = pool.address.as_ref().unwrap();
                (address.id(), address.service.as_str(), address.port)
            })
            .collect();
        let expected = [
            ("n/a", "a-epp", None),
            ("m/b", "s", Some(9012)),
            ("n/c", "c-epp", None),
        ];
        let expected = expected.map(|(id, service, port)| (id.to_owned(), service, port));
        assert_eq!(addresses, expected);
        let target = |group: &str, name: &str| {
            Some(Target::Pool {
                group: group.to_owned(),
                name: name.to_owned(),
            })
        };
        let set: Vec<_> = pools.iter().map(|pool| &pool.settings).collect();
        assert_eq!(
            set[0].kubernetes,
            target("inference.networking.k8s.io", "a")
        );
        assert_eq!(set[1].kubernetes, target("g", "b"));
        assert_eq!(set[2].kubernetes, None);
        assert!(matches!(&set[0].config, ConfigSource::File(path) if path == Path::new("/a.yaml")));
        assert!(matches!(set[1].config, ConfigSource::Default));
        assert_eq!(set[2].endpoints_file.as_deref(), Some(Path::new("/c.yaml")));
        assert_eq!(set[1].record.as_deref(), Some(Path::new("r.m.b")));
        assert_eq!(set[1].prefix_index_bytes, (64 << 20) / 3);
    }

    #[test]
    fn what_cannot_be_told_apart_is_refused() {
        for (text, expected) in [
            ("pools: []", "pools: there are 0; list 1 to 64"),
            ("pools: [{name: a}]", "pools[0].namespace is not known"),
            (
                "pools: [{name: A, namespace: n}]",
                "pools[0].name: `A` is no name",
            ),
            (
                "pools: [{name: a, namespace: n}, {name: a, namespace: n}]",
                "pools[1]: n/a is there twice",
            ),
            (
                "pools: [{name: a, namespace: n, service: s}, {name: b, namespace: n, service: s}]",
                "pools[1].service: s is another pool's of n already",
            ),
            (
                "pools: [{name: a, namespace: n, port: 9002}]",
                "pools[0].port: 9002 is a port of the process",
            ),
            (
                "pools: [{name: a, namespace: n, port: 1}, {name: b, namespace: n, port: 1}]",
                "pools[1].port: 1 cannot be had",
            ),
            (
                "pools: [{name: a, namespace: n, config: x}]",
                "did you mean `configFile`?",
            ),
        ] {
            let error = pools(text, None).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
