//! `topology-affinity-scorer`: prefers the endpoints near the one that an earlier stage of the request chose.
//!
//! Formula, by the tightest place that they share: host 1, rack 0.2, zone 0.05, region 0.02, none 0. It follows the bandwidth
//! between them, so sharing a host outweighs the rest. All 0 where there is no earlier stage or nothing is known of its
//! endpoint's place. `topologyProducerName`: the topology-extractor that says which labels tell the places. Source: the
//! llm-d picker. In the profile of the second stage of a disaggregated request; see also `topology-affinity-filter`.

use super::super::topology::Topology;
use super::super::{Context, Scorer};
use crate::config::params::Level;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct TopologyAffinityScorer {
    pub(in crate::scheduling) topology: Topology,
}

impl Scorer for TopologyAffinityScorer {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let Some(earlier) = cx.earlier else {
            return out.fill(0.0);
        };
        let places = self.topology.places(cx.snapshot);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            *out = match places.common(earlier, candidate) {
                Some(Level::Host) => 1.0,
                Some(Level::Rack) => 0.2,
                Some(Level::Zone) => 0.05,
                Some(Level::Region) => 0.02,
                None => 0.0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::Given;
    use super::super::super::topology::tests::snapshot;
    use super::super::super::{PrefixView, RequestView};
    use super::*;
    use crate::config::params::TopologyExtractorParams;
    use crate::pool::LoadView;

    #[test]
    fn the_references_curve() {
        let snapshot = snapshot(&[
            "h1/r1/z1/e1",
            "h1/r1/z1/e1",
            "h2/r1/z1/e1",
            "h3/r2/z1/e1",
            "h4/r3/z2/e1",
            "h5/r4/z3/e2",
            "-/-/-/-",
        ]);
        let request = RequestView {
            model: "",
            adapter: "",
            prompt_bytes: 0,
            has_body: true,
            multimodal: false,
            headers: &Given(&[]),
        };
        let scorer = TopologyAffinityScorer {
            topology: Topology::new(Some(TopologyExtractorParams::default())),
        };
        for (earlier, expected) in [
            (Some(0), [1.0, 0.2, 0.05, 0.02, 0.0, 0.0]),
            (Some(6), [0.0; 6]),
            (None, [0.0; 6]),
        ] {
            let cx = Context {
                request: &request,
                snapshot: &snapshot,
                load: &LoadView::default(),
                prefix: PrefixView::default(),
                failed: &[],
                earlier,
                now_ms: 1,
            };
            let mut out = [f32::NAN; 6];
            scorer.score(&cx, &[1, 2, 3, 4, 5, 6], &mut out);
            assert_eq!(out, expected, "{earlier:?}");
        }
    }
}
