//! What a configuration comes to. `check` shows it and `serve` runs it, so that neither finds what the other does not.

use std::fmt;
use std::time::Duration;

use super::polling;
use crate::admission::Admission;
use crate::config::params::{FileDiscoveryParams, SourceParams};
use crate::config::{
    self, ConfigErrors, Discovery, LoadOptions, Parser, PickerConfig, PolledSource, Problem,
    Sources,
};
use crate::dialect::Dialect;
use crate::picker::{Policy, Reporters};
use crate::pool::engines::{self, EngineSpec};
use crate::pool::gpu::dcgm::DcgmConfig;
use crate::pool::models::ModelsConfig;
use crate::pool::scrape::ScrapeConfig;
use crate::pool::tls::ClientTls;
use crate::scheduling::{Scheduler, registry};

/// A configuration, and all that can be made of it before anything runs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) config: PickerConfig,
    pub(super) scheduler: Scheduler,
    pub(super) admission: Admission,
    /// None, where nothing is scraped.
    pub(super) engines: Vec<EngineSpec>,
    /// How what is polled is reached.
    pub(super) tls: SourceTls,
    /// None, where the configuration does not say where endpoints come from: it is right, and `serve` needs to be told.
    pub(super) endpoints: Option<FileDiscoveryParams>,
    pub(super) reporters: Reporters,
}

/// What a plan comes to when it runs.
pub(super) struct Parts {
    pub(super) policy: Policy,
    /// `None`: nothing is scraped.
    pub(super) scrape: Option<ScrapeConfig>,
    /// `None`: models are not asked for.
    pub(super) models: Option<ModelsConfig>,
    /// `None`: exporters are not asked.
    pub(super) dcgm: Option<DcgmConfig>,
}

/// TLS of the sources; `None` = the source does without, or there is none.
#[derive(Debug, Default)]
pub(super) struct SourceTls {
    pub(super) metrics: Option<ClientTls>,
    pub(super) models: Option<ClientTls>,
    pub(super) dcgm: Option<ClientTls>,
}

// === impl SourceTls ===

impl SourceTls {
    /// Reads the files that `sources` name, now: later ones count with the next reading of the configuration.
    fn of(sources: &Sources) -> Result<Self, ConfigErrors> {
        let metrics = tls_of(sources.metrics.as_ref());
        let models = tls_of(sources.models.as_ref());
        match (metrics, models, tls_of(sources.dcgm.as_ref())) {
            (Ok(metrics), Ok(models), Ok(dcgm)) => Ok(Self {
                metrics,
                models,
                dcgm,
            }),
            (metrics, models, dcgm) => {
                let problems = [metrics.err(), models.err(), dcgm.err()];
                Err(ConfigErrors(problems.into_iter().flatten().collect()))
            }
        }
    }
}

fn tls_of<S: SourceParams, E>(
    source: Option<&PolledSource<S, E>>,
) -> Result<Option<ClientTls>, Problem> {
    let tls = source.and_then(|polled| {
        let params = polled.source.tls()?;
        Some(ClientTls::of(&params, &polled.source_parameters))
    });
    tls.transpose()
}

// === impl Plan ===

impl Plan {
    /// Reads `text`, an EndpointPickerConfig.
    pub(super) fn of(text: &str, options: LoadOptions) -> Result<Self, ConfigErrors> {
        let config = config::load(text, options)?;
        let scheduler = registry::build(&config);
        let admission = Admission::of(&config);
        let engines = match &config.sources.metrics {
            Some(sources) => engines::of_config(sources),
            None => Ok(Vec::new()),
        };
        let endpoints = config
            .discovery
            .as_ref()
            .map(|Discovery::File(params)| params.clone());
        let reporters = Reporters::of(&config.reporters);
        let tls = SourceTls::of(&config.sources);
        match (scheduler, admission, engines, reporters, tls) {
            (Ok(scheduler), Ok(admission), Ok(engines), Ok(reporters), Ok(tls)) => Ok(Self {
                config,
                scheduler,
                admission,
                engines,
                tls,
                endpoints,
                reporters,
            }),
            (scheduler, admission, engines, reporters, tls) => {
                let of_rooms = [scheduler.err(), admission.err(), tls.err()];
                let all = of_rooms.into_iter().chain([engines.err(), reporters.err()]);
                let mut problems: Vec<Problem> = all
                    .flatten()
                    .flat_map(|ConfigErrors(problems)| problems)
                    .collect();
                problems.sort_by_key(|problem| problem.line);
                Err(ConfigErrors(problems))
            }
        }
    }

    /// Takes it apart. `least` is the shortest time between two scrapes, and that where none is given; `staleness` how old a
    /// scrape may be, unless they are so rare that it must be older.
    pub(super) fn parts(self, least: Duration, staleness: Duration) -> Parts {
        let metrics = self.config.sources.metrics.as_ref();
        let (engines, tls) = (self.engines, self.tls);
        let scrape =
            metrics.map(|metrics| polling::scrape_config(metrics, engines, tls.metrics, least));
        let models = self.config.sources.models.as_ref();
        let models = models.map(|models| polling::models_config(models, tls.models));
        let dcgm = self.config.sources.dcgm.as_ref();
        let dcgm = dcgm.map(|dcgm| polling::dcgm_config(dcgm, tls.dcgm));
        let parsers = self.config.parsers.iter();
        let turnover = scrape.as_ref().map(ScrapeConfig::turnover);
        Parts {
            policy: Policy {
                admission: self.admission,
                scheduler: self.scheduler,
                parsers: parsers.map(|&parser| dialect_of(parser)).collect(),
                metrics_staleness: scrape
                    .as_ref()
                    .map_or(staleness, |scrape| scrape.staleness(staleness)),
                metrics_turnover: turnover.unwrap_or_default(),
                reporters: self.reporters,
            },
            scrape,
            models,
            dcgm,
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

fn dialect_of(parser: Parser) -> Dialect {
    match parser {
        Parser::OpenAi => Dialect::OpenAi,
        Parser::Anthropic => Dialect::Anthropic,
        Parser::VllmHttp => Dialect::Vllm,
        Parser::SglangHttp => Dialect::Sglang,
        Parser::Passthrough => Dialect::Passthrough,
    }
}

/// What to do about a configuration that says nothing of endpoints.
pub(super) fn no_endpoints() -> Problem {
    Problem::new(
        0,
        "dataLayer.discovery is not set, so `serve` has no endpoints: name an InferencePool with --pool-name, or pods with --endpoint-selector; or list them in a file and start with --endpoints-file, or declare a `file-discovery` with its path and name that with dataLayer.discovery: {pluginRef: file-discovery}",
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
    fn a_configuration_may_leave_endpoints_to_others() {
        for text in [
            config::DEFAULT.to_owned(),
            format!("{HEAD}plugins: [{{type: file-discovery, parameters: {{path: x}}}}]\n"),
        ] {
            let plan = Plan::of(&text, LoadOptions::default()).unwrap();
            assert_eq!(plan.endpoints, None);
        }
        let remedy = no_endpoints().to_string();
        assert!(remedy.contains("file-discovery") && remedy.contains("--pool-name"));
    }

    #[test]
    fn the_well_known_admission_configuration_loads() {
        let text = "plugins:\n- type: probabilistic-admitter\n- type: random-picker\n- type: utilization-detector\n  parameters:\n    queueDepthThreshold: 999999999\n    kvCacheUtilThreshold: 1.0\nflowControl:\n  saturationDetector:\n    pluginRef: utilization-detector\nschedulingProfiles:\n- name: default\n  plugins:\n  - pluginRef: random-picker\n";
        let plan = Plan::of(&format!("{HEAD}{text}"), LoadOptions::default()).unwrap();
        assert_eq!((plan.endpoints, plan.config.warnings.len()), (None, 0));
    }

    #[test]
    fn what_the_rooms_find_is_told_at_once() {
        let got = bad(&format!(
            "plugins:\n- {{type: file-discovery, parameters: {{path: x}}}}\n- type: random-picker\n  parameters:\n    maxNumOfEndpoints: 0\n- type: core-metrics-extractor\n  parameters: {{defaultEngine: vlm}}\n- type: metrics-data-source\n  parameters: {{scheme: https, insecureSkipVerify: false, caCertPath: /no/ca.pem}}\n{DISCOVERY}"
        ));
        let lines: Vec<_> = got.lines().collect();
        assert_eq!(lines.len(), 3, "{got}");
        let expected = "line 11: plugin `metrics-data-source`: parameters.caCertPath: /no/ca.pem: No such file";
        assert!(lines[2].starts_with(expected), "{got}");
        assert!(
            lines[0].starts_with("line 7: plugin `random-picker`: parameters.maxNumOfEndpoints")
        );
        assert!(
            lines[1]
                .starts_with("line 9: plugin `core-metrics-extractor`: parameters.defaultEngine")
        );
    }
}
