//! How requests were decided: which branch chose the endpoint, and which stages got one of their own.

use std::hash::Hasher;

use dashmap::DashMap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use xxhash_rust::xxh3::Xxh3Default;

use super::twin::{Registries, Twin, Twins};
use super::{Metrics, ReasonLabels, SETS};

/// Counts of decisions.
#[derive(Debug)]
pub(super) struct Decisions {
    picks: Family<ReasonLabels, Counter>,
    rearranged: Counter,
    retried: Family<RetryLabels, Counter>,
    disagg: Staged,
    prefill_decode: Staged,
    /// Those of the two families that were used, at most [`SETS`].
    series: DashMap<u64, Twin<Counter>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StagesLabels {
    plugin_name: String,
    plugin_type: &'static str,
    model_name: String,
    decision_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    shares: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OldLabels {
    model_name: String,
    decision_type: &'static str,
}

type Staged = Twins<StagesLabels, OldLabels, Counter>;

// === impl Decisions ===

impl Decisions {
    pub(super) fn register(registries: &mut Registries<'_>) -> Self {
        let picks = Family::default();
        let help = "Requests by the branch that chose their endpoint";
        registries.ours.register("picks", help, picks.clone());
        let rearranged = Counter::default();
        let help =
            "Decisions whose fallbacks were moved away from what they share with those before them";
        let ours = &mut registries.ours;
        ours.register("fallbacks_rearranged", help, rearranged.clone());
        let retried = Family::default();
        let help =
            "Requests that came again because they failed, by what they share with where that was";
        ours.register("retries", help, retried.clone());
        let mut staged = |name: &str| {
            let help = "Requests by the stages that got an endpoint";
            let old = format!("llm_d_inference_scheduler_{name}");
            Twins::register(registries, (name, help), &old, Counter::default)
        };
        Self {
            picks,
            rearranged,
            retried,
            disagg: staged("disagg_decision"),
            prefill_decode: staged("pd_decision"),
            series: DashMap::new(),
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// The count of requests that were picked for because of `reason`.
    pub fn picks(&self, reason: &'static str) -> Counter {
        let labels = ReasonLabels { reason };
        self.decisions.picks.get_or_create(&labels).clone()
    }

    /// The count of decisions whose fallbacks a scorer rearranged.
    pub fn fallbacks_rearranged(&self) -> &Counter {
        &self.decisions.rearranged
    }

    /// Counts a retry that went to an endpoint which `shares` so much with where it failed.
    pub fn retried(&self, shares: &'static str) {
        let labels = RetryLabels { shares };
        self.decisions.retried.get_or_create(&labels).inc();
    }

    /// Counts a decision of the profile handler called `name`, if it is one that chooses between stages: whether there
    /// was a prefill and an encode stage.
    pub fn staged(
        &self,
        (name, r#type): (&str, &'static str),
        target: &str,
        prefill: bool,
        encode: bool,
    ) {
        let family = match r#type {
            "disagg-profile-handler" => &self.decisions.disagg,
            "pd-profile-handler" => &self.decisions.prefill_decode,
            _ => return,
        };
        let decision_type = match (encode, prefill) {
            (false, false) => "decode-only",
            (false, true) => "prefill-decode",
            (true, false) => "encode-decode",
            (true, true) => "encode-prefill-decode",
        };
        let mut hasher = Xxh3Default::new();
        for part in [name, r#type, decision_type, target] {
            hasher.write(part.as_bytes());
            hasher.write_u8(0xff);
        }
        let key = hasher.finish();
        let series = &self.decisions.series;
        if let Some(count) = series.get(&key) {
            count.inc();
            return;
        }
        let labels = StagesLabels {
            plugin_name: name.to_owned(),
            plugin_type: r#type,
            model_name: self.models.bounded(target),
            decision_type,
        };
        let count = family.resolve(&labels, || OldLabels {
            model_name: labels.model_name.clone(),
            decision_type,
        });
        count.inc();
        if series.len() < SETS {
            series.insert(key, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DISTINCT, OTHER};
    use super::*;

    #[test]
    fn stages_are_counted_by_the_references_names() {
        let metrics = Metrics::new();
        for (prefill, encode) in [(false, false), (true, false), (false, true), (true, true)] {
            metrics.staged(("d", "disagg-profile-handler"), "m", prefill, encode);
        }
        metrics.staged(("p", "pd-profile-handler"), "m", true, false);
        metrics.staged(("s", "single-profile-handler"), "m", false, false);
        metrics.picks("tie").inc();
        let page = metrics.encode().unwrap();
        for (metric, name, kind) in [
            ("disagg", "d", "decode-only"),
            ("disagg", "d", "prefill-decode"),
            ("disagg", "d", "encode-decode"),
            ("disagg", "d", "encode-prefill-decode"),
            ("pd", "p", "prefill-decode"),
        ] {
            let line = format!(
                "llm_d_epp_{metric}_decision_total{{plugin_name=\"{name}\",plugin_type=\"{metric}-profile-handler\",model_name=\"m\",decision_type=\"{kind}\"}} 1"
            );
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
        assert!(page.contains("llm_d_epp_picks_total{reason=\"tie\"} 1"));
        assert!(!page.contains("single-profile-handler"));
    }

    #[test]
    fn models_are_bounded() {
        let metrics = Metrics::new();
        for n in 0..SETS + 9 {
            let model = n.to_string();
            metrics.staged(("d", "disagg-profile-handler"), &model, true, false);
        }
        assert_eq!(metrics.decisions.series.len(), SETS);
        let page = metrics.encode().unwrap();
        let lines = page
            .lines()
            .filter(|line| line.starts_with("llm_d_epp_disagg"));
        assert_eq!(lines.count(), DISTINCT + 1);
        let other = (SETS + 9 - DISTINCT).to_string();
        let line = |line: &str| line.contains(&format!("=\"{OTHER}\"")) && line.ends_with(&other);
        assert!(page.lines().any(line), "{page}");
    }
}
