//! Where the time of a decision goes: by stage, and by plugin.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;
use super::histogram::Histogram;
use super::twin::Registries;

/// Seconds, for the parts of a decision.
pub(super) const DECISION: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
];
/// Seconds, where those are too coarse: most stages take microseconds.
const STAGE: &[f64] = &[
    0.000_001, 0.000_002, 0.000_005, 0.000_01, 0.000_02, 0.000_05, 0.0001, 0.0002, 0.0005, 0.001,
    0.002, 0.005, 0.01, 0.05, 0.1, 1.0,
];

/// A part of a request's way to its decision. They follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the headers to the end of the body, or whatever part of it the decision needs.
    Receive,
    /// For a worker that decides.
    Wait,
    /// Decoding and reading the body.
    Parse,
    /// From the pool to the endpoint: what `scheduler_e2e_duration_seconds` has too, in finer buckets.
    Schedule,
    /// Booking, counting, telling plugins and the prefix index, and writing the answer.
    Answer,
}

/// What a plugin is timed as.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PluginLabels {
    /// `Filter`, `Scorer` or `Picker`.
    pub extension_point: &'static str,
    /// Its type in the configuration.
    pub plugin_type: &'static str,
    /// Its name in the configuration.
    pub plugin_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

pub(super) type Plugins = Family<PluginLabels, Histogram, fn() -> Histogram>;

// === impl Stage ===

impl Stage {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Receive,
        Self::Wait,
        Self::Parse,
        Self::Schedule,
        Self::Answer,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Wait => "wait",
            Self::Parse => "parse",
            Self::Schedule => "schedule",
            Self::Answer => "answer",
        }
    }
}

pub(super) fn register_stages(registry: &mut Registry) -> [Histogram; Stage::ALL.len()] {
    let family = Family::new_with_constructor((|| Histogram::new(STAGE)) as fn() -> _);
    registry.register(
        "pick_stage_duration_seconds",
        "Time of each stage of a decision",
        family.clone(),
    );
    Stage::ALL.map(|stage| {
        let stage = stage.name();
        family.get_or_create_owned(&StageLabels { stage })
    })
}

pub(super) fn register_plugins(registries: &mut Registries<'_>) -> Plugins {
    let plugins = Plugins::new_with_constructor(|| Histogram::new(DECISION));
    let help = "Time of each plugin: measured in one of eight decisions, and counted for all eight";
    let name = "plugin_duration_seconds";
    registries.ours.register(name, help, plugins.clone());
    if let Some(old) = &mut registries.old {
        let name = format!("inference_extension_{name}");
        old.register(name, help, plugins.clone());
    }
    plugins
}

// === impl Metrics ===

impl Metrics {
    /// Counts the time that a stage of a decision took, in seconds.
    pub fn stage(&self, stage: Stage, seconds: f64) {
        self.stages[stage as usize].observe(seconds);
    }

    /// The series of `plugins`, in their order. Those of plugins that are not among them are dropped: there is one
    /// configuration at a time, and its versions may use any number of names.
    pub fn plugins(&self, plugins: &[PluginLabels]) -> Vec<Histogram> {
        let mut known = self.plugin_labels.lock();
        for gone in known.iter().filter(|labels| !plugins.contains(labels)) {
            self.plugins.remove(gone);
        }
        *known = plugins.to_vec();
        let series = |labels| self.plugins.get_or_create_owned(labels);
        plugins.iter().map(series).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(name: &str) -> PluginLabels {
        PluginLabels {
            extension_point: "Scorer",
            plugin_type: "queue-scorer",
            plugin_name: name.to_owned(),
        }
    }

    #[test]
    fn plugins_go_with_their_configuration() {
        let metrics = Metrics::new();
        for series in metrics.plugins(&[labels("a"), labels("b")]) {
            series.observe(0.5);
        }
        let again = metrics.plugins(&[labels("c"), labels("a")]);
        assert!(!metrics.encode().unwrap().contains("plugin_name=\"b\""));
        assert_eq!((again[0].count(), again[1].count()), (0, 1));
        let page = metrics.encode().unwrap();
        assert!(page.contains("plugin_name=\"a\""), "{page}");
    }

    #[test]
    fn stages_are_in_their_places() {
        for (at, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(at, stage as usize);
        }
    }
}
