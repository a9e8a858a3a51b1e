//! What a configuration comes to. `check` shows it and `serve` runs it, so that neither finds what the other does not.

use std::fmt;

use crate::config::params::FileDiscoveryParams;
use crate::config::{self, ConfigErrors, Discovery, LoadOptions, PickerConfig, Problem};
use crate::picker::Reporters;
use crate::pool::engines::{self, EngineSpec};
use crate::scheduling::{Scheduler, registry};

/// A configuration, and all that can be made of it before anything runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: PickerConfig,
    pub(super) scheduler: Scheduler,
    /// None, where nothing is scraped.
    pub(super) engines: Vec<EngineSpec>,
    pub(super) endpoints: FileDiscoveryParams,
    pub(super) reporters: Reporters,
}

// === impl Plan ===

impl Plan {
    /// Reads `text`, an EndpointPickerConfig.
    pub(super) fn of(text: &str, options: LoadOptions) -> Result<Self, ConfigErrors> {
        let config = config::load(text, options)?;
        let scheduler = registry::build(&config);
        let engines = match &config.sources.metrics {
            Some(sources) => engines::of_config(sources),
            None => Ok(Vec::new()),
        };
        let endpoints = match &config.discovery {
            Some(Discovery::File(params)) => Ok(params.clone()),
            None => Err(no_endpoints().into()),
        };
        let reporters = Reporters::of(&config.reporters);
        match (scheduler, engines, endpoints, reporters) {
            (Ok(scheduler), Ok(engines), Ok(endpoints), Ok(reporters)) => Ok(Self {
                config,
                scheduler,
                engines,
                endpoints,
                reporters,
            }),
            (scheduler, engines, endpoints, reporters) => {
                let of_rooms = [scheduler.err(), engines.err()];
                let all = of_rooms
                    .into_iter()
                    .chain([endpoints.err(), reporters.err()]);
                let mut problems: Vec<Problem> = all
                    .flatten()
                    .flat_map(|ConfigErrors(problems)| problems)
                    .collect();
                problems.sort_by_key(|problem| problem.line);
                Err(ConfigErrors(problems))
            }
        }
    }

    /// Logs what `name`, where it is from, should say otherwise, and what was added to it.
    pub(super) fn tell(&self, name: &impl fmt::Display) {
        for warning in &self.config.warnings {
            tracing::warn!("{name}: {warning}");
        }
        for injected in &self.config.injected {
            tracing::debug!("{name}: added {injected}");
        }
    }
}

fn no_endpoints() -> Problem {
    Problem::new(
        0,
        "dataLayer.discovery is not set, so there are no endpoints: list them in a file, declare a `file-discovery` with its path, and name that with dataLayer.discovery: {pluginRef: file-discovery}. No flag stands in for it in this version: --pool-name and --endpoint-selector need Kubernetes discovery, which is not available",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";
    const DISCOVERY: &str = "dataLayer: {discovery: {pluginRef: file-discovery}}\n";

    fn bad(rest: &str) -> String {
        let plan = Plan::of(&format!("{HEAD}{rest}"), LoadOptions::default());
        plan.unwrap_err().to_string()
    }

    #[test]
    fn a_configuration_without_endpoints_is_none_that_can_be_served() {
        for text in [
            config::DEFAULT.to_owned(),
            format!("{HEAD}plugins: [{{type: file-discovery, parameters: {{path: x}}}}]\n"),
        ] {
            let error = Plan::of(&text, LoadOptions::default()).unwrap_err();
            let error = error.to_string();
            assert!(
                error.starts_with("dataLayer.discovery is not set"),
                "{error}"
            );
            assert!(error.contains("file-discovery") && error.contains("--pool-name"));
        }
    }

    #[test]
    fn what_the_rooms_find_is_told_at_once() {
        let got = bad(&format!(
            "plugins:\n- {{type: file-discovery, parameters: {{path: x}}}}\n- type: random-picker\n  parameters:\n    maxNumOfEndpoints: 0\n- type: core-metrics-extractor\n  parameters: {{defaultEngine: vlm}}\n{DISCOVERY}"
        ));
        let lines: Vec<_> = got.lines().collect();
        assert_eq!(lines.len(), 2, "{got}");
        assert!(
            lines[0].starts_with("line 7: plugin `random-picker`: parameters.maxNumOfEndpoints")
        );
        assert!(
            lines[1]
                .starts_with("line 9: plugin `core-metrics-extractor`: parameters.defaultEngine")
        );
    }
}
