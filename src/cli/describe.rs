//! What a configuration comes to, for people: one line a plugin, with the parameters that it runs with.

use std::fmt::Write as _;

use super::plan::Plan;
use crate::config::params::{Parameters, StageOrder};
use crate::config::{Discovery, HandlerSpec, PickerConfig, PluginUse, ProfileSpec};

/// Profiles, plugins and what else is in `plan`, in the order in which a request meets them.
pub(super) fn pipeline(plan: &Plan) -> String {
    let config = &plan.config;
    let mut out = String::new();
    let mut line = |indent: &str, text: &str| {
        // Writing to a string does not fail.
        let _ = writeln!(out, "{indent}{text}");
    };
    let parsers: Vec<_> = config.parsers.iter().map(|p| p.type_name()).collect();
    line("", &format!("parsers {}", parsers.join(", ")));
    for (kind, plugin) in std::iter::once(("detector", &config.detector))
        .chain(config.admitters.iter().map(|plugin| ("admitter", plugin)))
    {
        let (name, parameters) = (named(plugin), plugin.parameters.to_json());
        line("", &format!("{kind} {name} {parameters}"));
    }
    let (name, does) = (&config.handler.name, handler(config));
    line("", &format!("handler {name} {does}"));
    for text in config.profiles.iter().flat_map(profile) {
        line("", &text);
    }
    for producer in &config.producers {
        let (name, parameters) = (named(producer), producer.parameters.to_json());
        line("", &format!("producer {name} {parameters}"));
    }
    for reporter in &config.reporters {
        let (name, parameters) = (named(reporter), reporter.parameters.to_json());
        line("", &format!("reporter {name} {parameters}"));
    }
    let mut source = |source: &Parameters, extractor: &Parameters| {
        for (kind, parameters) in [("source", source), ("  extractor", extractor)] {
            let text = format!("{kind} {} {}", parameters.plugin(), parameters.to_json());
            line("", &text);
        }
    };
    if let Some(models) = &config.sources.models {
        source(&models.source_parameters, &models.extractor_parameters);
    }
    if let Some(dcgm) = &config.sources.dcgm {
        source(&dcgm.source_parameters, &dcgm.extractor_parameters);
    }
    match &config.sources.metrics {
        None => line("", "metrics none: nothing is scraped"),
        Some(metrics) => {
            source(&metrics.source_parameters, &metrics.extractor_parameters);
            if metrics.source.interval.is_none() {
                line("  ", "interval --refresh-metrics-interval");
            }
        }
    }
    if let Some(Discovery::File(params)) = &config.discovery {
        let params = serde_json::to_string(params).unwrap_or_default();
        line("", &format!("discovery file-discovery {params}"));
    }
    for plugin in &config.unused {
        let text = format!("unused {}: nothing refers to it", named(plugin));
        line("", &text);
    }
    for injected in &config.injected {
        line("", &format!("added {injected}"));
    }
    out
}

/// Which profiles run, in words.
fn handler(config: &PickerConfig) -> String {
    let name = |at: usize| config.profiles[at].name.as_str();
    match &config.handler.spec {
        HandlerSpec::Single => format!("runs {}", name(0)),
        HandlerSpec::Header { header, default } => {
            format!("runs what header {header} names, else {}", name(*default))
        }
        HandlerSpec::DataParallel { primary_port } => {
            format!("runs {}, sends to port {primary_port}", name(0))
        }
        HandlerSpec::Disagg(spec) => {
            let decode = format!("{} for decode", name(spec.decode));
            let prefill = spec.prefill.as_ref().map(|(at, decider)| match decider {
                Some(decider) => format!("{} if {} says so", name(*at), decider.name),
                None => name(*at).to_owned(),
            });
            let encode = spec.encode.as_ref();
            let encode =
                encode.map(|(at, decider)| format!("{} if {} says so", name(*at), decider.name));
            let stages = match spec.order {
                StageOrder::DecodeFirst => [Some(decode), encode, prefill],
                StageOrder::PrefillFirst => [prefill, encode, Some(decode)],
            };
            let stages: Vec<_> = stages.into_iter().flatten().collect();
            format!("runs {}", stages.join(", then "))
        }
    }
}

fn profile(profile: &ProfileSpec) -> Vec<String> {
    let mut lines = vec![format!("profile {}", profile.name)];
    let json = |plugin: &PluginUse| plugin.parameters.to_json();
    for filter in &profile.filters {
        lines.push(format!("  filter {} {}", named(filter), json(filter)));
    }
    for scorer in &profile.scorers {
        let (name, weight) = (named(scorer), scorer.weight);
        lines.push(format!("  scorer {name} weight {weight} {}", json(scorer)));
    }
    let picker = &profile.picker;
    lines.push(format!("  picker {} {}", named(picker), json(picker)));
    lines
}

/// Its name, and its type where that is another.
fn named(plugin: &PluginUse) -> String {
    match plugin.entry.name {
        of_type if of_type == plugin.name => plugin.name.clone(),
        of_type => format!("{} ({of_type})", plugin.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LoadOptions;

    /// A little of everything, and what `check` says of it.
    const CONFIG: &str = "\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: file-discovery
  parameters: {path: /etc/pointsman/endpoints.yaml}
- {type: header-based-testing-filter, name: steer}
- type: queue-scorer
- {type: lora-affinity-scorer, name: lora}
- type: random-picker
- type: metrics-data-source
  parameters: {interval: 100ms}
- type: core-metrics-extractor
  parameters:
    engineConfigs: [{name: mine, queuedRequestsSpec: waiting}]
- {type: session-id-producer, name: who, parameters: {headerName: x-who}}
- type: request-attribute-reporter
  parameters: {attributes: [{key: {name: cost}, expression: usage.total_tokens}]}
- {type: models-data-source, name: models}
- type: models-data-extractor
- {type: utilization-detector, name: full, parameters: {queueDepthThreshold: 9}}
- {type: probabilistic-admitter, parameters: {k: 10}}
- type: openai-parser
flowControl: {saturationDetector: {pluginRef: full}}
requestHandler: {parsers: [{pluginRef: openai-parser}]}
dataLayer:
  sources: [{pluginRef: models, extractors: [{pluginRef: models-data-extractor}]}]
  discovery: {pluginRef: file-discovery}
schedulingProfiles:
- name: main
  plugins:
  - pluginRef: steer
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: lora, weight: 0.5}
";
    const GOLDEN: &str = r#"parsers openai-parser
detector full (utilization-detector) {"headroom":0.0,"kvCacheUtilThreshold":0.8,"metricsStalenessThreshold":"200ms","queueDepthThreshold":9}
admitter probabilistic-admitter {"k":10.0,"kvCacheUtilThreshold":0.8,"power":5.0,"queueDepthThreshold":5}
handler single-profile-handler runs main
profile main
  filter steer (header-based-testing-filter) {}
  scorer queue-scorer weight 2 {}
  scorer lora (lora-affinity-scorer) weight 0.5 {}
  picker max-score-picker {"maxNumOfEndpoints":1}
producer who (session-id-producer) {"cookieName":"","headerName":"x-who"}
reporter request-attribute-reporter {"attributes":[{"expression":"usage.total_tokens","key":{"name":"cost","namespace":"envoy.lb"}}]}
source models {"insecureSkipVerify":true,"interval":"60s","path":"/v1/models","scheme":"http"}
  extractor models-data-extractor {}
source metrics-data-source {"insecureSkipVerify":true,"interval":"100ms","scheme":"http"}
  extractor core-metrics-extractor {"defaultEngine":"vllm","engineConfigs":[{"customMetrics":[],"name":"mine","queuedRequestsSpec":"waiting"}],"engineLabelKey":"llm-d.ai/engine-type"}
discovery file-discovery {"path":"/etc/pointsman/endpoints.yaml","watchFile":false}
unused random-picker: nothing refers to it
added max-score-picker: profile `main` has no picker
added single-profile-handler: no profile handler is declared
added metrics-data-source with core-metrics-extractor: dataLayer.sources lists none
"#;

    #[test]
    fn everything_is_told_with_what_it_runs_with() {
        let plan = Plan::of(CONFIG, LoadOptions::default()).unwrap();
        let got = pipeline(&plan);
        assert_eq!(got, GOLDEN, "{got}");
    }
}
