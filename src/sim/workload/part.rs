//! A stretch of a trace, so that what is fitted on one can be reported on another.

use super::build::link;
use super::{Stage, Trace, WorkloadError};

/// Shares of a trace's time, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Part {
    /// From here
    pub from: f64,
    /// to before here; 1 is the end, the last request included.
    pub until: f64,
}

// === impl Part ===

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self {
        from: 0.0,
        until: 1.0,
    };
}

impl Default for Part {
    fn default() -> Self {
        Self::WHOLE
    }
}

// === impl Trace ===

impl Trace {
    /// The requests of `part`, as a trace that begins with the first of them. Of a session that began before, the first turn
    /// that is left begins it. Fails where there is none, and where times are those of stages.
    pub(super) fn part(mut self, part: Part) -> Result<Self, WorkloadError> {
        if part == Part::WHOLE {
            return Ok(self);
        }
        let wrong = |text: &str| Err(WorkloadError::Scale(text.to_owned()));
        if self.stages.len() > 1 {
            return wrong(
                "a load test in stages has no times of the whole to cut it by; cut its file",
            );
        }
        let span = self.span();
        let before = |share: f64| match share < 1.0 {
            true => self.rows.partition_point(|row| row.at < share * span),
            false => self.rows.len(),
        };
        let (from, until) = (before(part.from), before(part.until));
        if from >= until {
            return wrong("no request lies in that part of the trace; ask for a larger one");
        }
        self.rows = self.rows[from..until].to_vec();
        if !self.seen.is_empty() {
            self.seen = self.seen[from..until].to_vec();
        }
        let first = self.rows[0].at;
        self.rows.iter_mut().for_each(|row| row.at -= first);
        link(&mut self.rows);
        self.stages = vec![Stage::whole(&self.rows)];
        Ok(self)
    }
}
