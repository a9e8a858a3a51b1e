//! From the file to a configuration in which nothing is left open.

use std::collections::HashSet;

use super::catalog::{self, Entry, Kind};
use super::document::{self, Document, Reference};
use super::params::{CoreMetricsParams, FileDiscoveryParams, MetricsSourceParams, Parameters};
use super::{ConfigErrors, Problem, did_you_mean};

const API_VERSION: &str = "llm-d.ai/v1alpha1";
const LEGACY_API_VERSION: &str = "inference.networking.x-k8s.io/v1alpha1";
const KIND: &str = "EndpointPickerConfig";
/// Feature gates with their defaults.
const GATES: [(&str, bool); 2] = [
    ("flowControl", false),
    ("haPopulateNonLeaderDatastore", true),
];

/// What the command line says about loading.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Take plugins of alpha stability.
    pub allow_experimental: bool,
}

/// A configuration with every reference looked up and every default filled in.
#[derive(Clone, Debug)]
pub struct PickerConfig {
    /// One profile; the handler takes no more yet.
    pub profile: ProfileSpec,
    /// Which request bodies are read.
    pub parsers: Vec<Parser>,
    /// Where load comes from; `None` = nothing is scraped.
    pub sources: Option<Sources>,
    /// Where endpoints come from; `None` = not from here.
    pub discovery: Option<Discovery>,
    /// What was accepted, but should be written otherwise.
    pub warnings: Vec<Problem>,
    /// What was not in the file and was added, and why.
    pub injected: Vec<String>,
}

/// A scheduling profile.
#[derive(Clone, Debug)]
pub struct ProfileSpec {
    /// Its name.
    pub name: String,
    /// Filters, in their order.
    pub filters: Vec<PluginUse>,
    /// Scorers.
    pub scorers: Vec<PluginUse>,
    /// The picker.
    pub picker: PluginUse,
}

/// A plugin where it is used.
#[derive(Clone, Debug)]
pub struct PluginUse {
    /// Its name in this file.
    pub name: String,
    /// What it is.
    pub entry: &'static Entry,
    /// For scorers.
    pub weight: f32,
    /// As given.
    pub parameters: Parameters,
}

/// Parsers by the reference's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parser {
    /// `openai-parser`
    OpenAi,
    /// `anthropic-parser`
    Anthropic,
    /// `vllmhttp-parser`
    VllmHttp,
    /// `sglanghttp-parser`
    SglangHttp,
    /// `passthrough-parser`
    Passthrough,
}

/// Metric scraping.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// How to scrape.
    pub source: MetricsSourceParams,
    /// What to read.
    pub extractor: CoreMetricsParams,
}

/// Where endpoints come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// A file.
    File(FileDiscoveryParams),
}

struct Declared {
    name: String,
    entry: &'static Entry,
    line: u64,
    parameters: Parameters,
}

struct Resolver {
    declared: Vec<Declared>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    injected: Vec<String>,
}

/// Reads, checks and completes a configuration.
pub fn load(text: &str, options: LoadOptions) -> Result<PickerConfig, ConfigErrors> {
    let document = document::parse(text)?;
    let mut resolver = Resolver {
        declared: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        injected: Vec::new(),
    };
    resolver.header(&document);
    resolver.declare(&document, text, options);
    let profile = resolver.profile(&document);
    let parsers = resolver.parsers(&document);
    let (sources, discovery) = resolver.data_layer(&document);
    match profile {
        Some(profile) if resolver.problems.is_empty() => Ok(PickerConfig {
            profile,
            parsers,
            sources,
            discovery,
            warnings: resolver.warnings,
            injected: resolver.injected,
        }),
        _ => {
            resolver.problems.sort_by_key(|problem| problem.line);
            Err(ConfigErrors(resolver.problems))
        }
    }
}

// === impl Resolver ===

impl Resolver {
    fn problem(&mut self, line: u64, message: impl Into<String>) {
        self.problems.push(Problem::new(line, message));
    }

    fn header(&mut self, document: &Document) {
        let line = document.api_version.referenced.line();
        match document.api_version.value.as_str() {
            API_VERSION => {}
            LEGACY_API_VERSION => self.warnings.push(Problem::new(
                line,
                format!("apiVersion: `{LEGACY_API_VERSION}` is deprecated; write `{API_VERSION}`"),
            )),
            other => self.problem(
                line,
                format!("apiVersion: `{other}` is not known; write `{API_VERSION}`"),
            ),
        }
        if document.kind.value != KIND {
            let message = format!(
                "kind: `{}` is not known; write `{KIND}`",
                document.kind.value
            );
            self.problem(document.kind.referenced.line(), message);
        }
        for gate in &document.feature_gates {
            self.gate(&gate.value, gate.referenced.line());
        }
    }

    fn gate(&mut self, gate: &str, line: u64) {
        let (name, value) = gate.split_once('=').unwrap_or((gate, "true"));
        let Ok(on) = value.parse::<bool>() else {
            return self.problem(
                line,
                format!("featureGates: `{gate}`: write {name}=true or {name}=false"),
            );
        };
        if !GATES.iter().any(|(known, _)| *known == name) {
            let hint = did_you_mean(name, GATES.map(|(known, _)| known));
            return self.problem(line, format!("featureGates: `{name}` is not known{hint}"));
        }
        if name == "flowControl" && on {
            self.problem(
                line,
                "featureGates: `flowControl` is not available in this version; remove it to route without queues",
            );
        }
    }

    fn declare(&mut self, document: &Document, text: &str, options: LoadOptions) {
        for plugin in &document.plugins {
            let line = plugin.r#type.referenced.line();
            let type_name = plugin.r#type.value.as_str();
            let Some(entry) = catalog::find(type_name) else {
                let message = if catalog::NOT_BUILT.contains(&type_name) {
                    format!(
                        "plugins: type `{type_name}` of the llm-d picker is not available in this version"
                    )
                } else {
                    let hint = did_you_mean(type_name, catalog::names());
                    format!("plugins: type `{type_name}` is not known{hint}")
                };
                self.problem(line, message);
                continue;
            };
            if entry.alpha && !options.allow_experimental {
                self.problem(
                    line,
                    format!(
                        "plugins: type `{type_name}` has alpha stability; start with --allow-experimental-plugins to use it"
                    ),
                );
            }
            let name = plugin.name.as_ref().map_or(type_name, |name| &name.value);
            if self.declared.iter().any(|known| known.name == name) {
                self.problem(
                    line,
                    format!("plugins: the name `{name}` is used twice; give each its own `name`"),
                );
                continue;
            }
            let (value, at) = match &plugin.parameters {
                Some(parameters) => (Some(parameters.value.clone()), parameters.referenced.line()),
                None => (None, line),
            };
            self.declared.push(Declared {
                name: name.to_owned(),
                entry,
                line,
                parameters: Parameters::new(name, value, at, text),
            });
        }
    }

    /// The plugin that is called `name`, which must be of one of `kinds`.
    fn find(&mut self, name: &str, line: u64, field: &str, kinds: &[Kind]) -> Option<&Declared> {
        let Some(at) = self.declared.iter().position(|known| known.name == name) else {
            // A type that could not be declared was reported where it stands.
            if !catalog::NOT_BUILT.contains(&name) {
                let hint =
                    did_you_mean(name, self.declared.iter().map(|known| known.name.as_str()));
                self.problem(
                    line,
                    format!(
                        "{field}: no plugin is called `{name}`{hint}; declare it under `plugins`"
                    ),
                );
            }
            return None;
        };
        let kind = self.declared[at].entry.kind;
        if !kinds.contains(&kind) {
            let wanted: Vec<_> = kinds.iter().map(|kind| kind.noun()).collect();
            let message = format!(
                "{field}: `{name}` is a {}, not a {}",
                kind.noun(),
                wanted.join(" or ")
            );
            self.problem(line, message);
            return None;
        }
        Some(&self.declared[at])
    }

    fn profile(&mut self, document: &Document) -> Option<ProfileSpec> {
        let handlers = self.of_kind(Kind::ProfileHandler);
        if let Some(second) = handlers.get(1) {
            let line = self.declared[*second].line;
            self.problem(line, "plugins: more than one profile handler; keep one");
        }
        if handlers.is_empty() {
            self.injected
                .push("single-profile-handler: no profile handler is declared".to_owned());
        }
        let (name, uses) = match document.scheduling_profiles.as_slice() {
            [] => {
                self.injected.push(
                    "profile `default`: no profile is given, so it has all plugins of the file"
                        .to_owned(),
                );
                let names: Vec<_> = self
                    .declared
                    .iter()
                    .map(|d| (d.name.clone(), d.line))
                    .collect();
                let mut uses = Vec::new();
                for (name, line) in names {
                    let used = self.find(&name, line, "plugins", ALL_KINDS).map(use_of);
                    uses.extend(used.map(|plugin| (plugin, line)));
                }
                uses.retain(|(plugin, _)| {
                    matches!(
                        plugin.entry.kind,
                        Kind::Filter | Kind::Scorer | Kind::Picker
                    )
                });
                ("default".to_owned(), uses)
            }
            [profile] => (profile.name.value.clone(), self.profile_uses(profile)),
            [_, second, ..] => {
                self.profile_names(document);
                let line = second.name.referenced.line();
                self.problem(
                    line,
                    "schedulingProfiles: single-profile-handler runs one profile; handlers for more are not available in this version",
                );
                return None;
            }
        };
        let mut spec: (Vec<PluginUse>, Vec<PluginUse>, Option<PluginUse>) = Default::default();
        for (plugin, line) in uses {
            match plugin.entry.kind {
                Kind::Filter => spec.0.push(plugin),
                Kind::Scorer => spec.1.push(plugin),
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
                    parameters: Parameters::new("max-score-picker", None, 0, ""),
                }
            }
        };
        if scorers.is_empty() && picker.entry.name == "max-score-picker" {
            let message = format!("profile `{name}` has no scorer: its picks are random");
            self.warnings.push(Problem::new(0, message));
        }
        Some(ProfileSpec {
            name,
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
            let kinds = [Kind::Filter, Kind::Scorer, Kind::Picker];
            let field = "schedulingProfiles.plugins.pluginRef";
            let Some(mut used) = self
                .find(&plugin.plugin_ref.value, line, field, &kinds)
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
                if !weight.value.is_finite() || weight.value < 0.0 {
                    self.problem(
                        line,
                        format!("weight: {} is not a number from 0 up", weight.value),
                    );
                }
                used.weight = weight.value as f32;
            }
            uses.push((used, line));
        }
        uses
    }

    fn parsers(&mut self, document: &Document) -> Vec<Parser> {
        let mut references: Vec<&Reference> = Vec::new();
        if let Some(handler) = &document.request_handler {
            references.extend(&handler.parsers);
        }
        if let Some(parser) = &document.parser {
            let line = parser.plugin_ref.referenced.line();
            self.warnings.push(Problem::new(
                line,
                "parser: deprecated; write requestHandler.parsers",
            ));
            references.push(parser);
        }
        let mut parsers = Vec::new();
        for reference in references {
            let (name, line) = (
                &reference.plugin_ref.value,
                reference.plugin_ref.referenced.line(),
            );
            let found = self.find(
                name,
                line,
                "requestHandler.parsers.pluginRef",
                &[Kind::Parser],
            );
            parsers.extend(found.and_then(|declared| Parser::from_type(declared.entry.name)));
        }
        if parsers.is_empty() {
            parsers = vec![
                Parser::OpenAi,
                Parser::Anthropic,
                Parser::VllmHttp,
                Parser::SglangHttp,
                Parser::Passthrough,
            ];
        }
        if let Some(detector) = &document.saturation_detector {
            let line = detector.plugin_ref.referenced.line();
            self.warnings.push(Problem::new(line, "saturationDetector: deprecated, and without flow control not used; write flowControl.saturationDetector"));
        }
        if let Some(flow_control) = &document.flow_control {
            let line = flow_control.referenced.line();
            self.warnings.push(Problem::new(
                line,
                "flowControl: not used, the feature gate `flowControl` is off",
            ));
        }
        parsers
    }

    fn data_layer(&mut self, document: &Document) -> (Option<Sources>, Option<Discovery>) {
        let layer = document.data_layer.as_ref();
        for (field, reference) in [
            (
                "dataLayer.peerDiscovery",
                layer
                    .and_then(|l| l.peer_discovery.as_ref())
                    .map(|r| &r.plugin_ref),
            ),
            (
                "dataLayer.crossReplicaSyncerPluginRef",
                layer.and_then(|l| l.cross_replica_syncer_plugin_ref.as_ref()),
            ),
        ] {
            if let Some(reference) = reference {
                self.problem(
                    reference.referenced.line(),
                    format!("{field}: not available in this version; remove it"),
                );
            }
        }
        let sources = self.sources(document);
        let discovery = layer
            .and_then(|l| l.discovery.as_ref())
            .and_then(|reference| {
                let line = reference.plugin_ref.referenced.line();
                let field = "dataLayer.discovery.pluginRef";
                let parameters = self
                    .find(&reference.plugin_ref.value, line, field, &[Kind::Discovery])?
                    .parameters
                    .clone();
                self.read(parameters.read()).map(Discovery::File)
            });
        (sources, discovery)
    }

    fn sources(&mut self, document: &Document) -> Option<Sources> {
        let layer = document.data_layer.as_ref();
        let mut source = None;
        let mut extractor = None;
        for listed in layer.map(|l| l.sources.as_slice()).unwrap_or_default() {
            let line = listed.plugin_ref.referenced.line();
            let found = self.find(
                &listed.plugin_ref.value,
                line,
                "dataLayer.sources.pluginRef",
                &[Kind::Source],
            );
            source = found.map(|declared| declared.parameters.clone()).or(source);
            for reference in &listed.extractors {
                let (name, line) = (
                    &reference.plugin_ref.value,
                    reference.plugin_ref.referenced.line(),
                );
                let field = "dataLayer.sources.extractors.pluginRef";
                let found = self.find(name, line, field, &[Kind::Extractor]);
                extractor = found
                    .map(|declared| declared.parameters.clone())
                    .or(extractor);
            }
        }
        let inject = layer.and_then(|l| l.inject_defaults).unwrap_or(true);
        if source.is_none() && !inject {
            return None;
        }
        // Declared, but not listed: still the parameters that the user means.
        let declared = |resolver: &Self, kind| {
            let at = resolver.of_kind(kind).first().copied()?;
            Some(resolver.declared[at].parameters.clone())
        };
        if source.is_none() {
            self.injected.push(
                "metrics-data-source with core-metrics-extractor: dataLayer.sources is empty"
                    .to_owned(),
            );
        }
        let source = source.or_else(|| declared(self, Kind::Source));
        let extractor = extractor.or_else(|| declared(self, Kind::Extractor));
        let mut sources = Sources::default();
        if let Some(parameters) = source {
            let read = parameters.read::<MetricsSourceParams>().and_then(|params| {
                params.check(&parameters)?;
                Ok(params)
            });
            sources.source = self.read(read)?;
        }
        if let Some(parameters) = extractor {
            sources.extractor = self.read(parameters.read())?;
        }
        Some(sources)
    }

    fn of_kind(&self, kind: Kind) -> Vec<usize> {
        let of_kind = |&at: &usize| self.declared[at].entry.kind == kind;
        (0..self.declared.len()).filter(of_kind).collect()
    }

    fn read<T>(&mut self, read: Result<T, Problem>) -> Option<T> {
        read.map_err(|problem| self.problems.push(problem)).ok()
    }
}

const ALL_KINDS: &[Kind] = &[
    Kind::Filter,
    Kind::Scorer,
    Kind::Picker,
    Kind::ProfileHandler,
    Kind::Parser,
    Kind::Source,
    Kind::Extractor,
    Kind::Discovery,
];

fn use_of(declared: &Declared) -> PluginUse {
    PluginUse {
        name: declared.name.clone(),
        entry: declared.entry,
        weight: 1.0,
        parameters: declared.parameters.clone(),
    }
}

// === impl Parser ===

impl Parser {
    fn from_type(name: &str) -> Option<Self> {
        Some(match name {
            "openai-parser" => Self::OpenAi,
            "anthropic-parser" => Self::Anthropic,
            "vllmhttp-parser" => Self::VllmHttp,
            "sglanghttp-parser" => Self::SglangHttp,
            "passthrough-parser" => Self::Passthrough,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::DEFAULT;
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
        let weights: Vec<_> = config
            .profile
            .scorers
            .iter()
            .map(|s| (s.entry.name, s.weight))
            .collect();
        assert_eq!(
            weights,
            [("queue-scorer", 2.0), ("kv-cache-utilization-scorer", 2.0)]
        );
        assert_eq!(config.profile.picker.entry.name, "max-score-picker");
        assert!(config.sources.is_some());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn a_profile_is_made_of_what_is_listed() {
        let config = good("plugins: [{type: queue-scorer, name: q}, {type: random-picker}]\n");
        assert_eq!(config.profile.name, "default");
        assert_eq!(config.profile.scorers[0].name, "q");
        assert_eq!(config.profile.picker.entry.name, "random-picker");
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
        assert_eq!(config.sources.unwrap().source.port, Some(9000));
        let config = good("plugins: [{type: queue-scorer}]\ndataLayer: {injectDefaults: false}\n");
        assert!(config.sources.is_none());
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
                "plugins:\n- type: prefix-cache-scorer\n",
                "line 4: plugins: type `prefix-cache-scorer` of the llm-d picker is not available",
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
                "`flowControl` is not available",
            ),
            (
                "plugins:\n- type: queue-scorer\ndataLayer:\n  discovery: {pluginRef: queue-scorer}\n",
                "line 6: dataLayer.discovery.pluginRef: `queue-scorer` is a scorer, not a discovery",
            ),
            (
                "plugins:\n- type: metrics-data-source\n  parameters:\n    scheme: https\n",
                "line 6: plugin `metrics-data-source`: parameters.scheme: `https` is not available",
            ),
            ("plugins:\n- name: x\n", "missing field `type`"),
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
}
