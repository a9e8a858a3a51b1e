//! Where endpoints are: host, rack, zone and region, from their labels.
//!
//! Labels are strings; to compare strings for every candidate of every request is more than all scorers take together. So each
//! plugin that asks keeps a column of small numbers for the snapshot at hand, equal for equal labels, and makes it anew
//! when the topology changes.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;

use crate::config::params::{Level, TopologyExtractorParams};
use crate::pool::Snapshot;

/// Endpoints' places.
#[derive(Debug)]
pub(super) struct Topology {
    /// The labels, from host to region; `None` = nobody says which.
    keys: Option<[String; 4]>,
    places: ArcSwapOption<Places>,
}

/// The places of the endpoints of one snapshot, by position.
#[derive(Debug)]
pub(super) struct Places {
    version: u64,
    places: Vec<Place>,
}

/// A number for each level, equal for equal labels; 0 = not known.
type Place = [u32; 4];

// === impl Topology ===

impl Topology {
    /// With `None` nothing is known of any endpoint.
    pub(super) fn new(keys: Option<TopologyExtractorParams>) -> Self {
        Self {
            keys: keys.map(|keys| [keys.hostname, keys.rack, keys.zone, keys.region]),
            places: ArcSwapOption::empty(),
        }
    }

    /// Those of `snapshot`.
    pub(super) fn places(&self, snapshot: &Snapshot) -> Arc<Places> {
        if let Some(places) = &*self.places.load()
            && places.version == snapshot.version
        {
            return Arc::clone(places);
        }
        let places = Arc::new(Places::of(snapshot, self.keys.as_ref()));
        self.places.store(Some(Arc::clone(&places)));
        places
    }
}

// === impl Places ===

impl Places {
    fn of(snapshot: &Snapshot, keys: Option<&[String; 4]>) -> Self {
        let mut numbers: [HashMap<&str, u32>; 4] = Default::default();
        let places = snapshot.members().iter().map(|member| {
            let mut place = Place::default();
            for ((place, key), numbers) in place
                .iter_mut()
                .zip(keys.into_iter().flatten())
                .zip(&mut numbers)
            {
                let label = member.endpoint.labels.get(key);
                if let Some(label) = label.filter(|label| !label.is_empty()) {
                    let next = numbers.len() as u32 + 1;
                    *place = *numbers.entry(label).or_insert(next);
                }
            }
            place
        });
        Self {
            version: snapshot.version,
            places: places.collect(),
        }
    }

    /// The tightest level that both are at. What is not known is never the same.
    pub(super) fn common(&self, a: u32, b: u32) -> Option<Level> {
        let (a, b) = (&self.places[a as usize], &self.places[b as usize]);
        let same = |&at: &usize| a[at] > 0 && a[at] == b[at];
        (0..Level::ALL.len()).find(same).map(|at| Level::ALL[at])
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pool::{Endpoint, EndpointId, Pool};

    /// Endpoints at these places, written `host/rack/zone/region`.
    pub(in crate::scheduling) fn snapshot(places: &[&str]) -> Arc<Snapshot> {
        let keys = TopologyExtractorParams::default();
        let keys = [keys.hostname, keys.rack, keys.zone, keys.region];
        let endpoints = (0u8..).zip(places).map(|(n, place)| Endpoint {
            id: EndpointId {
                namespace: "default".into(),
                name: n.to_string(),
            },
            address: [10, 0, 0, n].into(),
            port: 8000,
            hardware: Default::default(),
            labels: keys
                .iter()
                .cloned()
                .zip(place.split('/').map(str::to_owned))
                .filter(|(_, value)| value != "-")
                .collect(),
        });
        Pool::default().replace(endpoints.collect())
    }

    #[test]
    fn the_tightest_common_level_counts_and_unknown_is_never_common() {
        let snapshot = snapshot(&[
            "h1/r1/z1/e1",
            "h1/r1/z1/e1",
            "h2/r1/z1/e1",
            "h3/r2/z1/e1",
            "h4/r3/z2/e1",
            "-/-/-/-",
            "//z1/",
            "-/-/-/-",
        ]);
        let topology = Topology::new(Some(TopologyExtractorParams::default()));
        let places = topology.places(&snapshot);
        for (b, expected) in [
            (1, Some(Level::Host)),
            (2, Some(Level::Rack)),
            (3, Some(Level::Zone)),
            (4, Some(Level::Region)),
            (5, None),
            (6, Some(Level::Zone)),
        ] {
            assert_eq!(places.common(0, b), expected, "{b}");
        }
        assert_eq!(places.common(5, 7), None);
        assert_eq!(places.common(5, 5), None);
        assert!(Arc::ptr_eq(&places, &topology.places(&snapshot)));
    }

    #[test]
    fn a_new_topology_is_seen() {
        let pool = Pool::default();
        let topology = Topology::new(Some(TopologyExtractorParams::default()));
        assert!(topology.places(&pool.replace(vec![])).places.is_empty());
        let member = snapshot(&["h/r/z/e"]).member(0).endpoint.clone();
        let places = topology.places(&pool.replace(vec![member]));
        assert_eq!(places.common(0, 0), Some(Level::Host));
    }
}
