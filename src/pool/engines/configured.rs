//! Engines as a configuration describes them.

use super::super::slab::{MOST_ATTRIBUTES, attribute_key};
use super::{EngineSpec, MetricSpec, Signal, known};
use crate::config::params::EngineParams;
use crate::config::{ConfigErrors, MetricsSource, Problem, did_you_mean};

/// The engines that are known, then those of the configuration: of two with one name the later counts. An error if
/// one of its metrics cannot be read, or if the default engine is none of them.
pub fn of_config(sources: &MetricsSource) -> Result<Vec<EngineSpec>, ConfigErrors> {
    let (params, at) = (&sources.extractor, &sources.extractor_parameters);
    let mut engines = known();
    let mut problems = Vec::new();
    for (n, engine) in params.engine_configs.iter().enumerate() {
        let mut problem = |field: &str, message: &str| {
            let field = format!("engineConfigs[{n}].{field}");
            problems.push(at.field_problem(&field, message));
        };
        engines.push(engine_of(engine, &mut problem));
    }
    let default = params.default_engine.as_str();
    if !engines.iter().any(|engine| engine.name == default) {
        let names: Vec<&str> = engines.iter().map(|engine| engine.name.as_str()).collect();
        let hint = did_you_mean(default, names.iter().copied());
        let message = format!(
            "no engine is called `{default}`{hint} (known here: {})",
            names.join(", ")
        );
        problems.push(at.field_problem("defaultEngine", &message));
    }
    match problems.is_empty() {
        true => Ok(engines),
        false => Err(in_order(problems)),
    }
}

fn in_order(mut problems: Vec<Problem>) -> ConfigErrors {
    problems.sort_by_key(|problem| problem.line);
    ConfigErrors(problems)
}

fn engine_of(params: &EngineParams, problem: &mut dyn FnMut(&str, &str)) -> EngineSpec {
    if params.name.is_empty() {
        problem("name", "is empty; write what the engine label says");
    }
    let mut read = |field: &str, spec: &str| {
        MetricSpec::parse(spec)
            .map_err(|error| problem(field, &error.to_string()))
            .ok()
    };
    let mut metrics = Vec::new();
    for (field, spec, signal) in [
        (
            "queuedRequestsSpec",
            &params.queued_requests_spec,
            Signal::Waiting,
        ),
        (
            "runningRequestsSpec",
            &params.running_requests_spec,
            Signal::Running,
        ),
        ("kvUsageSpec", &params.kv_usage_spec, Signal::KvUsage),
        ("loraSpec", &params.lora_spec, Signal::Lora),
        ("cacheInfoSpec", &params.cache_info_spec, Signal::CacheInfo),
        (
            "cacheBlockSizeSpec",
            &params.cache_block_size_spec,
            Signal::BlockSize,
        ),
        (
            "cacheNumBlocksSpec",
            &params.cache_num_blocks_spec,
            Signal::Blocks,
        ),
    ] {
        if let Some(spec) = spec.as_deref().filter(|spec| !spec.is_empty()) {
            metrics.extend(read(field, spec).map(|spec| (spec, signal)));
        }
    }
    for (n, custom) in params.custom_metrics.iter().enumerate() {
        let spec = read(
            &format!("customMetrics[{n}].metricSpec"),
            &custom.metric_spec,
        );
        let signal = Signal::Attribute(attribute_key(&custom.attribute_key));
        metrics.extend(spec.map(|spec| (spec, signal)));
    }
    for (n, custom) in params.custom_metrics.iter().enumerate() {
        let mut problem = |message: &str| {
            problem(&format!("customMetrics[{n}].attributeKey"), message);
        };
        let before = &params.custom_metrics[..n];
        if custom.attribute_key.is_empty() {
            problem("is empty");
        } else if n >= MOST_ATTRIBUTES {
            problem(&format!(
                "is one more than the {MOST_ATTRIBUTES} that are kept"
            ));
        } else if before
            .iter()
            .any(|known| known.attribute_key == custom.attribute_key)
        {
            problem("is given twice");
        }
    }
    let label =
        |name: &Option<String>, default: &str| name.clone().unwrap_or_else(|| default.to_owned());
    EngineSpec {
        name: params.name.clone(),
        path: None,
        metrics,
        block_size_label: label(&params.cache_block_size_label_name, "block_size"),
        blocks_label: label(&params.cache_num_blocks_label_name, "num_gpu_blocks"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LoadOptions, load};

    fn engines(parameters: &str) -> Result<Vec<EngineSpec>, String> {
        let text = format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: core-metrics-extractor\n  parameters:\n{parameters}"
        );
        let config = load(&text, LoadOptions::default()).unwrap();
        of_config(&config.sources.metrics.unwrap()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn configured_engines_come_after_the_known_ones() {
        let engines = engines(
            "    defaultEngine: mine\n    engineConfigs:\n    - name: mine\n      queuedRequestsSpec: q{a=b}\n      runningRequestsSpec: \"\"\n",
        )
        .unwrap();
        let mine = engines.last().unwrap();
        assert_eq!((mine.name.as_str(), mine.metrics.len()), ("mine", 1));
        assert_eq!(mine.metrics[0].1, Signal::Waiting);
        assert_eq!(mine.block_size_label, "block_size");
        assert_eq!(engines.len(), known().len() + 1);
    }

    #[test]
    fn custom_metrics_are_attributes() {
        let custom = |list: &str| {
            engines(&format!(
                "    engineConfigs:\n    - name: a\n      customMetrics: [{list}]\n"
            ))
        };
        let good = custom("{attributeKey: k, metricSpec: 'm{x=y}'}").unwrap();
        let (spec, signal) = &good.last().unwrap().metrics[0];
        assert_eq!(spec.name, "m");
        assert_eq!(*signal, Signal::Attribute(attribute_key("k")));
        let many: Vec<_> = (0..=MOST_ATTRIBUTES)
            .map(|n| format!("{{attributeKey: k{n}, metricSpec: m}}"))
            .collect();
        for (list, expected) in [
            ("{metricSpec: m}", "customMetrics[0].attributeKey: is empty"),
            (
                "{attributeKey: k, metricSpec: m}, {attributeKey: k, metricSpec: o}",
                "customMetrics[1].attributeKey: is given twice",
            ),
            (
                &many.join(", "),
                "customMetrics[16].attributeKey: is one more",
            ),
        ] {
            let got = custom(list).unwrap_err();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }

    #[test]
    fn problems_are_told_at_once_with_their_own_lines() {
        let got = engines(
            "    engineConfigs:\n    - name: a\n      kvUsageSpec: k\n    - kvUsageSpec: k{x!=1}\n      loraSpec: l\n      customMetrics:\n      - attributeKey: k\n        metricSpec: sum(x)\n    defaultEngine: sglan\n",
        )
        .unwrap_err();
        let expected = [
            "line 9: plugin `core-metrics-extractor`: parameters.engineConfigs[1].name: is empty",
            "line 9: plugin `core-metrics-extractor`: parameters.engineConfigs[1].kvUsageSpec: `k{x!=1}` is not a metric",
            "line 13: plugin `core-metrics-extractor`: parameters.engineConfigs[1].customMetrics[0].metricSpec: `sum(x)`",
            "line 14: plugin `core-metrics-extractor`: parameters.defaultEngine: no engine is called `sglan`; did you mean `sglang`?",
        ];
        let lines: Vec<_> = got.lines().collect();
        assert_eq!(lines.len(), expected.len(), "{got}");
        for (line, expected) in lines.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}\nnot\n{expected}");
        }
    }
}
