//! Parameters of what knows where endpoints are.

use serde::{Deserialize, Serialize};

/// Of `topology-extractor`: the endpoint labels that tell its places. They are called as those that Kubernetes has on nodes.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopologyExtractorParams {
    /// Of the host.
    #[serde(alias = "hostnameLabel")]
    pub hostname: String,
    /// Of the rack; Kubernetes has no standard for it.
    pub rack: String,
    /// Of the zone.
    pub zone: String,
    /// Of the region.
    pub region: String,
}

/// Of `topology-affinity-filter`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TopologyFilterParams {
    /// The widest place that endpoints must share.
    pub min_affinity: Level,
    /// The `topology-extractor` to ask; none = the first.
    pub topology_producer_name: Option<String>,
}

/// Of `topology-affinity-scorer`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct TopologyScorerParams {
    /// The `topology-extractor` to ask; none = the first.
    pub topology_producer_name: Option<String>,
}

/// A place that endpoints may share, tightest first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The host.
    #[default]
    Host,
    /// The rack.
    Rack,
    /// The zone.
    Zone,
    /// The region.
    Region,
}

// === impl TopologyExtractorParams ===

impl Default for TopologyExtractorParams {
    fn default() -> Self {
        Self {
            hostname: "kubernetes.io/hostname".to_owned(),
            rack: "topology.kubernetes.io/rack".to_owned(),
            zone: "topology.kubernetes.io/zone".to_owned(),
            region: "topology.kubernetes.io/region".to_owned(),
        }
    }
}

// === impl Level ===

impl Level {
    /// All of them, tightest first.
    pub const ALL: [Self; 4] = [Self::Host, Self::Rack, Self::Zone, Self::Region];
}
