//! Envoy's bootstrap: the files of `deploy/envoy`, with other addresses.

use std::net::SocketAddr;

use anyhow::Context as _;
use serde_json::{Value, json};

/// How Pointsman is plugged into Envoy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The picker sees the request alone; an observing filter shows it the response.
    DecisionOnly,
    /// The picker sees request and response, and all bytes go through it.
    FullDuplex,
}

/// The addresses of one set-up.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// Where Envoy takes requests.
    pub listen: SocketAddr,
    /// Where Envoy's admin pages are.
    pub admin: SocketAddr,
    /// The pickers.
    pub pickers: Vec<SocketAddr>,
    /// The model servers.
    pub endpoints: Vec<SocketAddr>,
}

// === impl Profile ===

impl Profile {
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::DecisionOnly => (
                "deploy/envoy/decision-only.yaml",
                include_str!("../../../deploy/envoy/decision-only.yaml"),
            ),
            Self::FullDuplex => (
                "deploy/envoy/full-duplex.yaml",
                include_str!("../../../deploy/envoy/full-duplex.yaml"),
            ),
        }
    }

    /// The bootstrap for `addresses`, as a document that may be changed further; Envoy reads it as JSON.
    pub fn bootstrap(self, addresses: &Addresses) -> anyhow::Result<Value> {
        let (name, text) = self.file();
        let mut document: Value =
            serde_saphyr::from_str(text).with_context(|| format!("reading {name}"))?;
        let resources = &mut document["static_resources"];
        resources["listeners"][0]["address"] = socket_address(addresses.listen);
        for (name, endpoints) in [
            ("pool", &addresses.endpoints),
            ("picker", &addresses.pickers),
        ] {
            cluster(resources, name)?["load_assignment"]["endpoints"] = assignment(endpoints);
        }
        document["admin"]["address"] = socket_address(addresses.admin);
        Ok(document)
    }
}

/// The cluster `name` among the static resources of a bootstrap.
pub fn cluster<'a>(resources: &'a mut Value, name: &str) -> anyhow::Result<&'a mut Value> {
    resources["clusters"]
        .as_array_mut()
        .into_iter()
        .flatten()
        .find(|cluster| cluster["name"] == name)
        .with_context(|| format!("the bootstrap has no cluster `{name}`"))
}

/// `addresses` as the endpoints of a cluster.
pub fn assignment(addresses: &[SocketAddr]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|&address| json!({"endpoint": {"address": socket_address(address)}}))
        .collect();
    json!([{"lb_endpoints": endpoints}])
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn the_files_take_other_addresses() {
        let address = |text: &str| text.parse().unwrap();
        let addresses = Addresses {
            listen: address("127.0.0.1:1"),
            admin: address("127.0.0.1:2"),
            pickers: vec![address("127.0.0.1:3")],
            endpoints: vec![address("127.0.0.1:4"), address("[::1]:5")],
        };
        for profile in Profile::value_variants() {
            let text = profile.bootstrap(&addresses).unwrap().to_string();
            for port in 1..=5 {
                let found = text.matches(&format!("\"port_value\":{port}}}")).count();
                assert_eq!(found, 1, "{port} in {text}");
            }
            assert_eq!(text.matches("port_value").count(), 5, "{text}");
            assert!(text.contains("\"address\":\"::1\""), "{text}");
        }
    }
}
