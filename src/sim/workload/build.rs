//! A trace as it is put together.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::{AS_TRACED, FIRST_TURN, NONE, Row, Run, Seen, Stage, Trace};

/// Requests of a trace; they are 40 bytes each.
const MOST_ROWS: usize = 50_000_000;
/// Runs and numbers of blocks, and sessions.
const MOST: usize = u32::MAX as usize - 1;

/// Times that are further apart than this, in seconds, were not rounded: there are few of them.
const LONGEST_STEP: f64 = 10.0;

/// A trace that grows.
#[derive(Debug)]
pub(super) struct Builder {
    trace: Trace,
    /// Numbers of blocks by what the file calls them.
    blocks: HashMap<u64, u32>,
    sessions: HashMap<String, u32>,
    adapters: HashMap<String, u16>,
}

/// A request to add.
#[derive(Debug, Default)]
pub(super) struct NewRow<'a> {
    /// Seconds.
    pub(super) at: f64,
    pub(super) prompt: u32,
    pub(super) output: u32,
    pub(super) keys: Keys,
    pub(super) session: Option<&'a str>,
    /// Seconds from the answer before to this turn of its session; `None`: it comes at its time, if that is later.
    pub(super) think: Option<f32>,
    pub(super) adapter: Option<&'a str>,
    pub(super) stage: u16,
}

/// The blocks of a prompt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keys {
    from: u32,
    to: u32,
}

/// There is no room for more: of what.
pub(super) type Full = &'static str;

// === impl Builder ===

impl Builder {
    /// An empty one. `block_tokens`: of the blocks that [`Builder::keys`] gets; 0: there are none.
    pub(super) fn new(block_tokens: u32) -> Self {
        Self {
            trace: Trace {
                block_tokens,
                rows: Vec::new(),
                runs: Vec::new(),
                stages: Vec::new(),
                seen: Vec::new(),
                adapters: 0,
            },
            blocks: HashMap::new(),
            sessions: HashMap::new(),
            adapters: HashMap::new(),
        }
    }

    /// The blocks of a prompt by the file's names.
    pub(super) fn keys(&mut self, names: impl Iterator<Item = u64>) -> Result<Keys, Full> {
        let runs = &mut self.trace.runs;
        let from = runs.len();
        for name in names {
            let next = self.blocks.len();
            let number = *self.blocks.entry(name).or_insert(next as u32);
            match runs[from..].last_mut() {
                Some(run) if run.first + run.length == number => run.length += 1,
                _ => runs.push(Run {
                    first: number,
                    length: 1,
                }),
            }
        }
        if runs.len() > MOST || self.blocks.len() > MOST {
            return Err("there are more than 4 billion prefix blocks in it");
        }
        Ok(Keys {
            from: from as u32,
            to: runs.len() as u32,
        })
    }

    /// Adds a request. Rows may come in any order.
    pub(super) fn row(&mut self, new: &NewRow<'_>) -> Result<(), Full> {
        if self.trace.rows.len() >= MOST_ROWS {
            return Err("there are more than 50 million requests in it");
        }
        let session = new.session.map(|name| match self.sessions.get(name) {
            Some(&session) => session,
            None => {
                let session = self.sessions.len() as u32;
                self.sessions.insert(name.to_owned(), session);
                session
            }
        });
        let adapter = match new.adapter.filter(|name| !name.is_empty()) {
            None => 0,
            Some(name) => match self.adapters.get(name) {
                Some(&adapter) => adapter,
                None if self.adapters.len() >= usize::from(u16::MAX) => {
                    return Err("there are more than 65,535 adapters in it");
                }
                None => {
                    let adapter = self.adapters.len() as u16 + 1;
                    self.adapters.insert(name.to_owned(), adapter);
                    adapter
                }
            },
        };
        self.trace.rows.push(Row {
            at: new.at,
            prompt: new.prompt.max(1),
            output: new.output.max(1),
            runs: new.keys.from,
            runs_end: new.keys.to,
            session: session.unwrap_or(NONE),
            next: NONE,
            think: match session {
                Some(_) => new.think.map_or(AS_TRACED, |think| think.max(0.0)),
                None => FIRST_TURN,
            },
            stage: new.stage,
            adapter,
        });
        Ok(())
    }

    /// What was measured of the row added last; all rows have it, or none.
    pub(super) fn seen(&mut self, seen: Seen) {
        self.trace.seen.push(seen);
    }

    /// The stages of a load test; without, all is one.
    pub(super) fn stages(&mut self, stages: Vec<Stage>) {
        self.trace.stages = stages;
    }

    /// Times were rounded to a step, which hides that requests came one by one: spreads those of one time over the step, in
    /// their order, by `seed`. The step is the least time between two different ones that follow each other: a greatest
    /// common divisor would be lost to Mooncake's times, which are off by a millisecond here and there.
    pub(super) fn spread(&mut self, seed: u64) {
        let rows = &mut self.trace.rows;
        rows.sort_by(|a, b| a.at.total_cmp(&b.at));
        let gaps = rows.windows(2).map(|pair| pair[1].at - pair[0].at);
        let step = gaps.filter(|&gap| gap > 0.0).fold(f64::INFINITY, f64::min);
        if step > LONGEST_STEP {
            return;
        }
        let mut rng = SmallRng::seed_from_u64(seed);
        for group in rows.chunk_by_mut(|a, b| a.at == b.at) {
            let mut offsets: Vec<f64> = group.iter().map(|_| rng.random::<f64>() * step).collect();
            offsets.sort_by(f64::total_cmp);
            for (row, offset) in group.iter_mut().zip(offsets) {
                row.at += offset;
            }
        }
    }

    /// The trace; `None`: there is no request in it.
    pub(super) fn finish(mut self) -> Option<Trace> {
        let trace = &mut self.trace;
        let first = trace.rows.iter().map(|row| row.at).min_by(f64::total_cmp)?;
        if trace.stages.is_empty() {
            for row in &mut trace.rows {
                row.at -= first;
            }
        }
        let mut order: Vec<u32> = (0..trace.rows.len() as u32).collect();
        let rows = &trace.rows;
        order.sort_by(|&a, &b| {
            let (a, b) = (&rows[a as usize], &rows[b as usize]);
            a.stage.cmp(&b.stage).then(a.at.total_cmp(&b.at))
        });
        if trace.seen.len() == rows.len() {
            trace.seen = order.iter().map(|&i| trace.seen[i as usize]).collect();
        } else {
            trace.seen.clear();
        }
        trace.rows = order.iter().map(|&i| rows[i as usize]).collect();
        link(&mut trace.rows);
        if trace.stages.is_empty() {
            trace.stages = vec![Stage::whole(&trace.rows)];
        }
        trace.adapters = self.adapters.len() as u16;
        trace.runs.shrink_to_fit();
        Some(self.trace)
    }
}

/// Each turn of a session knows the next.
pub(super) fn link(rows: &mut [Row]) {
    let sessions = rows.iter().filter(|row| row.session != NONE);
    let most = sessions.map(|row| row.session as usize + 1).max();
    let mut last = vec![NONE; most.unwrap_or_default()];
    rows.iter_mut().for_each(|row| row.next = NONE);
    for i in 0..rows.len() {
        let session = rows[i].session as usize;
        if let Some(last) = last.get_mut(session) {
            if *last == NONE {
                rows[i].think = FIRST_TURN;
            } else {
                rows[*last as usize].next = i as u32;
            }
            *last = i as u32;
        }
    }
}
