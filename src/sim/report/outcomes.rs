//! What became of each request, as a table for other programs.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use super::{Case, Outcome, Served};

/// A CSV file of one run: a line a request, in the order in which they ended. Times are seconds; what there is not is empty.
#[derive(Debug)]
pub struct Outcomes {
    file: BufWriter<File>,
    line: String,
    /// The first thing that went wrong.
    failed: Option<io::Error>,
}

const HEAD: &str = "arrival,endpoint,prompt,cached,output,ttft,e2e,fate";

// === impl Outcomes ===

impl Outcomes {
    /// A new file in `folder`, which is made if it is not there: `TRACE-POLICY-RATE-SEED.csv`.
    pub fn create(folder: &Path, case: &Case) -> io::Result<Self> {
        let Case {
            trace,
            policy,
            rate,
            seed,
        } = case;
        std::fs::create_dir_all(folder)?;
        // A policy that is compared with another one of its name is called by its path.
        let name = format!("{trace}-{policy}-{rate:.2}-{seed}.csv").replace('/', "_");
        let mut file = BufWriter::new(File::create(folder.join(name))?);
        writeln!(file, "{HEAD}")?;
        Ok(Self {
            file,
            line: String::new(),
            failed: None,
        })
    }

    /// A request ended.
    pub fn add(&mut self, it: &Served) {
        let line = &mut self.line;
        line.clear();
        // Writing to a string does not fail.
        let _ = write!(line, "{:.6},", it.arrival);
        if let Some(endpoint) = it.endpoint {
            let _ = write!(line, "{endpoint}");
        }
        let _ = write!(line, ",{},{},{},", it.prompt, it.cached, it.output);
        let _ = match it.outcome {
            Outcome::Served { ttft, e2e } => writeln!(line, "{ttft:.6},{e2e:.6},served"),
            Outcome::Rejected { reason, at } => writeln!(line, ",{:.6},{reason}", at - it.arrival),
            Outcome::Lost { at } => writeln!(line, ",{:.6},lost", at - it.arrival),
        };
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            self.failed.get_or_insert(error);
        }
    }

    /// All is written, or was not.
    pub fn close(mut self) -> io::Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None => self.file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_request() {
        let folder = tempfile::tempdir().unwrap();
        let case = Case {
            trace: "t".to_owned(),
            policy: "a/b".to_owned(),
            rate: 1.5,
            seed: 2,
        };
        let mut outcomes = Outcomes::create(folder.path(), &case).unwrap();
        let served = Served {
            arrival: 1.0,
            endpoint: Some(3),
            prompt: 10,
            cached: 4,
            output: 5,
            outcome: Outcome::Served {
                ttft: 0.25,
                e2e: 1.5,
            },
        };
        outcomes.add(&served);
        outcomes.add(&Served {
            endpoint: None,
            outcome: Outcome::Rejected {
                reason: "shed",
                at: 1.25,
            },
            ..served
        });
        outcomes.add(&Served {
            outcome: Outcome::Lost { at: 3.0 },
            ..served
        });
        outcomes.close().unwrap();
        let text = std::fs::read_to_string(folder.path().join("t-a_b-1.50-2.csv")).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines,
            [
                HEAD,
                "1.000000,3,10,4,5,0.250000,1.500000,served",
                "1.000000,,10,4,5,,0.250000,shed",
                "1.000000,3,10,4,5,,2.000000,lost",
            ]
        );
    }
}
