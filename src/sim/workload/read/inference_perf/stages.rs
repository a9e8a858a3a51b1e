//! When requests are sent, and by whom.

use rand::RngExt as _;
use rand::rngs::SmallRng;

use super::super::super::Stage;
use super::prompts::Prompts;
use super::spec::{Kind, Load, Split, StageSpec};
use super::{MOST, Wrong, wrong};

/// Every request of all stages.
pub(super) struct Sends {
    pub(super) all: Vec<Send>,
    pub(super) stages: Vec<Stage>,
}

/// One request.
pub(super) struct Send {
    pub(super) at: f64,
    pub(super) stage: u16,
    /// The client that sends it when its last one has ended; `None`: it comes at its time.
    pub(super) client: Option<u64>,
    pub(super) adapter: Option<String>,
}

// === impl Sends ===

impl Sends {
    pub(super) fn of(load: &Load, prompts: &Prompts, rng: &mut SmallRng) -> Result<Self, Wrong> {
        if load.kind != Kind::Concurrent && prompts.needs_clients() {
            return wrong(
                "data.type conversation_replay has no rate",
                "write load.type concurrent, with a concurrency_level of num_conversations",
            );
        }
        let mut sends = Self {
            all: Vec::new(),
            stages: Vec::new(),
        };
        for (number, stage) in load.stages.iter().enumerate() {
            let Ok(number) = u16::try_from(number) else {
                return wrong("load.stages are more than 65,536", "write fewer");
            };
            match load.kind {
                Kind::Concurrent => sends.clients(number, stage, prompts)?,
                kind => sends.rate(number, stage, kind, rng)?,
            }
        }
        for send in &mut sends.all {
            send.adapter = adapter(&load.lora_traffic_split, rng);
        }
        Ok(sends)
    }

    /// A stage of a rate.
    fn rate(
        &mut self,
        number: u16,
        stage: &StageSpec,
        kind: Kind,
        rng: &mut SmallRng,
    ) -> Result<(), Wrong> {
        let (rate, duration) = (stage.rate.unwrap_or(0.0), stage.duration.unwrap_or(0.0));
        let requests = (rate * duration).floor();
        if !(1.0..=MOST).contains(&requests) {
            return wrong(
                format!("load.stages[{number}]: no request in it, or more than 10 million"),
                "write a rate and a duration (seconds) of more than 0",
            );
        }
        let mut at = 0.0;
        let mut times: Vec<f64> = (0..requests as u32)
            .map(|_| {
                at -= (1.0 - rng.random::<f64>()).ln() / rate;
                at
            })
            .collect();
        if kind == Kind::Constant {
            let stretch = duration / at;
            times.iter_mut().for_each(|at| *at *= stretch);
        }
        self.all.extend(times.into_iter().map(|at| Send {
            at,
            stage: number,
            client: None,
            adapter: None,
        }));
        self.stages.push(Stage {
            rate,
            duration,
            requests: requests as u32,
        });
        Ok(())
    }

    /// A stage of so many clients.
    fn clients(&mut self, number: u16, stage: &StageSpec, prompts: &Prompts) -> Result<(), Wrong> {
        let (Some(requests), Some(clients)) = (stage.num_requests, stage.concurrency_level) else {
            return wrong(
                format!("load.stages[{number}]: num_requests or concurrency_level is missing"),
                "write both, as load.type is concurrent",
            );
        };
        if !(1.0..=MOST).contains(&f64::from(requests)) || clients == 0 {
            return wrong(
                format!("load.stages[{number}]: no request in it, or more than 10 million"),
                "write num_requests and concurrency_level of more than 0",
            );
        }
        if let Some(sessions) = prompts.sessions()
            && sessions != u64::from(clients)
        {
            return wrong(
                format!("load.stages[{number}]: {clients} clients have {sessions} sessions"),
                "write as many clients (concurrency_level) as there are sessions",
            );
        }
        self.all.extend((0..u64::from(requests)).map(|n| Send {
            at: 0.0,
            stage: number,
            client: Some(n % u64::from(clients)),
            adapter: None,
        }));
        self.stages.push(Stage {
            rate: 0.0,
            duration: 0.0,
            requests,
        });
        Ok(())
    }
}

fn adapter(splits: &[Split], rng: &mut SmallRng) -> Option<String> {
    let last = splits.last()?;
    let mut left: f64 = rng.random();
    let drawn = splits.iter().find(|split| {
        left -= split.split;
        left < 0.0
    });
    Some(drawn.unwrap_or(last).name.clone())
}
