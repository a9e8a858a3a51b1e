//! From plugin types to plugins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::deciders::always::Always;
use super::deciders::multimodal::Multimodal;
use super::deciders::prefix_based::PrefixBased;
use super::filters::concurrency_detector::ConcurrencyDetector;
use super::filters::gpu_health::{self, GpuHealth};
use super::filters::header_based_testing::HeaderBasedTesting;
use super::filters::label_selector::LabelSelector;
use super::filters::prefix_cache_affinity::PrefixCacheAffinity;
use super::filters::roles::Role;
use super::filters::slo_headroom_tier::SloHeadroomTier;
use super::filters::topology_affinity::TopologyAffinityFilter;
use super::filters::utilization::Utilization;
use super::filters::utilization_detector::UtilizationDetector;
use super::handlers::data_parallel::DataParallel;
use super::handlers::disagg::Disagg;
use super::handlers::header::Header;
use super::handlers::single::Single;
use super::pickers::max_score::MaxScore;
use super::pickers::random::Random;
use super::pickers::weighted_random::WeightedRandom;
use super::scorers::active_request::ActiveRequest;
use super::scorers::blocking_testing::BlockingTesting;
use super::scorers::context_length_aware::ContextLengthAware;
use super::scorers::gpu_cotenant::GpuCotenant;
use super::scorers::gpu_memory::GpuMemory;
use super::scorers::header_label_affinity::HeaderLabelAffinity;
use super::scorers::kv_cache_utilization::KvCacheUtilization;
use super::scorers::latency::Latency;
use super::scorers::load_aware::LoadAware;
use super::scorers::lora_affinity::LoraAffinity;
use super::scorers::no_hit_lru::NoHitLru;
use super::scorers::prefix_cache::PrefixCache;
use super::scorers::queue::Queue;
use super::scorers::running_requests::RunningRequests;
use super::scorers::speed::Speed;
use super::scorers::token_load::TokenLoad;
use super::scorers::topology_affinity::TopologyAffinityScorer;
use super::scorers::work::Work;
use super::session::Sessions;
use super::topology::Topology;
use super::{
    Decider, Filter, Picker, Producers, Profile, ProfileHandler, Scheduler, Scorer, Timers,
    filters, scorers,
};
use crate::config::catalog::Kind;
use crate::config::params::{
    BlockingTestingParams, NoParams, Parameters, PickerParams, PrefixBasedPdParams,
    TopologyFilterParams, TopologyScorerParams,
};
use crate::config::{ConfigErrors, HandlerSpec, PickerConfig, PluginUse, Problem, ProfileSpec};

/// More fallbacks than anyone retries over.
const MAX_ENDPOINTS: usize = 64;

/// Makes the scheduler that `config` describes.
pub fn build(config: &PickerConfig) -> Result<Scheduler, ConfigErrors> {
    let mut problems = Vec::new();
    let producers = Producers::of(config, &mut problems);
    let mut made = Made::default();
    let profiles = config
        .profiles
        .iter()
        .filter_map(|spec| profile(spec, config, &producers, &mut made, &mut problems))
        .collect();
    let unused = |plugin: &PluginUse| unused(plugin, config, &producers);
    collect(&config.unused, unused, &mut problems);
    let handler = handler(&config.handler.spec).map_err(|problem| problems.push(problem));
    match handler {
        Ok(handler) if problems.is_empty() => Ok(Scheduler {
            profiles,
            name: (config.handler.name.clone(), config.handler.r#type),
            handler,
            producers,
        }),
        _ => {
            // A plugin of two profiles has its problem once.
            let mut told = Vec::new();
            problems.retain(|problem| {
                let new = !told.contains(problem);
                told.extend(new.then(|| problem.clone()));
                new
            });
            Err(ConfigErrors(problems))
        }
    }
}

/// What was made, by name: a plugin of several profiles is one, with what it knows.
#[derive(Default)]
struct Made {
    filters: HashMap<String, Arc<dyn Filter>>,
    scorers: HashMap<String, Arc<dyn Scorer>>,
}

/// The one called as `plugin`, made by `make` if it is new.
fn once<T: ?Sized>(
    made: &mut HashMap<String, Arc<T>>,
    plugin: &PluginUse,
    make: impl FnOnce() -> Result<Arc<T>, Problem>,
) -> Result<Arc<T>, Problem> {
    if let Some(known) = made.get(&plugin.name) {
        return Ok(Arc::clone(known));
    }
    let new = make()?;
    made.insert(plugin.name.clone(), Arc::clone(&new));
    Ok(new)
}

/// `None`: it has problems.
fn profile(
    spec: &ProfileSpec,
    config: &PickerConfig,
    producers: &Producers,
    made: &mut Made,
    problems: &mut Vec<Problem>,
) -> Option<Profile> {
    let filter = |plugin: &PluginUse| {
        let make = || filter(plugin, config, producers).map(Arc::from);
        once(&mut made.filters, plugin, make)
    };
    let scorer = |plugin: &PluginUse| {
        let make = || scorer(plugin, config, producers).map(Arc::from);
        once(&mut made.scorers, plugin, make)
    };
    let (health, others) = match spec.filters.split_first() {
        Some((first, others)) if first.entry.name == gpu_health::TYPE => (Some(first), others),
        _ => (None, &*spec.filters),
    };
    let listed = health;
    let health = health.map(GpuHealth::of).transpose();
    let health = health.map_err(|problem| problems.push(problem));
    let mut filters: Vec<_> = collect(others, filter, problems).collect();
    filters.sort_by_key(|(_, filter)| !filter.is_of_kind());
    let timers = Timers::of(spec, timed(listed, &filters));
    let filters = filters
        .into_iter()
        .map(|(plugin, filter)| (plugin.name.clone(), Box::new(filter) as _))
        .collect();
    let scorers = collect(&spec.scorers, scorer, problems)
        .map(|(plugin, scorer)| (plugin.name.clone(), plugin.weight, Box::new(scorer) as _))
        .collect();
    let picker = picker(&spec.picker).map_err(|problem| problems.push(problem));
    Some(Profile {
        name: spec.name.clone(),
        health: health.ok()?.unwrap_or_default(),
        filters,
        scorers,
        picker: (spec.picker.name.clone(), picker.ok()?),
        timers,
    })
}

/// Filters in the order in which they run: those of the kind, `health` if it is listed, the others.
fn timed<'a>(
    health: Option<&'a PluginUse>,
    filters: &[(&'a PluginUse, Arc<dyn Filter>)],
) -> Vec<&'a PluginUse> {
    let kinds = filters.partition_point(|(_, filter)| filter.is_of_kind());
    let mut timed: Vec<_> = filters.iter().map(|(plugin, _)| *plugin).collect();
    timed.splice(kinds..kinds, health);
    timed
}

fn handler(spec: &HandlerSpec) -> Result<Box<dyn ProfileHandler>, Problem> {
    Ok(match spec {
        HandlerSpec::Single => Box::new(Single),
        HandlerSpec::Header { header, default } => Box::new(Header {
            header: header.clone(),
            default: *default,
        }),
        HandlerSpec::DataParallel { primary_port } => Box::new(DataParallel {
            primary_port: *primary_port,
        }),
        HandlerSpec::Disagg(spec) => Box::new(Disagg {
            order: spec.order,
            decode: spec.decode,
            prefill: match &spec.prefill {
                Some((profile, plugin)) => {
                    Some((*profile, plugin.as_ref().map(decider).transpose()?))
                }
                None => None,
            },
            encode: match &spec.encode {
                Some((profile, plugin)) => Some((*profile, decider(plugin)?)),
                None => None,
            },
            primary_port: spec.primary_port,
        }),
    })
}

fn decider(plugin: &PluginUse) -> Result<Box<dyn Decider>, Problem> {
    Ok(match plugin.entry.name {
        "always-disagg-pd-decider" => Box::new(none(plugin, Always)?),
        "always-disagg-multimodal-decider" => Box::new(none(plugin, Multimodal)?),
        "prefix-based-pd-decider" => {
            let params: PrefixBasedPdParams = plugin.parameters.read()?;
            Box::new(PrefixBased {
                non_cached_tokens: params.non_cached_tokens,
                prompt_tokens: params.prompt_tokens,
            })
        }
        _ => return Err(unknown(plugin)),
    })
}

fn collect<'a, T>(
    uses: &'a [PluginUse],
    mut make: impl FnMut(&PluginUse) -> Result<T, Problem>,
    problems: &mut Vec<Problem>,
) -> std::vec::IntoIter<(&'a PluginUse, T)> {
    let mut made = Vec::new();
    for plugin in uses {
        match make(plugin) {
            Ok(value) => made.push((plugin, value)),
            Err(problem) => problems.push(problem),
        }
    }
    made.into_iter()
}

fn filter(
    plugin: &PluginUse,
    config: &PickerConfig,
    producers: &Producers,
) -> Result<Box<dyn Filter>, Problem> {
    Ok(match plugin.entry.name {
        "header-based-testing-filter" => Box::new(none(plugin, HeaderBasedTesting)?),
        "label-selector-filter" | "by-label-selector" => Box::new(LabelSelector::of(plugin)?),
        "by-label" => Box::new(LabelSelector::by_label(plugin)?),
        "prefill-filter" => Box::new(none(plugin, Role::prefill())?),
        "decode-filter" => Box::new(none(plugin, Role::decode())?),
        "encode-filter" => Box::new(none(plugin, Role::encode())?),
        "endpoint-attribute-filter" => Box::new(
            filters::endpoint_attribute::EndpointAttribute::of(plugin, config)?,
        ),
        gpu_health::TYPE => Box::new(GpuHealth::of(plugin)?),
        "gpu-memory-filter" => Box::new(filters::gpu_memory::GpuMemoryFilter::of(plugin)?),
        "utilization-filter" => Box::new(Utilization::of(plugin)?),
        "prefix-cache-affinity-filter" => Box::new(PrefixCacheAffinity::of(plugin, producers)?),
        "slo-headroom-tier-filter" => Box::new(SloHeadroomTier::of(plugin)?),
        "utilization-detector" => Box::new(UtilizationDetector::of(plugin)?),
        "concurrency-detector" => Box::new(ConcurrencyDetector::of(plugin)?),
        "context-length-aware" => Box::new(ContextLengthAware::of(plugin)?),
        "session-affinity-filter" => Box::new(filters::session_affinity::SessionAffinity(
            Sessions::of(plugin, config, producers)?,
        )),
        "topology-affinity-filter" => {
            let params: TopologyFilterParams = plugin.parameters.read()?;
            Box::new(TopologyAffinityFilter {
                widest: params.min_affinity,
                topology: topology(plugin)?,
            })
        }
        _ => return Err(unknown(plugin)),
    })
}

fn scorer(
    plugin: &PluginUse,
    config: &PickerConfig,
    producers: &Producers,
) -> Result<Box<dyn Scorer>, Problem> {
    Ok(match plugin.entry.name {
        "queue-scorer" => Box::new(none(plugin, Queue)?),
        "running-requests-size-scorer" => Box::new(none(plugin, RunningRequests)?),
        "kv-cache-utilization-scorer" => Box::new(none(plugin, KvCacheUtilization)?),
        "lora-affinity-scorer" => Box::new(none(plugin, LoraAffinity)?),
        "prefix-cache-scorer" => Box::new(PrefixCache::of(plugin, producers)?),
        "no-hit-lru-scorer" => Box::new(NoHitLru::of(plugin, producers)?),
        "load-aware-scorer" => Box::new(LoadAware::of(plugin)?),
        "active-request-scorer" => Box::new(ActiveRequest::of(plugin)?),
        "endpoint-attribute-scorer" => Box::new(
            scorers::endpoint_attribute::EndpointAttribute::of(plugin, config)?,
        ),
        "latency-scorer" => Box::new(Latency::of(plugin)?),
        "session-affinity-scorer" => Box::new(scorers::session_affinity::SessionAffinity(
            Sessions::of(plugin, config, producers)?,
        )),
        "speed-scorer" => Box::new(Speed::of(plugin)?),
        "gpu-memory-scorer" => Box::new(GpuMemory::of(plugin)?),
        "gpu-cotenant-scorer" => Box::new(GpuCotenant::of(plugin)?),
        "work-scorer" => Box::new(Work::of(plugin)?),
        "token-load-scorer" => Box::new(TokenLoad::of(plugin)?),
        "header-label-affinity-scorer" => Box::new(HeaderLabelAffinity::of(plugin)?),
        "context-length-aware" => Box::new(ContextLengthAware::of(plugin)?),
        "topology-affinity-scorer" => {
            plugin.parameters.read::<TopologyScorerParams>()?;
            Box::new(TopologyAffinityScorer {
                topology: topology(plugin)?,
            })
        }
        "blocking-testing-scorer" => {
            let params: BlockingTestingParams = plugin.parameters.read()?;
            Box::new(BlockingTesting {
                sleep: Duration::from_millis(params.sleep_ms),
            })
        }
        _ => return Err(unknown(plugin)),
    })
}

fn picker(plugin: &PluginUse) -> Result<Box<dyn Picker>, Problem> {
    let params: PickerParams = plugin.parameters.read()?;
    let endpoints = params.max_num_of_endpoints;
    if !(1..=MAX_ENDPOINTS).contains(&endpoints) {
        let message = format!("{endpoints} is not from 1 to {MAX_ENDPOINTS}");
        return Err(plugin
            .parameters
            .field_problem("maxNumOfEndpoints", &message));
    }
    Ok(match plugin.entry.name {
        "max-score-picker" => Box::new(MaxScore { endpoints }),
        "random-picker" => Box::new(Random { endpoints }),
        "weighted-random-picker" => Box::new(WeightedRandom { endpoints }),
        _ => return Err(unknown(plugin)),
    })
}

/// As the extractor that `plugin` asks tells it.
fn topology(plugin: &PluginUse) -> Result<Topology, Problem> {
    let extractor = plugin.producer.as_ref().map(Parameters::read);
    Ok(Topology::new(extractor.transpose()?))
}

/// A plugin without parameters, which must have been given none.
fn none<T>(plugin: &PluginUse, made: T) -> Result<T, Problem> {
    plugin.parameters.read::<NoParams>()?;
    Ok(made)
}

/// Makes and drops `plugin`, which nothing refers to: what is wrong with it is told all the same.
fn unused(plugin: &PluginUse, config: &PickerConfig, producers: &Producers) -> Result<(), Problem> {
    match plugin.entry.kind {
        Kind::Filter | Kind::Detector => filter(plugin, config, producers).map(drop),
        Kind::Scorer => scorer(plugin, config, producers).map(drop),
        Kind::Picker => picker(plugin).map(drop),
        // Read when the configuration was.
        _ => Ok(()),
    }
}

/// The catalog has a type that is not made here: a fault of ours, found by the test below.
fn unknown(plugin: &PluginUse) -> Problem {
    Problem::new(
        0,
        format!("plugin type `{}` cannot be made", plugin.entry.name),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::catalog::BUILT;
    use crate::config::{LoadOptions, load};

    fn built(plugins: &str) -> Result<Scheduler, ConfigErrors> {
        let text = format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{plugins}"
        );
        let options = LoadOptions {
            allow_experimental: true,
        };
        build(&load(&text, options)?)
    }

    #[test]
    fn every_type_of_the_catalog_can_be_made() {
        for entry in BUILT {
            let made_here = [
                Kind::Filter,
                Kind::Scorer,
                Kind::Picker,
                Kind::Producer,
                Kind::Detector,
            ];
            if !made_here.contains(&entry.kind) {
                continue;
            }
            let parameters = match entry.name {
                "blocking-testing-scorer" => "{sleepMs: 1}",
                "session-id-producer" => "{headerName: a}",
                "endpoint-attribute-filter" => {
                    "{attribute: a, algorithm: {type: threshold, threshold: {operator: Equal, value: 1}}}"
                }
                "endpoint-attribute-scorer" => {
                    "{attributeKey: a, algorithm: {type: linear_lower_is_better}}"
                }
                "by-label" => "{label: a, validValues: [b]}",
                "utilization-filter" => "{conditions: [{metric: waiting-queue, maxValue: 1}]}",
                "header-label-affinity-scorer" => "{headerName: a, labelKey: b}",
                _ => "{}",
            };
            built(&format!(
                "- {{type: {}, parameters: {parameters}}}\n",
                entry.name
            ))
            .unwrap();
        }
    }

    #[test]
    fn every_handler_and_decider_of_the_catalog_can_be_made() {
        for entry in BUILT {
            let plugins = match entry.kind {
                Kind::ProfileHandler => format!("- type: {}\n", entry.name),
                Kind::Decider => format!(
                    "- type: disagg-profile-handler\n  parameters: {{profiles: {{decode: default, encode: default}}, deciders: {{encode: {}}}}}\n- type: {}\n",
                    entry.name, entry.name
                ),
                _ => continue,
            };
            let rest = match entry.name {
                "disagg-profile-handler" => "  parameters: {profiles: {decode: default}}\n",
                "pd-profile-handler" => {
                    "  parameters: {decodeProfile: default, prefillProfile: default}\n- type: prefix-based-pd-decider\n"
                }
                _ => "",
            };
            built(&format!("{plugins}{rest}")).unwrap();
        }
    }

    #[test]
    fn wrong_parameters_are_named_with_their_line() {
        for (plugins, expected) in [
            (
                "- type: max-score-picker\n  parameters:\n    maxNumEndpoints: 2\n",
                "line 6: plugin `max-score-picker`: parameters: unknown field `maxNumEndpoints`; did you mean `maxNumOfEndpoints`?",
            ),
            (
                "- type: max-score-picker\n  parameters:\n    maxNumOfEndpoints: 0\n",
                "line 6: plugin `max-score-picker`: parameters.maxNumOfEndpoints: 0 is not from 1 to 64",
            ),
            (
                "- type: queue-scorer\n  parameters: {x: 1}\n",
                "plugin `queue-scorer`: parameters: unknown field `x` (it has no parameters)",
            ),
            (
                "- type: queue-scorer\n- type: random-picker\n  parameters:\n    maxNumOfEndpoints: 0\nschedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n",
                "line 7: plugin `random-picker`: parameters.maxNumOfEndpoints: 0 is not from 1 to 64",
            ),
        ] {
            let got = built(plugins).unwrap_err().to_string();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
