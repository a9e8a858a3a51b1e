//! Scorers, one file each.

pub(super) mod blocking_testing;
pub(super) mod kv_cache_utilization;
pub(super) mod lora_affinity;
pub(super) mod queue;
pub(super) mod running_requests;

use super::NEUTRAL;

/// `(max − v) / (max − min)` over the known values: the least gets 1, the most 0; all equal, all 1. Of the llm-d
/// picker's queue and running-requests scorers.
fn least_is_best(column: &[f32], candidates: &[u32], out: &mut [f32]) {
    let (mut min, mut max) = (f32::INFINITY, f32::NEG_INFINITY);
    for &candidate in candidates {
        // `min` and `max` of f32 pass over NaN.
        let value = column[candidate as usize];
        min = min.min(value);
        max = max.max(value);
    }
    let range = max - min;
    for (out, &candidate) in out.iter_mut().zip(candidates) {
        let value = column[candidate as usize];
        *out = if value.is_nan() {
            NEUTRAL
        } else if range > 0.0 {
            (max - value) / range
        } else {
            1.0
        };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::{Context, RequestHeaders, RequestView, Scorer};
    use crate::pool::{Endpoint, EndpointId, LoadView, Pool, Snapshot};
    use std::sync::Arc;

    pub(in crate::scheduling) struct NoHeaders;

    impl RequestHeaders for NoHeaders {
        fn get(&self, _name: &str) -> Option<&str> {
            None
        }
    }

    pub(in crate::scheduling) fn snapshot(endpoints: u8) -> Arc<Snapshot> {
        let pool = Pool::default();
        pool.replace(
            (0..endpoints)
                .map(|i| Endpoint {
                    id: EndpointId {
                        namespace: "default".into(),
                        name: format!("e{i}"),
                    },
                    address: [10, 0, 0, i].into(),
                    port: 8000,
                    labels: Default::default(),
                })
                .collect(),
        )
    }

    /// Scores all endpoints of `snapshot` for a request for `model`.
    pub(in crate::scheduling) fn scores(
        scorer: &dyn Scorer,
        snapshot: &Snapshot,
        load: &LoadView,
        model: &str,
    ) -> Vec<f32> {
        let candidates: Vec<u32> = (0..snapshot.len() as u32).collect();
        let mut out = vec![f32::NAN; candidates.len()];
        let request = RequestView {
            model,
            prompt_bytes: 0,
            body_bytes: 0,
            headers: &NoHeaders,
        };
        let cx = Context {
            request: &request,
            snapshot,
            load,
        };
        scorer.score(&cx, &candidates, &mut out);
        out
    }

    #[test]
    fn the_references_vectors() {
        let nan = f32::NAN;
        for (values, expected) in [
            (vec![10.0, 5.0, 0.0], vec![0.0, 0.5, 1.0]),
            (vec![3.0, 3.0], vec![1.0, 1.0]),
            (vec![7.0], vec![1.0]),
            (vec![10.0, nan, 0.0], vec![0.0, 0.5, 1.0]),
            (vec![nan, nan], vec![0.5, 0.5]),
        ] {
            let candidates: Vec<u32> = (0..values.len() as u32).collect();
            let mut out = vec![nan; values.len()];
            super::least_is_best(&values, &candidates, &mut out);
            assert_eq!(out, expected, "{values:?}");
        }
    }
}
