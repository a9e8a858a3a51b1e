//! `load-aware-scorer`: the shorter the queue is beside a threshold, the better.
//!
//! Formula: no queue 0.5; else `0.5 · (1 − min(q, T) / T)`, with `q` the effective queue length in requests
//! ([`crate::pool::load`]) and the parameter `threshold` (128) as `T`; a threshold that is not positive is the default.
//! Never more than 0.5: an empty queue says nothing of how much more the engine could take. An unknown queue is the mean
//! of the known ones; with none known, empty. Source: the llm-d picker. Unlike `queue-scorer` it does not stretch small
//! differences to the whole scale: use it beside affinities that a queue of one request should not overrule.

use serde::{Deserialize, Serialize};

use super::super::{Context, Scorer};
use super::mean_known;
use crate::config::{PluginUse, Problem};

const THRESHOLD: i64 = 128;

/// See the module.
#[derive(Debug)]
pub(in crate::scheduling) struct LoadAware {
    threshold: f32,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    threshold: i64,
}

// === impl LoadAware ===

impl LoadAware {
    pub(in crate::scheduling) fn of(plugin: &PluginUse) -> Result<Self, Problem> {
        let params: Params = plugin.parameters.read()?;
        let threshold = match params.threshold {
            n if n > 0 => n,
            _ => THRESHOLD,
        };
        Ok(Self {
            threshold: threshold as f32,
        })
    }
}

impl Scorer for LoadAware {
    fn score(&self, cx: &Context<'_>, candidates: &[u32], out: &mut [f32]) {
        let column = &cx.load.waiting;
        let unknown = mean_known(column, candidates).unwrap_or(0.0);
        for (out, &candidate) in out.iter_mut().zip(candidates) {
            let waiting = match column[candidate as usize] {
                value if value.is_nan() => unknown,
                value => value,
            };
            *out = 0.5 * (1.0 - waiting.min(self.threshold) / self.threshold);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::snapshot;
    use super::super::super::testing::{plugin, scores_for};
    use super::*;
    use crate::pool::LoadView;

    #[test]
    fn the_references_vectors() {
        let nan = f32::NAN;
        for (parameters, waiting, expected) in [
            ("{threshold: 10}", vec![2.0, 0.0, 15.0], [0.4, 0.5, 0.0]),
            ("{}", vec![32.0, 64.0, 128.0], [0.375, 0.25, 0.0]),
            (
                "{threshold: 0}",
                vec![32.0, 64.0, 128.0],
                [0.375, 0.25, 0.0],
            ),
            ("{threshold: 10}", vec![nan, 0.0, 5.0], [0.375, 0.5, 0.25]),
            ("{threshold: 10}", vec![nan; 3], [0.5; 3]),
        ] {
            let scorer = LoadAware::of(&plugin("load-aware-scorer", parameters)).unwrap();
            let load = LoadView {
                waiting: waiting.clone(),
                ..Default::default()
            };
            let got = scores_for(&scorer, &snapshot(3), &load, 0, &[]);
            assert_eq!(got, expected, "{parameters} {waiting:?}");
        }
    }
}
