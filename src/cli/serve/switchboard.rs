//! Which pool a stream is for, where a process serves several: that of the picker's Service that it is addressed to.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tonic::Status;

use super::super::pools::PoolAddress;
use crate::extproc::{Call, Switch};
use crate::picker::Picker;

/// gRPC metadata that names the pool, where `:authority` does not: `<namespace>/<name>`, or `<name>`.
const POOL: &str = "x-pointsman-pool";
/// Bytes of an authority that is told in an error.
const SHOWN: usize = 128;

/// The pickers of a port.
#[derive(Clone, Debug)]
pub(super) enum Switchboard {
    /// One pool.
    One(Arc<Picker>),
    /// Several, and the one whose port it is.
    Several(Arc<Table>, Option<Arc<Picker>>),
}

/// The pickers of several pools.
#[derive(Debug)]
pub(super) struct Table {
    pickers: Vec<Arc<Picker>>,
    names: Names,
    /// Streams that are for none of them.
    astray: Counter,
}

/// Pools by what streams call them.
#[derive(Debug, Default)]
struct Names {
    /// By `<service>.<namespace>`, and by `<service>` where that is one.
    services: HashMap<String, usize>,
    /// By `<namespace>/<name>`, and by `<name>` where that is one.
    pools: HashMap<String, usize>,
}

// === impl Switchboard ===

impl Switch for Switchboard {
    type Processor = Picker;

    fn is_of_several(&self) -> bool {
        matches!(self, Self::Several(..))
    }

    fn processor(&self, call: Call<'_>) -> Result<&Arc<Picker>, Status> {
        match self {
            Self::One(picker) => Ok(picker),
            Self::Several(table, of_port) => match table.names.of(call) {
                Some(at) => Ok(&table.pickers[at]),
                None => of_port.as_ref().ok_or_else(|| table.astray(call)),
            },
        }
    }
}

// === impl Table ===

impl Table {
    /// `pools` with their pickers; streams for none of them are counted in `astray`.
    pub(super) fn new(pools: Vec<(PoolAddress, Arc<Picker>)>, astray: Counter) -> Self {
        let (addresses, pickers): (Vec<_>, Vec<_>) = pools.into_iter().unzip();
        Self {
            pickers,
            names: Names::of_pools(&addresses),
            astray,
        }
    }

    fn astray(&self, call: Call<'_>) -> Status {
        self.astray.inc();
        let authority: String = call.authority.chars().take(SHOWN).collect();
        let mut pools: Vec<_> = self.names.pools.keys().map(String::as_str).collect();
        pools.retain(|pool| pool.contains('/'));
        pools.sort_unstable();
        let status = format!(
            "`{authority}` is no pool's picker: address <service>.<namespace>, or name one of {} in {POOL}",
            pools.join(", ")
        );
        tracing::debug!("{status}");
        Status::not_found(status)
    }
}

// === impl Names ===

impl Names {
    fn of_pools(pools: &[PoolAddress]) -> Self {
        let mut names = Self::default();
        let is_one = |of: fn(&PoolAddress) -> &str, name: &str| {
            pools.iter().filter(|pool| of(pool) == name).count() == 1
        };
        for (at, pool) in pools.iter().enumerate() {
            let service = format!("{}.{}", pool.service, pool.namespace);
            names.services.insert(service, at);
            names.pools.insert(pool.id(), at);
            if is_one(|pool| &pool.service, &pool.service) {
                names.services.insert(pool.service.clone(), at);
            }
            if is_one(|pool| &pool.name, &pool.name) {
                names.pools.insert(pool.name.clone(), at);
            }
        }
        names
    }

    fn of(&self, call: Call<'_>) -> Option<usize> {
        let of_service = || self.of_service(call.authority);
        let named = || call.metadata.get(POOL)?.to_str().ok();
        let of_metadata = || self.pools.get(named()?).copied();
        of_service().or_else(of_metadata)
    }

    /// By `:authority`, in the shapes in which gateways write it.
    fn of_service(&self, authority: &str) -> Option<usize> {
        // Istio's and Higress's name of a cluster, which came in with `+` for `|`.
        let (_, authority) = authority.rsplit_once(['+', '|']).unwrap_or(("", authority));
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        // `<service>[.<namespace>[.svc[.<domain>]]]`: neither of the two has a dot in it.
        let mut labels = host.splitn(4, '.');
        let service = match (labels.next(), labels.next(), labels.next()) {
            (Some(service), Some(namespace), Some("svc")) => format!("{service}.{namespace}"),
            _ => host.clone(),
        };
        let known = self.services.get(&service).copied();
        known.or_else(|| {
            // Envoy AI Gateway's: `[envoy.clusters.]endpointpicker_<pool>_<namespace>_ext_proc`.
            let (_, rest) = host.split_once("endpointpicker_")?;
            let (pool, namespace) = rest.strip_suffix("_ext_proc")?.split_once('_')?;
            self.pools.get(&format!("{namespace}/{pool}")).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn names() -> Names {
        let address = |namespace: &str, name: &str| PoolAddress {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service: format!("{name}-epp"),
            port: None,
        };
        Names::of_pools(&[
            address("models", "llama"),
            address("models", "qwen"),
            address("lab", "qwen"),
            address("svc-models", "phi"),
            address("svc", "gemma"),
        ])
    }

    #[test]
    fn gateways_write_the_services_name_in_many_ways() {
        let names = names();
        for (authority, expected) in [
            ("llama-epp.models.svc:9002", Some(0)),
            ("llama-epp.models.svc.cluster.local", Some(0)),
            ("llama-epp.models:9002", Some(0)),
            ("Llama-EPP", Some(0)),
            ("qwen-epp.lab.svc.cluster.local.:9002", Some(2)),
            ("outbound+9002++qwen-epp.models.svc.cluster.local", Some(1)),
            ("outbound|9002||qwen-epp.lab.svc.cluster.local", Some(2)),
            ("endpointpicker_qwen_lab_ext_proc", Some(2)),
            (
                "envoy.clusters.endpointpicker_llama_models_ext_proc",
                Some(0),
            ),
            ("phi-epp.svc-models.svc.cluster.local", Some(3)),
            ("phi-epp.svc-models", Some(3)),
            ("gemma-epp.svc.svc:9002", Some(4)),
            // There are two.
            ("qwen-epp", None),
            ("llama-epp.other.svc", None),
            ("llama-epp.models.svcs", None),
            ("picker", None),
            ("10.0.0.7:9002", None),
            ("", None),
        ] {
            assert_eq!(names.of_service(authority), expected, "{authority}");
        }
    }

    #[test]
    fn metadata_counts_where_the_authority_says_nothing() {
        let names = names();
        let of = |authority: &str, pool: &'static str| {
            let mut metadata = HeaderMap::new();
            metadata.insert(POOL, pool.parse().unwrap());
            names.of(Call {
                authority,
                metadata: &metadata,
            })
        };
        assert_eq!(of("picker", "lab/qwen"), Some(2));
        assert_eq!(of("picker", "llama"), Some(0));
        assert_eq!(of("picker", "qwen"), None);
        assert_eq!(of("llama-epp.models", "lab/qwen"), Some(0));
    }
}
