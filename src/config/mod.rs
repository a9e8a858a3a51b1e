//! `EndpointPickerConfig`: read, check, complete with defaults.
//!
//! `document` is the file's shape, [`catalog`] what plugin types there are, `resolve` turns one into a
//! [`PickerConfig`]: every reference looked up, every default filled in. Nothing here runs anything. [`file`] follows
//! files as they change.
//! The format is the llm-d picker's; what it accepts and means, this accepts and means.

use std::fmt;

pub mod catalog;
mod document;
pub mod file;
pub mod params;
mod resolve;
pub mod units;
mod yaml;

pub use resolve::{
    DcgmSource, DisaggSpec, Discovery, HandlerSpec, HandlerUse, LoadOptions, MetricsSource,
    ModelsSource, Parser, PickerConfig, PluginUse, PolledSource, ProfileSpec, Sources, load,
};
pub use yaml::read as read_yaml;

/// What the picker runs with when it is given no configuration. `docs/profiles.md` says why.
pub const DEFAULT: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: gpu-health-filter
- type: gpu-memory-filter
- type: work-scorer
- type: speed-scorer
- type: gpu-memory-scorer
- type: gpu-cotenant-scorer
- type: metrics-data-source
- type: core-metrics-extractor
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: gpu-health-filter
  - pluginRef: gpu-memory-filter
  - pluginRef: work-scorer
  - pluginRef: speed-scorer
  - {pluginRef: gpu-memory-scorer, weight: 0.5}
  - {pluginRef: gpu-cotenant-scorer, weight: 0.5}
";

/// Something wrong with a configuration: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1; 0 = not known.
    pub line: u64,
    /// What is wrong, the field first.
    pub message: String,
}

/// All that was found wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Problem>);

// === impl Problem ===

impl Problem {
    /// A problem at `line`.
    pub fn new(line: u64, message: impl Into<String>) -> Self {
        Self {
            line,
            message: message.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.message)
    }
}

// === impl ConfigErrors ===

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl From<Problem> for ConfigErrors {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// `; did you mean …?`, if one of `known` is near enough to `name`.
pub fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .filter(|&(distance, known)| distance <= 1 + known.len().max(name.len()) / 3)
        .min()
        .map(|(_, known)| format!("; did you mean `{known}`?"))
        .unwrap_or_default()
}
