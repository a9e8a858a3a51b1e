//! From the file to a configuration in which nothing is left open.
//!
//! Here: the file's plugins, and how references find them. [`head`] is the file's head; [`profile`], [`data_layer`],
//! [`admission`] and [`requests`] resolve the sections that refer to plugins. Problems are collected, so that a file is read once and told all.

use serde_saphyr::Spanned;

use super::catalog::{self, Entry, Kind};
use super::document::Document;
use super::params::{FileDiscoveryParams, NoParams, Parameters};
use super::{ConfigErrors, Problem, did_you_mean, yaml};

pub use data_layer::{DcgmSource, MetricsSource, ModelsSource, PolledSource, Sources};
pub use handler::{DisaggSpec, HandlerSpec, HandlerUse};

mod admission;
mod data_layer;
mod handler;
#[cfg(test)]
mod handler_tests;
mod head;
mod producers;
mod profile;
mod requests;
#[cfg(test)]
mod tests;
mod topology;

/// What the command line says about loading.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Take plugins of alpha stability.
    pub allow_experimental: bool,
}

/// A configuration with every reference looked up and every default filled in.
#[derive(Clone, Debug)]
pub struct PickerConfig {
    /// The profiles; at least one.
    pub profiles: Vec<ProfileSpec>,
    /// Which of them run for a request.
    pub handler: HandlerUse,
    /// Producers: those of the file, then those that were added.
    pub producers: Vec<PluginUse>,
    /// What says how full the pool is.
    pub detector: PluginUse,
    /// What may turn away requests, in their order.
    pub admitters: Vec<PluginUse>,
    /// Which request bodies are read.
    pub parsers: Vec<Parser>,
    /// What is polled of the endpoints.
    pub sources: Sources,
    /// What tells the gateway, or clients, of responses.
    pub reporters: Vec<PluginUse>,
    /// Where endpoints come from; `None` = not from here.
    pub discovery: Option<Discovery>,
    /// What is declared for profiles, and in none.
    pub unused: Vec<PluginUse>,
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
    /// Its parameters.
    pub parameters: Parameters,
    /// Those of the plugin that it asks, if it asks one.
    pub producer: Option<Parameters>,
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

/// Where endpoints come from.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// A file.
    File(FileDiscoveryParams),
}

/// Types that go by predictions of latency, and what they do without.
const PREDICTED: [(&str, &str); 2] = [
    (
        "latency-slo-admitter",
        "admits everything (probabilistic-admitter goes by load)",
    ),
    ("slo-headroom-tier-filter", "keeps all endpoints"),
];

struct Declared {
    name: String,
    entry: &'static Entry,
    line: u64,
    parameters: Parameters,
    /// Something refers to it, or takes it for want of another.
    used: bool,
}

struct Resolver {
    declared: Vec<Declared>,
    /// Names of plugins that were declared wrongly, which was told: a reference to one is no second problem.
    refused: Vec<String>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    injected: Vec<String>,
}

/// Reads, checks and completes a configuration.
pub fn load(text: &str, options: LoadOptions) -> Result<PickerConfig, ConfigErrors> {
    let document: Document = yaml::read(text)?;
    let mut resolver = Resolver {
        declared: Vec::new(),
        refused: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
        injected: Vec::new(),
    };
    resolver.header(&document);
    resolver.declare(&document, options);
    resolver.extractors();
    let profiles = resolver.profiles(&document);
    let detector = resolver.detector(&document);
    let admitters = resolver.admitters();
    let handler = resolver.handler(&document, &profiles);
    let producers = resolver.producers(&profiles, detector.as_ref());
    let parsers = resolver.parsers(&document);
    resolver.flow_control(&document);
    let (sources, discovery) = resolver.data_layer(&document);
    let reporters = resolver.all_of(Kind::Reporter);
    let unused = resolver.unused();
    match handler.zip(detector) {
        Some((handler, detector)) if resolver.problems.is_empty() => Ok(PickerConfig {
            profiles,
            detector,
            admitters,
            handler,
            producers,
            parsers,
            sources,
            reporters,
            discovery,
            unused,
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

    fn declare(&mut self, document: &Document, options: LoadOptions) {
        for plugin in &document.plugins {
            let line = plugin.r#type.referenced.line();
            let type_name = plugin.r#type.value.as_str();
            let name = plugin.name.as_ref().map_or(type_name, |name| &name.value);
            if self.is_declared(name) || self.refused.iter().any(|known| known == name) {
                self.problem(
                    line,
                    format!("plugins: the name `{name}` is used twice; give each its own `name`"),
                );
                continue;
            }
            let Some(entry) = catalog::find(type_name) else {
                let message = if catalog::NOT_BUILT.contains(&type_name) {
                    format!("plugins: type `{type_name}` of the llm-d picker is not supported yet")
                } else {
                    let hint = did_you_mean(type_name, catalog::names());
                    format!("plugins: type `{type_name}` is not known{hint}")
                };
                self.problem(line, message);
                self.refused.push(name.to_owned());
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
            if let Some(instead) = entry.deprecated {
                let message = format!("plugins: type `{type_name}` is deprecated; {instead}");
                self.warnings.push(Problem::new(line, message));
            }
            if let Some((_, effect)) = PREDICTED.iter().find(|(known, _)| *known == type_name) {
                let message = format!(
                    "plugins: `{name}` {effect}: it goes by predicted latencies, which are not supported yet"
                );
                self.warnings.push(Problem::new(line, message));
            }
            self.declared.push(Declared {
                name: name.to_owned(),
                entry,
                line,
                parameters: Parameters::new(name, plugin.parameters.clone(), line),
                used: false,
            });
        }
    }

    fn is_declared(&self, name: &str) -> bool {
        self.declared.iter().any(|known| known.name == name)
    }

    /// The plugin that is referred to, which must be of one of `kinds`.
    fn find(
        &mut self,
        reference: &Spanned<String>,
        field: &str,
        kinds: &[Kind],
    ) -> Option<&Declared> {
        let (name, line) = (reference.value.as_str(), reference.referenced.line());
        let Some(at) = self.declared.iter().position(|known| known.name == name) else {
            self.undeclared(name, line, field);
            return None;
        };
        let kind = self.declared[at].entry.kind;
        if !kinds.contains(&kind) {
            let wanted: Vec<_> = kinds.iter().map(|kind| kind.noun()).collect();
            let noun = kind.noun();
            let article = if noun.starts_with(['a', 'e']) {
                "an"
            } else {
                "a"
            };
            let message = format!(
                "{field}: `{name}` is {article} {noun}, not a {}",
                wanted.join(" or ")
            );
            self.problem(line, message);
            return None;
        }
        self.declared[at].used = true;
        Some(&self.declared[at])
    }

    /// Nothing is called `name`: a problem, unless it is one already.
    fn undeclared(&mut self, name: &str, line: u64, field: &str) {
        if self.refused.iter().any(|known| known == name) {
            return;
        }
        let hint = did_you_mean(name, self.declared.iter().map(|known| known.name.as_str()));
        let message =
            format!("{field}: no plugin is called `{name}`{hint}; declare it under `plugins`");
        self.problem(line, message);
    }

    /// A reference to a `noun`, which no built plugin is. It is a problem in any case, and told once: nothing is declared
    /// under that name, or something else, or something that the declaration was refused for.
    fn not_built(&mut self, reference: &Spanned<String>, field: &str, noun: &str) {
        let (name, line) = (reference.value.as_str(), reference.referenced.line());
        let declared = self.declared.iter().find(|known| known.name == name);
        match declared.map(|known| known.entry.kind.noun()) {
            Some(kind) => {
                self.problem(line, format!("{field}: `{name}` is a {kind}, not a {noun}"));
            }
            None => self.undeclared(name, line, field),
        }
    }

    /// Whether `read` takes the value of `field`.
    fn check<T>(
        &mut self,
        value: Option<&Spanned<String>>,
        field: &str,
        read: fn(&str) -> Result<T, String>,
    ) {
        if let Some(value) = value
            && let Err(error) = read(&value.value)
        {
            self.problem(value.referenced.line(), format!("{field}: {error}"));
        }
    }

    fn of_kind(&self, kind: Kind) -> Vec<usize> {
        let of_kind = |&at: &usize| self.declared[at].entry.kind == kind;
        (0..self.declared.len()).filter(of_kind).collect()
    }

    /// All plugins of `kind`, which need no reference to have an effect.
    fn all_of(&self, kind: Kind) -> Vec<PluginUse> {
        let all = self.of_kind(kind).into_iter();
        all.map(|at| use_of(&self.declared[at])).collect()
    }

    /// Reads what no section read: what is declared is right, or told. Those for profiles are left to whoever makes them.
    fn unused(&mut self) -> Vec<PluginUse> {
        let mut unused = Vec::new();
        for declared in &self.declared {
            let (used, parameters) = (declared.used, &declared.parameters);
            let read = match declared.entry.kind {
                Kind::Filter | Kind::Scorer | Kind::Picker | Kind::Detector if !used => {
                    unused.push(use_of(declared));
                    Ok(())
                }
                Kind::Parser => parameters.read::<NoParams>().map(drop),
                Kind::Source | Kind::Extractor if !used => {
                    data_layer::unlisted(declared, &mut self.warnings)
                }
                Kind::Discovery if !used => parameters.read::<FileDiscoveryParams>().map(drop),
                _ => Ok(()),
            };
            self.problems.extend(read.err());
        }
        unused
    }

    fn read<T>(&mut self, read: Result<T, Problem>) -> Option<T> {
        read.map_err(|problem| self.problems.push(problem)).ok()
    }
}

fn use_of(declared: &Declared) -> PluginUse {
    PluginUse {
        name: declared.name.clone(),
        entry: declared.entry,
        weight: 1.0,
        parameters: declared.parameters.clone(),
        producer: None,
    }
}
