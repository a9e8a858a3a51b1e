//! Scheduling profiles: `schedulingProfiles`, or all plugins of the file.

use std::collections::HashSet;

use super::super::Problem;
use super::super::catalog::{self, Kind};
use super::super::document::{self, Document};
use super::super::params::Parameters;
use super::{PluginUse, ProfileSpec, Resolver, use_of};

/// What a profile is made of.
const SCHEDULING: [Kind; 4] = [Kind::Filter, Kind::Scorer, Kind::Picker, Kind::Detector];
/// The filter of which a profile has one at most.
const HEALTH: &str = "gpu-health-filter";
/// The greatest weight: totals stay far from what an `f32` cannot tell apart, or cannot hold.
const MAX_WEIGHT: f64 = 1e6;

// === impl Resolver ===

impl Resolver {
    /// The profiles of the file; without any, one of all its plugins.
    pub(super) fn profiles(&mut self, document: &Document) -> Vec<ProfileSpec> {
        self.profile_names(document);
        if document.scheduling_profiles.is_empty() {
            self.injected.push(
                "profile `default`: no profile is given, so it has all plugins of the file"
                    .to_owned(),
            );
            // A detector is for admission, unless a profile says that it is to filter there.
            let scheduling = self.declared.iter_mut().filter(|declared| {
                let kind = declared.entry.kind;
                SCHEDULING.contains(&kind) && kind != Kind::Detector
            });
            let uses = scheduling.map(|declared| {
                declared.used = true;
                (use_of(declared), declared.line)
            });
            let uses = uses.collect();
            return self.profile("default", uses).into_iter().collect();
        }
        let mut profiles = Vec::new();
        for profile in &document.scheduling_profiles {
            let uses = self.profile_uses(profile);
            profiles.extend(self.profile(&profile.name.value, uses));
        }
        profiles
    }

    fn profile(&mut self, name: &str, uses: Vec<(PluginUse, u64)>) -> Option<ProfileSpec> {
        let mut spec: (Vec<PluginUse>, Vec<PluginUse>, Option<PluginUse>) = Default::default();
        for (mut plugin, line) in uses {
            self.producer(&mut plugin);
            match plugin.entry.kind {
                // It has a place of its own, wherever it is listed.
                Kind::Filter if plugin.entry.name == HEALTH => match spec.0.first() {
                    Some(first) if first.entry.name == HEALTH => {
                        let message = format!(
                            "schedulingProfiles: profile `{name}` has a second {HEALTH}, `{}`; keep one",
                            plugin.name
                        );
                        self.problem(line, message);
                    }
                    _ => spec.0.insert(0, plugin),
                },
                Kind::Filter | Kind::Detector => spec.0.push(plugin),
                Kind::Scorer => {
                    if plugin.entry.filters {
                        spec.0.push(plugin.clone());
                    }
                    spec.1.push(plugin);
                }
                Kind::Picker if spec.2.is_some() => {
                    let message = format!(
                        "schedulingProfiles: profile `{name}` has a second picker, `{}`; keep one",
                        plugin.name
                    );
                    self.problem(line, message);
                }
                _ => spec.2 = Some(plugin),
            }
        }
        let (filters, scorers, picker) = spec;
        let picker = match picker {
            Some(picker) => picker,
            None => {
                self.injected
                    .push(format!("max-score-picker: profile `{name}` has no picker"));
                PluginUse {
                    name: "max-score-picker".to_owned(),
                    entry: catalog::find("max-score-picker")?,
                    weight: 1.0,
                    parameters: Parameters::new("max-score-picker", None, 0),
                    producer: None,
                }
            }
        };
        if scorers.is_empty() && picker.entry.name == "max-score-picker" {
            let message = format!("profile `{name}` has no scorer: its picks are random");
            self.warnings.push(Problem::new(0, message));
        }
        Some(ProfileSpec {
            name: name.to_owned(),
            filters,
            scorers,
            picker,
        })
    }

    fn profile_names(&mut self, document: &Document) {
        let mut seen = HashSet::new();
        for profile in &document.scheduling_profiles {
            if !seen.insert(profile.name.value.as_str()) {
                let message = format!(
                    "schedulingProfiles: the name `{}` is used twice",
                    profile.name.value
                );
                self.problem(profile.name.referenced.line(), message);
            }
        }
    }

    fn profile_uses(&mut self, profile: &document::Profile) -> Vec<(PluginUse, u64)> {
        let mut uses = Vec::new();
        for plugin in &profile.plugins {
            let line = plugin.plugin_ref.referenced.line();
            let field = "schedulingProfiles.plugins.pluginRef";
            let Some(mut used) = self
                .find(&plugin.plugin_ref, field, &SCHEDULING)
                .map(use_of)
            else {
                continue;
            };
            if let Some(weight) = &plugin.weight {
                let line = weight.referenced.line();
                if used.entry.kind != Kind::Scorer {
                    let message = format!(
                        "weight: `{}` is a {}; only scorers have weights",
                        used.name,
                        used.entry.kind.noun()
                    );
                    self.problem(line, message);
                }
                if !(0.0..=MAX_WEIGHT).contains(&weight.value) {
                    let value = weight.value;
                    let message = format!("weight: {value} is not a number from 0 to {MAX_WEIGHT}");
                    self.problem(line, message);
                }
                used.weight = weight.value as f32;
            }
            uses.push((used, line));
        }
        uses
    }
}
