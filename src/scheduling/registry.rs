//! From plugin types to plugins.

use std::time::Duration;

use serde::de::DeserializeOwned;

use super::filters::header_based_testing::HeaderBasedTesting;
use super::filters::label_selector::LabelSelector;
use super::filters::roles::Role;
use super::filters::utilization::Utilization;
use super::pickers::max_score::MaxScore;
use super::pickers::random::Random;
use super::pickers::weighted_random::WeightedRandom;
use super::scorers::active_request::ActiveRequest;
use super::scorers::blocking_testing::BlockingTesting;
use super::scorers::context_length_aware::ContextLengthAware;
use super::scorers::header_label_affinity::HeaderLabelAffinity;
use super::scorers::kv_cache_utilization::KvCacheUtilization;
use super::scorers::latency::Latency;
use super::scorers::load_aware::LoadAware;
use super::scorers::lora_affinity::LoraAffinity;
use super::scorers::queue::Queue;
use super::scorers::running_requests::RunningRequests;
use super::scorers::token_load::TokenLoad;
use super::session::Sessions;
use super::{Filter, Picker, Producers, Profile, Scheduler, Scorer, filters, scorers};
use crate::config::params::{BlockingTestingParams, NoParams, PickerParams};
use crate::config::{ConfigErrors, PickerConfig, PluginUse, Problem};

/// More fallbacks than anyone retries over.
const MAX_ENDPOINTS: usize = 64;

/// Makes the scheduler that `config` describes.
pub fn build(config: &PickerConfig) -> Result<Scheduler, ConfigErrors> {
    let profile = &config.profile;
    let mut problems = Vec::new();
    let producers = Producers::of(config, &mut problems);
    let filters = collect(
        &profile.filters,
        |plugin| filter(plugin, config, &producers),
        &mut problems,
    )
    .map(|(plugin, filter)| (plugin.name.clone(), filter))
    .collect();
    let scorers = collect(
        &profile.scorers,
        |plugin| scorer(plugin, config, &producers),
        &mut problems,
    )
    .map(|(plugin, scorer)| (plugin.name.clone(), plugin.weight, scorer))
    .collect();
    match picker(&profile.picker) {
        Ok(picker) if problems.is_empty() => Ok(Scheduler::single(
            Profile {
                name: profile.name.clone(),
                filters,
                scorers,
                picker: (profile.picker.name.clone(), picker),
            },
            producers,
        )),
        Ok(_) => Err(ConfigErrors(problems)),
        Err(problem) => {
            problems.push(problem);
            Err(ConfigErrors(problems))
        }
    }
}

fn collect<'a, T>(
    uses: &'a [PluginUse],
    make: impl Fn(&PluginUse) -> Result<T, Problem>,
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
        "utilization-filter" => Box::new(Utilization::of(plugin)?),
        "context-length-aware" => Box::new(ContextLengthAware::of(plugin)?),
        "session-affinity-filter" => Box::new(filters::session_affinity::SessionAffinity(
            Sessions::of(plugin, producers)?,
        )),
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
        "load-aware-scorer" => Box::new(LoadAware::of(plugin)?),
        "active-request-scorer" => Box::new(ActiveRequest::of(plugin)?),
        "endpoint-attribute-scorer" => Box::new(
            scorers::endpoint_attribute::EndpointAttribute::of(plugin, config)?,
        ),
        "latency-scorer" => Box::new(Latency::of(plugin)?),
        "session-affinity-scorer" => Box::new(scorers::session_affinity::SessionAffinity(
            Sessions::of(plugin, producers)?,
        )),
        "token-load-scorer" => Box::new(TokenLoad::of(plugin)?),
        "header-label-affinity-scorer" => Box::new(HeaderLabelAffinity::of(plugin)?),
        "context-length-aware" => Box::new(ContextLengthAware::of(plugin)?),
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

/// A plugin without parameters, which must have been given none.
fn none<T>(plugin: &PluginUse, made: T) -> Result<T, Problem> {
    read::<NoParams>(plugin)?;
    Ok(made)
}

fn read<T: DeserializeOwned>(plugin: &PluginUse) -> Result<T, Problem> {
    plugin.parameters.read()
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
    use crate::config::catalog::{BUILT, Kind};
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
            let made_here = [Kind::Filter, Kind::Scorer, Kind::Picker, Kind::Producer];
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
        ] {
            let got = built(plugins).unwrap_err().to_string();
            assert!(got.contains(expected), "{got}\nnot\n{expected}");
        }
    }
}
