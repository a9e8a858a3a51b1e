//! `kv-cache-utilization-scorer`: the more of its KV cache is free, the better.
//!
//! Formula: `1 − usage`; where that is unknown, the mean of the known ones; where all are, 0.5 for all. Source: the
//! llm-d / GIE picker. Use it beside a queue scorer: an engine with a full cache preempts before it queues.

use super::super::{Context, NEUTRAL, Scorer};
use super::mean_known;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct KvCacheUtilization;

impl Scorer for KvCacheUtilization {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let column = &cx.load.kv_usage;
        let unknown = mean_known(column, candidates).map_or(NEUTRAL, |mean| 1.0 - mean);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let usage = column[candidate as usize];
            *out = if usage.is_nan() { unknown } else { 1.0 - usage };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{scores, snapshot};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn free_share() {
        let nan = f32::NAN;
        for (kv_usage, expected) in [
            (vec![0.0, 0.25, 1.0, 0.5], [1.0, 0.75, 0.0, 0.5]),
            (
                vec![0.25, 0.75, 1.0, nan],
                [0.75, 0.25, 0.0, 1.0 - 2.0 / 3.0],
            ),
            (vec![nan; 4], [0.5; 4]),
        ] {
            let load = LoadView {
                kv_usage,
                ..Default::default()
            };
            let got = scores(&KvCacheUtilization, &snapshot(4), &load, "m");
            assert_eq!(got, expected);
        }
    }
}
