//! What a gateway's control plane does: tells Envoy the addresses of the pool's pods, in a file that Envoy follows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::super::bootstrap;

/// The endpoints of Envoy's cluster `pool`.
pub(super) struct Gateway {
    file: PathBuf,
    version: u64,
    written: Option<BTreeSet<SocketAddr>>,
}

// === impl Gateway ===

impl Gateway {
    /// With its file in `folder`.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let mut gateway = Self {
            file: folder.join("endpoints.json"),
            version: 0,
            written: None,
        };
        gateway.write(BTreeSet::new())?;
        Ok(gateway)
    }

    /// Has the cluster `pool` of `bootstrap` follow the file, and Envoy say of each answer who was picked and who gave it.
    pub(super) fn plug_into(&self, bootstrap: &mut Value) -> anyhow::Result<()> {
        use super::super::traffic::{PICKED, REACHED};

        // Envoy wants to be called something where it follows anything.
        bootstrap["node"] = json!({"id": "demo", "cluster": "demo"});
        let resources = &mut bootstrap["static_resources"];
        let header = |key: &str, value: &str| json!({"header": {"key": key, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"});
        let manager =
            &mut resources["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
        manager["route_config"]["response_headers_to_add"] = json!([
            header(
                PICKED,
                "%DYNAMIC_METADATA(envoy.lb:x-gateway-destination-endpoint)%"
            ),
            header(REACHED, "%UPSTREAM_REMOTE_ADDRESS%"),
        ]);
        let pool = bootstrap::cluster(resources, "pool")?;
        pool["type"] = json!("EDS");
        pool["eds_cluster_config"] = json!({
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": self.file},
            },
        });
        if let Some(pool) = pool.as_object_mut() {
            pool.remove("load_assignment");
        }
        Ok(())
    }

    /// Tells Envoy that the pods at `addresses` exist, on the ports of `pool`, an InferencePool, if it is there.
    pub(super) fn tell(
        &mut self,
        pool: Option<&Value>,
        addresses: &BTreeSet<IpAddr>,
    ) -> anyhow::Result<()> {
        let ports: Vec<u16> = pool
            .and_then(|pool| pool["spec"]["targetPorts"].as_array())
            .into_iter()
            .flatten()
            .filter_map(|port| u16::try_from(port["number"].as_u64()?).ok())
            .collect();
        let all = addresses.iter();
        let all = all.flat_map(|&ip| ports.iter().map(move |&port| SocketAddr::from((ip, port))));
        let all = all.collect();
        if self.written.as_ref() == Some(&all) {
            return Ok(());
        }
        self.write(all)
    }

    fn write(&mut self, endpoints: BTreeSet<SocketAddr>) -> anyhow::Result<()> {
        self.version += 1;
        let listed: Vec<SocketAddr> = endpoints.iter().copied().collect();
        let assignment = json!({
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "pool",
            "endpoints": bootstrap::assignment(&listed),
        });
        let answer = json!({"version_info": self.version.to_string(), "resources": [assignment]});
        // Envoy reads it again when another file takes its place.
        let next = self.file.with_extension("next");
        std::fs::write(&next, answer.to_string())?;
        std::fs::rename(&next, &self.file)?;
        self.written = Some(endpoints);
        Ok(())
    }
}

/// The addresses that are in the cluster `pool`, by Envoy's page `/clusters`.
pub(super) fn known(page: &str) -> BTreeSet<IpAddr> {
    page.lines()
        .filter_map(|line| line.strip_prefix("pool::")?.split("::").next())
        .filter_map(|address| address.parse::<SocketAddr>().ok())
        .map(|address| address.ip())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoy_tells_what_it_has() {
        let page = "pool::observability_name::pool\npool::127.1.2.3:18000::cx_active::0\npool::127.1.2.3:18001::cx_active::0\npicker::127.0.0.1:1::x::0\n";
        let known = known(page);
        assert_eq!(
            known.into_iter().collect::<Vec<_>>(),
            [IpAddr::from([127, 1, 2, 3])]
        );
    }
}
