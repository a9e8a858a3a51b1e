//! The report for programs.

use serde_json::{Map, Value, json};

use super::{Estimate, Group, Numbers, Report};

/// Of the JSON: it changes when a field's meaning does, or when one goes; fields may come without.
pub const VERSION: u32 = 1;

/// A number's name, and where it is.
type Field = (&'static str, fn(&Numbers) -> f64);

/// What is estimated over seeds.
const FIELDS: [Field; 25] = [
    ("goodput", |n| n.goodput),
    ("good_share", |n| n.good_share),
    ("late_share", |n| n.late_share),
    ("slow_share", |n| n.slow_share),
    ("throughput", |n| n.throughput),
    ("cache_hit", |n| n.cache_hit),
    ("lora_loads", |n| n.lora_loads),
    ("rejected_share", |n| n.rejected_share),
    ("lost_share", |n| n.lost_share),
    ("ttft_mean", |n| n.ttft.mean),
    ("ttft_p50", |n| n.ttft.p50),
    ("ttft_p90", |n| n.ttft.p90),
    ("ttft_p99", |n| n.ttft.p99),
    ("tpot_mean", |n| n.tpot.mean),
    ("tpot_p50", |n| n.tpot.p50),
    ("tpot_p90", |n| n.tpot.p90),
    ("tpot_p99", |n| n.tpot.p99),
    ("e2e_mean", |n| n.e2e.mean),
    ("e2e_p50", |n| n.e2e.p50),
    ("e2e_p90", |n| n.e2e.p90),
    ("e2e_p99", |n| n.e2e.p99),
    ("load_cv", |n| n.load_cv),
    ("load_max_mean", |n| n.load_max_mean),
    ("seconds", |n| n.seconds),
    ("requests", |n| n.requests as f64),
];

impl Report {
    /// `{"version", "slo", "setting", "method", "results": [{"trace", "policy", "rate", "estimates", "seeds"}]}`: of each result
    /// the estimates over seeds and the numbers of each seed, in seconds, tokens, requests a second and shares of 0 to 1. What
    /// is not known is null.
    pub fn to_json(&self) -> Value {
        let results: Vec<_> = self.groups.iter().map(result).collect();
        json!({
            "version": VERSION,
            "slo": self.slo,
            "setting": self.setting.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "method": METHOD,
            "results": results,
        })
    }
}

/// How the intervals are made.
pub(super) const METHOD: &str = "median over seeds; interval of order statistics with at least 95 % confidence (free of distributions), or, with fewer than six seeds, from the smallest to the largest, with the confidence given";

fn result(group: &Group) -> Value {
    let estimates: Map<_, _> = FIELDS
        .iter()
        .map(|&(name, number)| (name.to_owned(), estimate(group.estimate(number))))
        .collect();
    let seeds = group.seeds.iter().zip(&group.numbers);
    let seeds: Vec<_> = seeds
        .map(|(seed, numbers)| json!({"seed": seed, "numbers": numbers}))
        .collect();
    json!({
        "trace": group.trace,
        "policy": group.policy,
        "rate": group.rate,
        "estimates": estimates,
        "seeds": seeds,
    })
}

fn estimate(estimate: Estimate) -> Value {
    // NaN becomes null.
    json!(estimate)
}
