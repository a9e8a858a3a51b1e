//! The report for people at a terminal.

use std::fmt;

use super::json::METHOD;
use super::{Estimate, Group, Report, near};

/// Width of a column of numbers.
const NUMBER: usize = 9;
const HEADS: [&str; 12] = [
    "good/s", "±", "good %", "rej %", "lost %", "TTFT", "p99", "TPOT", "p99", "tok/s", "hit %",
    "load CV",
];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in &self.setting {
            writeln!(f, "{name}: {value}")?;
        }
        let widest = self.groups.iter().map(|g| g.policy.chars().count()).max();
        let width = widest.unwrap_or_default().max("policy".len());
        let loads = |group: &Group| group.estimate(|n| n.lora_loads);
        let adapters = self.groups.iter().any(|g| !loads(g).median.is_nan());
        let mut before: Option<&Group> = None;
        for group in &self.groups {
            let same = |other: &Group| other.trace == group.trace && near(other.rate, group.rate);
            if !before.is_some_and(same) {
                writeln!(
                    f,
                    "\n{}: {:.2} requests a second; TTFT in s, TPOT in ms",
                    group.trace, group.rate
                )?;
                write!(f, "{:<width$}", "policy")?;
                for head in HEADS {
                    write!(f, "{head:>NUMBER$}")?;
                }
                if adapters {
                    write!(f, "{:>NUMBER$}", "loads")?;
                }
                writeln!(f)?;
            }
            write!(f, "{:<width$}", group.policy)?;
            for cell in cells(group) {
                write!(f, "{cell:>NUMBER$}")?;
            }
            if adapters {
                write!(f, "{:>NUMBER$}", number(loads(group).median, 0))?;
            }
            writeln!(f)?;
            before = Some(group);
        }
        let seeds = self.groups.iter().map(|group| group.seeds.len()).min();
        let sure = self
            .groups
            .iter()
            .map(|g| g.estimate(|n| n.goodput).confidence);
        writeln!(
            f,
            "\ngood: TTFT ≤ {} s and TPOT ≤ {} ms. ±: half the interval. {} seeds: {METHOD} (here {:.1} %).",
            self.slo.ttft,
            self.slo.tpot * 1e3,
            seeds.unwrap_or_default(),
            sure.fold(1.0, f64::min) * 100.0
        )
    }
}

fn cells(group: &Group) -> [String; 12] {
    let goodput = group.estimate(|n| n.goodput);
    let one =
        |estimate: Estimate, scale: f64, digits: usize| number(estimate.median * scale, digits);
    [
        one(goodput, 1.0, 2),
        number((goodput.high - goodput.low) / 2.0, 2),
        one(group.estimate(|n| n.good_share), 100.0, 1),
        one(group.estimate(|n| n.rejected_share), 100.0, 1),
        one(group.estimate(|n| n.lost_share), 100.0, 1),
        one(group.estimate(|n| n.ttft.mean), 1.0, 3),
        one(group.estimate(|n| n.ttft.p99), 1.0, 3),
        one(group.estimate(|n| n.tpot.mean), 1e3, 1),
        one(group.estimate(|n| n.tpot.p99), 1e3, 1),
        one(group.estimate(|n| n.throughput), 1.0, 0),
        one(group.estimate(|n| n.cache_hit), 100.0, 1),
        one(group.estimate(|n| n.load_cv), 1.0, 2),
    ]
}

/// What is not known is a dash.
pub(super) fn number(value: f64, digits: usize) -> String {
    match value.is_nan() {
        true => "-".to_owned(),
        false => format!("{value:.digits$}"),
    }
}
