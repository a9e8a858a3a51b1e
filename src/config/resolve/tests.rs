use super::super::DEFAULT;
use super::super::params::SourceParams as _;
use super::head::{API_VERSION, LEGACY_API_VERSION};
use super::*;

const HEAD: &str = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n";

fn good(rest: &str) -> PickerConfig {
    load(&format!("{HEAD}{rest}"), LoadOptions::default()).unwrap()
}

fn bad(rest: &str) -> String {
    let loaded = load(&format!("{HEAD}{rest}"), LoadOptions::default());
    loaded.unwrap_err().to_string()
}

#[test]
fn the_default() {
    let config = load(DEFAULT, LoadOptions::default()).unwrap();
    let weights: Vec<_> = config.profiles[0]
        .scorers
        .iter()
        .map(|s| (s.entry.name, s.weight))
        .collect();
    let expected = [
        ("work-scorer", 1.0),
        ("speed-scorer", 1.0),
        ("gpu-memory-scorer", 0.5),
        ("gpu-cotenant-scorer", 0.5),
    ];
    assert_eq!(weights, expected);
    assert_eq!(config.profiles[0].picker.entry.name, "max-score-picker");
    assert!(config.sources.metrics.is_some() && config.sources.models.is_none());
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn a_profile_is_made_of_what_is_listed() {
    let config = good("plugins: [{type: queue-scorer, name: q}, {type: random-picker}]\n");
    assert_eq!(config.profiles[0].name, "default");
    assert_eq!(config.profiles[0].scorers[0].name, "q");
    assert_eq!(config.profiles[0].picker.entry.name, "random-picker");
}

#[test]
fn discovery_and_sources() {
    let config = good(
        "plugins:\n- {type: file-discovery, parameters: {path: /e.yaml, watchFile: true}}\n- type: metrics-data-source\n  parameters: {interval: 100ms, port: 9000}\ndataLayer:\n  discovery: {pluginRef: file-discovery}\n",
    );
    let Some(Discovery::File(file)) = config.discovery else {
        panic!("no discovery");
    };
    assert!(file.watch_file);
    assert_eq!(config.sources.metrics.unwrap().source.port, Some(9000));
    let config = good("plugins: [{type: queue-scorer}]\ndataLayer: {injectDefaults: false}\n");
    assert!(config.sources.metrics.is_none());
}

#[test]
fn errors_name_the_line_the_field_and_the_nearest_name() {
    for (text, expected) in [
        (
            "plugin: []\n",
            "line 3: unknown field `plugin`; did you mean `plugins`?",
        ),
        (
            "plugins:\n- type: queue-scorr\n",
            "line 4: plugins: type `queue-scorr` is not known; did you mean `queue-scorer`?",
        ),
        (
            "plugins:\n- type: precise-prefix-cache-scorer\n",
            "line 4: plugins: type `precise-prefix-cache-scorer` of the llm-d picker is not supported yet",
        ),
        (
            "plugins:\n- type: queue-scorer\n- type: queue-scorer\n",
            "line 5: plugins: the name `queue-scorer` is used twice",
        ),
        (
            "plugins:\n- type: blocking-testing-scorer\n  parameters: {sleepMs: 1}\n",
            "line 4: plugins: type `blocking-testing-scorer` has alpha stability",
        ),
        (
            "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: que-scorer\n",
            "line 8: schedulingProfiles.plugins.pluginRef: no plugin is called `que-scorer`; did you mean `queue-scorer`?",
        ),
        (
            "plugins:\n- type: random-picker\nschedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: random-picker\n    weight: 2\n",
            "line 9: weight: `random-picker` is a picker; only scorers have weights",
        ),
        (
            "plugins:\n- type: random-picker\n- type: max-score-picker\n",
            "profile `default` has a second picker",
        ),
        (
            "featureGates: [flowControll]\n",
            "line 3: featureGates: `flowControll` is not known; did you mean `flowControl`?",
        ),
        (
            "featureGates: [flowControl]\n",
            "`flowControl` is not supported yet",
        ),
        (
            "plugins:\n- type: queue-scorer\ndataLayer:\n  discovery: {pluginRef: queue-scorer}\n",
            "line 6: dataLayer.discovery.pluginRef: `queue-scorer` is a scorer, not a discovery",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters:\n    scheme: HTTPS\n",
            "line 6: plugin `metrics-data-source`: parameters.scheme: `HTTPS` is not a scheme; use http or https",
        ),
        (
            "plugins:\n- name: x\n",
            "line 4: plugins[0]: missing field `type`",
        ),
        (
            "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: queue-scorer\n    weight: 1e7\n",
            "line 9: weight: 10000000 is not a number from 0 to 1000000",
        ),
        (
            "plugins:\n- type: queue-scorer\nschedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: precise-prefix-cache-scorer\n",
            "line 8: schedulingProfiles.plugins.pluginRef: no plugin is called `precise-prefix-cache-scorer`",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters:\n    port: 1\n    path: metrics\n",
            "line 7: plugin `metrics-data-source`: parameters.path: `metrics` is not a path",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters:\n    path: /a b\n",
            "line 6: plugin `metrics-data-source`: parameters.path: `/a b` is not a path",
        ),
    ] {
        let got = bad(text);
        assert!(
            got.contains(expected),
            "{text}\ngave\n{got}\nnot\n{expected}"
        );
    }
}

#[test]
fn all_problems_are_told_at_once() {
    let got = bad("plugins:\n- type: nope\n- type: neither\nfeatureGates: [x]\n");
    assert_eq!(got.lines().count(), 3, "{got}");
}

#[test]
fn the_legacy_api_version_is_taken_with_a_warning() {
    let text = DEFAULT.replace(API_VERSION, LEGACY_API_VERSION);
    let config = load(&text, LoadOptions::default()).unwrap();
    assert!(config.warnings[0].to_string().contains(API_VERSION));
}

/// `rest` has one problem, and it is this one.
fn only(rest: &str, expected: &str) {
    let got = bad(rest);
    assert!(
        got.starts_with(expected) && got.lines().count() == 1,
        "{rest}\ngave\n{got}\nnot\n{expected}"
    );
}

#[test]
fn a_declaration_that_was_refused_is_one_problem_whatever_refers_to_it() {
    let profile = "schedulingProfiles:\n- name: p\n  plugins:\n  - pluginRef: x\n";
    for (r#type, expected) in [
        ("precise-prefix-cache-scorer", "is not supported yet"),
        (
            "precise-prefix-cache-scorr",
            "did you mean `precise-prefix-cache-scorer`?",
        ),
    ] {
        let got = bad(&format!("plugins:\n- name: x\n  type: {type}\n{profile}"));
        assert!(got.contains(expected) && got.lines().count() == 1, "{got}");
    }
    only(
        "plugins:\n- type: edf-ordering-policy\n  name: o\nflowControl:\n  priorityBands:\n  - orderingPolicyRef: o\n",
        "line 4: plugins: type `edf-ordering-policy` of the llm-d picker is not supported yet",
    );
}

#[test]
fn wrong_types_are_told_with_field_and_line() {
    for (rest, expected) in [
        ("plugins: 3\n", "line 3: plugins: expected a list"),
        (
            "plugins:\n- type: queue-scorer\n- type: [a]\n",
            "line 5: plugins[1].type: expected a single value",
        ),
        (
            "dataLayer:\n  injectDefaults: perhaps\n",
            "line 4: dataLayer.injectDefaults: expected true or false",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters:\n    scheme: http\n    port: many\n",
            "line 7: plugin `metrics-data-source`: parameters.port: invalid type: string \"many\", expected u16",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters: {\n    port: 70000 }\n",
            "line 6: plugin `metrics-data-source`: parameters.port: invalid value: integer `70000`, expected u16",
        ),
        (
            "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n    - name: a\n    - name: b\n      loraSpec: [x]\n",
            "line 9: plugin `core-metrics-extractor`: parameters.engineConfigs[1].loraSpec: invalid type: sequence, expected a string",
        ),
        (
            "plugins:\n- type: core-metrics-extractor\n  parameters:\n    engineConfigs:\n    - name: a\n      loraSpek: x\n",
            "line 8: plugin `core-metrics-extractor`: parameters.engineConfigs[0]: unknown field `loraSpek`; did you mean `loraSpec`?",
        ),
        (
            "plugins:\n- type: file-discovery\n  parameters:\n    watchFile: true\ndataLayer: {discovery: {pluginRef: file-discovery}}\n",
            "line 6: plugin `file-discovery`: parameters: missing field `path`",
        ),
        (
            "plugins:\n- type: file-discovery\ndataLayer: {discovery: {pluginRef: file-discovery}}\n",
            "line 4: plugin `file-discovery`: parameters: missing field `path`",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters: 7\n",
            "line 5: plugin `metrics-data-source`: parameters: invalid type: integer `7`",
        ),
    ] {
        only(rest, expected);
    }
}

#[test]
fn what_nothing_refers_to_is_read_too() {
    for (rest, expected) in [
        (
            "plugins:\n- type: openai-parser\n  parameters:\n    strict: true\n",
            "line 6: plugin `openai-parser`: parameters: unknown field `strict` (it has no parameters)",
        ),
        (
            "plugins:\n- type: single-profile-handler\n  parameters: {profile: p}\n",
            "line 5: plugin `single-profile-handler`: parameters: unknown field `profile`",
        ),
        (
            "plugins:\n- type: file-discovery\n  parameters:\n    path: x\n    watchfile: true\n",
            "line 7: plugin `file-discovery`: parameters: unknown field `watchfile`; did you mean `watchFile`?",
        ),
        (
            "plugins:\n- type: metrics-data-source\n  parameters: {path: x}\ndataLayer: {injectDefaults: false}\n",
            "line 5: plugin `metrics-data-source`: parameters.path: `x` is not a path",
        ),
        (
            "plugins:\n- type: core-metrics-extractor\n  parameters: {engine: x}\ndataLayer: {injectDefaults: false}\n",
            "line 5: plugin `core-metrics-extractor`: parameters: unknown field `engine`",
        ),
    ] {
        only(rest, expected);
    }
    let config = good(
        "plugins: [{type: queue-scorer}, {type: random-picker}]\nschedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n",
    );
    let unused: Vec<_> = config.unused.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(unused, ["random-picker"]);
}

#[test]
fn flow_control_is_checked_although_it_is_not_built() {
    let all = "flowControl:\n  maxBytes: 1G\n  maxRequests: 5000\n  defaultRequestTTL: 60s\n  noEndpointRequestTTL: 0s\n  enableEviction: true\n  defaultPriorityBand: {maxBytes: 1Gi, maxRequests: 10}\n  priorityBands:\n  - {priority: -3, maxBytes: 1}\n";
    let config = good(&format!("plugins: [{{type: queue-scorer}}]\n{all}"));
    let warnings: Vec<_> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("flowControl: flow control is not supported yet"));
    // Nothing of this is without effect.
    let config = good(
        "plugins: [{type: queue-scorer}, {type: utilization-detector}]\nflowControl: {saturationDetector: {pluginRef: utilization-detector}}\n",
    );
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    for (rest, expected) in [
        (
            "flowControl:\n  maxByte: 1\n",
            "line 4: flowControl: unknown field `maxByte`; did you mean `maxBytes`?",
        ),
        (
            "flowControl:\n  maxBytes: -1\n",
            "line 4: flowControl.maxBytes: `-1` is not a quantity",
        ),
        (
            "flowControl:\n  defaultRequestTTL: 60\n",
            "line 4: flowControl.defaultRequestTTL: `60` is not a duration",
        ),
        (
            "flowControl:\n  enableEviction: 3\n",
            "line 4: flowControl.enableEviction: expected true or false",
        ),
        (
            "flowControl:\n  priorityBands:\n  - priority: high\n",
            "line 5: flowControl.priorityBands[0].priority: expected",
        ),
        (
            "flowControl:\n  defaultPriorityBand:\n    maxRequests: x\n",
            "line 5: flowControl.defaultPriorityBand.maxRequests: `x` is not a quantity",
        ),
        (
            "flowControl:\n  saturationDetector:\n    pluginRef: utilization-detector\n",
            "line 5: flowControl.saturationDetector.pluginRef: no plugin is called `utilization-detector`",
        ),
        (
            "flowControl:\n  saturationDetector: {pluginRef: q}\nplugins: [{type: queue-scorer, name: q}]\n",
            "line 4: flowControl.saturationDetector.pluginRef: `q` is a scorer, not a saturation detector",
        ),
        (
            "flowControl: {saturationDetector: {threshold: 1}}\n",
            "line 3: flowControl.saturationDetector: unknown field `threshold`",
        ),
        (
            "flowControl:\n  usageLimitPolicyPluginRef: u\n",
            "line 4: flowControl.usageLimitPolicyPluginRef: no plugin is called `u`",
        ),
        (
            "flowControl:\n  defaultNegativePriorityBand: {fairnessPolicyRef: f}\n",
            "line 4: flowControl.defaultNegativePriorityBand.fairnessPolicyRef: no plugin is called `f`",
        ),
        (
            "saturationDetector: {pluginRef: s}\n",
            "line 3: saturationDetector.pluginRef: no plugin is called `s`",
        ),
        (
            "dataLayer:\n  peerDiscovery: {pluginRef: p}\n",
            "line 4: dataLayer.peerDiscovery.pluginRef: no plugin is called `p`",
        ),
        (
            "dataLayer:\n  crossReplicaSyncInterval: often\n",
            "line 4: dataLayer.crossReplicaSyncInterval: `often` is not a duration",
        ),
    ] {
        only(rest, expected);
    }
}

#[test]
fn https_is_done_as_the_fields_say_and_what_has_no_effect_is_told() {
    let with = |parameters: &str| {
        let config = good(&format!(
            "plugins:\n- type: queue-scorer\n- type: metrics-data-source\n  parameters: {{{parameters}}}\n"
        ));
        let warnings = config.warnings.iter().map(ToString::to_string);
        let tls = config.sources.metrics.unwrap().source.tls();
        (tls, warnings.collect::<Vec<_>>().join("\n"))
    };
    // As Red Hat's llm-d has it.
    let (tls, warnings) = with("scheme: \"https\", clientCertPath: \"\"");
    let tls = tls.unwrap();
    assert!(tls.insecure_skip_verify && tls.ca_cert_path.is_none() && tls.client.is_none());
    assert_eq!(warnings, "");
    let files = "caCertPath: /ca, clientCertPath: /c, clientKeyPath: /k";
    let (tls, warnings) = with(&format!(
        "scheme: https, insecureSkipVerify: false, {files}"
    ));
    let client = Some(("/c".to_owned(), "/k".to_owned()));
    assert_eq!((tls.unwrap().client, &*warnings), (client, ""));
    let (_, warnings) = with(&format!("scheme: https, {files}"));
    assert!(
        warnings.contains("parameters.caCertPath: has no effect: insecureSkipVerify is true"),
        "{warnings}"
    );
    let (tls, warnings) = with(files);
    assert!(
        tls.is_none() && warnings.contains("scheme is http"),
        "{warnings}"
    );
}
