//! The two ways in which an engine can keep time, as one.

use super::fixed::Fixed;
use super::{EngineConfig, Pace, SleepLevel};
use crate::sim::step::{BlockChange, Engine, Event, Gauges, GpuState, Loras, Request, StepError};

#[derive(Debug)]
pub(super) enum Model {
    Steps(Box<Engine>),
    Fixed(Fixed),
}

// === impl Model ===

impl Model {
    pub(super) fn new(config: &EngineConfig) -> Result<Self, StepError> {
        let spec = match &config.pace {
            Pace::Fixed(times) => return Ok(Self::Fixed(Fixed::new(config, times.clone()))),
            Pace::Steps(spec) => spec,
        };
        let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let mut spec = spec.clone();
        spec.kv_blocks = Some(small(config.kv_blocks));
        spec.block_size = small(config.block_size);
        spec.max_num_seqs = small(config.max_num_seqs as u64);
        spec.loras = (config.max_loras > 0).then(|| Loras {
            max: small(config.max_loras as u64),
            load: config.lora_load.as_secs_f64(),
        });
        let mut engine = Engine::new(&spec)?;
        engine.each_token(true);
        Ok(Self::Steps(Box::new(engine)))
    }

    pub(super) fn submit(&mut self, request: Request, now: f64) -> Result<(), StepError> {
        match self {
            Self::Steps(engine) => engine.submit(request, now),
            Self::Fixed(fixed) => {
                fixed.submit(&request, now);
                Ok(())
            }
        }
    }

    pub(super) fn cancel(&mut self, id: u64, now: f64) {
        match self {
            Self::Steps(engine) => {
                engine.cancel(id, now);
            }
            Self::Fixed(fixed) => fixed.cancel(id, now),
        }
    }

    pub(super) fn next_event(&mut self) -> Option<f64> {
        match self {
            Self::Steps(engine) => engine.next_event(),
            Self::Fixed(fixed) => fixed.next_event(),
        }
    }

    pub(super) fn advance(&mut self, to: f64, events: &mut impl FnMut(Event)) {
        match self {
            Self::Steps(engine) => engine.advance(to, events),
            Self::Fixed(fixed) => fixed.advance(to, events),
        }
    }

    pub(super) fn gauges(&self, now: f64) -> Gauges {
        match self {
            Self::Steps(engine) => engine.gauges(now),
            Self::Fixed(fixed) => fixed.gauges(),
        }
    }

    /// The requests that wait.
    pub(super) fn waiting(&self) -> Vec<u64> {
        match self {
            Self::Steps(engine) => engine.waiting().collect(),
            Self::Fixed(fixed) => fixed.waiting().collect(),
        }
    }

    pub(super) fn set_slow(&mut self, compute: f64, memory: f64, now: f64) {
        match self {
            Self::Steps(engine) => engine.set_slow(compute, memory, now),
            // It has no idea of what computes and what reads.
            Self::Fixed(fixed) => fixed.set_slow(compute.max(memory)),
        }
    }

    /// Takes that share of the KV cache away, as far as it is free.
    pub(super) fn withhold(&mut self, share: f64, now: f64) {
        match self {
            Self::Steps(engine) => {
                let blocks = f64::from(engine.kv_blocks()) * share;
                engine.withhold(blocks as u32, now);
            }
            Self::Fixed(fixed) => fixed.withhold(share, now),
        }
    }

    /// All requests are lost; gauges read zero.
    pub(super) fn die(&mut self) {
        match self {
            Self::Steps(engine) => engine.die(),
            Self::Fixed(fixed) => fixed.clear(),
        }
    }

    /// Nothing happens any more.
    pub(super) fn hang(&mut self, now: f64) {
        if let Self::Steps(engine) = self {
            engine.hang(now);
        }
    }

    pub(super) fn restart(&mut self, now: f64) {
        match self {
            Self::Steps(engine) => engine.restart(now),
            Self::Fixed(fixed) => fixed.clear(),
        }
    }

    /// All requests are given up, and new ones wait.
    pub(super) fn sleep(&mut self, level: SleepLevel, now: f64) {
        match self {
            Self::Steps(engine) => engine.sleep(level != SleepLevel::Paused, now),
            Self::Fixed(fixed) => fixed.pause(),
        }
    }

    pub(super) fn wake_up(&mut self, now: f64) {
        match self {
            Self::Steps(engine) => engine.wake_up(now),
            Self::Fixed(fixed) => fixed.go_on(now),
        }
    }

    /// From now on [`block_changes`](Self::block_changes) tells something.
    pub(super) fn log_blocks(&mut self) {
        if let Self::Steps(engine) = self {
            engine.log_blocks();
        }
    }

    /// What has become of the prefix cache.
    pub(super) fn block_changes(&mut self) -> Vec<BlockChange> {
        match self {
            Self::Steps(engine) => engine.block_changes(),
            Self::Fixed(_) => Vec::new(),
        }
    }

    /// Only steps are taken by a GPU.
    pub(super) fn gpu(&self) -> Option<GpuState> {
        match self {
            Self::Steps(engine) => Some(engine.gpu()),
            Self::Fixed(_) => None,
        }
    }

    /// Whether it has a prefix cache.
    pub(super) fn caches(&self) -> bool {
        matches!(self, Self::Steps(_))
    }
}
