//! Producers: those that are declared, and those that other plugins cannot do without.

use super::super::Problem;
use super::super::catalog::{self, Kind};
use super::super::params::Parameters;
use super::{PluginUse, ProfileSpec, Resolver, use_of};

/// Plugin types and the producer that each needs. More than one plugin may be content with one producer.
const NEEDS: [(&str, &str); 3] = [
    ("active-request-scorer", "inflight-load-producer"),
    ("token-load-scorer", "inflight-load-producer"),
    ("context-length-aware", "token-producer"),
];

// === impl Resolver ===

impl Resolver {
    pub(super) fn producers(&mut self, profile: Option<&ProfileSpec>) -> Vec<PluginUse> {
        let mut producers: Vec<PluginUse> = Vec::new();
        for at in self.of_kind(Kind::Producer) {
            let declared = &self.declared[at];
            if producers
                .iter()
                .any(|known| known.entry.name == declared.entry.name)
            {
                let message = format!(
                    "plugins: a second `{}`; one is all that has an effect, so keep one",
                    declared.entry.name
                );
                self.problems.push(Problem::new(declared.line, message));
                continue;
            }
            producers.push(use_of(declared));
        }
        let scorers = profile.map(|profile| profile.scorers.as_slice());
        for scorer in scorers.unwrap_or_default() {
            let needs = NEEDS
                .iter()
                .filter(|(plugin, _)| *plugin == scorer.entry.name);
            for &(_, producer) in needs {
                // An old name stands for the new one.
                let is = |known: &PluginUse| {
                    known.entry.name == producer || known.entry.deprecated == Some(producer)
                };
                if producers.iter().any(is) {
                    continue;
                }
                let Some(entry) = catalog::find(producer) else {
                    continue;
                };
                self.injected
                    .push(format!("{producer}: `{}` needs it", scorer.name));
                producers.push(PluginUse {
                    name: producer.to_owned(),
                    entry,
                    weight: 1.0,
                    parameters: Parameters::new(producer, None, 0),
                });
            }
        }
        producers
    }
}
