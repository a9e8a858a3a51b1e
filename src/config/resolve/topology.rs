//! Which topology-extractor a plugin asks where endpoints are.

use super::super::catalog::Kind;
use super::super::params::{TopologyExtractorParams, TopologyFilterParams, TopologyScorerParams};
use super::super::{Problem, did_you_mean};
use super::{PluginUse, Resolver};

// === impl Resolver ===

impl Resolver {
    /// Reads all extractors: a declared one must be right, whoever asks it.
    pub(super) fn extractors(&mut self) {
        for at in self.of_kind(Kind::EndpointExtractor) {
            let parameters = self.declared[at].parameters.clone();
            self.read(parameters.read::<TopologyExtractorParams>());
        }
    }

    /// Gives `used` its extractor, if it is a plugin that asks one.
    pub(super) fn producer(&mut self, used: &mut PluginUse) {
        let parameters = &used.parameters;
        // What is wrong with them is told when the plugin is made.
        let name = match used.entry.name {
            "topology-affinity-filter" => parameters
                .read()
                .map(|params: TopologyFilterParams| params.topology_producer_name),
            "topology-affinity-scorer" => parameters
                .read()
                .map(|params: TopologyScorerParams| params.topology_producer_name),
            _ => return,
        };
        let Ok(name) = name else {
            return;
        };
        let extractors = self.of_kind(Kind::EndpointExtractor);
        let extractors = extractors.into_iter().map(|at| &self.declared[at]);
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            used.producer = extractors.map(|found| found.parameters.clone()).next();
            if used.producer.is_none() {
                let message = format!(
                    "`{}` has no effect: no topology-extractor is declared, so nothing is known of where endpoints are",
                    used.name
                );
                let warning = Problem::new(parameters.at(), message);
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
            }
            return;
        };
        let names: Vec<_> = extractors
            .clone()
            .map(|known| known.name.as_str())
            .collect();
        let found = extractors.clone().find(|known| known.name == name);
        match found {
            Some(found) => used.producer = Some(found.parameters.clone()),
            None => {
                let hint = did_you_mean(&name, names);
                let message = format!("no topology-extractor is called `{name}`{hint}");
                let problem = parameters.field_problem("topologyProducerName", &message);
                self.problems.push(problem);
            }
        }
    }
}
