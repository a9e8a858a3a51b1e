//! What comes out of a simulation: from what became of each request to numbers, a table, JSON and a page with plots.
//!
//! A [`Tally`] takes the [`Served`] of one run (one policy, one load, one seed) as they end, in a memory that does not grow with
//! them. [`Report`] puts the runs together: of each number the median over seeds and an interval ([`Estimate`]).
//!
//! | Number | Is |
//! |---|---|
//! | TTFT | from arrival to first token at the client |
//! | E2E | from arrival to the last token |
//! | TPOT | (E2E − TTFT) / (output tokens − 1); of answers of one token there is none |
//! | good | served, with TTFT and TPOT both within the SLO (an answer of one token has TTFT alone to keep) |
//! | late, slow | served, with TTFT or TPOT beyond the SLO: why what is not good is not |
//! | goodput | good requests / seconds from the first arrival to the last: what is lost, rejected or late counts against it |
//! | throughput | output tokens / seconds from the first arrival to the last end |
//! | cache hit | prompt tokens found cached / prompt tokens, of those served |
//! | load CV, max/mean | of the endpoints' mean requests in flight in a stretch of time; averaged over stretches by the load in them |

mod estimate;
mod html;
mod json;
mod load;
mod outcomes;
mod svg;
mod table;
mod tally;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use estimate::Estimate;
pub use json::VERSION;
pub use load::LoadOverTime;
pub use outcomes::Outcomes;
pub use tally::{Numbers, Tally, Times};

/// What is good enough.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slo {
    /// The longest time to the first token, in seconds.
    pub ttft: f64,
    /// The longest mean time between tokens, in seconds.
    pub tpot: f64,
}

/// What became of a request. Times are in seconds of the simulation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Served {
    /// When it came.
    pub arrival: f64,
    /// Where it went, by position; `None`: nowhere.
    pub endpoint: Option<u32>,
    /// Prompt tokens.
    pub prompt: u32,
    /// Of those, found cached.
    pub cached: u32,
    /// Tokens generated, 1 at least if it was served.
    pub output: u32,
    /// How it ended.
    pub outcome: Outcome,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// With all its tokens.
    Served {
        /// Seconds from arrival to the first token.
        ttft: f64,
        /// Seconds from arrival to the last.
        e2e: f64,
    },
    /// The picker or the server sent it back.
    Rejected {
        /// One of a few words.
        reason: &'static str,
        /// When.
        at: f64,
    },
    /// It was taken, and never answered.
    Lost {
        /// When that was seen.
        at: f64,
    },
}

/// Which run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// The trace's name.
    pub trace: String,
    /// The policy's.
    pub policy: String,
    /// Offered load, in requests a second.
    pub rate: f64,
    /// The seed.
    pub seed: u64,
}

/// One run, ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which.
    pub case: Case,
    /// What was counted.
    pub tally: Tally,
}

/// All runs.
#[derive(Debug)]
pub struct Report {
    slo: Slo,
    /// What was simulated, in words: engines, delays, staleness.
    setting: Vec<(String, String)>,
    groups: Vec<Group>,
}

/// The runs that differ in their seed alone.
#[derive(Debug)]
struct Group {
    trace: String,
    policy: String,
    rate: f64,
    seeds: Vec<u64>,
    /// By seed.
    numbers: Vec<Numbers>,
    /// Over all seeds.
    ttft: Times,
    tpot: Times,
    e2e: Times,
    /// Of the first seed: a mean of several would be smoother than any run.
    load: LoadOverTime,
}

// === impl Served ===

impl Served {
    /// Seconds between two tokens, on the mean; `None`: there were no two.
    pub fn tpot(&self) -> Option<f64> {
        match self.outcome {
            Outcome::Served { ttft, e2e } if self.output > 1 => {
                Some(((e2e - ttft) / f64::from(self.output - 1)).max(0.0))
            }
            _ => None,
        }
    }

    /// When it ended, in seconds.
    fn end(&self) -> f64 {
        match self.outcome {
            Outcome::Served { e2e, .. } => self.arrival + e2e,
            Outcome::Rejected { at, .. } | Outcome::Lost { at } => at,
        }
    }
}

// === impl Report ===

impl Report {
    /// Puts `runs` together. Traces and policies stay in the order in which they first come.
    pub fn new(slo: Slo, setting: Vec<(String, String)>, runs: Vec<Run>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for Run { case, tally } in runs {
            let numbers = tally.numbers();
            let same = groups.iter_mut().find(|group| {
                let same = group.trace == case.trace && group.policy == case.policy;
                same && near(group.rate, case.rate)
            });
            match same {
                Some(group) => {
                    group.seeds.push(case.seed);
                    group.numbers.push(numbers);
                    group.ttft.add(&tally.ttft);
                    group.tpot.add(&tally.tpot);
                    group.e2e.add(&tally.e2e);
                }
                None => groups.push(Group {
                    trace: case.trace,
                    policy: case.policy,
                    rate: case.rate,
                    seeds: vec![case.seed],
                    numbers: vec![numbers],
                    ttft: tally.ttft,
                    tpot: tally.tpot,
                    e2e: tally.e2e,
                    load: tally.load,
                }),
            }
        }
        let traces: Vec<_> = groups.iter().map(|group| group.trace.clone()).collect();
        let place = |group: &Group| traces.iter().position(|trace| *trace == group.trace);
        groups.sort_by(|a, b| place(a).cmp(&place(b)).then(a.rate.total_cmp(&b.rate)));
        Self {
            slo,
            setting,
            groups,
        }
    }

    /// The page `report.html` and `report.json`, into `folder`, which is made if it is not there.
    pub fn write(&self, folder: &std::path::Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("report.html"), self.to_html())?;
        let mut json = self.to_json().to_string();
        json.push('\n');
        std::fs::write(folder.join("report.json"), json)
    }
}

// === impl Group ===

impl Group {
    /// One number over the seeds.
    fn estimate(&self, number: impl Fn(&Numbers) -> f64) -> Estimate {
        Estimate::of(self.numbers.iter().map(number).collect())
    }
}

/// Rates that are the same but for what a seed does to them.
fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 0.01 * a.abs()
}
