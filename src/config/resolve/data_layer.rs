//! Where endpoints and their load come from: `dataLayer`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::catalog::Kind;
use super::super::document::{DataLayer, Document, Source};
use super::super::params::{
    CoreMetricsParams, DcgmSourceParams, MetricsSourceParams, ModelsSourceParams, NoParams,
    Parameters, SourceParams,
};
use super::super::{Problem, units};
use super::{Declared, Discovery, Resolver};

/// What is polled of the endpoints.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Metrics pages, where load comes from; `None` = nothing is scraped.
    pub metrics: Option<MetricsSource>,
    /// Lists of models; `None` = they are not asked for.
    pub models: Option<ModelsSource>,
    /// What exporters tell of GPUs; `None` = they are not asked.
    pub dcgm: Option<DcgmSource>,
}

/// Polling of one page of every endpoint, and what reads it.
#[derive(Clone, Debug)]
pub struct PolledSource<S, E> {
    /// How to poll.
    pub source: S,
    /// Where `source` stands.
    pub source_parameters: Parameters,
    /// What to read.
    pub extractor: E,
    /// Where `extractor` stands, for problems with what it says.
    pub extractor_parameters: Parameters,
}

/// Metric scraping.
pub type MetricsSource = PolledSource<MetricsSourceParams, CoreMetricsParams>;
/// Polling of what servers serve.
pub type ModelsSource = PolledSource<ModelsSourceParams, NoParams>;
/// Polling of dcgm-exporters.
pub type DcgmSource = PolledSource<DcgmSourceParams, NoParams>;

/// A type of source and the type that reads what it fetches.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Pair {
    source: &'static str,
    extractor: &'static str,
}

const METRICS: Pair = Pair {
    source: "metrics-data-source",
    extractor: "core-metrics-extractor",
};
const MODELS: Pair = Pair {
    source: "models-data-source",
    extractor: "models-data-extractor",
};
const DCGM: Pair = Pair {
    source: "dcgm-data-source",
    extractor: "dcgm-extractor",
};
const PAIRS: [Pair; 3] = [METRICS, MODELS, DCGM];

/// A source that is to be polled.
struct Listed {
    pair: Pair,
    source: Parameters,
    /// `None`: its own.
    extractor: Option<Parameters>,
}

/// Reads a source or an extractor that `dataLayer.sources` does not list.
pub(super) fn unlisted(declared: &Declared, warnings: &mut Vec<Problem>) -> Result<(), Problem> {
    let parameters = &declared.parameters;
    match declared.entry.name {
        name if name == METRICS.source => MetricsSourceParams::of(parameters).map(drop),
        name if name == METRICS.extractor => parameters.read::<CoreMetricsParams>().map(drop),
        name if name == MODELS.source || name == DCGM.source => {
            let message = format!(
                "plugins: `{}` has no effect, because dataLayer.sources does not list it",
                declared.name
            );
            warnings.push(Problem::new(declared.line, message));
            match name == MODELS.source {
                true => ModelsSourceParams::of(parameters).map(drop),
                false => DcgmSourceParams::of(parameters).map(drop),
            }
        }
        _ => parameters.read::<NoParams>().map(drop),
    }
}

// === impl Resolver ===

impl Resolver {
    pub(super) fn data_layer(&mut self, document: &Document) -> (Sources, Option<Discovery>) {
        let layer = document.data_layer.as_ref();
        if let Some(layer) = layer {
            self.between_replicas(layer);
        }
        let sources = self.sources(document);
        let discovery = layer
            .and_then(|l| l.discovery.as_ref())
            .and_then(|reference| {
                let field = "dataLayer.discovery.pluginRef";
                let parameters = self
                    .find(&reference.plugin_ref, field, &[Kind::Discovery])?
                    .parameters
                    .clone();
                self.read(parameters.read()).map(Discovery::File)
            });
        (sources, discovery)
    }

    fn sources(&mut self, document: &Document) -> Sources {
        let layer = document.data_layer.as_ref();
        let listed = layer.map(|l| l.sources.as_slice()).unwrap_or_default();
        let (mut metrics, mut models, mut dcgm) = (None, None, None);
        for source in listed {
            let Some(found) = self.listed(source) else {
                continue;
            };
            let place = match found.pair {
                METRICS => &mut metrics,
                MODELS => &mut models,
                _ => &mut dcgm,
            };
            if place.is_some() {
                let message = format!(
                    "dataLayer.sources: a second `{}`; one is polled, so keep one",
                    found.pair.source
                );
                self.problem(source.plugin_ref.referenced.line(), message);
                continue;
            }
            *place = Some(found);
        }
        let inject = layer.and_then(|l| l.inject_defaults).unwrap_or(true);
        if metrics.is_none() && inject {
            let why = match listed {
                [] => "is empty",
                _ => "lists none",
            };
            self.injected.push(format!(
                "{} with {}: dataLayer.sources {why}",
                METRICS.source, METRICS.extractor
            ));
            let source = self.declared_or_default(METRICS.source);
            metrics = Some(Listed {
                pair: METRICS,
                source,
                extractor: None,
            });
        }
        Sources {
            metrics: metrics.and_then(|listed| self.polled(listed)),
            models: models.and_then(|listed| self.polled(listed)),
            dcgm: dcgm.and_then(|listed| self.polled(listed)),
        }
    }

    /// A source of the section and what is to read it; `None` if it has a problem.
    fn listed(&mut self, source: &Source) -> Option<Listed> {
        let field = "dataLayer.sources.pluginRef";
        let declared = self.find(&source.plugin_ref, field, &[Kind::Source])?;
        let pair = PAIRS
            .into_iter()
            .find(|p| p.source == declared.entry.name)?;
        let mut listed = Listed {
            pair,
            source: declared.parameters.clone(),
            extractor: None,
        };
        let field = "dataLayer.sources.extractors.pluginRef";
        for reference in &source.extractors {
            let Some(found) = self.find(&reference.plugin_ref, field, &[Kind::Extractor]) else {
                continue;
            };
            let (is, parameters) = (found.entry.name, found.parameters.clone());
            let problem = if is != pair.extractor {
                format!(
                    "{field}: `{}` cannot read what a {} fetches; list a {} there",
                    reference.plugin_ref.value, pair.source, pair.extractor
                )
            } else if listed.extractor.replace(parameters).is_some() {
                format!("{field}: a second `{is}` of one source; keep one")
            } else {
                continue;
            };
            self.problem(reference.plugin_ref.referenced.line(), problem);
        }
        Some(listed)
    }

    fn polled<S, E>(&mut self, listed: Listed) -> Option<PolledSource<S, E>>
    where
        S: SourceParams,
        E: DeserializeOwned + Serialize,
    {
        let extractor_parameters = self.extractor(&listed);
        let source = self.read(S::of(&listed.source));
        let extractor = self.read(extractor_parameters.read());
        let source = source?;
        self.warnings.extend(source.warning(&listed.source));
        Some(PolledSource {
            source,
            source_parameters: listed.source,
            extractor: extractor?,
            extractor_parameters,
        })
    }

    /// What reads a source; one that lists none gets its own.
    fn extractor(&mut self, listed: &Listed) -> Parameters {
        match &listed.extractor {
            Some(extractor) => extractor.clone(),
            None => self.declared_or_default(listed.pair.extractor),
        }
    }

    /// Declared, but not listed: still the parameters that the user means.
    fn declared_or_default(&mut self, of_type: &str) -> Parameters {
        let mut declared = self.declared.iter_mut();
        match declared.find(|declared| declared.entry.name == of_type) {
            Some(declared) => {
                declared.used = true;
                declared.parameters.clone()
            }
            None => Parameters::new(of_type, None, 0),
        }
    }

    fn between_replicas(&mut self, layer: &DataLayer) {
        if let Some(peers) = &layer.peer_discovery {
            let field = "dataLayer.peerDiscovery.pluginRef";
            self.not_built(&peers.plugin_ref, field, "peer discovery");
        }
        if let Some(syncer) = &layer.cross_replica_syncer_plugin_ref {
            let field = "dataLayer.crossReplicaSyncerPluginRef";
            self.not_built(syncer, field, "cross-replica syncer");
        }
        let interval = layer.cross_replica_sync_interval.as_ref();
        let field = "dataLayer.crossReplicaSyncInterval";
        self.check(interval, field, units::duration);
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{LoadOptions, PickerConfig, load};

    fn loaded(rest: &str) -> Result<PickerConfig, String> {
        let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n";
        let text = format!(
            "{head}- type: models-data-source\n  parameters: {{}}\n- type: models-data-extractor\n- type: core-metrics-extractor\n- {{type: metrics-data-source, name: load, parameters: {{port: 9}}}}\n- type: queue-scorer\n{rest}"
        );
        load(&text, LoadOptions::default()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn models_are_polled_where_they_are_listed_beside_metrics() {
        let config = loaded(
            "dataLayer:\n  sources:\n  - {pluginRef: models-data-source, extractors: [{pluginRef: models-data-extractor}]}\n  - {pluginRef: load}\n",
        );
        let config = config.unwrap();
        let models = config.sources.models.unwrap();
        let (path, interval) = (&*models.source.path, &*models.source.interval);
        assert_eq!((path, interval), ("/v1/models", "60s"));
        assert_eq!(config.sources.metrics.unwrap().source.port, Some(9));
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        let injected = config.injected.iter();
        assert_eq!(injected.filter(|line| line.contains("metrics")).count(), 0);

        // Metrics are added beside them, unless that is turned off.
        let models = "dataLayer:\n  sources: [{pluginRef: models-data-source}]\n";
        let config = loaded(models).unwrap();
        assert!(config.sources.models.is_some());
        assert_eq!(config.sources.metrics.unwrap().source.port, Some(9));
        assert_eq!(
            config.injected.last().unwrap(),
            "metrics-data-source with core-metrics-extractor: dataLayer.sources lists none"
        );
        let config = loaded(&format!("{models}  injectDefaults: false\n")).unwrap();
        assert!(config.sources.models.is_some() && config.sources.metrics.is_none());
    }

    #[test]
    fn models_that_are_not_listed_are_not_polled_and_that_is_told() {
        let config = loaded("").unwrap();
        assert!(config.sources.models.is_none());
        assert_eq!(
            config.warnings[0].to_string(),
            "line 4: plugins: `models-data-source` has no effect, because dataLayer.sources does not list it"
        );
    }

    #[test]
    fn pairs_that_do_not_fit_are_told() {
        for (sources, expected) in [
            (
                "- {pluginRef: models-data-source, extractors: [{pluginRef: core-metrics-extractor}]}",
                "line 12: dataLayer.sources.extractors.pluginRef: `core-metrics-extractor` cannot read what a models-data-source fetches; list a models-data-extractor there",
            ),
            (
                "- {pluginRef: load, extractors: [{pluginRef: models-data-extractor}]}",
                "line 12: dataLayer.sources.extractors.pluginRef: `models-data-extractor` cannot read what a metrics-data-source fetches; list a core-metrics-extractor there",
            ),
            (
                "- {pluginRef: load}\n  - {pluginRef: load}",
                "line 13: dataLayer.sources: a second `metrics-data-source`; one is polled, so keep one",
            ),
            (
                "- {pluginRef: load, extractors: [{pluginRef: core-metrics-extractor}, {pluginRef: core-metrics-extractor}]}",
                "line 12: dataLayer.sources.extractors.pluginRef: a second `core-metrics-extractor` of one source; keep one",
            ),
            (
                "- {pluginRef: models-data-extractor}",
                "line 12: dataLayer.sources.pluginRef: `models-data-extractor` is an extractor, not a data source",
            ),
        ] {
            let got = loaded(&format!("dataLayer:\n  sources:\n  {sources}\n"));
            assert_eq!(got.unwrap_err(), expected);
        }
    }

    #[test]
    fn parameters_are_checked_whether_or_not_they_are_listed() {
        let head = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n";
        for (plugin, expected) in [
            (
                "- type: models-data-source\n  parameters:\n    interval: 50ms",
                "line 6: plugin `models-data-source`: parameters.interval: `50ms` is too short for a list that seldom changes; write 1s or more",
            ),
            (
                "- type: models-data-source\n  parameters: {scheme: ftp}",
                "line 5: plugin `models-data-source`: parameters.scheme: `ftp` is not a scheme; use http or https",
            ),
            (
                "- type: models-data-source\n  parameters: {scheme: https, clientKeyPath: /k}",
                "line 5: plugin `models-data-source`: parameters.clientKeyPath: needs parameters.clientCertPath beside it: give both or neither",
            ),
            (
                "- type: models-data-source\n  parameters: {path: models}",
                "line 5: plugin `models-data-source`: parameters.path: `models` is not a path; write for instance /v1/models",
            ),
            (
                "- type: models-data-extractor\n  parameters: {key: x}",
                "line 5: plugin `models-data-extractor`: parameters: unknown field `key` (it has no parameters)",
            ),
        ] {
            for listed in [
                "",
                "dataLayer: {sources: [{pluginRef: models-data-source}]}\n",
            ] {
                let other = match plugin.contains("extractor") {
                    true => "- type: models-data-source\n",
                    false => "",
                };
                let text = format!("{head}{plugin}\n{other}{listed}");
                let got = load(&text, LoadOptions::default()).map_err(|errors| errors.to_string());
                assert_eq!(got.unwrap_err(), expected, "{text}");
            }
        }
    }
}
