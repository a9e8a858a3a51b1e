//! How long plugins take: `plugin_duration_seconds`.
//!
//! To time a plugin costs about 90 ns (two readings of the clock, 30 ns each here, and a count), which for the eight plugins of a
//! profile is several percent of a small request's decision. So of [`EVERY`] decisions one is timed, and counts for all of
//! them: sums and rates are those of all decisions.

use std::time::Instant;

use crate::config::{PluginUse, ProfileSpec};
use crate::telemetry::metrics::{Histogram, Metrics, PluginLabels};

/// Of how many decisions one is timed.
const EVERY: u32 = 8;

/// The plugins of a profile and, once they are resolved, their series.
#[derive(Debug, Default)]
pub struct Timers {
    /// In the order in which they run.
    plugins: Vec<PluginLabels>,
    /// Beside them. Empty = not timed.
    series: Vec<Histogram>,
}

/// Which decisions are timed; one for a worker.
#[derive(Debug, Default)]
pub(super) struct Sampling(u32);

/// The plugins of one run that are still to come.
pub(super) struct Laps<'a>(&'a [Histogram]);

// === impl Timers ===

impl Timers {
    /// Those of `spec`; `filters` in the order in which they run.
    pub(super) fn of(spec: &ProfileSpec, filters: Vec<&PluginUse>) -> Self {
        let labels = |extension_point, plugin: &PluginUse| PluginLabels {
            extension_point,
            plugin_type: plugin.entry.name,
            plugin_name: plugin.name.clone(),
        };
        let filters = filters.into_iter().map(|filter| labels("Filter", filter));
        let scorers = spec.scorers.iter().map(|scorer| labels("Scorer", scorer));
        let picker = labels("Picker", &spec.picker);
        Self {
            plugins: filters.chain(scorers).chain([picker]).collect(),
            series: Vec::new(),
        }
    }

    /// Has the plugins of all `timers` timed: those of a whole configuration, and only those.
    pub(super) fn resolve<'a>(timers: impl Iterator<Item = &'a mut Self>, metrics: &Metrics) {
        let timers: Vec<&mut Self> = timers.collect();
        let plugins = timers.iter().flat_map(|timers| &timers.plugins).cloned();
        let plugins: Vec<PluginLabels> = plugins.collect();
        let mut series = metrics.plugins(&plugins).into_iter();
        for timers in timers {
            timers.series = series.by_ref().take(timers.plugins.len()).collect();
        }
    }

    /// The laps of one run.
    pub(super) fn laps(&self, sampling: &Sampling) -> Laps<'_> {
        match sampling.0 % EVERY {
            0 => Laps(&self.series),
            _ => Laps::off(),
        }
    }
}

// === impl Sampling ===

impl Sampling {
    /// Another decision, with all its runs.
    pub(super) fn next(&mut self) {
        self.0 = self.0.wrapping_add(1);
    }
}

// === impl Laps ===

impl Laps<'_> {
    /// Nothing is timed.
    pub(super) fn off() -> Self {
        Self(&[])
    }

    /// Runs the next plugin.
    pub(super) fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let Some((series, rest)) = self.0.split_first() else {
            return run();
        };
        let begun = Instant::now();
        let done = run();
        series.observe_times(begun.elapsed().as_secs_f64(), EVERY);
        self.0 = rest;
        done
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::config;
    use super::*;

    #[test]
    fn one_decision_of_eight_counts_for_all() {
        let config = config("queue-scorer", "{}");
        let mut timers: Vec<Timers> = {
            let profiles = config.profiles.iter();
            profiles
                .map(|spec| Timers::of(spec, spec.filters.iter().collect()))
                .collect()
        };
        let metrics = Metrics::new();
        let mut sampling = Sampling::default();
        let mut ran = 0;
        // Not resolved, not timed.
        timers[0].laps(&sampling).time(|| ran += 1);
        Timers::resolve(timers.iter_mut(), &metrics);
        for _ in 0..2 * EVERY {
            sampling.next();
            let mut laps = timers[0].laps(&sampling);
            for _ in 0..3 {
                laps.time(|| ran += 1);
            }
        }
        assert_eq!(ran, 1 + 3 * 2 * EVERY);
        let page = metrics.encode().unwrap();
        for (point, plugin) in [("Scorer", "queue-scorer"), ("Picker", "max-score-picker")] {
            let line = format!(
                "llm_d_epp_plugin_duration_seconds_count{{extension_point=\"{point}\",plugin_type=\"{plugin}\",plugin_name=\"{plugin}\"}} 16"
            );
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
    }
}
