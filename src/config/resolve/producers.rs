//! Producers: those that are declared, and those that other plugins cannot do without.

use super::super::Problem;
use super::super::catalog::{self, Instead, Kind};
use super::super::params::Parameters;
use super::{PluginUse, ProfileSpec, Resolver, use_of};

/// Plugin types and the producer that each needs. More than one plugin may be content with one producer.
const NEEDS: [(&str, &str); 13] = [
    ("work-scorer", "approx-prefix-cache-producer"),
    ("work-scorer", "inflight-load-producer"),
    ("prefix-cache-scorer", "approx-prefix-cache-producer"),
    ("no-hit-lru-scorer", "approx-prefix-cache-producer"),
    (
        "prefix-cache-affinity-filter",
        "approx-prefix-cache-producer",
    ),
    ("prefix-cache-affinity-filter", "inflight-load-producer"),
    ("latency-scorer", "approx-prefix-cache-producer"),
    ("prefix-based-pd-decider", "approx-prefix-cache-producer"),
    ("approx-prefix-cache-producer", "token-producer"),
    ("active-request-scorer", "inflight-load-producer"),
    ("token-load-scorer", "inflight-load-producer"),
    ("context-length-aware", "token-producer"),
    ("concurrency-detector", "inflight-load-producer"),
];

// === impl Resolver ===

impl Resolver {
    pub(super) fn producers(
        &mut self,
        profiles: &[ProfileSpec],
        detector: Option<&PluginUse>,
    ) -> Vec<PluginUse> {
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
        let mut needy: Vec<(String, &str)> = Vec::new();
        let of_profiles = profiles
            .iter()
            .flat_map(|profile| profile.filters.iter().chain(&profile.scorers));
        let users = of_profiles.chain(detector);
        needy.extend(users.map(|plugin| (plugin.name.clone(), plugin.entry.name)));
        for declared in &self.declared {
            if declared.entry.kind == Kind::Decider {
                needy.push((declared.name.clone(), declared.entry.name));
            }
        }
        needy.extend(producers.iter().map(|p| (p.name.clone(), p.entry.name)));
        // What is added may need something itself.
        let mut next = 0;
        while let Some((name, of_type)) = needy.get(next).cloned() {
            next += 1;
            for (_, producer) in NEEDS.iter().filter(|(plugin, _)| *plugin == of_type) {
                // An old name stands for the new one.
                let is = |known: &PluginUse| {
                    known.entry.name == *producer
                        || known.entry.deprecated == Some(Instead::Write(producer))
                };
                if producers.iter().any(is) {
                    continue;
                }
                let Some(entry) = catalog::find(producer) else {
                    continue;
                };
                self.injected.push(format!("{producer}: `{name}` needs it"));
                needy.push(((*producer).to_owned(), producer));
                producers.push(PluginUse {
                    name: (*producer).to_owned(),
                    entry,
                    weight: 1.0,
                    parameters: Parameters::new(producer, None, 0),
                    producer: None,
                });
            }
        }
        producers
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{LoadOptions, PickerConfig, load};

    fn loaded(plugins: &str) -> Result<PickerConfig, String> {
        let text = format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{plugins}"
        );
        load(&text, LoadOptions::default()).map_err(|errors| errors.to_string())
    }

    #[test]
    fn what_is_needed_is_added_once_and_what_is_there_is_not() {
        for (plugins, expected, added) in [
            ("- type: queue-scorer\n", &[][..], 0),
            (
                "- type: active-request-scorer\n- type: token-load-scorer\n",
                &["inflight-load-producer"],
                1,
            ),
            (
                "- type: token-load-scorer\n- {type: inflight-load-producer, name: mine}\n",
                &["mine"],
                0,
            ),
            (
                "- type: context-length-aware\n- type: tokenizer\n",
                &["tokenizer"],
                0,
            ),
            (
                "- type: session-id-producer\n- type: context-length-aware\n",
                &["session-id-producer", "token-producer"],
                1,
            ),
            (
                "- type: no-hit-lru-scorer\n- type: prefix-cache-scorer\n",
                &["approx-prefix-cache-producer", "token-producer"],
                2,
            ),
            (
                "- type: approx-prefix-cache-producer\n",
                &["approx-prefix-cache-producer", "token-producer"],
                1,
            ),
            (
                "- type: prefix-cache-affinity-filter\n",
                &[
                    "approx-prefix-cache-producer",
                    "inflight-load-producer",
                    "token-producer",
                ],
                3,
            ),
            (
                "- type: prefix-based-pd-decider\n- {type: disagg-profile-handler, parameters: {profiles: {decode: default, prefill: default}, deciders: {prefill: prefix-based-pd-decider}}}\n",
                &["approx-prefix-cache-producer", "token-producer"],
                2,
            ),
        ] {
            let config = loaded(plugins).unwrap();
            let names: Vec<_> = config.producers.iter().map(|p| p.name.as_str()).collect();
            assert_eq!(names, expected, "{plugins}");
            let injected = config.injected.iter();
            let producers = injected.filter(|line| line.contains("-producer: `"));
            assert_eq!(producers.count(), added, "{:?}", config.injected);
        }
    }

    #[test]
    fn deprecated_names_are_taken_with_a_warning_that_names_the_new_one() {
        let config = loaded("- type: queue-scorer\n- type: tokenizer\n").unwrap();
        let warning = config.warnings[0].to_string();
        assert_eq!(
            warning,
            "line 5: plugins: type `tokenizer` is deprecated; write `token-producer`"
        );
        let got =
            loaded("- type: inflight-load-producer\n- {type: inflight-load-producer, name: b}\n");
        let got = got.unwrap_err();
        assert!(
            got.contains("line 5: plugins: a second `inflight-load-producer`"),
            "{got}"
        );
    }
}
