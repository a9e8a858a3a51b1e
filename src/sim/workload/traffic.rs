//! A trace, scaled, as it is walked.

use std::sync::Arc;

use super::{AS_TRACED, FIRST_TURN, NONE, Trace, WorkloadError};

/// How often requests come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// So many times as often as in the trace.
    Times(f64),
    /// So many a second, on the whole; the shape stays.
    PerSecond(f64),
}

/// What is made of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scale {
    /// `None`: as traced.
    pub rate: Option<Rate>,
    /// So many requests: the trace is cut, or repeated with fresh prefixes.
    pub requests: Option<u64>,
    /// For so many seconds of (scaled) arrivals: the trace is cut, or repeated with fresh prefixes.
    pub duration: Option<f64>,
    /// Turns of a session come when they came in the trace, not when the answer before has ended.
    pub open_loop: bool,
}

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    /// Which one it is of the traffic. Not without gaps where sessions wait for answers.
    pub number: u64,
    /// Which one it is of the trace.
    pub row: u32,
    /// How often the trace was through before.
    pub(super) epoch: u32,
    /// Seconds from the beginning of its stage. Of a session's later turns: when it came in the trace.
    pub at: f64,
    /// Prompt tokens, 1 at least.
    pub prompt: u32,
    /// Tokens that are generated, 1 at least.
    pub output: u32,
    /// 0: the base model; else its LoRA adapter, from 1.
    pub adapter: u16,
    /// From 0, ascending.
    pub stage: u32,
    /// The conversation that it is a turn of.
    pub session: Option<u64>,
}

/// Traffic: the same every time that it is walked.
#[derive(Clone, Debug)]
pub struct Traffic {
    trace: Arc<Trace>,
    scale: Scale,
    /// Times are divided by it.
    factor: f64,
    /// Seconds from one time through the trace to the next, not scaled.
    period: f64,
}

/// [`Traffic::arrivals`].
#[derive(Clone, Debug)]
pub struct Arrivals<'a> {
    traffic: &'a Traffic,
    next: u64,
}

// === impl Traffic ===

impl Traffic {
    /// Fails where the scale makes no sense for the trace.
    pub fn new(trace: Arc<Trace>, scale: Scale) -> Result<Self, WorkloadError> {
        let wrong = |text: &str| Err(WorkloadError::Scale(text.to_owned()));
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let factor = match scale.rate {
            None => 1.0,
            Some(Rate::Times(times)) if positive(times) => times,
            Some(Rate::PerSecond(rate)) if positive(rate) => {
                if trace.stages.len() > 1 {
                    return wrong(
                        "a load test in stages has a rate for each; scale them all, with a rate like 2x",
                    );
                }
                match trace.rate() {
                    Some(own) => rate / own,
                    None => {
                        return wrong(
                            "the requests of this trace all come at once, so it has no rate to scale; leave the rate out",
                        );
                    }
                }
            }
            Some(_) => return wrong("a rate must be more than 0"),
        };
        if scale.requests == Some(0) || scale.duration.is_some_and(|d| !positive(d)) {
            return wrong(
                "no requests are left; ask for one at least, and for more than 0 seconds",
            );
        }
        if scale.duration.is_some() && trace.stages.len() > 1 {
            return wrong(
                "a load test in stages says how long each of them takes; cut it by the number of requests",
            );
        }
        let period = trace.span() + trace.rate().map_or(1.0, |rate| 1.0 / rate);
        Ok(Self {
            trace,
            scale,
            factor,
            period,
        })
    }

    /// What it is made of.
    pub fn trace(&self) -> &Arc<Trace> {
        &self.trace
    }

    /// Requests a second, on the whole; `None`: all come at once.
    pub fn rate(&self) -> Option<f64> {
        Some(self.trace.rate()? * self.factor)
    }

    /// Each stage begins when all requests of the one before have ended; times are from the beginning of the stage.
    pub fn drains(&self) -> bool {
        self.trace.stages.len() > 1
    }

    /// Requests that come, all turns of sessions among them.
    pub fn count(&self) -> u64 {
        let rows = self.trace.len() as u64;
        let all = match self.scale.requests {
            Some(requests) => requests,
            None if self.scale.duration.is_some() => u64::MAX,
            None => rows,
        };
        let Some(duration) = self.scale.duration else {
            return all;
        };
        let period = self.period / self.factor;
        let through = (duration / period).floor();
        let rest = duration - through * period;
        let of_rest = (self.trace.rows).partition_point(|row| row.at / self.factor < rest) as u64;
        all.min(through as u64 * rows + of_rest)
    }

    /// All that come by themselves, in the order in which they do.
    pub fn arrivals(&self) -> Arrivals<'_> {
        Arrivals {
            traffic: self,
            next: 0,
        }
    }

    /// The next turn of `before`'s session, to be sent so many seconds after the end of its answer; `None`: at its own time, or
    /// at that end if that is later.
    pub fn next_turn(&self, before: &Arrival) -> Option<(Option<f64>, Arrival)> {
        if self.scale.open_loop {
            return None;
        }
        let row = &self.trace.rows[before.row as usize];
        if row.next == NONE {
            return None;
        }
        let number = before.number - u64::from(before.row) + u64::from(row.next);
        let think = self.trace.rows[row.next as usize].think;
        let think = (think != AS_TRACED).then_some(f64::from(think));
        Some((think, self.arrival(number)?))
    }

    fn arrival(&self, number: u64) -> Option<Arrival> {
        let rows = self.trace.len() as u64;
        let (epoch, index) = (number / rows, (number % rows) as u32);
        let stages = self.trace.stages.len() as u64;
        let repeated = self.scale.requests.is_some() || self.scale.duration.is_some();
        if self.scale.requests.is_some_and(|most| number >= most) || epoch > 0 && !repeated {
            return None;
        }
        let row = &self.trace.rows[index as usize];
        let (mut at, mut stage) = (row.at, u64::from(row.stage));
        match stages {
            1 => at += epoch as f64 * self.period,
            // Times are from the beginning of the stage.
            _ => stage += epoch * stages,
        }
        at /= self.factor;
        if self.scale.duration.is_some_and(|most| at >= most) {
            return None;
        }
        Some(Arrival {
            number,
            row: index,
            epoch: u32::try_from(epoch).ok()?,
            at,
            prompt: row.prompt,
            output: row.output,
            adapter: row.adapter,
            stage: u32::try_from(stage).ok()?,
            session: (row.session != NONE).then(|| u64::from(row.session) | epoch << 32),
        })
    }

    /// It is a turn that waits for an answer.
    fn waits(&self, number: u64) -> bool {
        let index = (number % self.trace.len() as u64) as usize;
        !self.scale.open_loop && self.trace.rows[index].think != FIRST_TURN
    }
}

impl Iterator for Arrivals<'_> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        loop {
            let number = self.next;
            let arrival = self.traffic.arrival(number)?;
            self.next += 1;
            if !self.traffic.waits(number) {
                return Some(arrival);
            }
        }
    }
}
