//! `topology-affinity-filter`: keeps the endpoints near the one that an earlier stage of the request chose.
//!
//! `minAffinity` (`host`): `host`, `rack`, `zone` or `region`, the widest place that they must share.
//! `topologyProducerName`: the topology-extractor that says which labels tell the places. It keeps all where there is no
//! earlier stage, where nothing is known of its endpoint's place, and where nobody is near. Source: the llm-d picker. In the
//! profile of the second stage of a disaggregated request, to keep the transfer of the KV cache short; see also
//! `topology-affinity-scorer`, which prefers where this insists.

use super::super::topology::Topology;
use super::super::{Context, Filter};
use crate::config::params::Level;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct TopologyAffinityFilter {
    pub(in crate::scheduling) topology: Topology,
    pub(in crate::scheduling) widest: Level,
}

impl Filter for TopologyAffinityFilter {
    fn filter(&self, cx: &Context<'_>, candidates: &mut Vec<u32>) {
        let Some(earlier) = cx.earlier else {
            return;
        };
        let places = self.topology.places(cx.snapshot);
        let near = |candidate: u32| {
            let common = places.common(earlier, candidate);
            common.is_some_and(|level| level <= self.widest)
        };
        if candidates.iter().any(|&candidate| near(candidate)) {
            candidates.retain(|&candidate| near(candidate));
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
    fn who_is_near_stays_and_if_nobody_is_all_stay() {
        let snapshot = snapshot(&[
            "h1/r1/z1/e1",
            "h1/r1/z1/e1",
            "h2/r1/z1/e1",
            "h3/r2/z2/e1",
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
        for (earlier, widest, candidates, expected) in [
            (None, Level::Host, vec![1, 2, 3, 4], vec![1, 2, 3, 4]),
            (Some(0), Level::Host, vec![1, 2, 3, 4], vec![1]),
            (Some(0), Level::Rack, vec![1, 2, 3, 4], vec![1, 2]),
            (Some(0), Level::Zone, vec![3, 2, 1], vec![2, 1]),
            (Some(0), Level::Region, vec![1, 2, 3, 4], vec![1, 2, 3]),
            (Some(0), Level::Host, vec![2, 3, 4], vec![2, 3, 4]),
            // Nothing is known of where it is.
            (Some(4), Level::Region, vec![0, 1], vec![0, 1]),
            (Some(0), Level::Host, vec![], vec![]),
        ] {
            let filter = TopologyAffinityFilter {
                topology: Topology::new(Some(TopologyExtractorParams::default())),
                widest,
            };
            let cx = Context {
                request: &request,
                snapshot: &snapshot,
                load: &LoadView::default(),
                prefix: PrefixView::default(),
                failed: &[],
                earlier,
                now_ms: 1,
            };
            let mut got = candidates.clone();
            filter.filter(&cx, &mut got);
            assert_eq!(got, expected, "{earlier:?} {widest:?} {candidates:?}");
        }
    }
}
