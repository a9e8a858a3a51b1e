//! Who may go: the saturation detector, and the admitters.

use super::super::Problem;
use super::super::catalog::{self, Kind};
use super::super::document::Document;
use super::super::params::Parameters;
use super::{PluginUse, Resolver, use_of};

/// The detector of a configuration that names none; also the name under which it may be declared with parameters.
const DEFAULT: &str = "utilization-detector";

// === impl Resolver ===

impl Resolver {
    /// The one that the file refers to, else the one that has the default's name, else the default.
    pub(super) fn detector(&mut self, document: &Document) -> Option<PluginUse> {
        let new = document.flow_control.as_ref();
        let new = new.and_then(|flow_control| flow_control.value.saturation_detector.as_ref());
        let old = document.saturation_detector.as_ref();
        if let Some(old) = old {
            self.warnings.push(Problem::new(
                old.plugin_ref.referenced.line(),
                "saturationDetector: deprecated; write flowControl.saturationDetector, which counts if both are there",
            ));
        }
        let found = [
            (new, "flowControl.saturationDetector.pluginRef"),
            (old, "saturationDetector.pluginRef"),
        ]
        .map(|(reference, field)| {
            let reference = &reference?.plugin_ref;
            Some(self.find(reference, field, &[Kind::Detector]).map(use_of))
        });
        if let Some(named) = found.into_iter().flatten().next() {
            return named;
        }
        let declared = |resolver: &mut Self| {
            let mut declared = resolver.declared.iter_mut();
            let found = declared.find(|d| d.name == DEFAULT && d.entry.kind == Kind::Detector)?;
            found.used = true;
            Some(use_of(found))
        };
        if let Some(declared) = declared(self) {
            return Some(declared);
        }
        self.injected
            .push(format!("{DEFAULT}: no saturation detector is named"));
        Some(PluginUse {
            name: DEFAULT.to_owned(),
            entry: catalog::find(DEFAULT)?,
            weight: 1.0,
            parameters: Parameters::new(DEFAULT, None, 0),
            producer: None,
        })
    }

    /// All that are declared.
    pub(super) fn admitters(&mut self) -> Vec<PluginUse> {
        let mut admitters = Vec::new();
        for at in self.of_kind(Kind::Admitter) {
            admitters.push(use_of(&self.declared[at]));
        }
        admitters
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{LoadOptions, PickerConfig, load};

    fn loaded(rest: &str) -> Result<PickerConfig, String> {
        let text = format!("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n{rest}");
        load(&text, LoadOptions::default()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn the_detector_is_the_named_one_or_the_default() {
        const PLUGINS: &str = "plugins:\n- type: queue-scorer\n- {type: concurrency-detector, name: c}\n- {type: utilization-detector, name: u}\n";
        const BOTH: &str = "flowControl: {saturationDetector: {pluginRef: u}}\n";
        let own = "plugins:\n- type: queue-scorer\n- {type: utilization-detector, parameters: {headroom: 1}}\n";
        for (rest, name, injected, unused, warnings) in [
            (
                "plugins: [{type: queue-scorer}]\n".to_owned(),
                "utilization-detector",
                true,
                0,
                0,
            ),
            (own.to_owned(), "utilization-detector", false, 0, 0),
            (PLUGINS.to_owned(), "utilization-detector", true, 2, 0),
            (format!("{PLUGINS}{BOTH}"), "u", false, 1, 0),
            (
                format!("{PLUGINS}saturationDetector: {{pluginRef: c}}\n"),
                "c",
                false,
                1,
                1,
            ),
            (
                format!("{PLUGINS}{BOTH}saturationDetector: {{pluginRef: c}}\n"),
                "u",
                false,
                0,
                1,
            ),
        ] {
            let config = loaded(&rest).unwrap();
            assert_eq!(config.detector.name, name, "{rest}");
            let told = config
                .injected
                .iter()
                .any(|line| line.contains("no saturation detector"));
            assert_eq!((told, config.unused.len()), (injected, unused), "{rest}");
            assert_eq!(config.warnings.len(), warnings, "{:?}", config.warnings);
            // A profile of all plugins has no detector in it.
            assert!(config.profiles[0].filters.is_empty());
        }
    }

    #[test]
    fn a_detector_that_counts_tokens_has_them_counted() {
        for (rest, expected) in [
            (
                "flowControl: {saturationDetector: {pluginRef: concurrency-detector}}\n",
                1,
            ),
            (
                "schedulingProfiles: [{name: p, plugins: [{pluginRef: concurrency-detector}, {pluginRef: queue-scorer}]}]\n",
                1,
            ),
            ("", 0),
        ] {
            let plugins = "plugins: [{type: queue-scorer}, {type: concurrency-detector}]\n";
            let config = loaded(&format!("{plugins}{rest}")).unwrap();
            assert_eq!(config.producers.len(), expected, "{rest}");
        }
    }

    #[test]
    fn admitters_are_those_that_are_declared() {
        let config = loaded("plugins: [{type: probabilistic-admitter}, {type: queue-scorer}, {type: latency-slo-admitter, name: slo}]\n").unwrap();
        let names: Vec<_> = config.admitters.iter().map(|a| a.name.as_str()).collect();
        assert_eq!(names, ["probabilistic-admitter", "slo"]);
        assert_eq!(config.warnings.len(), 1);
        assert!(
            config.warnings[0]
                .message
                .contains("`slo` admits everything")
        );
        let got = loaded(
            "plugins: [{type: probabilistic-admitter}]\nflowControl: {saturationDetector: {pluginRef: probabilistic-admitter}}\n",
        );
        let got = got.unwrap_err();
        assert!(
            got.contains("is an admitter, not a saturation detector"),
            "{got}"
        );
    }
}
