//! `kv-cache-utilization-scorer`: the more of its KV cache is free, the better.
//!
//! Formula: `1 − usage`. Source: the llm-d / GIE picker. Use it beside a queue scorer: an engine with a full cache
//! preempts before it queues.

use super::super::{Context, NEUTRAL, Scorer};

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct KvCacheUtilization;

impl Scorer for KvCacheUtilization {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let usage = cx.load.kv_usage[candidate as usize];
            *out = if usage.is_nan() { NEUTRAL } else { 1.0 - usage };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{scores, snapshot};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn free_share() {
        let load = LoadView {
            kv_usage: vec![0.0, 0.25, 1.0, f32::NAN],
            ..Default::default()
        };
        let got = scores(&KvCacheUtilization, &snapshot(4), &load, "m");
        assert_eq!(got, [1.0, 0.75, 0.0, 0.5]);
    }
}
